"""Brings a run's files from a node's claim through the API: a pod that mounts it, and one command in that pod."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import urllib3
from kubernetes import stream
from kubernetes.client.exceptions import ApiException
from websocket import WebSocketException

from harness.cluster import objects
from harness.cluster.api import Api, Object
from harness.cluster.pack import unpack
from harness.cluster.settings import Cluster
from harness.errors import NotReady, RunFailed

ATTEMPTS = 3
ALIVE_S = 1800
_START_S = 180.0
_SILENCE_S = 120.0
_POLL_S = 0.5


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
    raise AssertionError("an attempt neither ended well nor failed")


@contextmanager
def _collector(api: Api, cluster: Cluster, owner: Object, run_id: str, node: str) -> Iterator[str]:
    wanted = objects.collector(cluster, run_id, node, owner, alive_s=ALIVE_S)
    name = wanted["metadata"]["name"]
    api.create(wanted)
    try:
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
            events = [one for one in api.all("Event") if one["involvedObject"].get("name") == name]
            said = events[-1].get("message", "") if events else "no event tells why"
            raise NotReady(
                f"the pod {name}, which reads the results on its node, is {phase}: {said}; "
                f"kubectl -n {api.namespace} describe pod {name}"
            )
        time.sleep(_POLL_S)


def _execute(api: Api, pod: str, command: list[str], out: IO[bytes]) -> None:
    """Run a command in a pod; what it prints goes to `out` as it is."""
    said = b""
    try:
        link = stream.stream(
            api.core.connect_get_namespaced_pod_exec,
            pod,
            api.namespace,
            command=command,
            stdin=False,
            stdout=True,
            stderr=True,
            tty=False,
            binary=True,
            _preload_content=False,
        )
        heard = time.monotonic()
        while link.is_open():
            link.update(timeout=1)
            data, more = link.read_channel(1), link.read_channel(2)
            out.write(data)
            said = (said + more)[-2000:]
            heard = time.monotonic() if data or more else heard
            if time.monotonic() - heard > _SILENCE_S:
                raise RunFailed(f"pod {pod} has sent nothing for {_SILENCE_S:.0f} s")
        out.write(link.read_channel(1))
        code = link.returncode
    except (ApiException, AttributeError) as error:
        # The client's own handling of a refused connection fails, and hides the refusal behind that.
        refusal = error if isinstance(error, ApiException) else error.__context__
        if not isinstance(refusal, ApiException):
            raise
        raise api.explained(refusal, f"execute a command in pod {pod}") from None
    except (WebSocketException, urllib3.exceptions.HTTPError, OSError, TypeError, KeyError, IndexError) as error:
        raise RunFailed(f"the connection to pod {pod} broke: {error}") from None
    if code:
        raise RunFailed(f"`{' '.join(command[:2])}` in pod {pod} ended with {code}: {said.decode(errors='replace')}")
