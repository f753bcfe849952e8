"""Brings a run's files from a node's claim through the API: a pod that mounts it, and one command in that pod."""

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
from harness.cluster.case import when
from harness.cluster.pack import unpack
from harness.cluster.settings import Cluster, slug
from harness.errors import NotReady, RunFailed

ATTEMPTS = 3
ALIVE_S = 1800
_PAUSE_S = 2.0
_START_S = 180.0
_SILENCE_S = 120.0
_POLL_S = 0.5
_OUT, _ERRORS, _END = 1, 2, 3
"""Channels of a command in a pod; on the last one the API server says how it ended."""


def collect(
    api: Api, cluster: Cluster, owner: Object, run_id: str, node: str, sources: dict[str, str], into: Path
) -> tuple[list[str], list[str]]:
    """Bring the files below each source, a folder as pods see it, to the target below `into` that goes with it.

    Returns all names, and those that were not there or were different.

    Raises:
        NotReady: the collector's pod does not start, or the rights are missing.
        RunFailed: the files did not arrive whole, three times.
    """
    command = ["harness", "pack", *(f"{source}={target}" for source, target in sources.items())]
    with _collector(api, cluster, owner, run_id, node) as pod:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with tempfile.TemporaryFile() as packed:
                    _execute(api, pod, command, packed)
                    packed.seek(0)
                    return unpack(packed, into)
            except RunFailed:
                if attempt == ATTEMPTS:
                    raise
                time.sleep(_PAUSE_S)
    raise AssertionError("an attempt neither ended well nor failed")


@contextmanager
def _collector(api: Api, cluster: Cluster, owner: Object, run_id: str, node: str) -> Iterator[str]:
    wanted = objects.collector(cluster, run_id, node, owner, alive_s=ALIVE_S)
    # Each has a name of its own: an earlier one may be on its way out, and someone else may collect as well.
    name = f"{wanted['metadata']['name'][:54].rstrip('-')}-{secrets.token_hex(4)}"
    wanted["metadata"]["name"] = name
    for pod in api.all("Pod", f"{objects.RUN}={slug(run_id)},{objects.COMPONENT}=collector"):
        if pod["status"].get("phase") in ("Succeeded", "Failed"):
            api.delete("Pod", pod["metadata"]["name"])
    try:
        api.create(wanted)
        _await_start(api, name)
        yield name
    finally:
        api.delete("Pod", name)


def _await_start(api: Api, name: str) -> None:
    end = time.monotonic() + _START_S
    while True:
        pod = api.read("Pod", name)
        phase = pod["status"].get("phase") if pod else "gone"
        if phase == "Running":
            return
        if phase in ("gone", "Failed", "Succeeded") or time.monotonic() > end:
            raise NotReady(
                f"the pod {name}, which reads the results on its node, is {phase}: {_why(api, name, pod)}; "
                f"kubectl -n {api.namespace} describe pod {name}"
            )
        time.sleep(_POLL_S)


def _why(api: Api, name: str, pod: Object | None) -> str:
    """What keeps a pod from running, by the pod itself or else by the newest warning about it."""
    status = (pod or {}).get("status") or {}
    said = [status.get("message")]
    for one in status.get("containerStatuses") or ():
        said += [state.get("message") for state in (one.get("state") or {}).values()]
    said += [one.get("message") for one in status.get("conditions") or () if one["type"] == "PodScheduled"]
    about = [one for one in api.all("Event") if one["involvedObject"].get("name") == name]
    events = sorted(about, key=lambda one: (one.get("type") == "Warning", when(one)))
    said += [events[-1].get("message")] if events else []
    return next((str(text) for text in said if text), "no event tells why")


def _execute(api: Api, pod: str, command: list[str], out: IO[bytes]) -> None:
    """Run a command in a pod; what it prints goes to `out` as it is.

    Raises:
        RunFailed: it did not end well, or the connection broke.
        NotReady: it is refused.
    """
    link = _connected(api, pod, command)
    said = told = b""
    try:
        heard = time.monotonic()
        more_to_come = True
        while more_to_come:
            # What came before the end may have been read, and not been taken yet.
            more_to_come = link.is_open()
            link.update(timeout=1)
            data, more = link.read_channel(_OUT), link.read_channel(_ERRORS)
            out.write(data)
            said, told = (said + more)[-2000:], told + link.read_channel(_END)
            heard = time.monotonic() if data or more else heard
            if time.monotonic() - heard > _SILENCE_S:
                raise RunFailed(f"pod {pod} has sent nothing for {_SILENCE_S:.0f} s")
    except (websocket.WebSocketException, OSError) as error:
        raise RunFailed(f"the connection to pod {pod} broke: {error}") from None
    finally:
        link.close()
    _judge_end(f"`{' '.join(command[:2])}` in pod {pod}", told, said.decode(errors="replace").strip())


def _connected(api: Api, pod: str, command: list[str]) -> Any:
    websocket.setdefaulttimeout(_SILENCE_S)
    channels = {"stdin": False, "stdout": True, "stderr": True, "tty": False}
    ask = api.core.connect_get_namespaced_pod_exec
    try:
        return stream.stream(ask, pod, api.namespace, command=command, **channels, binary=True, _preload_content=False)
    except (ApiException, AttributeError, urllib3.exceptions.HTTPError, OSError) as error:
        # The client hides what the API server answered behind failures of its own.
        refusal = next((one for one in _behind(error) if isinstance(one, websocket.WebSocketBadStatusException)), None)
        if refusal is None:
            first = list(_behind(error))[-1]
            raise RunFailed(f"no connection to pod {pod} through {api.address}: {first}") from None
        answer = ApiException(status=refusal.status_code, reason=str(refusal))
        answer.body = refusal.resp_body
        raise api.explained(answer, f"execute a command in pod {pod}") from None


def _behind(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__context__


def _judge_end(what: str, told: bytes, said: str) -> None:
    try:
        status = json.loads(told)
    except ValueError:
        raise RunFailed(f"the connection broke before the end of {what}") from None
    if status.get("status") != "Success":
        raise RunFailed(f"{what} failed: {said or status.get('message')}")
