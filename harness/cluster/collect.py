"""Collects a run's files from a node's claim through the API: a pod mounts the claim, a command in it packs them."""

import json
import secrets
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import urllib3
import websocket
from kubernetes import stream
from kubernetes.client.exceptions import ApiException

from harness.cluster import objects
from harness.cluster.api import Api, Object
from harness.cluster.archive import unpack
from harness.cluster.diagnosis.evidence import event_time
from harness.cluster.settings import Cluster, slug
from harness.errors import NotReady, RunFailed

ATTEMPTS = 3
LIFETIME_S = 1800
_PAUSE_S = 2.0
_START_S = 180.0
_SILENCE_S = 120.0
_POLL_S = 0.5
_STDOUT, _STDERR, _STATUS = 1, 2, 3
"""Channels of a command in a pod; on the last one the API server sends the command's exit status."""


def collect(
    api: Api, cluster: Cluster, owner: Object, run_id: str, node: str, sources: dict[str, str], folder: Path
) -> tuple[list[str], list[str]]:
    """Copy the files below each source, a folder inside pods, to the source's target below `folder`.

    Returns all names, and those that are new or have changed.

    Raises:
        NotReady: the collector's pod does not start, or the rights are missing.
        RunFailed: the files did not arrive complete, three times.
    """
    command = ["harness", "pack", *(f"{source}={target}" for source, target in sources.items())]
    with _collector(api, cluster, owner, run_id, node) as pod:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with tempfile.TemporaryFile() as archive:
                    _execute(api, pod, command, archive)
                    archive.seek(0)
                    return unpack(archive, folder)
            except RunFailed:
                if attempt == ATTEMPTS:
                    raise
                time.sleep(_PAUSE_S)
    raise AssertionError("the last attempt neither returned nor raised")


@contextmanager
def _collector(api: Api, cluster: Cluster, owner: Object, run_id: str, node: str) -> Iterator[str]:
    """The name of a running collector pod, which is deleted in the end."""
    body = objects.collector(cluster, run_id, node, owner, lifetime_s=LIFETIME_S)
    # A unique name: an earlier collector may still be terminating, and someone else may collect at the same time.
    name = f"{body['metadata']['name'][:54].rstrip('-')}-{secrets.token_hex(4)}"
    body["metadata"]["name"] = name
    for pod in api.list_objects("Pod", f"{objects.RUN}={slug(run_id)},{objects.COMPONENT}=collector"):
        if pod["status"].get("phase") in ("Succeeded", "Failed"):
            api.delete("Pod", pod["metadata"]["name"])
    try:
        api.create(body)
        _await_start(api, name)
        yield name
    finally:
        api.delete("Pod", name)


def _await_start(api: Api, name: str) -> None:
    end = time.monotonic() + _START_S
    while True:
        pod = api.read("Pod", name)
        phase = pod["status"].get("phase") if pod else "deleted"
        if phase == "Running":
            return
        if phase in ("deleted", "Failed", "Succeeded") or time.monotonic() > end:
            raise NotReady(
                f"the pod {name}, which reads the results on its node, is {phase}: {_why_not_running(api, name, pod)}; "
                f"kubectl -n {api.namespace} describe pod {name}"
            )
        time.sleep(_POLL_S)


def _why_not_running(api: Api, name: str, pod: Object | None) -> str:
    """The first message about it in the pod's status, or else that of the newest event, warnings first."""
    status = (pod or {}).get("status") or {}
    messages = [status.get("message")]
    for container in status.get("containerStatuses") or ():
        messages += [state.get("message") for state in (container.get("state") or {}).values()]
    conditions = status.get("conditions") or ()
    messages += [condition.get("message") for condition in conditions if condition["type"] == "PodScheduled"]
    events = [event for event in api.list_objects("Event") if event["involvedObject"].get("name") == name]
    events.sort(key=lambda event: (event.get("type") == "Warning", event_time(event)))
    messages += [events[-1].get("message")] if events else []
    return next((str(message) for message in messages if message), "there is no event about it")


def _execute(api: Api, pod: str, command: list[str], out: IO[bytes]) -> None:
    """Run a command in a pod and write its standard output to `out`.

    Raises:
        RunFailed: it failed, or the connection broke.
        NotReady: the right to run it is missing.
    """
    connection = _connect(api, pod, command)
    stderr = status = b""
    try:
        last_data = time.monotonic()
        is_open = True
        while is_open:
            # Data that arrived before the connection was closed is read in one more round.
            is_open = connection.is_open()
            connection.update(timeout=1)
            data, errors = connection.read_channel(_STDOUT), connection.read_channel(_STDERR)
            out.write(data)
            stderr, status = (stderr + errors)[-2000:], status + connection.read_channel(_STATUS)
            last_data = time.monotonic() if data or errors else last_data
            if time.monotonic() - last_data > _SILENCE_S:
                raise RunFailed(f"pod {pod} has sent nothing for {_SILENCE_S:.0f} s")
    except (websocket.WebSocketException, OSError) as error:
        raise RunFailed(f"the connection to pod {pod} broke: {error}") from None
    finally:
        connection.close()
    _check_status(f"`{' '.join(command[:2])}` in pod {pod}", status, stderr.decode(errors="replace").strip())


def _connect(api: Api, pod: str, command: list[str]) -> Any:
    websocket.setdefaulttimeout(_SILENCE_S)
    options = {"stdin": False, "stdout": True, "stderr": True, "tty": False, "binary": True, "_preload_content": False}
    method = api.core.connect_get_namespaced_pod_exec
    try:
        return stream.stream(method, pod, api.namespace, command=command, **options)
    except (ApiException, AttributeError, urllib3.exceptions.HTTPError, OSError) as error:
        # The client raises errors of its own while it handles the API server's response.
        errors = list(_contexts(error))
        response = next((one for one in errors if isinstance(one, websocket.WebSocketBadStatusException)), None)
        if response is None:
            raise RunFailed(f"no connection to pod {pod} through {api.address}: {errors[-1]}") from None
        failure = ApiException(status=response.status_code, reason=str(response))
        failure.body = response.resp_body
        raise api.explain(failure, f"execute a command in pod {pod}") from None


def _contexts(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__context__


def _check_status(command: str, status: bytes, stderr: str) -> None:
    try:
        result = json.loads(status)
    except ValueError:
        raise RunFailed(f"the connection broke before the end of {command}") from None
    if result.get("status") != "Success":
        raise RunFailed(f"{command} failed: {stderr or result.get('message')}")
