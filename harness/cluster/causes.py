"""What can be the matter with a Job and its pod: every cause that is told apart, and the words that tell it."""

import re
from dataclasses import dataclass, field
from enum import StrEnum
from math import inf
from typing import Any, Literal

Object = dict[str, Any]
Kind = Literal["engine", "run"]


class Cause(StrEnum):
    """Everything that is told apart."""

    STARTING = "starting"
    RUNNING = "running"
    READY = "ready"
    FINISHED = "finished"
    STOPPED = "stopped"
    ABSENT = "absent"
    DELETED = "deleted"
    QUOTA = "quota"
    POD_SECURITY = "pod security"
    ACCOUNT = "service account"
    RUNTIME_CLASS = "runtime class"
    POD_REFUSED = "pod refused"
    GPU = "no GPU free"
    RESOURCES = "resources"
    TAINT = "taint"
    NODE_UNKNOWN = "node unknown"
    UNSCHEDULABLE = "unschedulable"
    CLAIM_MISSING = "claim missing"
    VOLUME_UNBOUND = "volume not bound"
    MOUNT = "volume not mounted"
    IMAGE = "image"
    CONTAINER = "container"
    OUT_OF_MEMORY = "out of memory"
    GPU_LOST = "GPU lost"
    HARNESS = "harness"
    SIGNAL = "signal"
    EVICTED = "evicted"
    PREEMPTED = "preempted"
    DRAINED = "drained"
    DISRUPTED = "disrupted"
    NODE_LOST = "node lost"
    DEADLINE = "deadline"
    SILENT = "silent"


@dataclass(frozen=True, slots=True)
class Seen:
    """One look. Objects are as the API gives them (camelCase), pods of the Job newest last.

    `node` is None when nodes may not be read or there is none of that name, `said` the last whole JSON line of the
    pod's log, `log_tail` its last other lines, `claims` phases by name (`absent` for one that is not there), `now` unix
    seconds, `was_there` whether an earlier look had seen the Job, and `silent_s` for how long `said` has been the same.
    """

    job: Object | None
    pods: list[Object]
    events: list[Object]
    node: Object | None
    now: float
    was_there: bool = False
    said: Object | None = None
    log_tail: str = ""
    claims: dict[str, str] = field(default_factory=dict)
    silent_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """`waiting` (it may pass; after `patience_s` it will not), `going`, `good` or `bad`, with the cause in words."""

    state: Literal["waiting", "going", "good", "bad"]
    cause: Cause
    reason: str = ""
    patience_s: float = inf
    progress: str = ""


# What CUDA says of a program's own faults does not count.
_OWN_FAULTS = "out of memory|invalid|no kernel image|device-side assert|an illegal"
GPU_WORDS = re.compile(
    rf"\bXid\b|GPU is lost|fallen off the bus|uncorrectable ECC|CUDA error(?!: ({_OWN_FAULTS}))|GPU_IS_LOST", re.I
)
GPU_ADVICE = (
    "look on the node with `nvidia-smi` and `dmesg | grep -i xid` ({node}); a reset or a reboot may bring it back"
)

REFUSALS = (
    ("exceeded quota", Cause.QUOTA, "end what is not needed, or raise the quota: kubectl -n {ns} describe quota", 60.0),
    ("failed quota", Cause.QUOTA, "the pods carry no such limit; a LimitRange of namespace {ns} gives them one", 15.0),
    ("usage per", Cause.RESOURCES, "ask for less in harness_cluster: kubectl -n {ns} describe limitrange", 15.0),
    (
        "violates PodSecurity",
        Cause.POD_SECURITY,
        "the namespace asks for more than level restricted; see its labels",
        0.0,
    ),
    ("error looking up service account", Cause.ACCOUNT, "make it, or set service_account in harness_cluster", 15.0),
    (
        "RuntimeClass",
        Cause.RUNTIME_CLASS,
        "site.yml --tags nvidia makes it; or set runtime_class in harness_cluster",
        15.0,
    ),
)
"""Words of a FailedCreate event, what they mean, what to do, and how long it may last in seconds."""

PLACES = (
    (r"Insufficient \S*gpu", Cause.GPU, "`kubectl get pods -A -o wide` shows who has it; end that, or wait", 90.0),
    (r"unbound immediate|find available persistent volumes|non-existent p|enough free storage", Cause.VOLUME_UNBOUND,
     "the claim {unbound} waits for a volume: kubectl -n {ns} describe pvc", 60.0),
    (r"volume node affinity conflict|PersistentVolume's node affinity|\[.*VolumeBinding", Cause.VOLUME_UNBOUND,
     "its volume is on another node than {node}; correct the claims", 0.0),
    (r"Insufficient (cpu|memory|ephemeral-storage)|Too many pods", Cause.RESOURCES,
     "ask for less in harness_cluster (cpu, memory), or end what runs there", 60.0),
    (r"were unschedulable", Cause.TAINT, "the node is closed for new pods: kubectl uncordon {node}", 60.0),
    (r"untolerated taint", Cause.TAINT,
     "name the taint's key in tolerated_taints of harness_cluster, or take it away", 60.0),
    (r"didn't match Pod's node affinity", Cause.NODE_UNKNOWN,
     "the cluster has no such node: set harness_node to its name in `kubectl get nodes`", 15.0),
)  # fmt: skip
"""Words of the scheduler, what they mean, what to do, and how long it may last in seconds; the first that fits."""
NO_SANDBOX = "FailedCreatePodSandBox"
NO_IMAGE = frozenset(
    {
        *("ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "RegistryUnavailable"),
        *("ImageInspectError", "SignatureValidationFailed"),
    }
)
NO_CONTAINER = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
NO_START = frozenset({"StartError", "ContainerCannotRun"})
