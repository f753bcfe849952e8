"""The API of one namespace of a cluster: plain objects in and out, failed requests as the harness's errors."""

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import urllib3
import yaml
from kubernetes import client, config, watch
from kubernetes.client.exceptions import ApiException

from harness.cluster.api_errors import Unavailable, api_message, explain, proxy_answer, root_cause
from harness.cluster.rbac import RIGHTS, Right
from harness.errors import BadInput, HarnessError, NotReady

Object = dict[str, Any]

CONNECT_S, ANSWER_S = 5.0, 30.0
LOG_S, LOG_BYTES = 5.0, 1 << 20
"""A log comes from the pod's node; a lost node must not delay the observation of everything else."""
RETRY_S = 20.0
FIELD_MANAGER = "mlperf"
"""Owner of applied fields, as in plugins/modules/mlperf_manifests.py."""
_PAUSE_S = 0.5
_TRANSIENT = frozenset({0, 429, 500, 502, 503, 504})
_CORE = {
    "ConfigMap": "config_map",
    "Secret": "secret",
    "Service": "service",
    "Pod": "pod",
    "PersistentVolumeClaim": "persistent_volume_claim",
    "Event": "event",
}


class Api:
    """The requests that a benchmark makes, all in one namespace.

    Args:
        namespace: the namespace of all objects.
        kubeconfig: file with the credentials; None for the default locations, and inside a pod its service account.
        context: one of the kubeconfig's contexts; None for its current one.
        retry_s: for how many seconds a request is retried while the server is overloaded or unavailable.

    Raises:
        BadInput: no such file or context.
    """

    rights: tuple[Right, ...] = RIGHTS
    ttl_can_be_set = True
    """Whether the TTL of a Job can be set after it was created."""

    def __init__(
        self,
        namespace: str,
        kubeconfig: Path | None = None,
        context: str | None = None,
        *,
        retry_s: float = RETRY_S,
    ) -> None:
        self.namespace, self._retry_s = namespace, retry_s
        settings = client.Configuration()
        # The client looks for a pod's service account only when it is given neither option.
        options: dict[str, Any] = {"context": context} if context else {}
        options |= {"config_file": str(kubeconfig)} if kubeconfig else {}
        if kubeconfig and not any(Path(file).is_file() for file in str(kubeconfig).split(os.pathsep)):
            raise BadInput(
                f"kubeconfig {kubeconfig} does not exist; copy it from the control plane, or name another one"
            )
        try:
            config.load_config(**options, client_configuration=settings)
        except (config.ConfigException, yaml.YAMLError, OSError, ValueError, TypeError, KeyError) as error:
            message = " ".join(str(error).split())
            file = f"kubeconfig {kubeconfig or 'in the default locations'}" + (
                f", context {context}" if context else ""
            )
            raise BadInput(f"{file}: {message}; `kubectl config get-contexts` lists its contexts") from None
        # `_call` retries instead, for a bounded time, and knows an unreachable server from an overloaded one.
        settings.retries = urllib3.Retry(0, redirect=3)
        self.client = client.ApiClient(settings)
        self.core, self.batch = client.CoreV1Api(self.client), client.BatchV1Api(self.client)

    @property
    def address(self) -> str:
        """URL of the API server."""
        return str(self.client.configuration.host)

    def create(self, body: Object, *, dry_run: bool = False) -> tuple[bool, Object]:
        """Create an object unless one of its name exists; (whether it is new, the object as it is stored).

        With `dry_run` the API server validates it and stores nothing. A Secret that exists is not read.
        """
        options = {"dry_run": "All"} if dry_run else {}
        title = f"{body['kind']} {body['metadata']['name']}"
        end = time.monotonic() + self._retry_s
        while True:
            try:
                return True, _parse(self._call(self._method("create", body["kind"]), self.namespace, body, **options))
            except ApiException as error:
                if error.status != 409:
                    raise self.explain(error, f"create {title}") from None
                message = api_message(error)
            if body["kind"] == "Secret" and "already exists" in message:
                return False, body
            existing = self.read(body["kind"], body["metadata"]["name"])
            if existing is not None and "deletionTimestamp" not in existing["metadata"]:
                return False, existing
            # A deletion ends soon; a quota that others use at the same moment is a conflict as well.
            if time.monotonic() > end:
                why = "is still being deleted" if existing else f"cannot be created ({message})"
                raise NotReady(f"{title} {why}; try again in a minute")
            time.sleep(_PAUSE_S)

    def apply(self, body: Object) -> None:
        """Create an object of any kind, or give one of its name these fields (server-side apply)."""
        version, meta = body["apiVersion"], body["metadata"]
        group = f"/apis/{version}" if "/" in version else f"/api/{version}"
        namespace = f"/namespaces/{meta['namespace']}" if "namespace" in meta else ""
        path = f"{group}{namespace}/{body['kind'].lower()}s/{meta['name']}"
        self._request(f"apply {body['kind']} {meta['name']}", self._apply, path, body)

    def _apply(self, path: str, body: Object, **options: Any) -> Any:
        headers = {"Accept": "application/json", "Content-Type": "application/apply-patch+yaml"}
        query = [("fieldManager", FIELD_MANAGER), ("force", "true")]
        common = {"auth_settings": ["BearerToken"], "_return_http_data_only": True}
        return self.client.call_api(path, "PATCH", {}, query, headers, body, **common, **options)

    def read(self, kind: str, name: str) -> Object | None:
        """An object, or None when there is none."""
        return self._optional(f"get {kind} {name}", self._method("read", kind), name, self.namespace)

    def list_objects(self, kind: str, selector: str = "", **options: Any) -> list[Object]:
        """All objects of a kind that match a label selector."""
        method, labels = self._method("list", kind), selector or None
        response = self._request(f"list {kind}s", method, self.namespace, label_selector=labels, **options)
        return [{"kind": kind, **item} for item in response["items"]]

    def delete(self, kind: str, name: str) -> bool:
        """Delete an object and what it owns; whether there was one."""
        options = {"propagation_policy": "Background"}
        method = self._method("delete", kind)
        return self._optional(f"delete {kind} {name}", method, name, self.namespace, **options) is not None

    def patch(self, kind: str, name: str, change: Object) -> Object | None:
        """Merge a change into an object; None when there is none."""
        return self._optional(f"patch {kind} {name}", self._method("patch", kind), name, self.namespace, change)

    def log(self, pod: str, lines: int) -> str:
        """The last lines that a pod's container has printed; empty while it has printed nothing."""
        try:
            options = {"tail_lines": lines, "limit_bytes": LOG_BYTES, "_request_timeout": (CONNECT_S, LOG_S)}
            raw = self._call(self.core.read_namespaced_pod_log, pod, self.namespace, **options)
        except ApiException as error:
            if error.status in (400, 404):  # no container yet, or no pod any more
                return ""
            raise self.explain(error, f"read the log of pod {pod}") from None
        return bytes(raw).decode(errors="replace")

    def node(self, name: str) -> Object | None:
        """A node; None when there is none of that name.

        Raises:
            Forbidden: the right to read nodes is missing.
        """
        return self._optional(f"get node {name}", self.core.read_node, name)

    def is_allowed(self, verb: str, group: str, resource: str, *, cluster_wide: bool = False) -> bool:
        """Whether RBAC allows a verb on a resource, in the namespace or cluster-wide."""
        resource, _, subresource = resource.partition("/")
        attributes = {"verb": verb, "group": group, "resource": resource}
        attributes |= {"subresource": subresource} if subresource else {}
        attributes |= {} if cluster_wide else {"namespace": self.namespace}
        review = {"spec": {"resourceAttributes": attributes}}
        method = client.AuthorizationV1Api(self.client).create_self_subject_access_review
        response = self._request("check its own rights", method, review)
        return bool(response["status"].get("allowed"))

    def resource_version(self) -> str:
        """The API server's current resource version, from which `wait` sees every change."""
        response = self._request("list pods", self.core.list_namespaced_pod, self.namespace, limit=1)
        return str(response["metadata"]["resourceVersion"])

    def wait(self, selector: str, since: str, seconds: float) -> None:
        """Return when a matching pod has changed since a resource version, after `seconds` at the latest.

        When the watch is forbidden, expires or breaks, it just waits for `seconds`.
        """
        end = time.monotonic() + seconds
        for _change in self._changes(selector, since, max(1, round(seconds))):
            return
        time.sleep(max(0.0, end - time.monotonic()))

    def deleted_pods(self, selector: str, since: str) -> list[Object]:
        """The last state of matching pods deleted since a resource version, as far as the server remembers."""
        changes = self._changes(selector, since, 1)
        return [{"kind": "Pod", **pod} for change, pod in changes if change == "DELETED"]

    def _changes(self, selector: str, since: str, seconds: int) -> Iterator[tuple[str, Object]]:
        """Changes of matching pods since a resource version; ends after `seconds`, or when the watch breaks."""
        options = {"label_selector": selector, "resource_version": since, "deserialize": False}
        options |= {"timeout_seconds": seconds, "_request_timeout": (CONNECT_S, seconds + CONNECT_S)}
        try:
            for event in watch.Watch().stream(self.core.list_namespaced_pod, self.namespace, **options):
                if event["type"] != "BOOKMARK":
                    yield event["type"], event["object"]
        except (ApiException, urllib3.exceptions.HTTPError, ValueError, OSError, KeyError):
            return  # The client raises KeyError for a resource version that has expired.

    def _method(self, verb: str, kind: str) -> Callable[..., Any]:
        """The client's method for a verb on a kind."""
        if kind == "Job":
            return getattr(self.batch, f"{verb}_namespaced_job")  # type: ignore[no-any-return]
        return getattr(self.core, f"{verb}_namespaced_{_CORE[kind]}")  # type: ignore[no-any-return]

    def _request(self, action: str, method: Callable[..., Any], *args: Any, **options: Any) -> Object:
        try:
            return _parse(self._call(method, *args, **options))
        except ApiException as error:
            raise self.explain(error, action) from None

    def _optional(self, action: str, method: Callable[..., Any], *args: Any, **options: Any) -> Object | None:
        """As `_request`; None when there is no such object."""
        try:
            return _parse(self._call(method, *args, **options))
        except ApiException as error:
            if error.status == 404:
                return None
            raise self.explain(error, action) from None

    def _call(self, method: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """The body of the response; retries for a bounded time while the server is overloaded or unavailable."""
        end, pause = time.monotonic() + self._retry_s, 0.5
        # The client's models reject fields of newer servers, so responses stay plain JSON.
        options = {"_request_timeout": (CONNECT_S, ANSWER_S), "_preload_content": False, **options}
        while True:
            try:
                response = method(*args, **options)
                return response.data if isinstance(response, urllib3.BaseHTTPResponse) else response
            except urllib3.exceptions.HTTPError as error:
                silence = f"the API server {self.address} does not answer: {root_cause(error)}"
                failure = Unavailable(self._proxy_answer(error) or silence)
            except ApiException as error:
                if error.status not in _TRANSIENT:
                    raise
                overload = f"the API server {self.address} is unavailable: {api_message(error)}"
                failure = Unavailable(self._proxy_answer(error) or overload)
            if time.monotonic() + pause > end:
                raise failure
            time.sleep(pause)
            pause *= 2

    def _proxy_answer(self, error: Exception) -> str:
        return proxy_answer(error, self.address, self.client.configuration.proxy)

    def explain(self, error: ApiException, action: str) -> HarnessError:
        """The harness's error for a failed request: who must act, and how."""
        if answer := self._proxy_answer(error):
            return NotReady(answer)
        return explain(error, action, self.address, self.namespace)


def _parse(body: Any) -> Object:
    return json.loads(body) if isinstance(body, bytes) else dict(body)


def last_json(lines: Iterable[str], accepts: Callable[[Object], bool] = lambda value: True) -> Object | None:
    """The last of `lines` that is a complete JSON object, and accepted; None when there is none."""
    for line in reversed(list(lines)):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict) and accepts(value):
            return value
    return None
