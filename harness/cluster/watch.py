"""Watches a run's Jobs until they have ended, each as a record of the shape of engine.json or status.json."""

import dataclasses
import math
import time
from collections.abc import Iterator, Sequence

from harness import state_file
from harness.cluster import objects
from harness.cluster.api import Api, Object, last_json
from harness.cluster.api_errors import Forbidden, Unavailable
from harness.cluster.diagnosis import Diagnosis, Kind, Observation, diagnose
from harness.cluster.settings import job_name, slug
from harness.cluster.status_record import record
from harness.errors import HarnessError

MIN_INTERVAL_S = 0.5
# With many Jobs some pod changes all the time, and a look at all of them takes longer.
_MIN_INTERVAL_PER_JOB_S = 0.02
# An API server that has just started refuses everything for some seconds, until it knows everybody's rights.
REFUSED_S = 30.0
_LOG_LINES = 12


def snapshots(
    api: Api, kind: Kind, run_id: str, names: Sequence[str], node: str, interval_s: float
) -> Iterator[Object]:
    """A snapshot every `interval_s` seconds, and at once when a pod changes, until all have ended.

    One watch of the pods serves all, and what can be listed is listed once. Each is {"unix": seconds, "records": [a
    record for each of `names`], "away": None}; when the API server does not answer, or refuses what it has answered
    before, records is None and away is the error. `names` are engines of the run, else hosts or nodes; one on another
    node than `node` is given as NAME@NODE.
    """
    listing = _Listing(api, f"{objects.RUN}={slug(run_id)}")
    pairs = [(name, own or node) for name, _, own in (given.partition("@") for given in names)]
    watched = [_WatchedJob(api, listing, kind, name, job_name(kind, run_id, name), own) for name, own in pairs]
    pause_s = max(MIN_INTERVAL_S, _MIN_INTERVAL_PER_JOB_S * len(watched))
    previous, seen = "", -math.inf
    while True:
        began, version = time.monotonic(), ""
        try:
            version = api.resource_version()
            listing.renew()
            records = [job.record(previous or version) for job in watched]
            previous, seen = version, time.monotonic()
            yield {"unix": time.time(), "records": records, "away": None}
            if all(one["state"] in state_file.ENDED for one in records):
                return
        except (Unavailable, Forbidden) as error:
            if isinstance(error, Forbidden) and time.monotonic() - seen > REFUSED_S:
                raise
            yield {"unix": time.time(), "records": None, "away": str(error)}
        if version:
            api.wait(listing.selector, version, interval_s)
        else:
            time.sleep(interval_s)
        time.sleep(max(0.0, began + pause_s - time.monotonic()))


class _Listing:
    """What a look asks the API server for once for all Jobs of a run: Jobs and pods; events and nodes when wanted."""

    def __init__(self, api: Api, selector: str) -> None:
        self.selector = selector
        self._api = api

    def renew(self) -> None:
        """List anew."""
        self._jobs = {job["metadata"]["name"]: job for job in self._api.list_objects("Job", self.selector)}
        self._pods: dict[str, list[Object]] = {}
        for pod in self._api.list_objects("Pod", self.selector):
            self._pods.setdefault(pod["metadata"]["labels"].get(objects.NAME, ""), []).append(pod)
        self._events: list[Object] | None = None
        self._nodes: dict[str, Object | None] = {}

    def job(self, name: str) -> Object | None:
        """A Job; None when there is none of that name."""
        return self._jobs.get(name)

    def pods(self, job: str) -> list[Object]:
        """The pods of a Job."""
        return self._pods.get(job, [])

    def events(self) -> list[Object]:
        """All events of the namespace."""
        if self._events is None:
            self._events = self._api.list_objects("Event")
        return self._events

    def node(self, name: str) -> Object | None:
        """As `Api.node`."""
        if name not in self._nodes:
            self._nodes[name] = self._api.node(name)
        return self._nodes[name]


class _WatchedJob:
    """One Job, and what must be remembered of it between two observations."""

    def __init__(self, api: Api, listing: _Listing, kind: Kind, name: str, job: str, node: str) -> None:
        self._api, self._listing, self._kind = api, listing, kind
        self._name, self._job, self._node = name, job, node
        self._job_existed = self._nodes_forbidden = self._node_read = self._pods_existed = False
        self._last_status: Object | None = None
        self._status_changed = time.monotonic()
        self._pods: list[Object] = []
        self._cause, self._cause_since = "", 0.0
        self._record: Object | None = None

    def record(self, previous: str) -> Object:
        """The current record; once it has ended, the last one. `previous` is the resource version of the last call."""
        if self._record is None or self._record["state"] not in state_file.ENDED:
            observation = self._observe(previous)
            self._record = record(self._kind, self._name, self._diagnose(observation), observation)
        return self._record

    def _diagnose(self, observation: Observation) -> Diagnosis:
        """The diagnosis; `failed` when it has been blocked by the same cause for too long."""
        diagnosis = diagnose(self._kind, self._name, self._node, observation)
        if diagnosis.cause != self._cause:
            self._cause, self._cause_since = diagnosis.cause, time.monotonic()
        expired = time.monotonic() - self._cause_since > diagnosis.grace_s
        return dataclasses.replace(diagnosis, state="failed") if diagnosis.state == "blocked" and expired else diagnosis

    def _observe(self, previous: str) -> Observation:
        job = self._listing.job(self._job)
        pods = self._read_pods(previous)
        running = bool(pods) and pods[-1].get("status", {}).get("phase") == "Running"
        # An engine that serves, by its own word and its probe's, prints nothing that is of interest.
        serves = running and (self._last_status or {}).get("state") == state_file.READY and _is_ready(pods[-1])
        node, node_absent = (None, False) if serves else self._read_node()
        lines = self._read_log(pods[-1], node) if pods and not serves else []
        status = _last_status(self._kind, lines) or self._last_status
        if not running or serves or status != self._last_status:
            self._status_changed = time.monotonic()
        self._last_status = status
        observation = Observation(
            job=job,
            pods=pods,
            events=[] if running else self._events(job, pods),
            node=node,
            job_existed=self._job_existed,
            last_status=status,
            log_tail="\n".join(line for line in lines if not line.startswith("{")),
            now=time.time(),
            claims={} if running else self._claims(pods),
            silent_s=time.monotonic() - self._status_changed,
            node_absent=node_absent,
        )
        self._job_existed |= job is not None
        return observation

    def _read_pods(self, previous: str) -> list[Object]:
        pods = self._listing.pods(self._job)
        if self._pods_existed and not pods:
            # The last state of a deleted pod shows what deleted it.
            self._pods = self._api.deleted_pods(f"{objects.NAME}={self._job}", previous) or self._pods
        self._pods_existed = bool(pods)
        self._pods = sorted(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp"))) or self._pods
        return self._pods

    def _read_node(self) -> tuple[Object | None, bool]:
        """The node, and whether there is none of its name."""
        if self._nodes_forbidden:
            return None, False
        try:
            node = self._listing.node(self._node)
        except Forbidden:
            self._nodes_forbidden = not self._node_read
            return None, False
        self._node_read = True
        return node, node is None

    def _read_log(self, pod: Object, node: Object | None) -> list[str]:
        """The pod's last lines; none while its node is not Ready, where the request would only time out."""
        if node is not None and not _is_ready(node):
            return []
        try:
            return self._api.log(pod["metadata"]["name"], _LOG_LINES).splitlines()
        except HarnessError:
            return []

    def _events(self, job: Object | None, pods: list[Object]) -> list[Object]:
        """Events about the Job, its pods and their claims."""
        claims = {claim for pod in pods for claim in _claim_names(pod)}
        uids = {body["metadata"]["uid"] for body in (job, *pods) if body}

        def concerns(involved: Object) -> bool:
            return involved.get("uid") in uids or (
                involved.get("kind") == "PersistentVolumeClaim" and involved["name"] in claims
            )

        return [event for event in self._listing.events() if concerns(event["involvedObject"])]

    def _claims(self, pods: list[Object]) -> dict[str, str]:
        """Phases of the newest pod's claims by name; `absent` for one that does not exist."""
        claims = {
            name: self._api.read("PersistentVolumeClaim", name) for name in (_claim_names(pods[-1]) if pods else ())
        }
        return {
            name: str(claim.get("status", {}).get("phase")) if claim else "absent" for name, claim in claims.items()
        }


def _last_status(kind: Kind, lines: list[str]) -> Object | None:
    """The last whole state file, or error of the harness, among the lines of a pod's log."""
    file = "engine.json" if kind == "engine" else "status.json"

    def is_whole(value: Object) -> bool:
        try:
            return isinstance(value.get("error"), str) or bool(state_file.check(value, file))
        except ValueError:
            return False

    return last_json(lines, is_whole)


def _claim_names(pod: Object) -> list[str]:
    volumes = pod["spec"].get("volumes") or []
    return [volume["persistentVolumeClaim"]["claimName"] for volume in volumes if "persistentVolumeClaim" in volume]


def _is_ready(thing: Object) -> bool:
    """Whether a node or a pod has the condition Ready."""
    conditions = thing.get("status", {}).get("conditions") or ()
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)
