"""What a Job, its pod, their events and its node tell about an engine or a run: how it is, why, and what to do next."""

import re
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from harness.cluster.causes import (
    GPU_ADVICE,
    GPU_WORDS,
    NO_CONTAINER,
    NO_IMAGE,
    NO_SANDBOX,
    NO_START,
    PLACES,
    REFUSALS,
    Cause,
    Diagnosis,
    Kind,
    Object,
    Seen,
)
from harness.errors import FINISHED_BUT_INVALID

# Silent for so long is worth a word, for so much longer the end: a log may not be readable for a while.
STALE_S, SILENT_S = 60.0, 120.0
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
# Of nodes that the pod is not pinned to, the scheduler says this; by name and by label.
_ELSEWHERE = re.compile(
    r"(, )?\d+ node\(s\) didn't (satisfy plugin\(s\) \[NodeAffinity\](?! simul)|match Pod's node affinity/selector)"
)
_PREEMPTION = re.compile(r"\.?\s+(no new claims to deallocate,?\s*)?preemption:.*", re.S)
_NO_VOLUME = ("ProvisioningFailed", "FailedBinding")
_ON_THE_WAY = frozenset({"", "ContainerCreating", "PodInitializing"})
_PROGRESS = {"Pulling": "pulling the image", "Pulled": "starting its container", "Created": "starting its container"}
Look = Callable[["_Case"], Diagnosis | None]


def diagnose(kind: Kind, name: str, node: str, seen: Seen) -> Diagnosis:
    """What is the matter with engine or run `name` on `node`; the first look that knows decides."""
    case = _Case(kind, name, node, seen)
    for look in _LOOKS:
        if found := look(case):
            return found
    return Diagnosis("going", Cause.STARTING, progress="waiting for its pod")


@dataclass(frozen=True, slots=True)
class _Case:
    kind: Kind
    name: str
    node: str
    seen: Seen

    @property
    def who(self) -> str:
        return f"{self.kind} {self.name}"

    @property
    def pods(self) -> list[Object]:
        """The Job's own: those of an earlier Job of this name may still be on their way out."""
        uid = ((self.seen.job or {}).get("metadata") or {}).get("uid")
        owners = [[ref["uid"] for ref in pod["metadata"].get("ownerReferences") or ()] for pod in self.seen.pods]
        return [pod for pod, of in zip(self.seen.pods, owners, strict=True) if not (uid and of) or uid in of]

    @property
    def pod(self) -> Object | None:
        pods = self.pods
        return pods[-1] if pods else None

    @property
    def namespace(self) -> str:
        thing = self.seen.job or self.pod
        return str(thing["metadata"].get("namespace", "mlperf")) if thing else "mlperf"

    def show(self, what: str = "") -> str:
        """The command that shows more."""
        named = f"describe pod {self.pod['metadata']['name']}" if self.pod else "get events --sort-by=.lastTimestamp"
        return f"kubectl -n {self.namespace} {what or named}"

    def status(self) -> Object:
        return dict(self.pod.get("status") or {}) if self.pod else {}

    def container(self, state: str) -> Object | None:
        """What the API says of the container in this state: waiting, running or terminated."""
        for one in self.status().get("containerStatuses") or ():
            found = (one.get("state") or {}).get(state)
            if found is not None:
                return dict(found)
        return None

    def messages(self, *reasons: str) -> Iterator[str]:
        """Messages of events with one of these reasons, newest first."""
        found = [event for event in self.seen.events if event.get("reason") in reasons]
        yield from (str(event.get("message", "")) for event in sorted(found, key=_when, reverse=True))

    def container_spec(self) -> Object:
        """What was asked of the container; empty when neither pod nor Job is there."""
        job = ((self.seen.job or {}).get("spec") or {}).get("template") or {}
        spec = (self.pod or {}).get("spec") or job.get("spec") or {}
        return dict((spec.get("containers") or [{}])[0])

    def limit(self, what: str) -> str:
        """How much of a resource the container may have; empty for no limit."""
        limits = (self.container_spec().get("resources") or {}).get("limits") or {}
        return str(limits.get(what, ""))

    def gpu_short(self, *, too_few: bool = False) -> str:
        """That the node offers fewer GPUs than it has, with `too_few` also fewer than were asked for; else empty."""
        status = (self.seen.node or {}).get("status") or {}
        has, offers = status.get("capacity") or {}, status.get("allocatable") or {}
        for name in (name for name in has if "gpu" in name):
            there, asked = int(offers.get(name, 0)), int(self.limit(name) or 0)
            if there < int(has[name]) and (there < asked or not too_few):
                return f"node {self.node} offers {there} of its {has[name]} {name}"
        return ""


def _job(case: _Case) -> Diagnosis | None:
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
    return _pod_ended(case) or _failed_without_pod(case, str(failed.get("message") or failed.get("reason")))


def _completed(case: _Case) -> Diagnosis:
    said = case.seen.said or {}
    if case.kind == "engine":
        told = f"{case.who} has ended: {said.get('reason') or 'asked to stop'}, before it was taken down"
        return Diagnosis("bad", Cause.STOPPED, f"{told}; {case.show('logs ' + _pod_name(case))}")
    if said.get("state") in (None, "running", "finished"):
        return Diagnosis("good", Cause.FINISHED)
    return Diagnosis("bad", Cause.HARNESS, _own_words(case, said))


def _failed_without_pod(case: _Case, message: str) -> Diagnosis:
    if "DisruptionTarget" in message:
        lost = _node_lost(case)
        reason = f"the pod of {case.who} was taken from node {case.node} ({message}); start with another run_id"
        cause = Cause.NODE_LOST if lost else Cause.DISRUPTED
        return Diagnosis("bad", cause, lost.reason if lost else reason)
    code = re.search(r"exit code (\d+)", message)
    if code:
        return _exit(case, int(code[1]), "")
    return Diagnosis("bad", Cause.POD_REFUSED, f"the Job of {case.who} failed: {message}; {case.show()}")


def _pod_ended(case: _Case) -> Diagnosis | None:
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


def _pod_deleted(case: _Case, ended: Object | None) -> Diagnosis | None:
    """A pod that is being deleted while its Job stays, or that was replaced: both end a benchmark."""
    state = (case.seen.said or {}).get("state")
    stopped = ended is None or state == "stopped" or ended.get("exitCode") in _STOPPED_EXITS
    cut = stopped and state not in ("finished", "failed")
    if case.pod and "deletionTimestamp" in case.pod["metadata"] and cut:
        told = f"pod {_pod_name(case)} of {case.who} was deleted by someone"
        return Diagnosis("bad", Cause.DELETED, f"{told}; start with another run_id")
    if len(case.pods) > 1:
        told = f"{case.who} was started again as {_pod_name(case)}, after {case.pods[-2]['metadata']['name']}"
        return Diagnosis("bad", Cause.DISRUPTED, f"{told}: that is no result; start with another run_id")
    return None


def _exit(case: _Case, code: int, message: str) -> Diagnosis:
    said = case.seen.said or {}
    if code == FINISHED_BUT_INVALID and said.get("state") == "finished":
        return Diagnosis("good", Cause.FINISHED)
    words = _own_words(case, said) if said.get("state") in ("failed", "stopped") else ""
    lines = [line for line in (case.seen.log_tail or message).splitlines() if line.strip()]
    words = words or (lines[-1].strip() if lines else "")
    if code == 0:
        return Diagnosis("bad", Cause.STOPPED, words or f"{case.who} has ended; {case.show('logs ' + _pod_name(case))}")
    missing = case.gpu_short(too_few=True) if code != 2 else ""
    if missing or GPU_WORDS.search(" ".join([words, case.seen.log_tail, message])):
        told = f"{case.who} lost its GPU: {'; '.join(filter(None, [words, missing]))}"
        return Diagnosis("bad", Cause.GPU_LOST, f"{told}; {GPU_ADVICE.format(node=case.node)}")
    short = case.gpu_short() if case.kind == "engine" and code != 2 else ""
    hint = f"; {short}, which may be why" if short else ""
    logs = case.show("logs " + _pod_name(case)) if case.pod else f"its log is in the run's folder on node {case.node}"
    if code in _HARNESS_EXITS:
        reason = words or f"{case.who} {_HARNESS_EXITS[code]} (exit code {code}); {logs}"
        return Diagnosis("bad", Cause.HARNESS, reason + hint)
    reason = f"{case.who} ended {_how(case, code)}: {words or 'it said nothing'}; {logs}{hint}"
    return Diagnosis("bad", Cause.SIGNAL, reason)


def _how(case: _Case, code: int) -> str:
    try:
        number = signal.Signals(code - 128)
    except ValueError:
        return f"with exit code {code}"
    meaning = _SIGNALS.get(number, "it crashed")
    return f"by signal {number.value} {number.name} ({meaning.format(node=case.node)})"


def _disrupted(case: _Case, condition: Object) -> Diagnosis:
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
        lost = _node_lost(case)
        why = f"{told} was taken away ({message or reason}), most likely because the node was lost; kubectl get nodes"
        return Diagnosis("bad", Cause.NODE_LOST, lost.reason if lost else why)
    return Diagnosis("bad", Cause.DISRUPTED, f"{told} was taken away: {reason} {message}; {case.show()}")


def _by_kubelet(case: _Case, message: str) -> Diagnosis | None:
    """A pod that its node has ended, for the node's own sake."""
    reason = case.status().get("reason")
    if reason == "Evicted":
        return _evicted(case, message)
    if reason in ("Terminated", "NodeShutdown") or "node shutdown" in message:
        told = f"node {case.node} shut down under {case.who}: {_short(message)}"
        advice = "start with another run_id when it is back: kubectl get nodes"
        return Diagnosis("bad", Cause.NODE_LOST, f"{told}; {advice}")
    if reason == "Preempting" or "critical pod" in message:
        told = f"node {case.node} ended {case.who} to make room for a pod of the system: {_short(message)}"
        return Diagnosis("bad", Cause.PREEMPTED, f"{told}; {case.show(f'describe node {case.node}')}")
    return None


def _not_admitted(case: _Case) -> Diagnosis:
    """A pod that has its place, and that the node did not let in."""
    reason, message = str(case.status().get("reason", "")), str(case.status().get("message", ""))
    told = f"node {case.node} did not let {case.who} in ({reason}): {_short(message)}"
    if re.search("gpu|device", reason + message, re.I):
        return Diagnosis("bad", Cause.GPU_LOST, f"{told}; {GPU_ADVICE.format(node=case.node)}")
    cause = Cause.RESOURCES if reason.startswith("OutOf") else Cause.POD_REFUSED
    return Diagnosis("bad", cause, f"{told}; {case.show(f'describe node {case.node}')}")


def _evicted(case: _Case, message: str) -> Diagnosis:
    advice = f"free it, or raise what {case.who} asks for; {case.show(f'describe node {case.node}')}"
    return Diagnosis("bad", Cause.EVICTED, f"node {case.node} evicted {case.who}: {_short(message)}; {advice}")


def _node_lost(case: _Case) -> Diagnosis | None:
    """A node that does not report, or says itself that it is not well."""
    for condition in ((case.seen.node or {}).get("status") or {}).get("conditions") or ():
        if condition["type"] == "Ready" and condition["status"] != "True":
            since = condition.get("lastTransitionTime", "some time")
            said = str(condition.get("message") or condition.get("reason") or "no reason is given").rstrip(". ")
            reason = f"node {case.node} is not Ready since {since}: {said}; look at its kubelet: journalctl -u kubelet"
            patience_s = NODE_PATIENCE_S if condition["status"] == "Unknown" else UNWELL_S
            return Diagnosis("waiting", Cause.NODE_LOST, reason, patience_s, f"node {case.node} is not Ready")
    return None


def _node_hidden(case: _Case) -> Diagnosis | None:
    """The same, told from the pod where nodes may not be read: only the node controller makes a pod unready whose
    containers are ready."""
    ready = {one["type"]: one["status"] for one in case.status().get("conditions") or ()}
    if case.seen.node or ready.get("ContainersReady") != "True" or ready.get("Ready") != "False":
        return None
    told = f"the cluster holds node {case.node} for lost, and so the pod of {case.who} for not ready"
    reason = f"{told}; ask who may read nodes for `kubectl describe node {case.node}`"
    return Diagnosis("waiting", Cause.NODE_LOST, reason, NODE_PATIENCE_S, f"node {case.node} does not answer")


def _node_of_pod(case: _Case) -> Diagnosis | None:
    return (_node_lost(case) or _node_hidden(case)) if case.pod else None


def _not_created(case: _Case) -> Diagnosis | None:
    """A Job whose pod is refused."""
    if case.pod:
        return None
    for message in case.messages("FailedCreate"):
        for words, cause, advice, patience_s in REFUSALS:
            if words in message:
                advice = advice.format(ns=case.namespace)
                reason = f"the cluster refuses the pod of {case.who}: {_short(message)}; {advice}"
                return Diagnosis("waiting", cause, reason, patience_s, f"waiting: {cause}")
        reason = f"the cluster refuses the pod of {case.who}: {_short(message)}; {case.show()}"
        return Diagnosis("waiting", Cause.POD_REFUSED, reason, 30.0, "waiting for its pod")
    # Volcano makes no pod before there is room for all.
    pending = next(case.messages("PodGroupPending"), None)
    return _unschedulable(case, pending) if pending else None


def _not_scheduled(case: _Case) -> Diagnosis | None:
    """A pod that finds no place."""
    for condition in case.status().get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return _unschedulable(case, str(condition.get("message") or ""))
    return None


def _unschedulable(case: _Case, message: str) -> Diagnosis:
    absent = [name for name, phase in case.seen.claims.items() if phase == "absent"]
    if absent or re.search(r'persistentvolumeclaim "\S+" not found', message):
        needed = ", ".join(absent) or _short(message)
        reason = f"{case.who} needs the claim {needed}, which is not there; make it, or name another"
        return Diagnosis("waiting", Cause.CLAIM_MISSING, reason, 30.0, "waiting for its claims")
    unbound = [name for name, phase in case.seen.claims.items() if phase == "Pending"]
    here = _here(message)
    told = f"{case.who} finds no place on node {case.node}: {here or _short(message)}{_taints(case, message)}"
    for words, cause, text, patience_s in PLACES:
        if re.search(words, here) if here else cause is Cause.NODE_UNKNOWN:
            if cause is Cause.GPU and (short := case.gpu_short(too_few=True)):
                cause, text = Cause.GPU_LOST, f"{short}; {GPU_ADVICE}"
            if cause is Cause.VOLUME_UNBOUND and (why := next(case.messages(*_NO_VOLUME), "")):
                told = f"{told} ({_short(why)})"
            filled = text.format(node=case.node, unbound=", ".join(unbound) or "of its claims", ns=case.namespace)
            return Diagnosis("waiting", cause, f"{told}; {filled}", patience_s, f"waiting: {cause} on {case.node}")
    return Diagnosis(
        "waiting", Cause.UNSCHEDULABLE, f"{told}; {case.show()}", 60.0, f"waiting for a place on {case.node}"
    )


def _here(message: str) -> str:
    """What the scheduler says of the node that the pod is pinned to; empty when there is no such node."""
    said = re.split("nodes are (?:un)?available: ", _short(message))[-1]
    return _ELSEWHERE.sub("", said).strip(" ,.")


def _taints(case: _Case, message: str) -> str:
    """The keys of the node's taints, which the scheduler does not name."""
    taints = ((case.seen.node or {}).get("spec") or {}).get("taints") or ()
    keys = ", ".join(str(one["key"]) for one in taints if one.get("effect") != "PreferNoSchedule")
    return f" ({keys})" if keys and "untolerated taint" in message else ""


def _not_started(case: _Case) -> Diagnosis | None:
    """A pod that has its place, and whose container does not come up."""
    waiting = case.container("waiting") or {}
    reason, message = str(waiting.get("reason", "")), str(waiting.get("message", ""))
    if reason in NO_IMAGE:
        return _image(case, reason, message)
    if reason not in _ON_THE_WAY:
        told = f"the container of {case.who} cannot be made ({reason}): {_short(message)}; {case.show()}"
        patience_s = 30.0 if reason in NO_CONTAINER else 60.0
        return Diagnosis("waiting", Cause.CONTAINER, told, patience_s, "making its container")
    if case.status().get("phase") != "Pending":
        return None
    for event in sorted(case.seen.events, key=_when, reverse=True):
        if found := _event(case, str(event.get("reason")), str(event.get("message"))):
            return found
    return Diagnosis("going", Cause.STARTING, progress="starting its container")


def _event(case: _Case, reason: str, said: str) -> Diagnosis | None:
    """What the newest event says that says something about the container's start."""
    if reason in _PROGRESS:
        return Diagnosis("going", Cause.STARTING, progress=_PROGRESS[reason])
    if reason == "ProvisioningFailed":
        told = f"{case.who} gets no volume: {_short(said)}; kubectl -n {case.namespace} describe pvc"
        return Diagnosis("waiting", Cause.VOLUME_UNBOUND, told, 60.0, "waiting for its volumes")
    if reason == NO_SANDBOX:
        advice = "role nvidia configures it: site.yml --tags nvidia" if "runtime for" in said else case.show()
        told = f"the container of {case.who} cannot be made on node {case.node}: {_short(said)}; {advice}"
        return Diagnosis("waiting", Cause.CONTAINER, told, 60.0, "making its container")
    if reason in ("FailedMount", "FailedAttachVolume"):
        advice = case.show()
        if re.search(r"configmap \S+ not found", said):
            advice = "someone has deleted what the Job was asked; start with another run_id"
        elif "does not exist" in said:
            advice = f"the folder is not on node {case.node}: site.yml --tags namespace makes it"
        told = f"a volume of {case.who} cannot be mounted on node {case.node}: {_short(said)}; {advice}"
        return Diagnosis("waiting", Cause.MOUNT, told, 90.0, "mounting its volumes")
    return None


def _image(case: _Case, reason: str, message: str) -> Diagnosis:
    image = case.container_spec().get("image", "")
    # The back-off says less than the event of the pull before it.
    told = next((one for one in case.messages("Failed") if one.startswith("Failed to pull")), "") or message
    if reason == "InvalidImageName":
        advice, patience_s = "correct harness_image", 0.0
    elif reason == "ErrImageNeverPull":
        advice, patience_s = "it must be brought to the node first: site.yml --tags images, or set pull_policy", 0.0
    elif re.search(r"no space left", told):
        advice, patience_s = f"free its disk: `df -h /var/lib/containerd` on node {case.node}", 60.0
    elif re.search(r"unauthorized|authentication|authorization|denied|forbidden|\b40[13]\b", told, re.I):
        advice, patience_s = "correct harness_image, or give pull_secrets in harness_cluster", 60.0
    elif re.search(r"not found|manifest unknown", told):
        advice, patience_s = "correct harness_image, or push it", 60.0
    else:
        advice, patience_s = f"see whether node {case.node} reaches the registry: crictl pull {image}", 120.0
    why = f"node {case.node} cannot pull the image {image} of {case.who} ({reason}): {_short(told)}; {advice}"
    return Diagnosis("waiting", Cause.IMAGE, why, patience_s, "pulling the image, which fails")


def _running(case: _Case) -> Diagnosis | None:
    said = case.seen.said
    if said is None:
        return Diagnosis("going", Cause.STARTING, progress="starting its container") if case.pod else None
    if case.kind == "engine" and said.get("state") == "ready":
        return Diagnosis("good", Cause.READY)
    silent_s = case.seen.now - float(said.get("updated_unix") or case.seen.now)
    if case.kind == "run" and said.get("state") == "running" and silent_s > STALE_S:
        why = "it hangs, its log cannot be read, or its node's clock is wrong"
        silent = f"{case.who} has written nothing for {silent_s:.0f} s, though its pod runs: {why}"
        reason = f"{silent}; {case.show('logs --tail=1 ' + _pod_name(case))}"
        return Diagnosis("waiting", Cause.SILENT, reason, SILENT_S, f"silent for {silent_s:.0f} s")
    return Diagnosis("going", Cause.RUNNING, progress=str(said.get("progress") or ""))


_LOOKS: tuple[Look, ...] = (_job, _pod_ended, _node_of_pod, _not_created, _not_scheduled, _not_started, _running)


def _own_words(case: _Case, said: Object) -> str:
    return str(said.get("reason") or said.get("error") or f"{case.who} is {said.get('state')}")


def _pod_name(case: _Case) -> str:
    return str(case.pod["metadata"]["name"]) if case.pod else ""


def _when(event: Object) -> str:
    """When an event was seen last; RFC 3339 in UTC sorts as text."""
    times = (event.get("lastTimestamp"), (event.get("series") or {}).get("lastObservedTime"), event.get("eventTime"))
    return next((str(time) for time in times if time), "")


def _short(message: str) -> str:
    """A message in one line of bearable length, without what the scheduler says of preemption."""
    return " ".join(_PREEMPTION.sub("", message).split())[:400].rstrip(". ")
