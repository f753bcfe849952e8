"""Watches a run's Jobs until they have ended, each as a record of the shape of engine.json or status.json."""

import dataclasses
import time
from collections.abc import Iterator, Sequence

from harness.cluster import objects
from harness.cluster.api import Api, Object, last_json
from harness.cluster.api_errors import Forbidden, Unavailable
from harness.cluster.diagnosis import Diagnosis, Kind, Observation, diagnose
from harness.cluster.settings import engine_name, run_name, slug
from harness.cluster.status_record import record
from harness.errors import HarnessError

MIN_INTERVAL_S = 0.5
_LOG_LINES = 12
_END_STATES = frozenset({"finished", "failed", "stopped"})


def snapshots(
    api: Api, kind: Kind, run_id: str, names: Sequence[str], node: str, interval_s: float
) -> Iterator[Object]:
    """A snapshot every `interval_s` seconds, and at once when a pod changes, until all have ended.

    Each is {"unix": seconds, "records": [a record for each of `names`], "away": None}; when the API server does not
    answer, records is None and away is the error. `names` are engines of the run, or hosts of its LoadGens.
    """
    job_name = engine_name if kind == "engine" else run_name
    watched = [_WatchedJob(api, kind, name, job_name(run_id, name), node) for name in names]
    previous = ""
    while True:
        began, version = time.monotonic(), ""
        try:
            version = api.resource_version()
            records = [job.record(previous or version) for job in watched]
            previous = version
            yield {"unix": time.time(), "records": records, "away": None}
            if all(one["state"] in _END_STATES for one in records):
                return
        except Unavailable as error:
            yield {"unix": time.time(), "records": None, "away": str(error)}
        if version:
            api.wait(f"{objects.RUN}={slug(run_id)}", version, interval_s)
        else:
            time.sleep(interval_s)
        time.sleep(max(0.0, began + MIN_INTERVAL_S - time.monotonic()))


class _WatchedJob:
    """One Job, and what must be remembered of it between two observations."""

    def __init__(self, api: Api, kind: Kind, name: str, job: str, node: str) -> None:
        self._api, self._kind, self._name, self._job, self._node = api, kind, name, job, node
        self._job_existed = self._nodes_forbidden = self._pods_existed = False
        self._last_status: Object | None = None
        self._status_changed = time.monotonic()
        self._pods: list[Object] = []
        self._cause, self._cause_since = "", 0.0
        self._record: Object | None = None

    def record(self, previous: str) -> Object:
        """The current record; once it has ended, the last one. `previous` is the resource version of the last call."""
        if self._record is None or self._record["state"] not in _END_STATES:
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
        job = self._api.read("Job", self._job)
        pods = self._read_pods(previous)
        node = self._read_node()
        running = bool(pods) and pods[-1].get("status", {}).get("phase") == "Running"
        lines = self._read_log(pods[-1], node) if pods else []
        status = last_json(lines) or self._last_status
        if not running or status != self._last_status:
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
        )
        self._job_existed |= job is not None
        return observation

    def _read_pods(self, previous: str) -> list[Object]:
        selector = f"{objects.NAME}={self._job}"
        pods = self._api.list_objects("Pod", selector)
        if self._pods_existed and not pods:
            # The last state of a deleted pod shows what deleted it.
            self._pods = self._api.deleted_pods(selector, previous) or self._pods
        self._pods_existed = bool(pods)
        self._pods = sorted(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp"))) or self._pods
        return self._pods

    def _read_node(self) -> Object | None:
        if self._nodes_forbidden:
            return None
        try:
            return self._api.node(self._node)
        except Forbidden:
            self._nodes_forbidden = True
            return None

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

        return [event for event in self._api.list_objects("Event") if concerns(event["involvedObject"])]

    def _claims(self, pods: list[Object]) -> dict[str, str]:
        """Phases of the newest pod's claims by name; `absent` for one that does not exist."""
        claims = {
            name: self._api.read("PersistentVolumeClaim", name) for name in (_claim_names(pods[-1]) if pods else ())
        }
        return {
            name: str(claim.get("status", {}).get("phase")) if claim else "absent" for name, claim in claims.items()
        }


def _claim_names(pod: Object) -> list[str]:
    volumes = pod["spec"].get("volumes") or []
    return [volume["persistentVolumeClaim"]["claimName"] for volume in volumes if "persistentVolumeClaim" in volume]


def _is_ready(node: Object) -> bool:
    conditions = node.get("status", {}).get("conditions") or ()
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)
