"""The causes that a diagnosis can name, and the data classes of an observation and of a diagnosis."""

from dataclasses import dataclass, field
from enum import StrEnum
from math import inf
from typing import Any, Literal

Object = dict[str, Any]
Kind = Literal["engine", "run", "loader", "look"]
"""What a Job is: an engine, a LoadGen, one that fills claims, one that looks into them."""


class Cause(StrEnum):
    """Why an engine or a run is in its state."""

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
    POD_REJECTED = "pod rejected"
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
class Observation:
    """The state of a Job and all that belongs to it at one moment, as the API returns it (camelCase).

    Attributes:
        pods: the Job's pods, newest last.
        node: None when it was not read, as where that is forbidden, or when there is no node of that name.
        now: unix seconds.
        job_existed: whether an earlier observation found the Job.
        last_status: the last complete JSON line of the pod's log, which is the engine's or the run's own status.
        log_tail: the last other lines of that log.
        claims: phases of the PersistentVolumeClaims by name; `absent` for one that does not exist.
        silent_s: for how long `last_status` has been the same.
        node_absent: whether the cluster has no node of that name.
    """

    job: Object | None
    pods: list[Object]
    events: list[Object]
    node: Object | None
    now: float
    job_existed: bool = False
    last_status: Object | None = None
    log_tail: str = ""
    claims: dict[str, str] = field(default_factory=dict)
    silent_s: float = 0.0
    node_absent: bool = False


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The state of an engine or a run, its cause, and the reason in words with the next step.

    `blocked` may pass by itself; after `grace_s` seconds it counts as `failed`. `ok` is a ready engine or a finished
    run. `progress` is what to show meanwhile.
    """

    state: Literal["blocked", "progressing", "ok", "failed"]
    cause: Cause
    reason: str = ""
    grace_s: float = inf
    progress: str = ""
