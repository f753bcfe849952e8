"""What a Job, its pod, their events and its node tell about an engine or a run: how it is, why, and what to do next."""

import re
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

STALE_S = 120.0
# A node that does not report is Unknown after 40 to 50 s; it may only have restarted its kubelet.
NODE_PATIENCE_S = 15.0
_HARNESS_EXITS = {2: "was asked for something that cannot be", 3: "found its machine not ready", 4: "failed"}
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
    def pod(self) -> Object | None:
        return self.seen.pods[-1] if self.seen.pods else None

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
        found.sort(key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or ""), reverse=True)
        yield from (str(event.get("message", "")) for event in found)

    def gpu_short(self) -> str:
        """How many GPUs the node has and offers, where it offers fewer than it has."""
        status = (self.seen.node or {}).get("status") or {}
        has, offers = status.get("capacity") or {}, status.get("allocatable") or {}
        for name in has:
            if "gpu" in name and int(offers.get(name, 0)) < int(has[name]):
                return f"node {self.node} offers {offers.get(name, 0)} of its {has[name]} {name}"
        return ""


def _job(case: _Case) -> Diagnosis | None:
    """A Job that is not there, or has ended."""
    if case.seen.job is None:
        if not case.seen.was_there:
            return Diagnosis("waiting", Cause.ABSENT, f"there is no Job of {case.who}; start it again", 10.0)
        return Diagnosis(
            "bad", Cause.DELETED, f"the Job of {case.who} was deleted by someone; start with another run_id"
        )
    conditions = {one["type"]: one for one in (case.seen.job.get("status") or {}).get("conditions") or ()}
    holds = {name: one for name, one in conditions.items() if one.get("status") == "True"}
    if "Complete" in holds or "SuccessCriteriaMet" in holds:
        return _completed(case)
    failed = holds.get("Failed") or holds.get("FailureTarget")
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
        reason = (
            f"{case.who} has ended: {said.get('reason') or 'asked to stop'}; it should be there until it is taken down"
        )
        return Diagnosis("bad", Cause.STOPPED, reason)
    if said.get("state") in (None, "running", "finished"):
        return Diagnosis("good", Cause.FINISHED)
    return Diagnosis("bad", Cause.HARNESS, _own_words(case, said))


def _failed_without_pod(case: _Case, message: str) -> Diagnosis:
    if "DisruptionTarget" in message:
        lost = _node_lost(case)
        reason = f"the pod of {case.who} was taken from node {case.node} ({message}); start with another run_id"
        return lost or Diagnosis("bad", Cause.DISRUPTED, reason)
    code = re.search(r"exit code (\d+)", message)
    if code:
        return _exit(case, int(code[1]), "")
    return Diagnosis("bad", Cause.POD_REFUSED, f"the Job of {case.who} failed: {message}; {case.show()}")


def _pod_ended(case: _Case) -> Diagnosis | None:
    """A pod that was disrupted, or whose container has ended."""
    status = case.status()
    for condition in status.get("conditions") or ():
        if condition["type"] == "DisruptionTarget" and condition["status"] == "True":
            return _disrupted(case, condition)
    if status.get("reason") == "Evicted":
        return _evicted(case, str(status.get("message")))
    if status.get("reason") in ("UnexpectedAdmissionError", "OutOfnvidia.com/gpu"):
        said = f"node {case.node} could not give {case.who} its GPU: {status.get('message')}"
        return Diagnosis("bad", Cause.GPU_LOST, f"{said}; {GPU_ADVICE.format(node=case.node)}")
    ended = case.container("terminated")
    if ended is None or (ended.get("exitCode") == 0 and status.get("phase") != "Failed"):
        return None
    if ended.get("reason") == "OOMKilled":
        limit = _limit(case, "memory")
        reason = (
            f"{case.who} was killed for memory: it took more than its limit of {limit}; raise it in harness_cluster"
        )
        return Diagnosis(
            "bad", Cause.OUT_OF_MEMORY, f"{reason} ({'memory' if case.kind == 'engine' else 'run_memory'})"
        )
    if ended.get("reason") in NO_START:
        reason = f"the container of {case.who} does not start: {ended.get('message')}; {case.show()}"
        return Diagnosis("bad", Cause.CONTAINER, reason)
    return _exit(case, int(ended.get("exitCode", -1)), str(ended.get("message") or ""))


def _exit(case: _Case, code: int, message: str) -> Diagnosis:
    said = case.seen.said or {}
    words = _own_words(case, said) if said.get("state") in ("failed", "stopped") else ""
    lines = [line for line in (case.seen.log_tail or message).splitlines() if line.strip()]
    words = words or (lines[-1].strip() if lines else "")
    if code == 0:
        return Diagnosis("bad", Cause.STOPPED, words or f"{case.who} has ended")
    if GPU_WORDS.search(" ".join([words, case.seen.log_tail, message])) or (code != 2 and case.gpu_short()):
        seen = f"{case.who} lost its GPU: {words or case.gpu_short()}"
        return Diagnosis("bad", Cause.GPU_LOST, f"{seen}; {GPU_ADVICE.format(node=case.node)}")
    if code in _HARNESS_EXITS:
        reason = (
            words or f"{case.who} {_HARNESS_EXITS[code]} (exit code {code}); {case.show('logs ' + _pod_name(case))}"
        )
        return Diagnosis("bad", Cause.HARNESS, reason)
    how = f"by signal {code - 128}" if 128 < code < 160 else f"with exit code {code}"
    reason = f"{case.who} ended {how}: {words or 'it said nothing'}; {case.show('logs ' + _pod_name(case))}"
    return Diagnosis("bad", Cause.SIGNAL, reason)


def _disrupted(case: _Case, condition: Object) -> Diagnosis:
    reason, message = condition.get("reason", ""), condition.get("message", "")
    told = f"the pod of {case.who} on node {case.node}"
    if reason == "PreemptionByScheduler":
        why = f"{told} had to make room for a pod of higher priority ({message}); give the namespace a priority or wait"
        return Diagnosis("bad", Cause.PREEMPTED, why)
    if reason == "EvictionByEvictionAPI":
        why = (
            f"{told} was evicted through the API, as `kubectl drain` does ({message}); uncordon the node and start anew"
        )
        return Diagnosis("bad", Cause.DRAINED, why)
    if reason == "TerminationByKubelet":
        return _evicted(case, message)
    if reason in ("DeletionByTaintManager", "DeletionByPodGC"):
        lost = _node_lost(case)
        why = f"{told} was taken away ({message or reason}), most likely because the node was lost; kubectl get nodes"
        return lost or Diagnosis("bad", Cause.NODE_LOST, why)
    return Diagnosis("bad", Cause.DISRUPTED, f"{told} was taken away: {reason} {message}; {case.show()}")


def _evicted(case: _Case, message: str) -> Diagnosis:
    advice = f"free it, or raise what {case.who} asks for; {case.show(f'describe node {case.node}')}"
    return Diagnosis("bad", Cause.EVICTED, f"node {case.node} evicted {case.who}: {message}; {advice}")


def _node_lost(case: _Case) -> Diagnosis | None:
    """A node that does not report, or says itself that it is not well."""
    for condition in ((case.seen.node or {}).get("status") or {}).get("conditions") or ():
        if condition["type"] == "Ready" and condition["status"] != "True":
            since = condition.get("lastTransitionTime", "some time")
            said = condition.get("message") or condition.get("reason") or "no reason is given"
            reason = f"node {case.node} is not Ready since {since}: {said}; look at its kubelet: journalctl -u kubelet"
            return Diagnosis("waiting", Cause.NODE_LOST, reason, NODE_PATIENCE_S, f"node {case.node} does not answer")
    return None


def _node_of_pod(case: _Case) -> Diagnosis | None:
    return _node_lost(case) if case.pod else None


def _not_created(case: _Case) -> Diagnosis | None:
    """A Job whose pod is refused."""
    if case.pod:
        return None
    for message in case.messages("FailedCreate"):
        for words, cause, advice, patience_s in REFUSALS:
            if words in message:
                reason = f"the cluster refuses the pod of {case.who}: {_short(message)}; {advice}"
                return Diagnosis("waiting", cause, reason.format(ns=case.namespace), patience_s, f"waiting: {cause}")
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
    for words, cause, text, patience_s in PLACES:
        if re.search(words, message):
            filled = text.format(node=case.node, unbound=", ".join(unbound) or "of its claims", ns=case.namespace)
            reason = f"{case.who} finds no place on node {case.node}: {_short(message)}; {filled}"
            return Diagnosis("waiting", cause, reason, patience_s, f"waiting: {cause} on {case.node}")
    reason = f"{case.who} finds no place on node {case.node}: {_short(message)}; {case.show()}"
    return Diagnosis("waiting", Cause.UNSCHEDULABLE, reason, 60.0, f"waiting for a place on {case.node}")


def _not_started(case: _Case) -> Diagnosis | None:
    """A pod that has its place, and whose container does not come up."""
    waiting = case.container("waiting") or {}
    reason, message = str(waiting.get("reason", "")), str(waiting.get("message", ""))
    if reason in NO_IMAGE:
        return _image(case, reason, message)
    if reason in NO_CONTAINER:
        told = f"the container of {case.who} cannot be made: {_short(message)}; {case.show()}"
        return Diagnosis("waiting", Cause.CONTAINER, told, 30.0, "making its container")
    if case.status().get("phase") != "Pending":
        return None
    for told in case.messages(NO_SANDBOX):
        advice = "role nvidia configures it: site.yml --tags nvidia" if "runtime" in told else case.show()
        told = f"the container of {case.who} cannot be made on node {case.node}: {_short(told)}; {advice}"
        return Diagnosis("waiting", Cause.CONTAINER, told, 60.0, "making its container")
    for told in case.messages("FailedMount", "FailedAttachVolume"):
        told = f"a volume of {case.who} cannot be mounted on node {case.node}: {_short(told)}; {case.show()}"
        return Diagnosis("waiting", Cause.MOUNT, told, 90.0, "mounting its volumes")
    pulling = any(case.messages("Pulling")) and not any(case.messages("Pulled"))
    return Diagnosis("going", Cause.STARTING, progress="pulling the image" if pulling else "starting its container")


def _image(case: _Case, reason: str, message: str) -> Diagnosis:
    container = (case.pod or {})["spec"]["containers"][0]
    image = container["image"]
    # The back-off says less than the event of the pull before it.
    told = next((one for one in case.messages("Failed") if "pull" in one.lower()), "") or message
    if reason == "InvalidImageName":
        advice, patience_s = "correct harness_image", 0.0
    elif reason == "ErrImageNeverPull":
        advice, patience_s = "it must be brought to the node first: site.yml --tags images, or set pull_policy", 0.0
    elif re.search("not found|manifest unknown", told):
        advice, patience_s = "correct harness_image, or push it", 60.0
    elif re.search("unauthorized|authentication|denied|forbidden|403|401", told):
        advice, patience_s = "give pull_secrets in harness_cluster, or let the node's containerd in", 60.0
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
        silent = f"{case.who} has written nothing for {silent_s:.0f} s, though its pod runs"
        reason = f"{silent}; {case.show('logs ' + _pod_name(case))}"
        return Diagnosis("waiting", Cause.SILENT, reason, STALE_S, f"silent for {silent_s:.0f} s")
    return Diagnosis("going", Cause.RUNNING, progress=str(said.get("progress") or ""))


_LOOKS: tuple[Look, ...] = (_job, _pod_ended, _node_of_pod, _not_created, _not_scheduled, _not_started, _running)


def _own_words(case: _Case, said: Object) -> str:
    return str(said.get("reason") or said.get("error") or f"{case.who} is {said.get('state')}")


def _pod_name(case: _Case) -> str:
    return str(case.pod["metadata"]["name"]) if case.pod else ""


def _limit(case: _Case, what: str) -> str:
    limits = (case.pod or {})["spec"]["containers"][0].get("resources", {}).get("limits", {})
    return str(limits.get(what, "memory on its node"))


def _short(message: str) -> str:
    """A message in one line of bearable length, without what the scheduler says of preemption."""
    return " ".join(message.split(" preemption:")[0].split())[:400].rstrip(". ")
