"""Collects a run's files from a node's claim through the API: a pod mounts the claim, a command in it packs them."""

import secrets
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.cluster import objects
from harness.cluster.api import Api, Object
from harness.cluster.archive import unpack
from harness.cluster.diagnosis.evidence import STATUS_CHARS, event_time, printed
from harness.cluster.pod_exec import execute
from harness.cluster.settings import Cluster, slug
from harness.collected import MOST_BYTES, Refused
from harness.errors import NotReady, RunFailed

ATTEMPTS = 3
LIFETIME_S = 1800
_PAUSE_S = 2.0
_START_S = 180.0
_POLL_S = 0.5


def collect(
    api: Api, cluster: Cluster, owner: Object, run_id: str, node: str, sources: dict[str, str], folder: Path
) -> tuple[list[str], list[str]]:
    """Copy the files below each source, a folder inside pods, to the source's target below `folder`.

    Returns all names, and those that are new or have changed.

    Raises:
        NotReady: the collector's pod does not start, or the rights are missing.
        Refused: the node sends what may not be written, or too much.
        RunFailed: the files did not arrive complete, three times.
    """
    command = ["harness", "pack", *(f"{source}={target}" for source, target in sources.items())]
    with _collector(api, cluster, owner, run_id, node) as pod:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with tempfile.TemporaryFile() as archive:
                    execute(api, pod, command, archive, most_bytes=MOST_BYTES)
                    archive.seek(0)
                    return unpack(archive, folder)
            except RunFailed as error:
                if attempt == ATTEMPTS or isinstance(error, Refused):
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
    return next((printed(str(message), STATUS_CHARS) for message in messages if message), "there is no event about it")
