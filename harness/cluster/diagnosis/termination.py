"""Jobs and pods that have ended, by themselves or because something ended them."""

import re
import signal

from harness.cluster.diagnosis.causes import Cause, Diagnosis, Object
from harness.cluster.diagnosis.evidence import Evidence, one_line, printed
from harness.cluster.diagnosis.known_messages import GPU_ADVICE, START_REASONS
from harness.engine.log_causes import known_cause
from harness.errors import FINISHED_BUT_INVALID

# A silent node is Unknown after 40 to 50 s; its kubelet may only have restarted.
NODE_GRACE_S = 15.0
# A node that reports itself as not Ready at once may recover.
NOT_READY_GRACE_S = 60.0
_HARNESS_EXITS = {2: "rejected its input", 3: "reported that its machine is not ready", 4: "failed"}
_STOPPED_EXITS = frozenset({0, 130, 137, 143})
_SIGNALS = {
    signal.SIGKILL: "usually the kernel's OOM killer: `dmesg | grep -i oom` on node {node}",
    signal.SIGTERM: "somebody stopped it, or its node shut down",
}
_RESTART = "start with another run_id"


def job_ended(evidence: Evidence) -> Diagnosis | None:
    """A Job that does not exist, is being deleted, or has ended."""
    job, subject = evidence.observation.job, evidence.subject
    if job is None and not evidence.observation.job_existed:
        return Diagnosis("blocked", Cause.ABSENT, f"there is no Job of {subject}; start it again", 10.0)
    if job is None or "deletionTimestamp" in job["metadata"]:
        return Diagnosis("failed", Cause.DELETED, f"the Job of {subject} was deleted by someone; {_RESTART}")
    conditions = (job.get("status") or {}).get("conditions") or ()
    active = {condition["type"]: condition for condition in conditions if condition.get("status") == "True"}
    if "Complete" in active or "SuccessCriteriaMet" in active:
        return _completed(evidence)
    failure = active.get("Failed") or active.get("FailureTarget")
    suspended = "Suspended" in active or (job.get("spec") or {}).get("suspend") is True
    if failure is None and suspended and evidence.observation.last_status:
        reason = f"the Job of {subject} was suspended while it ran, as a queue does to make room: its pod has ended"
        return Diagnosis("failed", Cause.PREEMPTED, f"{reason}; {_RESTART}")
    if failure is None and suspended:
        return Diagnosis("progressing", Cause.STARTING, progress="its Job is suspended until its queue admits it")
    if failure is None:
        return None
    if failure.get("reason") == "DeadlineExceeded":
        limit = job["spec"].get("activeDeadlineSeconds", "its limit")
        reason = f"{subject} exceeded activeDeadlineSeconds = {limit}; raise it or use fewer samples"
        return Diagnosis("failed", Cause.DEADLINE, reason)
    return pod_ended(evidence) or _failed_without_pod(evidence, str(failure.get("message") or failure.get("reason")))


def _completed(evidence: Evidence) -> Diagnosis:
    status = evidence.observation.last_status or {}
    if evidence.is_being_deleted and status.get("state") != "finished":
        return _deleted(evidence)
    if evidence.kind == "engine":
        reason = f"{evidence.subject} ended before it was taken down: {status.get('reason') or 'asked to stop'}"
        return Diagnosis("failed", Cause.STOPPED, f"{reason}; {evidence.kubectl_logs()}")
    if status.get("state") in (None, "running", "finished"):
        return Diagnosis("ok", Cause.FINISHED)
    return Diagnosis("failed", Cause.HARNESS, evidence.status_reason())


def _failed_without_pod(evidence: Evidence, message: str) -> Diagnosis:
    if "DisruptionTarget" in message:
        lost = node_not_ready(evidence)
        reason = f"the pod of {evidence.subject} was disrupted on node {evidence.node} ({message}); {_RESTART}"
        cause = Cause.NODE_LOST if lost else Cause.DISRUPTED
        return Diagnosis("failed", cause, lost.reason if lost else reason)
    code = re.search(r"exit code (\d+)", message)
    if code:
        return _container_exited(evidence, int(code[1]), "")
    reason = f"the Job of {evidence.subject} failed: {message}; {evidence.kubectl()}"
    return Diagnosis("failed", Cause.POD_REJECTED, reason)


def pod_ended(evidence: Evidence) -> Diagnosis | None:
    """A pod that was disrupted or not admitted by its node, or whose container has terminated."""
    status, subject, node = evidence.pod_status, evidence.subject, evidence.node
    for condition in evidence.pod_conditions():
        if condition["type"] == "DisruptionTarget" and condition["status"] == "True":
            return _disrupted(evidence, condition)
    container = evidence.container_state("terminated")
    message = str(status.get("message") or "")
    if diagnosis := _ended_by_kubelet(evidence, message) or _pod_deleted(evidence, container):
        return diagnosis
    if container is None and status.get("phase") == "Failed":
        return _not_admitted(evidence)
    if container is None or (container.get("exitCode") == 0 and status.get("phase") != "Failed"):
        return None
    if container.get("reason") == "OOMKilled":
        limit = f"its memory limit of {size}" if (size := evidence.limit("memory")) else "the memory of its node"
        advice = f"raise it in harness_cluster ({'memory' if evidence.kind == 'engine' else 'run_memory'})"
        return Diagnosis("failed", Cause.OUT_OF_MEMORY, f"{subject} was OOM-killed: exceeded {limit}; {advice}")
    if container.get("reason") in START_REASONS:
        reason = f"the container of {subject} does not start: {one_line(str(container.get('message')))}"
        return Diagnosis("failed", Cause.CONTAINER, f"{reason}; {evidence.kubectl()}")
    if container.get("reason") in ("Unknown", "ContainerStatusUnknown"):
        reason = f"node {node} lost the container of {subject} (exit code {container.get('exitCode')})"
        return Diagnosis("failed", Cause.NODE_LOST, f"{reason}; it was restarted: `last -x reboot` there shows when")
    return _container_exited(evidence, int(container.get("exitCode", -1)), str(container.get("message") or ""))


def _pod_deleted(evidence: Evidence, container: Object | None) -> Diagnosis | None:
    """A pod that is being deleted while its Job stays, or that was replaced: either ends a benchmark."""
    state = (evidence.observation.last_status or {}).get("state")
    stopped = container is None or state == "stopped" or container.get("exitCode") in _STOPPED_EXITS
    interrupted = stopped and state not in ("finished", "failed")
    if evidence.is_being_deleted and interrupted:
        return _deleted(evidence)
    if len(evidence.pods) > 1:
        first = evidence.pods[-2]["metadata"]["name"]
        reason = f"{evidence.subject} was restarted as pod {evidence.pod_name}, after {first}"
        return Diagnosis("failed", Cause.DISRUPTED, f"{reason}: a restarted run has no result; {_RESTART}")
    return None


def _deleted(evidence: Evidence) -> Diagnosis:
    reason = f"pod {evidence.pod_name} of {evidence.subject} was deleted by someone"
    return Diagnosis("failed", Cause.DELETED, f"{reason}; {_RESTART}")


def _container_exited(evidence: Evidence, code: int, message: str) -> Diagnosis:
    """A container that ended with an exit code; `message` is the kubelet's termination message."""
    status, subject = evidence.observation.last_status or {}, evidence.subject
    if code == FINISHED_BUT_INVALID and status.get("state") == "finished":
        return Diagnosis("ok", Cause.FINISHED)
    reported = evidence.status_reason() if status.get("state") in ("failed", "stopped") else ""
    output = evidence.observation.log_tail or message
    known = known_cause([reported, *output.splitlines(), message])
    if known and not reported and evidence.kind == "engine":
        reported = f"{printed(known.line)}; {known.advice}"
    reported = reported or _last_text_line(output)
    if code == 0:
        return Diagnosis("failed", Cause.STOPPED, reported or f"{subject} has ended; {evidence.kubectl_logs()}")
    # Input that was rejected has nothing to do with GPUs.
    missing = evidence.gpu_shortage(below_limit=True) if code != 2 else ""
    if missing or (known and known.is_broken_gpu):
        reason = f"{subject} lost its GPU: {'; '.join(filter(None, [reported, missing]))}"
        return Diagnosis("failed", Cause.GPU_LOST, f"{reason}; {GPU_ADVICE.format(node=evidence.node)}")
    shortage = evidence.gpu_shortage() if evidence.kind == "engine" and code != 2 else ""
    hint = f"; {shortage}, which may be the cause" if shortage else ""
    logs = evidence.kubectl_logs() if evidence.pod else f"its log is in the run's folder on node {evidence.node}"
    if code in _HARNESS_EXITS:
        reason = reported or f"{subject} {_HARNESS_EXITS[code]} (exit code {code}); {logs}"
        return Diagnosis("failed", Cause.HARNESS, reason + hint)
    reason = f"{subject} ended {_exit_meaning(evidence, code)}: {reported or 'it printed nothing'}; {logs}{hint}"
    return Diagnosis("failed", Cause.SIGNAL, reason)


def _last_text_line(output: str) -> str:
    """The last line that is for people; a line of JSON is a status, which the kubelet's message may hold as well."""
    lines = [line.strip() for line in output.splitlines() if line.strip() and not line.startswith("{")]
    return printed(lines[-1]) if lines else ""


def _exit_meaning(evidence: Evidence, code: int) -> str:
    try:
        number = signal.Signals(code - 128)
    except ValueError:
        return f"with exit code {code}"
    meaning = _SIGNALS.get(number, "it crashed").format(node=evidence.node)
    return f"by signal {number.value} {number.name} ({meaning})"


def _disrupted(evidence: Evidence, condition: Object) -> Diagnosis:
    """A pod with condition DisruptionTarget."""
    reason, message = condition.get("reason", ""), str(condition.get("message", ""))
    pod = f"the pod of {evidence.subject} on node {evidence.node}"
    if reason == "PreemptionByScheduler":
        text = f"{pod} was preempted by a pod of higher priority ({message})"
        return Diagnosis("failed", Cause.PREEMPTED, f"{text}; give the namespace a priority class, or wait")
    if reason == "EvictionByEvictionAPI":
        text = f"{pod} was evicted through the API, as `kubectl drain` does ({message})"
        return Diagnosis("failed", Cause.DRAINED, f"{text}; kubectl uncordon {evidence.node}, then {_RESTART}")
    if reason == "TerminationByKubelet":
        return _ended_by_kubelet(evidence, message) or _evicted(evidence, message)
    if reason in ("DeletionByTaintManager", "DeletionByPodGC"):
        lost = node_not_ready(evidence)
        if evidence.node_conditions() and not lost and reason == "DeletionByTaintManager":
            keys = evidence.taints("NoExecute") or "which is gone by now"
            text = f"{pod} was deleted because the node got a taint with effect NoExecute ({keys})"
            return Diagnosis("failed", Cause.TAINT, f"{text}; remove it, or tolerate it with tolerated_taints")
        text = f"{pod} was deleted by the cluster ({message or reason}), most likely because the node was lost"
        return Diagnosis("failed", Cause.NODE_LOST, lost.reason if lost else f"{text}; kubectl get nodes")
    return Diagnosis("failed", Cause.DISRUPTED, f"{pod} was disrupted: {reason} {message}; {evidence.kubectl()}")


def _ended_by_kubelet(evidence: Evidence, message: str) -> Diagnosis | None:
    """A pod that its node evicted, preempted, or terminated at shutdown."""
    reason, subject, node = evidence.pod_status.get("reason"), evidence.subject, evidence.node
    if reason == "Evicted":
        return _evicted(evidence, message)
    if reason in ("Terminated", "NodeShutdown") or "node shutdown" in message:
        text = f"node {node} shut down while {subject} was running: {one_line(message)}"
        return Diagnosis("failed", Cause.NODE_LOST, f"{text}; {_RESTART} when it is back: kubectl get nodes")
    if reason == "Preempting" or "critical pod" in message:
        text = f"node {node} preempted {subject} for a critical pod of the system: {one_line(message)}"
        return Diagnosis("failed", Cause.PREEMPTED, f"{text}; {evidence.kubectl(f'describe node {node}')}")
    return None


def _not_admitted(evidence: Evidence) -> Diagnosis:
    """A scheduled pod that the kubelet of its node rejected."""
    status, node = evidence.pod_status, evidence.node
    reason, message = str(status.get("reason", "")), str(status.get("message", ""))
    text = f"node {node} did not admit {evidence.subject} ({reason}): {one_line(message)}"
    if re.search("gpu|(?<!space left on )device", reason + message, re.I):
        return Diagnosis("failed", Cause.GPU_LOST, f"{text}; {GPU_ADVICE.format(node=node)}")
    cause = Cause.RESOURCES if reason.startswith("OutOf") else Cause.POD_REJECTED
    return Diagnosis("failed", cause, f"{text}; {evidence.kubectl(f'describe node {node}')}")


def _evicted(evidence: Evidence, message: str) -> Diagnosis:
    text = f"node {evidence.node} evicted {evidence.subject}: {one_line(message)}"
    advice = (
        f"free what the node is short of, or raise the request; {evidence.kubectl(f'describe node {evidence.node}')}"
    )
    return Diagnosis("failed", Cause.EVICTED, f"{text}; {advice}")


def node_lost(evidence: Evidence) -> Diagnosis | None:
    """The loss of the pod's node, as far as it can be seen."""
    return (node_not_ready(evidence) or _node_unreadable(evidence)) if evidence.pod else None


def node_not_ready(evidence: Evidence) -> Diagnosis | None:
    """A node whose Ready condition is False or Unknown."""
    for condition in evidence.node_conditions():
        if condition["type"] == "Ready" and condition["status"] != "True":
            since = condition.get("lastTransitionTime", "an unknown time")
            message = str(condition.get("message") or condition.get("reason") or "no reason is given").rstrip(". ")
            text = f"node {evidence.node} is not Ready since {since}: {message}"
            grace_s = NODE_GRACE_S if condition["status"] == "Unknown" else NOT_READY_GRACE_S
            reason, progress = f"{text}; check its kubelet: journalctl -u kubelet", f"node {evidence.node} is not Ready"
            return Diagnosis("blocked", Cause.NODE_LOST, reason, grace_s, progress)
    return None


def _node_unreadable(evidence: Evidence) -> Diagnosis | None:
    """A lost node without the right to read nodes, known from the pod: only the node controller sets a pod to not
    Ready whose containers are ready."""
    ready = {condition["type"]: condition["status"] for condition in evidence.pod_conditions()}
    if evidence.observation.node or ready.get("ContainersReady") != "True" or ready.get("Ready") != "False":
        return None
    node = evidence.node
    text = f"the cluster has marked the pod of {evidence.subject} as not ready, most likely because node {node} is lost"
    reason = f"{text}; ask someone who may read nodes for `kubectl describe node {node}`"
    return Diagnosis("blocked", Cause.NODE_LOST, reason, NODE_GRACE_S, f"node {node} does not answer")
