"""Volcano's job controller: it makes pods from a job's tasks and acts on how they end."""

import copy

from tests.cluster.api_errors import ApiError
from tests.cluster.controller import Controller
from tests.cluster.deletion import Options, delete
from tests.cluster.kinds import POD, VOLCANO_GROUP, VOLCANO_JOB, Key, Object
from tests.cluster.state import State
from tests.cluster.store import Change, key_of, seconds_since
from tests.cluster.volcano_job import (
    ENDED,
    TASK,
    VERSION,
    action_of,
    as_go,
    counts,
    enter,
    event_of,
    group_of,
    owner_of,
    pod_of,
    settle,
    started_pods,
)

BY = "vc-controller-manager"
_BECOMES = {
    "TerminateJob": "Terminating",
    "CompleteJob": "Completing",
    "AbortJob": "Aborting",
    "RestartJob": "Restarting",
}
_ENDS_AS = {"Terminating": "Terminated", "Completing": "Completed", "Aborting": "Aborted", "Restarting": "Pending"}
_COLLECTED = ("Completed", "Failed", "Terminated")
_OVER = (*_COLLECTED, "Aborted")
_RETRY_S = 1.0


class VolcanoJobs:
    """Reconciles jobs of Volcano whenever they, their PodGroup or their pods change."""

    def __init__(self, state: State) -> None:
        self._state, self._store = state, state.store
        self.controller = Controller(state, BY, self._reconcile)
        self._happened: dict[Key, list[tuple[str, str, int]]] = {}
        self._store.listeners.append(self._on_change)

    def _on_change(self, change: Change) -> None:
        if change.kind is VOLCANO_JOB:
            if change.old is None or any(of(change.new) != of(change.old) for of in (_spec, _phase)):
                self.controller.add(key_of(change.new))
        elif change.kind in (POD, VOLCANO_GROUP) and (owner := owner_of(change.new)):
            key = change.new["metadata"]["namespace"], owner["name"]
            if change.kind is POD and (event := event_of(change)):
                notes = change.new["metadata"]["annotations"]
                self._happened.setdefault(key, []).append((event, notes[TASK], int(notes[VERSION])))
            self.controller.add(key)

    def _reconcile(self, key: Key) -> float | None:
        job, happened = self._store.find(VOLCANO_JOB, *key), self._happened.pop(key, [])
        if job is None or "deletionTimestamp" in job["metadata"]:
            return None
        status = copy.deepcopy(job.get("status") or {"version": 0, "retryCount": 0})
        if "state" not in status:
            enter(status, "Pending")
            self._make_group(job)
        pods = [pod for pod in self._store.all(POD, key[0]) if owner_of(pod).get("uid") == job["metadata"]["uid"]]
        phase, again = status["state"]["phase"], None
        # What happened to pods of before the last kill says nothing any more.
        result = [action_of(job, event, task) for event, task, version in happened if version >= status["version"]]
        action = next((one for one in result if one), "")
        if phase in _OVER:
            if self._group(job):
                self._kill(job, status, pods)
            return self._expire(job)
        if phase in ("Pending", "Running") and action in _BECOMES:
            enter(status, _BECOMES[action])
            pods = self._kill(job, status, pods)
            status["retryCount"] += action == "RestartJob"
        elif phase in _ENDS_AS:
            pods = self._kill(job, status, pods)
            if phase == "Restarting" and status["retryCount"] >= job["spec"]["maxRetry"]:
                enter(status, "Failed")
            elif all(pod["status"]["phase"] in ENDED for pod in pods):
                enter(status, _ENDS_AS[phase])
                if phase == "Restarting":
                    self._make_group(job)
        else:
            pods, again = self._sync(job, status, pods)
        status |= counts(job, pods)
        if phase == "Pending" == status["state"]["phase"] and started_pods(status) >= job["spec"]["minAvailable"]:
            enter(status, "Running")
        elif phase == "Running" == status["state"]["phase"]:
            settle(job, status)
        self._store.edit(VOLCANO_JOB, *key, lambda new: new.update(status=status))
        return again

    def _make_group(self, job: Object) -> None:
        """The PodGroup, which the scheduler must admit before pods are created."""
        group, namespace = group_of(job), job["metadata"]["namespace"]
        if self._store.find(VOLCANO_GROUP, namespace, group["metadata"]["name"]) is None:
            self._state.create(VOLCANO_GROUP, group, namespace)

    def _group(self, job: Object) -> Object | None:
        return self._store.find(VOLCANO_GROUP, job["metadata"]["namespace"], group_of(job)["metadata"]["name"])

    def _sync(self, job: Object, status: Object, pods: list[Object]) -> tuple[list[Object], float | None]:
        """Create missing pods, once the scheduler has admitted the job."""
        namespace = job["metadata"]["namespace"]
        group = self._group(job) or {"status": {"phase": "Pending"}}
        details = group["status"].get("conditions", [{"type": "Scheduled"}])[-1]
        if details["type"] != "Scheduled":
            name = f"{namespace}:{job['metadata']['name']}"
            message = f"PodGroup {name} {details['type'].lower()}, reason: {details['message']}"
            self._state.event(job, "PodGroupPending", message, by=BY, warning=True)
        if group["status"]["phase"] == "Pending":
            return pods, None
        there, refused = {pod["metadata"]["name"] for pod in pods}, []
        for task in job["spec"]["tasks"]:
            for index in range(task["replicas"]):
                pod = pod_of(job, status, task, index)
                try:
                    if pod["metadata"]["name"] not in there:
                        pods = [*pods, self._state.create(POD, pod, namespace)[0]]
                except ApiError as error:
                    refused.append(f"failed to create pod {pod['metadata']['name']}, err: {as_go(error)}")
        if refused:
            self._state.event(job, "FailedCreate", f"Error creating pods: [{' '.join(refused)}]", by=BY, warning=True)
        return pods, _RETRY_S if refused else None

    def _kill(self, job: Object, status: Object, pods: list[Object]) -> list[Object]:
        """Delete a job's PodGroup and all pods that have not ended; returns the pods that remain."""
        keep = status["state"]["phase"] != "Restarting" or status["retryCount"] >= job["spec"]["maxRetry"] - 1
        status["version"] += 1
        for pod in pods:
            if "deletionTimestamp" not in pod["metadata"] and not (keep and pod["status"]["phase"] in ENDED):
                delete(self._store, POD, pod, Options("Background"))
        if group := self._group(job):
            delete(self._store, VOLCANO_GROUP, group, Options("Background"))
        return [remaining for pod in pods if (remaining := self._store.find(POD, *key_of(pod)))]

    def _expire(self, job: Object) -> float | None:
        """Delete a job whose time to live after its end is over."""
        ttl, state = job["spec"].get("ttlSecondsAfterFinished"), job["status"]["state"]
        if ttl is None or state["phase"] not in _COLLECTED:
            return None
        remaining_s = float(ttl - seconds_since(state["lastTransitionTime"]))
        if remaining_s <= 0:
            delete(self._store, VOLCANO_JOB, job, Options("Foreground"))
        return remaining_s if remaining_s > 0 else None


def _spec(job: Object) -> object:
    return job["spec"]


def _phase(job: Object) -> object:
    return job.get("status", {}).get("state", {}).get("phase")
