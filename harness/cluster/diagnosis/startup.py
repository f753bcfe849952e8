"""Pods that do not start: rejected, not scheduled, or without a running container."""

import re

from harness.cluster.diagnosis.causes import Cause, Diagnosis
from harness.cluster.diagnosis.evidence import STATUS_CHARS, Evidence, event_time, one_line, printed
from harness.cluster.diagnosis.known_messages import (
    CREATE_REASONS,
    GPU_ADVICE,
    IMAGE_PULL,
    PLUGIN_ADVICE,
    PULL_REASONS,
    REJECTIONS,
    SANDBOX_FAILED,
    SCHEDULING,
)

# What the scheduler says of the nodes that the pod is not pinned to, by name and by label.
_OTHER_NODES = re.compile(
    r"(, )?\d+ node\(s\) didn't "
    # Schedulers of 1.27 to 1.31 name both plugins where another node has a bound local volume.
    r"(satisfy plugin\(s\) \[NodeAffinity( VolumeBinding)?\](?! simul)|match Pod's node affinity/selector)"
)
_NOT_RESOURCES = re.compile(r"untolerated taint|PersistentVolume")
_NO_VOLUME = ("ProvisioningFailed", "FailedBinding")
_CREATING = frozenset({"", "ContainerCreating", "PodInitializing"})
_PROGRESS = {"Pulling": "pulling the image", "Pulled": "starting its container", "Created": "starting its container"}


def not_created(evidence: Evidence) -> Diagnosis | None:
    """A Job without a pod, because the API server rejects the pod or Volcano holds the job back."""
    if evidence.pod:
        return None
    for message in evidence.event_messages("FailedCreate"):
        rejection = f"the API server rejects the pod of {evidence.subject}: {one_line(message)}"
        for rule in REJECTIONS:
            if rule.pattern in message:
                reason = f"{rejection}; {rule.advice.format(ns=evidence.namespace)}"
                return Diagnosis("blocked", rule.cause, reason, rule.grace_s, f"waiting: {rule.cause}")
        reason = f"{rejection}; {evidence.kubectl()}"
        return Diagnosis("blocked", Cause.POD_REJECTED, reason, 30.0, "waiting for its pod")
    # Volcano creates no pod before its queue and the cluster have room for all. Its scheduler reports which of them
    # has none, its controller only that the pods are not ready.
    messages = evidence.event_messages("PodGroupPending", "Unschedulable")
    pending = sorted(messages, key=lambda message: "group is not ready" in message)
    return _unschedulable(evidence, pending[0]) if pending else None


def not_scheduled(evidence: Evidence) -> Diagnosis | None:
    """A pod that the scheduler cannot place."""
    for condition in evidence.pod_conditions():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return _unschedulable(evidence, str(condition.get("message") or ""))
    return None


def _unschedulable(evidence: Evidence, message: str) -> Diagnosis:
    claims = evidence.observation.claims
    # The scheduler looks at claims first, and knows nothing of a node that is not there.
    on_node = "" if evidence.observation.node_absent else _about_pinned_node(message)
    if "Insufficient" in on_node and (excess := evidence.gpu_excess()):
        reason = f"{evidence.subject} cannot be scheduled on node {evidence.node}: {excess}; lower tensor_parallel"
        return Diagnosis("failed", Cause.GPU, reason)
    if "Insufficient" in on_node and (resource := evidence.gpu_absent()):
        reason = f"{evidence.subject} cannot be scheduled: node {evidence.node} has no {resource}; {PLUGIN_ADVICE}"
        # A device plugin that has just started reports its GPUs within seconds.
        return Diagnosis("blocked", Cause.GPU, reason, 20.0, f"waiting: {Cause.GPU} on {evidence.node}")
    absent = [name for name, phase in claims.items() if phase == "absent"]
    absent = absent or re.findall(r'persistentvolumeclaim "(\S+)" not found', message)
    if on_node and absent:
        reason = f"{evidence.subject} needs PersistentVolumeClaim {', '.join(absent)}, which does not exist"
        advice = "create it, or name another one in harness_cluster"
        return Diagnosis("blocked", Cause.CLAIM_MISSING, f"{reason}; {advice}", 30.0, "waiting for its claims")
    unbound = ", ".join(name for name, phase in claims.items() if phase == "Pending") or "of its claims"
    reason = f"{evidence.subject} cannot be scheduled on node {evidence.node}"
    if not evidence.observation.node_absent:
        reason += f": {on_node or one_line(message)}{_taint_keys(evidence, message)}"
    for rule in SCHEDULING:
        if re.search(rule.pattern, on_node) if on_node else rule.cause is Cause.NODE_UNKNOWN:
            cause, advice = rule.cause, rule.advice
            if cause is Cause.GPU and (shortage := evidence.gpu_shortage(below_limit=True)):
                cause, advice = Cause.GPU_LOST, f"{shortage}; {GPU_ADVICE}"
            if cause is Cause.VOLUME_UNBOUND and (event := next(evidence.event_messages(*_NO_VOLUME), "")):
                reason = f"{reason} ({one_line(event)})"
            advice = advice.format(node=evidence.node, unbound=unbound, ns=evidence.namespace)
            progress = f"waiting: {cause} on {evidence.node}"
            return Diagnosis("blocked", cause, f"{reason}; {advice}", rule.grace_s, progress)
    reason = f"{reason}; {evidence.kubectl()}"
    return Diagnosis("blocked", Cause.UNSCHEDULABLE, reason, 60.0, f"waiting to be scheduled on {evidence.node}")


def _about_pinned_node(message: str) -> str:
    """The scheduler's words about the node that the pod is pinned to; empty when there is no such node."""
    part = _OTHER_NODES.sub("", re.split("nodes are (?:un)?available: ", one_line(message))[-1]).strip(" ,.")
    if "nodes are unavailable: " in message and _NOT_RESOURCES.search(part):
        # Volcano checks resources first, on every node; only what follows is about this node alone.
        part = ", ".join(phrase for phrase in part.split(", ") if "Insufficient" not in phrase)
    return part


def _taint_keys(evidence: Evidence, message: str) -> str:
    """The keys of the node's taints, which the scheduler does not name."""
    keys = evidence.taints("NoSchedule", "NoExecute")
    return f" ({keys})" if keys and "untolerated taint" in message else ""


def not_started(evidence: Evidence) -> Diagnosis | None:
    """A scheduled pod whose container does not start."""
    waiting = evidence.container_state("waiting") or {}
    reason, message = str(waiting.get("reason", "")), str(waiting.get("message", ""))
    if reason in PULL_REASONS:
        return _image_not_pulled(evidence, reason, message)
    if reason not in _CREATING:
        text = f"the container of {evidence.subject} cannot be created ({reason}): {one_line(message)}"
        grace_s = 30.0 if reason in CREATE_REASONS else 60.0
        return Diagnosis("blocked", Cause.CONTAINER, f"{text}; {evidence.kubectl()}", grace_s, "creating its container")
    if evidence.pod_status.get("phase") != "Pending":
        return None
    for event in sorted(evidence.observation.events, key=event_time, reverse=True):
        if diagnosis := _event(evidence, str(event.get("reason")), str(event.get("message"))):
            return diagnosis
    return Diagnosis("progressing", Cause.STARTING, progress="starting its container")


def _event(evidence: Evidence, reason: str, message: str) -> Diagnosis | None:
    """What an event says about the start of the container; None when it says nothing about it."""
    subject, node, text = evidence.subject, evidence.node, one_line(message)
    if reason in _PROGRESS:
        return Diagnosis("progressing", Cause.STARTING, progress=_PROGRESS[reason])
    if reason == "ProvisioningFailed":
        advice = evidence.kubectl("describe pvc")
        reason = f"no volume can be provisioned for {subject}: {text}; {advice}"
        return Diagnosis("blocked", Cause.VOLUME_UNBOUND, reason, 60.0, "waiting for its volumes")
    if reason == SANDBOX_FAILED:
        advice = "role nvidia configures it: site.yml --tags nvidia" if "runtime for" in message else evidence.kubectl()
        reason = f"the container of {subject} cannot be created on node {node}: {text}; {advice}"
        return Diagnosis("blocked", Cause.CONTAINER, reason, 60.0, "creating its container")
    if reason in ("FailedMount", "FailedAttachVolume"):
        advice = evidence.kubectl()
        if re.search(r"configmap \S+ not found", message):
            advice = "someone has deleted the ConfigMap with its settings; start with another run_id"
        elif "does not exist" in message:
            advice = f"the folder is not on node {node}: site.yml --tags namespace creates it"
        reason = f"a volume of {subject} cannot be mounted on node {node}: {text}; {advice}"
        return Diagnosis("blocked", Cause.MOUNT, reason, 90.0, "mounting its volumes")
    return None


def _image_not_pulled(evidence: Evidence, reason: str, message: str) -> Diagnosis:
    image = evidence.container_spec().get("image", "")
    # The event of the failed pull says more than the container's back-off after it.
    failed = (text for text in evidence.event_messages("Failed") if text.startswith("Failed to pull"))
    message = next(failed, "") or message
    if reason == "InvalidImageName":
        advice, grace_s = "correct harness_image", 0.0
    elif reason == "ErrImageNeverPull":
        advice, grace_s = (
            "load it on the node first: site.yml --tags images, or set pull_policy in harness_cluster",
            0.0,
        )
    else:
        rule = next(rule for rule in IMAGE_PULL if re.search(rule.pattern, message, re.I))
        advice, grace_s = rule.advice.format(node=evidence.node, image=image), rule.grace_s
    # It repeats the image's name, and the cause comes last.
    words = printed(message, STATUS_CHARS).rstrip(". ")
    text = f"node {evidence.node} cannot pull the image {image} of {evidence.subject} ({reason}): {words}"
    return Diagnosis("blocked", Cause.IMAGE, f"{text}; {advice}", grace_s, "image pull fails, retrying")
