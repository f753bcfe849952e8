"""A job of Volcano: its PodGroup and pods, their counts, and admission."""

import copy
import re
from decimal import Decimal

from tests.cluster.api_errors import ApiError, bad_request
from tests.cluster.kinds import VOLCANO_JOB, VOLCANO_QUEUE, Object
from tests.cluster.quantities import format_quantity, requests
from tests.cluster.store import Change, Store, stamp

GROUP = "scheduling.k8s.io/group-name"
QUEUE = "volcano.sh/queue-name"
TASK, VERSION = "volcano.sh/task-spec", "volcano.sh/job-version"
ENDED = ("Succeeded", "Failed")
_PHASES = ("Pending", "Running", "Succeeded", "Failed", "Unknown")
_ACTIONS = frozenset({"AbortJob", "RestartJob", "TerminateJob", "CompleteJob", "SyncJob"})
_EVENTS = frozenset({"PodFailed", "PodEvicted", "TaskCompleted"})
_MAY_CHANGE = ("minAvailable", "maxRetry", "priorityClassName")
_NAME = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_NAME_MESSAGE = "name part must be no more than 63 characters"


def owner_of(obj: Object) -> Object:
    """The reference to the job of Volcano that controls a pod or PodGroup; empty for none."""
    for one in obj["metadata"].get("ownerReferences", ()):
        if one.get("controller") and (one["apiVersion"], one["kind"]) == (VOLCANO_JOB.api_version, "Job"):
            return dict(one)
    return {}


def _reference(job: Object) -> Object:
    identity = {"name": job["metadata"]["name"], "uid": job["metadata"]["uid"]}
    shared = {"apiVersion": VOLCANO_JOB.api_version, "kind": "Job", "controller": True, "blockOwnerDeletion": True}
    return {**shared, **identity}


def group_of(job: Object) -> Object:
    """The PodGroup of a job."""
    spec, total = job["spec"], dict[str, Decimal]()
    for task in spec["tasks"]:
        for name, value in requests(task["template"]["spec"]).items():
            total[name] = total.get(name, Decimal(0)) + value * task["replicas"]
    name = f"{job['metadata']['name']}-{job['metadata']['uid']}"
    demand = {"minMember": spec["minAvailable"], "queue": spec["queue"]}
    return {
        "metadata": {"name": name, "ownerReferences": [_reference(job)]},
        "spec": {**demand, "minResources": {name: format_quantity(value) for name, value in total.items()}},
        "status": {"phase": "Pending"},
    }


def pod_of(job: Object, status: Object, task: Object, index: int) -> Object:
    """One pod of a task."""
    template, name, queue = copy.deepcopy(task["template"]), job["metadata"]["name"], job["spec"]["queue"]
    own_meta = template.get("metadata") or {}
    shared = {TASK: task["name"], "volcano.sh/task-index": str(index), "volcano.sh/job-name": name}
    shared[QUEUE] = queue
    notes = {GROUP: group_of(job)["metadata"]["name"], VERSION: str(status["version"])}
    notes |= {"volcano.sh/template-uid": f"{name}-{task['name']}"}
    notes |= {"volcano.sh/job-retry-count": str(status["retryCount"])}
    meta = {
        "name": f"{name}-{task['name']}-{index}",
        "labels": {**own_meta.get("labels", {}), **shared, "volcano.sh/job-namespace": job["metadata"]["namespace"]},
        "annotations": {**own_meta.get("annotations", {}), **shared, **notes},
        "ownerReferences": [_reference(job)],
    }
    template["spec"].setdefault("schedulerName", job["spec"]["schedulerName"])
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": template["spec"]}


def event_of(change: Change) -> str:
    """The event that a change of a pod is for the policies of its job; empty for none."""
    new, old = change.new, change.old or {"metadata": {}, "status": {}}
    if change.type == "DELETED" or "deletionTimestamp" in new["metadata"]:
        return "" if "deletionTimestamp" in old["metadata"] else "PodEvicted"
    phase = new["status"].get("phase")
    if phase == old["status"].get("phase"):
        return ""
    return {"Failed": "PodFailed", "Succeeded": "TaskCompleted"}.get(phase, "")


def action_of(job: Object, event: str, task: str) -> str:
    """The action on an event of a task's pod: its own policies first, then the job's."""
    own = [policy for one in job["spec"]["tasks"] if one["name"] == task for policy in one.get("policies", ())]
    for policy in (*own, *job["spec"].get("policies", ())):
        if {event, "*"} & {*policy.get("events", ()), policy.get("event", "")}:
            return str(policy["action"])
    return ""


def enter(status: Object, phase: str) -> None:
    """Set the phase of a job."""
    status["state"] = {"phase": phase, "lastTransitionTime": stamp()}
    details = {"status": phase, "lastTransitionTime": stamp()}
    status["conditions"] = [*status.get("conditions", ()), details]


def counts(job: Object, pods: list[Object]) -> Object:
    """The numbers in a job's status."""
    remaining = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
    result: Object = {"minAvailable": job["spec"]["minAvailable"], "terminating": len(pods) - len(remaining)}
    tasks: dict[str, Object] = {}
    for phase in _PHASES:
        here = [pod for pod in remaining if pod["status"].get("phase") == phase]
        result[phase.lower()] = len(here)
        for pod in here:
            of_task = tasks.setdefault(pod["metadata"]["annotations"][TASK], {"phase": {}})["phase"]
            of_task[phase] = of_task.get(phase, 0) + 1
    return {**result, "taskStatusCount": tasks}


def started_pods(status: Object) -> int:
    """How many pods of a job run, or have run."""
    return int(status["running"] + status["succeeded"] + status["failed"])


def settle(job: Object, status: Object) -> None:
    """End a running job that has no pod left to wait for."""
    spec = job["spec"]
    if status["succeeded"] + status["failed"] < sum(task["replicas"] for task in spec["tasks"]):
        return
    short = any(
        status["taskStatusCount"].get(task["name"], {"phase": {}})["phase"].get("Succeeded", 0) < task["minAvailable"]
        for task in spec["tasks"]
    )
    enter(status, "Failed" if short or status["succeeded"] < spec["minAvailable"] else "Completed")


def as_go(error: ApiError) -> str:
    """An error as Go prints its struct, which is what Volcano puts into its event."""
    message = error.message.replace("\\", "\\\\").replace('"', '\\"')
    meta = 'TypeMeta:v1.TypeMeta{Kind:"", APIVersion:""}, ListMeta:v1.ListMeta{SelfLink:"", ResourceVersion:""}'
    status = f'v1.Status{{{meta}, Status:"Failure", Message:"{message}", Reason:"{error.reason}", Code:{error.code}}}'
    return f"&errors.StatusError{{ErrStatus:{status}}}"


def complete(job: Object) -> None:
    """Set the defaults of a new job."""
    spec = job.setdefault("spec", {})
    for field, value in (("queue", "default"), ("schedulerName", "volcano")):
        spec[field] = spec.get(field) or value
    spec["maxRetry"] = spec.get("maxRetry") or 3
    for place, task in enumerate(spec.get("tasks", ())):
        task["name"] = task.get("name") or f"default{place}"
        task.setdefault("replicas", 1)
        task.setdefault("minAvailable", task["replicas"])
    spec["minAvailable"] = spec.get("minAvailable") or sum(task["minAvailable"] for task in spec.get("tasks", ()))
    job.pop("status", None)


def judge(store: Store, job: Object) -> None:
    """Reject an invalid new job as Volcano's webhook does.

    Raises:
        ApiError: all that is wrong with it.
    """
    spec, name = job["spec"], job["metadata"]["name"]
    tasks, problems = spec.get("tasks", []), []
    names = [task["name"] for task in tasks]
    problems += ["No task specified in job spec"] if not tasks else []
    problems += [f"duplicated task name {one};" for one in sorted({one for one in names if names.count(one) > 1})]
    problems += [f"[{_NAME_MESSAGE}];" for one in names if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", one)]
    for place, task in enumerate(tasks):
        if not re.fullmatch(_NAME, pod := f"{name}-{task['name']}-{place}"):
            problems.append(f"create pod with name {pod} validate failed [{_NAME_MESSAGE}];")
    if not re.fullmatch(_NAME, name):
        problems.append(f"create job with name {name} validate failed [{_NAME_MESSAGE}]")
    if sum(task["replicas"] for task in tasks) < spec["minAvailable"]:
        problems.append("job 'minAvailable' should not be greater than total replicas in tasks;")
    for policy in (*spec.get("policies", ()), *(one for task in tasks for one in task.get("policies", ()))):
        events = {*policy.get("events", ()), *filter(None, [policy.get("event")])}
        if not events or not events <= _EVENTS | {"*"} or policy.get("action") not in _ACTIONS:
            problems.append(f"policy {policy} is not one that this double knows;")
    queue = store.find(VOLCANO_QUEUE, "", spec["queue"])
    if queue is None:
        problems.append(f'unable to find job queue: queues.scheduling.volcano.sh "{spec["queue"]}" not found;')
    elif (state := queue.get("status", {}).get("state", "")) != "Open":
        problems.append(f"can only submit job to queue with state `Open`, queue `{spec['queue']}` status is `{state}`;")
    if problems:
        raise bad_request(f'admission webhook "validatejob.volcano.sh" denied the request: {" ".join(problems)}')


def judge_change(new: Object, old: Object) -> None:
    """Reject a change of a job's spec except in its mutable fields.

    Raises:
        ApiError: another field differs.
    """
    free = {field: old["spec"].get(field) for field in _MAY_CHANGE}
    tasks = [{**task, "replicas": 0, "minAvailable": 0} for task in new["spec"].get("tasks", ())]
    before = [{**task, "replicas": 0, "minAvailable": 0} for task in old["spec"].get("tasks", ())]
    if {**new["spec"], **free, "tasks": tasks} != {**old["spec"], **free, "tasks": before}:
        why = "job updates may not change fields other than `minAvailable`, `tasks[*].replicas under spec`"
        raise bad_request(f'admission webhook "validatejob.volcano.sh" denied the request: {why}')
