"""The Job controller: it makes pods from templates and counts how they end."""

import copy

from tests.cluster.api_errors import ApiError
from tests.cluster.controller import Controller
from tests.cluster.deletion import Options, delete
from tests.cluster.kinds import JOB, POD, Key, Object
from tests.cluster.policy import verdict
from tests.cluster.state import State
from tests.cluster.store import Change, key_of, seconds_since, stamp, suffix

TRACKED = "batch.kubernetes.io/job-tracking"
_BY = "job-controller"
_RETRY_S = 1.0


class Jobs:
    """Reconciles Jobs whenever they or their pods change."""

    def __init__(self, state: State) -> None:
        self._state, self._store = state, state.store
        self.controller = Controller(state, _BY, self._reconcile)
        self._store.listeners.append(self._on_change)

    def _on_change(self, change: Change) -> None:
        if change.kind is JOB:
            self.controller.add(key_of(change.new))
            if change.type == "DELETED":
                for pod in self._store.all(POD, change.new["metadata"]["namespace"]):
                    if TRACKED in pod["metadata"].get("finalizers", ()) and _owner(pod) in (
                        change.new["metadata"]["uid"],
                        "",
                    ):
                        self._let_go(pod)
        elif change.kind is POD:
            pod = change.new
            name = pod["metadata"].get("labels", {}).get("batch.kubernetes.io/job-name", "")
            job = self._store.find(JOB, pod["metadata"]["namespace"], name)
            if job is not None and job["metadata"]["uid"] == _owner(pod):
                self.controller.add(key_of(job))
            elif TRACKED in pod["metadata"].get("finalizers", ()) and change.type != "DELETED":
                self._let_go(pod)

    def _let_go(self, pod: Object) -> None:
        """Release a pod whose Job was deleted."""
        self._store.edit(POD, *key_of(pod), _untrack)

    def _reconcile(self, key: Key) -> float | None:
        job = self._store.find(JOB, *key)
        if job is None:
            return None
        uid = job["metadata"]["uid"]
        pods = [pod for pod in self._store.all(POD, key[0]) if _owner(pod) == uid]
        if _true(job, "Complete") or _true(job, "Failed"):
            for pod in pods:
                self._let_go(pod)
            return self._expire(job)
        status = copy.deepcopy(job["status"])
        if "deletionTimestamp" in job["metadata"]:
            for pod in pods:
                if "deletionTimestamp" in pod["metadata"]:
                    self._let_go(pod)
            return None
        if not job["spec"]["suspend"] and "startTime" not in status:
            status["startTime"] = stamp()
        again = self._step(job, status, pods)
        self._store.edit(JOB, *key, lambda new: new.update(status=status))
        return again

    def _step(self, job: Object, status: Object, pods: list[Object]) -> float | None:
        """Count a Job's pods, end it or make what is missing."""
        for pod in pods:
            self._count(job, status, pod)
        running = [pod for pod in pods if pod["status"].get("phase") in ("Pending", "Running")]
        active = [pod for pod in running if "deletionTimestamp" not in pod["metadata"]]
        terminating = [pod for pod in running if "deletionTimestamp" in pod["metadata"]]
        condition, again = self._judge(job, status, pods)
        if condition is not None or job["spec"]["suspend"]:
            for pod in active:
                delete(self._store, POD, pod, Options("Background"))
                self._state.event(job, "SuccessfulDelete", f"Deleted pod: {pod['metadata']['name']}", by=_BY)
            terminating, active = [pod for pod in terminating + active if self._store.find(POD, *key_of(pod))], []
        if condition is not None and not terminating:
            self._end(job, status, condition)
        elif condition is None:
            self._suspended(job, status)
            missing = min(job["spec"]["parallelism"], job["spec"]["completions"] - status.get("succeeded", 0)) - len(
                active
            )
            if job["spec"]["podReplacementPolicy"] == "Failed":
                missing -= len(terminating)
            for _ in range(0 if job["spec"]["suspend"] else missing):
                new_pod = self._make(job)
                active += [new_pod] if new_pod else []
                again = again if new_pod else _RETRY_S
        ready = [pod for pod in active if _condition(pod, "Ready") == "True"]
        status |= {"active": len(active), "ready": len(ready), "terminating": len(terminating)}
        status["uncountedTerminatedPods"] = {}
        if not status["active"]:
            del status["active"]
        return again

    def _count(self, job: Object, status: Object, pod: Object) -> None:
        if TRACKED not in pod["metadata"].get("finalizers", ()):
            return
        phase = pod["status"].get("phase")
        # A pod that is being deleted is a failure at once, except where only failed ones are replaced.
        leaving = "deletionTimestamp" in pod["metadata"]
        counts = leaving and (job["spec"]["podReplacementPolicy"] != "Failed" or not pod["spec"].get("nodeName"))
        if phase == "Succeeded":
            status["succeeded"] = status.get("succeeded", 0) + 1
        elif phase == "Failed" or counts:
            status["failed"] = status.get("failed", 0) + 1
            result = verdict(job, pod)
            if result and not _true(job, "FailureTarget"):
                _set(status, "FailureTarget", result.reason, result.message)
        else:
            return
        self._let_go(pod)

    def _judge(self, job: Object, status: Object, pods: list[Object]) -> tuple[Object | None, float | None]:
        """The condition that ends a Job, None while it continues, and the seconds until its deadline."""
        spec = job["spec"]
        for kind in ("FailureTarget", "SuccessCriteriaMet"):
            result = next((one for one in status.get("conditions", ()) if one["type"] == kind), None)
            if result:
                return result, None
        deadline, again = spec.get("activeDeadlineSeconds"), None
        if deadline is not None and "startTime" in status and not spec["suspend"]:
            again = deadline - seconds_since(status["startTime"])
        if status.get("failed", 0) > spec["backoffLimit"]:
            _set(status, "FailureTarget", "BackoffLimitExceeded", "Job has reached the specified backoff limit")
        elif again is not None and again <= 0:
            _set(status, "FailureTarget", "DeadlineExceeded", "Job was active longer than specified deadline")
        elif status.get("succeeded", 0) >= spec["completions"]:
            _set(status, "SuccessCriteriaMet", "CompletionsReached", "Reached expected number of succeeded pods")
        else:
            return None, again
        return status["conditions"][-1], None

    def _end(self, job: Object, status: Object, why: Object) -> None:
        if why["type"] == "SuccessCriteriaMet":
            _set(status, "Complete", why["reason"], why["message"])
            status["completionTime"] = stamp()
            self._state.event(job, "Completed", "Job completed", by=_BY)
        else:
            _set(status, "Failed", why["reason"], why["message"])
            self._state.event(job, why["reason"], why["message"], by=_BY, warning=True)

    def _suspended(self, job: Object, status: Object) -> None:
        now = "True" if job["spec"]["suspend"] else "False"
        old = next((one for one in status.get("conditions", ()) if one["type"] == "Suspended"), None)
        if (old is None and now == "False") or (old and old["status"] == now):
            return
        status["conditions"] = [one for one in status.get("conditions", ()) if one is not old]
        reason, text = ("JobSuspended", "Job suspended") if now == "True" else ("JobResumed", "Job resumed")
        _set(status, "Suspended", reason, text, now)
        if now == "True":
            status.pop("startTime", None)
        self._state.event(job, reason.removeprefix("Job"), text, by=_BY)

    def _make(self, job: Object) -> Object | None:
        meta, template = job["metadata"], copy.deepcopy(job["spec"]["template"])
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": meta["name"], "uid": meta["uid"]}
        base = meta["name"][:57] + "-"
        own = {
            "name": base + suffix(),
            "generateName": base,
            "namespace": meta["namespace"],
            "labels": template["metadata"]["labels"],
            **({"annotations": template["metadata"]["annotations"]} if template["metadata"].get("annotations") else {}),
            "ownerReferences": [{**owner, "controller": True, "blockOwnerDeletion": True}],
            "finalizers": [TRACKED],
        }
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": own, "spec": template["spec"]}
        try:
            created, _ = self._state.create(POD, pod, meta["namespace"])
        except ApiError as error:
            self._state.event(job, "FailedCreate", f"Error creating: {error.message}", by=_BY, warning=True)
            return None
        self._state.event(job, "SuccessfulCreate", f"Created pod: {created['metadata']['name']}", by=_BY)
        return created

    def _expire(self, job: Object) -> float | None:
        """Delete a Job whose time to live after its end is over."""
        ttl = job["spec"].get("ttlSecondsAfterFinished")
        if ttl is None or "deletionTimestamp" in job["metadata"]:
            return None
        condition = next(one for one in job["status"]["conditions"] if one["type"] in ("Complete", "Failed"))
        remaining_s = float(ttl - seconds_since(condition["lastTransitionTime"]))
        if remaining_s > 0:
            return remaining_s
        delete(self._store, JOB, job, Options("Foreground"))
        return None


def _owner(pod: Object) -> str:
    """The uid of a pod's controller; empty for none."""
    owners = pod["metadata"].get("ownerReferences", ())
    return next((owner["uid"] for owner in owners if owner.get("controller")), "")


def _untrack(pod: Object) -> None:
    finalizers = pod["metadata"].get("finalizers", [])
    if TRACKED in finalizers:
        finalizers.remove(TRACKED)
    if not finalizers:
        pod["metadata"].pop("finalizers", None)


def _condition(obj: Object, kind: str) -> str:
    conditions = obj.get("status", {}).get("conditions") or ()
    return next((str(one["status"]) for one in conditions if one["type"] == kind), "")


def _true(obj: Object, kind: str) -> bool:
    return _condition(obj, kind) == "True"


def _set(status: Object, kind: str, reason: str, message: str, value: str = "True") -> None:
    condition = {"type": kind, "status": value, "lastProbeTime": stamp(), "lastTransitionTime": stamp()}
    status.setdefault("conditions", []).append(condition | {"reason": reason, "message": message})
