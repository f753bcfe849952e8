"""Jobs and pods that have come to an end, by themselves or through others: how, why, and what to do next."""

import re
import signal

from harness.cluster.case import Case, own_words, pod_name, short
from harness.cluster.causes import GPU_ADVICE, GPU_WORDS, NO_START, Cause, Diagnosis, Object
from harness.errors import FINISHED_BUT_INVALID

# A node that does not report is Unknown after 40 to 50 s; it may only have restarted its kubelet.
NODE_PATIENCE_S = 15.0
# One that says at once that it is not well may get well.
UNWELL_S = 60.0
_HARNESS_EXITS = {2: "was asked for something that cannot be", 3: "found its machine not ready", 4: "failed"}
_STOPPED_EXITS = frozenset({0, 130, 137, 143})
_SIGNALS = {
    signal.SIGKILL: "mostly by a kernel out of memory: `dmesg | grep -i oom` on node {node}",
    signal.SIGTERM: "somebody stopped it, or its node shut down",
}


def job_ended(case: Case) -> Diagnosis | None:
    """A Job that is not there, or has ended."""
    if case.seen.job is None and not case.seen.was_there:
        return Diagnosis("waiting", Cause.ABSENT, f"there is no Job of {case.who}; start it again", 10.0)
    if case.seen.job is None or "deletionTimestamp" in case.seen.job["metadata"]:
        reason = f"the Job of {case.who} was deleted by someone; start with another run_id"
        return Diagnosis("bad", Cause.DELETED, reason)
    conditions = {one["type"]: one for one in (case.seen.job.get("status") or {}).get("conditions") or ()}
    holds = {name: one for name, one in conditions.items() if one.get("status") == "True"}
    if "Complete" in holds or "SuccessCriteriaMet" in holds:
        return _completed(case)
    failed = holds.get("Failed") or holds.get("FailureTarget")
    if failed is None and "Suspended" in holds:
        shown = "its Job is suspended, until the queue that did so lets it go"
        return Diagnosis("going", Cause.STARTING, progress=shown)
    if failed is None:
        return None
    if failed.get("reason") == "DeadlineExceeded":
        limit = case.seen.job["spec"].get("activeDeadlineSeconds", "its")
        reason = f"{case.who} took longer than activeDeadlineSeconds = {limit}; raise it or ask for fewer samples"
        return Diagnosis("bad", Cause.DEADLINE, reason)
    return pod_ended(case) or _failed_without_pod(case, str(failed.get("message") or failed.get("reason")))


def _completed(case: Case) -> Diagnosis:
    said = case.seen.said or {}
    if case.kind == "engine":
        told = f"{case.who} has ended: {said.get('reason') or 'asked to stop'}, before it was taken down"
        return Diagnosis("bad", Cause.STOPPED, f"{told}; {case.show('logs ' + pod_name(case))}")
    if said.get("state") in (None, "running", "finished"):
        return Diagnosis("good", Cause.FINISHED)
    return Diagnosis("bad", Cause.HARNESS, own_words(case, said))


def _failed_without_pod(case: Case, message: str) -> Diagnosis:
    if "DisruptionTarget" in message:
        lost = node_lost(case)
        reason = f"the pod of {case.who} was taken from node {case.node} ({message}); start with another run_id"
        cause = Cause.NODE_LOST if lost else Cause.DISRUPTED
        return Diagnosis("bad", cause, lost.reason if lost else reason)
    code = re.search(r"exit code (\d+)", message)
    if code:
        return _exit(case, int(code[1]), "")
    return Diagnosis("bad", Cause.POD_REFUSED, f"the Job of {case.who} failed: {message}; {case.show()}")


def pod_ended(case: Case) -> Diagnosis | None:
    """A pod that was disrupted or refused by its node, or whose container has ended."""
    status = case.status()
    for condition in status.get("conditions") or ():
        if condition["type"] == "DisruptionTarget" and condition["status"] == "True":
            return _disrupted(case, condition)
    ended = case.container("terminated")
    if found := _by_kubelet(case, str(status.get("message") or "")) or _pod_deleted(case, ended):
        return found
    if ended is None and status.get("phase") == "Failed":
        return _not_admitted(case)
    if ended is None or (ended.get("exitCode") == 0 and status.get("phase") != "Failed"):
        return None
    if ended.get("reason") == "OOMKilled":
        limit = case.limit("memory") or "memory on its node"
        advice = f"raise it in harness_cluster ({'memory' if case.kind == 'engine' else 'run_memory'})"
        reason = f"{case.who} was killed for memory: it took more than its limit of {limit}; {advice}"
        return Diagnosis("bad", Cause.OUT_OF_MEMORY, reason)
    if ended.get("reason") in NO_START:
        reason = f"the container of {case.who} does not start: {ended.get('message')}; {case.show()}"
        return Diagnosis("bad", Cause.CONTAINER, reason)
    if ended.get("reason") in ("Unknown", "ContainerStatusUnknown"):
        reason = f"node {case.node} lost the container of {case.who} (exit code {ended.get('exitCode')})"
        return Diagnosis("bad", Cause.NODE_LOST, f"{reason}; it was restarted: `last -x reboot` there shows when")
    return _exit(case, int(ended.get("exitCode", -1)), str(ended.get("message") or ""))


def _pod_deleted(case: Case, ended: Object | None) -> Diagnosis | None:
    """A pod that is being deleted while its Job stays, or that was replaced: both end a benchmark."""
    state = (case.seen.said or {}).get("state")
    stopped = ended is None or state == "stopped" or ended.get("exitCode") in _STOPPED_EXITS
    cut = stopped and state not in ("finished", "failed")
    if case.pod and "deletionTimestamp" in case.pod["metadata"] and cut:
        told = f"pod {pod_name(case)} of {case.who} was deleted by someone"
        return Diagnosis("bad", Cause.DELETED, f"{told}; start with another run_id")
    if len(case.pods) > 1:
        told = f"{case.who} was started again as {pod_name(case)}, after {case.pods[-2]['metadata']['name']}"
        return Diagnosis("bad", Cause.DISRUPTED, f"{told}: that is no result; start with another run_id")
    return None


def _exit(case: Case, code: int, message: str) -> Diagnosis:
    said = case.seen.said or {}
    if code == FINISHED_BUT_INVALID and said.get("state") == "finished":
        return Diagnosis("good", Cause.FINISHED)
    words = own_words(case, said) if said.get("state") in ("failed", "stopped") else ""
    # Lines of state are for programs; a message of the kubelet may hold them, too.
    printed = (case.seen.log_tail or message).splitlines()
    lines = [line for line in printed if line.strip() and not line.startswith("{")]
    words = words or (lines[-1].strip() if lines else "")
    if code == 0:
        return Diagnosis("bad", Cause.STOPPED, words or f"{case.who} has ended; {case.show('logs ' + pod_name(case))}")
    missing = case.gpu_short(too_few=True) if code != 2 else ""
    if missing or GPU_WORDS.search(" ".join([words, case.seen.log_tail, message])):
        told = f"{case.who} lost its GPU: {'; '.join(filter(None, [words, missing]))}"
        return Diagnosis("bad", Cause.GPU_LOST, f"{told}; {GPU_ADVICE.format(node=case.node)}")
    short = case.gpu_short() if case.kind == "engine" and code != 2 else ""
    hint = f"; {short}, which may be why" if short else ""
    logs = case.show("logs " + pod_name(case)) if case.pod else f"its log is in the run's folder on node {case.node}"
    if code in _HARNESS_EXITS:
        reason = words or f"{case.who} {_HARNESS_EXITS[code]} (exit code {code}); {logs}"
        return Diagnosis("bad", Cause.HARNESS, reason + hint)
    reason = f"{case.who} ended {_how(case, code)}: {words or 'it said nothing'}; {logs}{hint}"
    return Diagnosis("bad", Cause.SIGNAL, reason)


def _how(case: Case, code: int) -> str:
    try:
        number = signal.Signals(code - 128)
    except ValueError:
        return f"with exit code {code}"
    meaning = _SIGNALS.get(number, "it crashed")
    return f"by signal {number.value} {number.name} ({meaning.format(node=case.node)})"


def _disrupted(case: Case, condition: Object) -> Diagnosis:
    reason, message = condition.get("reason", ""), str(condition.get("message", ""))
    told = f"the pod of {case.who} on node {case.node}"
    if reason == "PreemptionByScheduler":
        why = f"{told} had to make room for a pod of higher priority ({message}); give the namespace a priority or wait"
        return Diagnosis("bad", Cause.PREEMPTED, why)
    if reason == "EvictionByEvictionAPI":
        advice = f"kubectl uncordon {case.node}, then start with another run_id"
        why = f"{told} was evicted through the API, as `kubectl drain` does ({message}); {advice}"
        return Diagnosis("bad", Cause.DRAINED, why)
    if reason == "TerminationByKubelet":
        return _by_kubelet(case, message) or _evicted(case, message)
    if reason in ("DeletionByTaintManager", "DeletionByPodGC"):
        lost = node_lost(case)
        why = f"{told} was taken away ({message or reason}), most likely because the node was lost; kubectl get nodes"
        return Diagnosis("bad", Cause.NODE_LOST, lost.reason if lost else why)
    return Diagnosis("bad", Cause.DISRUPTED, f"{told} was taken away: {reason} {message}; {case.show()}")


def _by_kubelet(case: Case, message: str) -> Diagnosis | None:
    """A pod that its node has ended, for the node's own sake."""
    reason = case.status().get("reason")
    if reason == "Evicted":
        return _evicted(case, message)
    if reason in ("Terminated", "NodeShutdown") or "node shutdown" in message:
        told = f"node {case.node} shut down under {case.who}: {short(message)}"
        advice = "start with another run_id when it is back: kubectl get nodes"
        return Diagnosis("bad", Cause.NODE_LOST, f"{told}; {advice}")
    if reason == "Preempting" or "critical pod" in message:
        told = f"node {case.node} ended {case.who} to make room for a pod of the system: {short(message)}"
        return Diagnosis("bad", Cause.PREEMPTED, f"{told}; {case.show(f'describe node {case.node}')}")
    return None


def _not_admitted(case: Case) -> Diagnosis:
    """A pod that has its place, and that the node did not let in."""
    reason, message = str(case.status().get("reason", "")), str(case.status().get("message", ""))
    told = f"node {case.node} did not let {case.who} in ({reason}): {short(message)}"
    if re.search("gpu|device", reason + message, re.I):
        return Diagnosis("bad", Cause.GPU_LOST, f"{told}; {GPU_ADVICE.format(node=case.node)}")
    cause = Cause.RESOURCES if reason.startswith("OutOf") else Cause.POD_REFUSED
    return Diagnosis("bad", cause, f"{told}; {case.show(f'describe node {case.node}')}")


def _evicted(case: Case, message: str) -> Diagnosis:
    advice = f"free it, or raise what {case.who} asks for; {case.show(f'describe node {case.node}')}"
    return Diagnosis("bad", Cause.EVICTED, f"node {case.node} evicted {case.who}: {short(message)}; {advice}")


def node_lost(case: Case) -> Diagnosis | None:
    """A node that does not report, or says itself that it is not well."""
    for condition in ((case.seen.node or {}).get("status") or {}).get("conditions") or ():
        if condition["type"] == "Ready" and condition["status"] != "True":
            since = condition.get("lastTransitionTime", "some time")
            said = str(condition.get("message") or condition.get("reason") or "no reason is given").rstrip(". ")
            reason = f"node {case.node} is not Ready since {since}: {said}; look at its kubelet: journalctl -u kubelet"
            patience_s = NODE_PATIENCE_S if condition["status"] == "Unknown" else UNWELL_S
            return Diagnosis("waiting", Cause.NODE_LOST, reason, patience_s, f"node {case.node} is not Ready")
    return None


def _node_hidden(case: Case) -> Diagnosis | None:
    """The same, told from the pod where nodes may not be read: only the node controller makes a pod unready whose
    containers are ready."""
    ready = {one["type"]: one["status"] for one in case.status().get("conditions") or ()}
    if case.seen.node or ready.get("ContainersReady") != "True" or ready.get("Ready") != "False":
        return None
    told = f"the cluster holds node {case.node} for lost, and so the pod of {case.who} for not ready"
    reason = f"{told}; ask who may read nodes for `kubectl describe node {case.node}`"
    return Diagnosis("waiting", Cause.NODE_LOST, reason, NODE_PATIENCE_S, f"node {case.node} does not answer")


def node_of_pod(case: Case) -> Diagnosis | None:
    """The loss of the node that the pod is on, as far as it can be seen."""
    return (node_lost(case) or _node_hidden(case)) if case.pod else None
