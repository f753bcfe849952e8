"""Pods that do not come to life: refused, without a place, or without a container; why, and what to do next."""

import re

from harness.cluster.case import Case, short, when
from harness.cluster.causes import (
    GPU_ADVICE,
    NO_CONTAINER,
    NO_IMAGE,
    NO_SANDBOX,
    PLACES,
    REFUSALS,
    Cause,
    Diagnosis,
)

# Of nodes that the pod is not pinned to, the scheduler says this; by name and by label.
_ELSEWHERE = re.compile(
    r"(, )?\d+ node\(s\) didn't (satisfy plugin\(s\) \[NodeAffinity\](?! simul)|match Pod's node affinity/selector)"
)
_BEYOND = re.compile(r"untolerated taint|PersistentVolume")
_NO_VOLUME = ("ProvisioningFailed", "FailedBinding")
_ON_THE_WAY = frozenset({"", "ContainerCreating", "PodInitializing"})
_PROGRESS = {"Pulling": "pulling the image", "Pulled": "starting its container", "Created": "starting its container"}


def not_created(case: Case) -> Diagnosis | None:
    """A Job whose pod is refused."""
    if case.pod:
        return None
    for message in case.messages("FailedCreate"):
        for words, cause, advice, patience_s in REFUSALS:
            if words in message:
                advice = advice.format(ns=case.namespace)
                reason = f"the cluster refuses the pod of {case.who}: {short(message)}; {advice}"
                return Diagnosis("waiting", cause, reason, patience_s, f"waiting: {cause}")
        reason = f"the cluster refuses the pod of {case.who}: {short(message)}; {case.show()}"
        return Diagnosis("waiting", Cause.POD_REFUSED, reason, 30.0, "waiting for its pod")
    # Volcano makes no pod before its queue and the cluster have room for all; its scheduler says which has none, and
    # its controller only that the pods are not ready.
    pending = sorted(case.messages("PodGroupPending", "Unschedulable"), key=lambda said: "group is not ready" in said)
    return _unschedulable(case, pending[0]) if pending else None


def not_scheduled(case: Case) -> Diagnosis | None:
    """A pod that finds no place."""
    for condition in case.status().get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return _unschedulable(case, str(condition.get("message") or ""))
    return None


def _unschedulable(case: Case, message: str) -> Diagnosis:
    absent = [name for name, phase in case.seen.claims.items() if phase == "absent"]
    if absent or re.search(r'persistentvolumeclaim "\S+" not found', message):
        needed = ", ".join(absent) or short(message)
        reason = f"{case.who} needs the claim {needed}, which is not there; make it, or name another"
        return Diagnosis("waiting", Cause.CLAIM_MISSING, reason, 30.0, "waiting for its claims")
    unbound = [name for name, phase in case.seen.claims.items() if phase == "Pending"]
    here = _here(message)
    told = f"{case.who} finds no place on node {case.node}: {here or short(message)}{_taints(case, message)}"
    for words, cause, text, patience_s in PLACES:
        if re.search(words, here) if here else cause is Cause.NODE_UNKNOWN:
            if cause is Cause.GPU and (missing := case.gpu_short(too_few=True)):
                cause, text = Cause.GPU_LOST, f"{missing}; {GPU_ADVICE}"
            if cause is Cause.VOLUME_UNBOUND and (why := next(case.messages(*_NO_VOLUME), "")):
                told = f"{told} ({short(why)})"
            filled = text.format(node=case.node, unbound=", ".join(unbound) or "of its claims", ns=case.namespace)
            return Diagnosis("waiting", cause, f"{told}; {filled}", patience_s, f"waiting: {cause} on {case.node}")
    return Diagnosis(
        "waiting", Cause.UNSCHEDULABLE, f"{told}; {case.show()}", 60.0, f"waiting for a place on {case.node}"
    )


def _here(message: str) -> str:
    """What the scheduler says of the node that the pod is pinned to; empty when there is no such node."""
    said = _ELSEWHERE.sub("", re.split("nodes are (?:un)?available: ", short(message))[-1]).strip(" ,.")
    if "nodes are unavailable: " in message and _BEYOND.search(said):
        # Volcano looks for resources first, on every node; what comes later is said of this node alone.
        said = ", ".join(part for part in said.split(", ") if "Insufficient" not in part)
    return said


def _taints(case: Case, message: str) -> str:
    """The keys of the node's taints, which the scheduler does not name."""
    taints = ((case.seen.node or {}).get("spec") or {}).get("taints") or ()
    keys = ", ".join(str(one["key"]) for one in taints if one.get("effect") != "PreferNoSchedule")
    return f" ({keys})" if keys and "untolerated taint" in message else ""


def not_started(case: Case) -> Diagnosis | None:
    """A pod that has its place, and whose container does not come up."""
    waiting = case.container("waiting") or {}
    reason, message = str(waiting.get("reason", "")), str(waiting.get("message", ""))
    if reason in NO_IMAGE:
        return _image(case, reason, message)
    if reason not in _ON_THE_WAY:
        told = f"the container of {case.who} cannot be made ({reason}): {short(message)}; {case.show()}"
        patience_s = 30.0 if reason in NO_CONTAINER else 60.0
        return Diagnosis("waiting", Cause.CONTAINER, told, patience_s, "making its container")
    if case.status().get("phase") != "Pending":
        return None
    for event in sorted(case.seen.events, key=when, reverse=True):
        if found := _event(case, str(event.get("reason")), str(event.get("message"))):
            return found
    return Diagnosis("going", Cause.STARTING, progress="starting its container")


def _event(case: Case, reason: str, said: str) -> Diagnosis | None:
    """What the newest event says that says something about the container's start."""
    if reason in _PROGRESS:
        return Diagnosis("going", Cause.STARTING, progress=_PROGRESS[reason])
    if reason == "ProvisioningFailed":
        told = f"{case.who} gets no volume: {short(said)}; kubectl -n {case.namespace} describe pvc"
        return Diagnosis("waiting", Cause.VOLUME_UNBOUND, told, 60.0, "waiting for its volumes")
    if reason == NO_SANDBOX:
        advice = "role nvidia configures it: site.yml --tags nvidia" if "runtime for" in said else case.show()
        told = f"the container of {case.who} cannot be made on node {case.node}: {short(said)}; {advice}"
        return Diagnosis("waiting", Cause.CONTAINER, told, 60.0, "making its container")
    if reason in ("FailedMount", "FailedAttachVolume"):
        advice = case.show()
        if re.search(r"configmap \S+ not found", said):
            advice = "someone has deleted what the Job was asked; start with another run_id"
        elif "does not exist" in said:
            advice = f"the folder is not on node {case.node}: site.yml --tags namespace makes it"
        told = f"a volume of {case.who} cannot be mounted on node {case.node}: {short(said)}; {advice}"
        return Diagnosis("waiting", Cause.MOUNT, told, 90.0, "mounting its volumes")
    return None


def _image(case: Case, reason: str, message: str) -> Diagnosis:
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
    why = f"node {case.node} cannot pull the image {image} of {case.who} ({reason}): {short(told)}; {advice}"
    return Diagnosis("waiting", Cause.IMAGE, why, patience_s, "pulling the image, which fails")
