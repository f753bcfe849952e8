"""Looks at a run's Jobs until they have ended: each a record as engine.json or status.json would be on a host."""

import dataclasses
import time
from collections.abc import Iterator, Sequence

from harness.cluster import objects
from harness.cluster.api import Api, Object, whole
from harness.cluster.causes import Diagnosis, Kind, Seen
from harness.cluster.diagnosis import diagnose
from harness.cluster.records import record
from harness.cluster.refusals import Away, Forbidden
from harness.cluster.settings import engine_name, run_name, slug
from harness.errors import HarnessError

SOONEST_S = 0.5
_LOG_LINES = 12
_ENDED = frozenset({"finished", "failed", "stopped"})


def looks(api: Api, kind: Kind, run_id: str, names: Sequence[str], node: str, interval_s: float) -> Iterator[Object]:
    """Look every `interval_s` seconds, and at once when a pod changes, until all have ended.

    Each look is {"unix": seconds, "records": [a record for each of `names`], "away": None}; when the API server does
    not answer, records is None and away says so. `names` are engines of the run, or hosts of its LoadGens.
    """
    named = engine_name if kind == "engine" else run_name
    watched = [_Watched(api, kind, name, named(run_id, name), node) for name in names]
    before = ""
    while True:
        began, since = time.monotonic(), ""
        try:
            since = api.mark()
            records = [one.look(before or since) for one in watched]
            before = since
            yield {"unix": time.time(), "records": records, "away": None}
            if all(found["state"] in _ENDED for found in records):
                return
        except Away as away:
            yield {"unix": time.time(), "records": None, "away": str(away)}
        if since:
            api.wait(f"{objects.RUN}={slug(run_id)}", since, interval_s)
        else:
            time.sleep(interval_s)
        time.sleep(max(0.0, began + SOONEST_S - time.monotonic()))


class _Watched:
    """One Job, and what must be remembered of it between two looks."""

    def __init__(self, api: Api, kind: Kind, name: str, job: str, node: str) -> None:
        self._api, self._kind, self._name, self._job, self._node = api, kind, name, job, node
        self._was_there = self._nodes_hidden = self._there = False
        self._said: Object | None = None
        self._heard = time.monotonic()
        self._pods: list[Object] = []
        self._cause, self._since = "", 0.0
        self._last: Object | None = None

    def look(self, before: str) -> Object:
        """The record of now; one that has ended stays as it is. `before` marks the last look."""
        if self._last is None or self._last["state"] not in _ENDED:
            seen = self._see(before)
            self._last = record(self._kind, self._name, self._judge(seen), seen)
        return self._last

    def _judge(self, seen: Seen) -> Diagnosis:
        """What is seen, and bad what has been waiting for too long."""
        found = diagnose(self._kind, self._name, self._node, seen)
        if found.cause != self._cause:
            self._cause, self._since = found.cause, time.monotonic()
        lasting = time.monotonic() - self._since > found.patience_s
        return dataclasses.replace(found, state="bad") if found.state == "waiting" and lasting else found

    def _see(self, before: str) -> Seen:
        job = self._api.read("Job", self._job)
        pods = self._see_pods(before)
        node = self._see_node()
        runs = bool(pods) and pods[-1].get("status", {}).get("phase") == "Running"
        tail = self._read_log(pods[-1], node) if pods else []
        said = whole(tail) or self._said
        self._heard = self._heard if runs and said == self._said else time.monotonic()
        self._said = said
        seen = Seen(
            job=job,
            pods=pods,
            events=[] if runs else self._events(job, pods),
            node=node,
            was_there=self._was_there,
            said=self._said,
            log_tail="\n".join(line for line in tail if not line.startswith("{")),
            now=time.time(),
            claims={} if runs else self._claims(pods),
            silent_s=time.monotonic() - self._heard,
        )
        self._was_there |= job is not None
        return seen

    def _see_pods(self, before: str) -> list[Object]:
        selector = f"{objects.NAME}={self._job}"
        pods = self._api.all("Pod", selector)
        if self._there and not pods:
            # One that is gone was taken away, and its last state tells by whom.
            self._pods = self._api.last_of_gone(selector, before) or self._pods
        self._there = bool(pods)
        self._pods = sorted(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp"))) or self._pods
        return self._pods

    def _see_node(self) -> Object | None:
        if self._nodes_hidden:
            return None
        try:
            return self._api.node(self._node)
        except Forbidden:
            self._nodes_hidden = True
            return None

    def _read_log(self, pod: Object, node: Object | None) -> list[str]:
        """Its last lines; none while its kubelet cannot be asked, which would take long to say so."""
        if node is not None and not _ready(node):
            return []
        try:
            return self._api.log(pod["metadata"]["name"], _LOG_LINES).splitlines()
        except HarnessError:
            return []

    def _events(self, job: Object | None, pods: list[Object]) -> list[Object]:
        claims = {claim for pod in pods for claim in _claim_names(pod)}
        uids = {thing["metadata"]["uid"] for thing in (job, *pods) if thing}
        return [
            event
            for event in self._api.all("Event")
            if event["involvedObject"].get("uid") in uids
            or (
                event["involvedObject"].get("kind") == "PersistentVolumeClaim"
                and event["involvedObject"]["name"] in claims
            )
        ]

    def _claims(self, pods: list[Object]) -> dict[str, str]:
        names = _claim_names(pods[-1]) if pods else []
        found = {name: self._api.read("PersistentVolumeClaim", name) for name in names}
        return {name: str(claim.get("status", {}).get("phase")) if claim else "absent" for name, claim in found.items()}


def _claim_names(pod: Object) -> list[str]:
    volumes = pod["spec"].get("volumes") or []
    return [one["persistentVolumeClaim"]["claimName"] for one in volumes if "persistentVolumeClaim" in one]


def _ready(node: Object) -> bool:
    conditions = node.get("status", {}).get("conditions") or ()
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
