"""One namespace of a cluster through its API: plain objects in and out, refusals as the house's errors."""

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

from harness.cluster.refusals import Away, cause, explain, message
from harness.cluster.rights import RIGHTS, Right
from harness.errors import BadInput, HarnessError, NotReady

Object = dict[str, Any]

CONNECT_S, ANSWER_S = 5.0, 30.0
LOG_S = 5.0
"""A log comes from the pod's node; one that is lost must not keep the look at everything else waiting."""
PATIENCE_S = 20.0
_AGAIN_S = 0.5
_TRANSIENT = frozenset({0, 429, 500, 502, 503, 504})
_CORE = {
    "ConfigMap": "config_map",
    "Service": "service",
    "Pod": "pod",
    "PersistentVolumeClaim": "persistent_volume_claim",
    "Event": "event",
}


class Api:
    """What a benchmark needs of the API, in one namespace.

    Args:
        namespace: where everything is.
        kubeconfig: file of the credentials; None for the usual places, and inside a pod its service account.
        context: one of the kubeconfig's contexts; None for its current one.
        patience_s: how long a server that is busy or away is asked again.

    Raises:
        BadInput: no such file or context.
    """

    rights: tuple[Right, ...] = RIGHTS
    jobs_change = True
    """Whether a Job's time to live can be set once it is there."""

    def __init__(
        self,
        namespace: str,
        kubeconfig: Path | None = None,
        context: str | None = None,
        *,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.namespace, self._patience_s = namespace, patience_s
        settings = client.Configuration()
        # Inside a pod nothing may be given, or its service account is not looked for.
        given: dict[str, Any] = {"context": context} if context else {}
        given |= {"config_file": str(kubeconfig)} if kubeconfig else {}
        if kubeconfig and not any(Path(one).is_file() for one in str(kubeconfig).split(os.pathsep)):
            raise BadInput(
                f"kubeconfig {kubeconfig} does not exist; copy it from the control plane, or name another one"
            )
        try:
            config.load_config(**given, client_configuration=settings)
        except (config.ConfigException, yaml.YAMLError, OSError, ValueError, TypeError, KeyError) as error:
            said = " ".join(str(error).split())
            where = f"kubeconfig {kubeconfig or 'in the usual places'}" + (f", context {context}" if context else "")
            raise BadInput(f"{where}: {said}; `kubectl config get-contexts` shows what it holds") from None
        # Retries are made here, where they are bounded and an absent server is told from a busy one.
        settings.retries = urllib3.Retry(0, redirect=3)
        self.client = client.ApiClient(settings)
        self.core, self.batch = client.CoreV1Api(self.client), client.BatchV1Api(self.client)

    @property
    def address(self) -> str:
        """Where the API server is."""
        return str(self.client.configuration.host)

    def create(self, wanted: Object, *, dry_run: bool = False) -> tuple[bool, Object]:
        """(whether it is new, the object as it is stored); one of the same name is left as it is.

        With `dry_run` the API server judges it and stores nothing.
        """
        more = {"dry_run": "All"} if dry_run else {}
        end = time.monotonic() + self._patience_s
        while True:
            try:
                return True, _plain(self._call(self._verb("create", wanted["kind"]), self.namespace, wanted, **more))
            except ApiException as error:
                if error.status != 409:
                    raise self.explained(error, f"create {_named(wanted)}") from None
                said = message(error)
            there = self.read(wanted["kind"], wanted["metadata"]["name"])
            if there is not None and "deletionTimestamp" not in there["metadata"]:
                return False, there
            # One that is going makes room soon; and a quota that others use at the same moment conflicts, too.
            if time.monotonic() > end:
                why = "is still being deleted" if there else f"cannot be created ({said})"
                raise NotReady(f"{_named(wanted)} {why}; try again in a minute")
            time.sleep(_AGAIN_S)

    def read(self, kind: str, name: str) -> Object | None:
        """An object, or None when there is none."""
        return self._optional(f"get {kind} {name}", self._verb("read", kind), name, self.namespace)

    def all(self, kind: str, selector: str = "", **more: Any) -> list[Object]:
        """All objects of a kind that carry the labels of `selector`."""
        found = self._asked(
            f"list {kind}s", self._verb("list", kind), self.namespace, label_selector=selector or None, **more
        )
        return [{"kind": kind, **item} for item in found["items"]]

    def delete(self, kind: str, name: str) -> bool:
        """Delete an object and what it owns; whether there was one."""
        call = self._verb("delete", kind)
        gone = self._optional(f"delete {kind} {name}", call, name, self.namespace, propagation_policy="Background")
        return gone is not None

    def patch(self, kind: str, name: str, change: Object) -> Object | None:
        """Merge a change into an object; None when there is none."""
        return self._optional(f"patch {kind} {name}", self._verb("patch", kind), name, self.namespace, change)

    def log(self, pod: str, lines: int) -> str:
        """The last lines that a pod's container has printed; empty while it has printed nothing."""
        try:
            bounds = {"_request_timeout": (CONNECT_S, LOG_S)}
            raw = self._call(self.core.read_namespaced_pod_log, pod, self.namespace, tail_lines=lines, **bounds)
        except ApiException as error:
            if error.status in (400, 404):  # no container yet, or no pod any more
                return ""
            raise self.explained(error, f"read the log of pod {pod}") from None
        return bytes(raw).decode(errors="replace")

    def node(self, name: str) -> Object | None:
        """A node; None when there is none of that name.

        Raises:
            Forbidden: nodes may not be read.
        """
        return self._optional(f"get node {name}", self.core.read_node, name)

    def may(self, verb: str, group: str, resource: str, *, everywhere: bool = False) -> bool:
        """Whether these credentials may do that, in the namespace or (for what is in none) at all."""
        plain, _, part = resource.partition("/")
        asked = {"verb": verb, "group": group, "resource": plain}
        asked |= {"subresource": part} if part else {}
        asked |= {} if everywhere else {"namespace": self.namespace}
        review = {"spec": {"resourceAttributes": asked}}
        create = client.AuthorizationV1Api(self.client).create_self_subject_access_review
        answer = self._asked("ask what is allowed", create, review)
        return bool(answer["status"].get("allowed"))

    def mark(self) -> str:
        """A point in time as the API server counts it, from which `wait` sees every change."""
        found = self._asked("list pods", self.core.list_namespaced_pod, self.namespace, limit=1)
        return str(found["metadata"]["resourceVersion"])

    def wait(self, selector: str, since: str, seconds: float) -> None:
        """Return when a pod with these labels has changed since a mark, after `seconds` at the latest.

        A watch that is refused, expires or breaks costs no more than the rest of the time.
        """
        end = time.monotonic() + seconds
        for _change in self._changes(selector, since, max(1, round(seconds))):
            return
        time.sleep(max(0.0, end - time.monotonic()))

    def last_of_gone(self, selector: str, since: str) -> list[Object]:
        """The last state of every pod with these labels that is gone since a mark, as far as the server remembers."""
        gone = [pod for kind, pod in self._changes(selector, since, 1) if kind == "DELETED"]
        return [{"kind": "Pod", **pod} for pod in gone]

    def _changes(self, selector: str, since: str, seconds: int) -> Iterator[tuple[str, Object]]:
        """Every change of pods since a mark, for so many seconds; fewer when the watch breaks."""
        seen = {"label_selector": selector, "resource_version": since}
        bounds = {"timeout_seconds": seconds, "_request_timeout": (CONNECT_S, seconds + CONNECT_S)}
        call = self.core.list_namespaced_pod
        try:
            for event in watch.Watch().stream(call, self.namespace, **seen, **bounds, deserialize=False):
                if event["type"] != "BOOKMARK":
                    yield event["type"], event["object"]
        except (ApiException, urllib3.exceptions.HTTPError, ValueError, OSError, KeyError):
            return  # KeyError: how the client takes a mark that has expired

    def _verb(self, verb: str, kind: str) -> Callable[..., Any]:
        if kind == "Job":
            return getattr(self.batch, f"{verb}_namespaced_job")  # type: ignore[no-any-return]
        return getattr(self.core, f"{verb}_namespaced_{_CORE[kind]}")  # type: ignore[no-any-return]

    def _asked(self, doing: str, call: Callable[..., Any], *words: Any, **more: Any) -> Object:
        try:
            return _plain(self._call(call, *words, **more))
        except ApiException as error:
            raise self.explained(error, doing) from None

    def _optional(self, doing: str, call: Callable[..., Any], *words: Any, **more: Any) -> Object | None:
        try:
            return _plain(self._call(call, *words, **more))
        except ApiException as error:
            if error.status == 404:
                return None
            raise self.explained(error, doing) from None

    def _call(self, call: Callable[..., Any], *words: Any, **more: Any) -> Any:
        """Call, and again for a bounded time while the server is busy or away; the body of its answer."""
        end, pause = time.monotonic() + self._patience_s, 0.5
        # The client's own models refuse what they do not expect of a server; plain JSON serves here.
        more = {"_request_timeout": (CONNECT_S, ANSWER_S), "_preload_content": False, **more}
        while True:
            try:
                found = call(*words, **more)
                return found.data if isinstance(found, urllib3.BaseHTTPResponse) else found
            except urllib3.exceptions.HTTPError as error:
                away: Exception = Away(f"the API server {self.address} does not answer: {cause(error)}")
            except ApiException as error:
                if error.status not in _TRANSIENT:
                    raise
                away = Away(f"the API server {self.address} is not well: {message(error)}")
            if time.monotonic() + pause > end:
                raise away
            time.sleep(pause)
            pause *= 2

    def explained(self, error: ApiException, doing: str) -> HarnessError:
        """What a refusal means to the house: who must act, and how."""
        return explain(error, doing, self.address, self.namespace)


def _plain(body: Any) -> Object:
    return json.loads(body) if isinstance(body, bytes) else dict(body)


def _named(thing: Object) -> str:
    return f"{thing['kind']} {thing['metadata']['name']}"


def whole(lines: Iterable[str]) -> Object | None:
    """The last of `lines` that is a whole JSON object; None when there is none."""
    for line in reversed(list(lines)):
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict):
            return found
    return None
