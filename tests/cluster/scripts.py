"""Scripted lives of pods, in place of their commands.

A script is a list of steps, walked by the kubelet from when the pod is bound to its node; after the last one the pod
stays as it is until it is deleted. The functions give the steps of each failure that a benchmark meets.
"""

import fnmatch
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.cluster.kinds import Object


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait for so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Until:
    """Wait until it holds; called in the server's loop, so it must be quick (an Event's is_set)."""

    holds: Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Note:
    """Record an event about the pod, or with `part` about the container."""

    reason: str
    message: str
    warning: bool = True
    part: bool = True


@dataclass(frozen=True, slots=True)
class Waiting:
    """The container waits."""

    reason: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class Running:
    """The container runs."""

    ready: bool = True


@dataclass(frozen=True, slots=True)
class Log:
    """The container prints."""

    text: str


@dataclass(frozen=True, slots=True)
class Exit:
    """The container ends. `reason` empty: Completed or Error, by its code."""

    code: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Reject:
    """The kubelet rejects or evicts the pod: Failed with this reason."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Disrupt:
    """The condition DisruptionTarget."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Gone:
    """The pod is deleted; its container gets SIGTERM and exits with 143."""


Step = Pause | Until | Note | Waiting | Running | Log | Exit | Reject | Disrupt | Gone


@dataclass(slots=True)
class Script:
    """Steps for pods whose name, or whose Job's name, matches a pattern of the shell; `times` None is for all."""

    pattern: str
    steps: list[Step] = field(default_factory=list)
    unschedulable: str = ""
    times: int | None = None

    def fits(self, pod: Object) -> bool:
        """Whether it applies to this pod."""
        meta = pod["metadata"]
        names = (meta["name"], (meta.get("labels") or {}).get("batch.kubernetes.io/job-name", ""))
        return self.times != 0 and any(fnmatch.fnmatch(name, self.pattern) for name in names)


def pull_fails(image: str, why: str = "not found") -> list[Step]:
    """ErrImagePull, then ImagePullBackOff."""
    message = f'failed to pull and unpack image "{image}": failed to resolve reference "{image}": {image}: {why}'
    return [
        Note("Pulling", f'Pulling image "{image}"', warning=False),
        Note("Failed", f'Failed to pull image "{image}": {message}'),
        Note("Failed", "Error: ErrImagePull"),
        Waiting("ErrImagePull", message),
        Pause(0.3),
        Note("BackOff", f'Back-off pulling image "{image}"', warning=False),
        Note("Failed", "Error: ImagePullBackOff"),
        Waiting("ImagePullBackOff", f'Back-off pulling image "{image}": ErrImagePull: {message}'),
    ]


def never_pulled(image: str) -> list[Step]:
    """ErrImageNeverPull."""
    message = f'Container image "{image}" is not present with pull policy of Never'
    return [
        Note("ErrImageNeverPull", message),
        Note("Failed", "Error: ErrImageNeverPull"),
        Waiting("ErrImageNeverPull", message),
    ]


def invalid_name(image: str) -> list[Step]:
    """InvalidImageName."""
    message = (
        f'Failed to apply default image tag "{image}": couldn\'t parse image name "{image}": invalid reference format'
    )
    return [
        Note("InspectFailed", message),
        Note("Failed", "Error: InvalidImageName"),
        Waiting("InvalidImageName", message),
    ]


def config_error(message: str) -> list[Step]:
    """CreateContainerConfigError, such as for a key that a ConfigMap lacks."""
    return [Note("Failed", f"Error: {message}"), Waiting("CreateContainerConfigError", message)]


def mount_fails(volume: str, why: str) -> list[Step]:
    """FailedMount: the container is never created."""
    message = f'MountVolume.SetUp failed for volume "{volume}" : {why}'
    return [Note("FailedMount", message, part=False), Waiting("ContainerCreating")]


def exits(code: int, log: str = "", after_s: float = 0.1) -> list[Step]:
    """A container that runs, prints and ends."""
    return [Running(), *([Log(log)] if log else []), Pause(after_s), Exit(code)]


def oom_killed(log: str = "") -> list[Step]:
    """OOMKilled."""
    return [Running(), *([Log(log)] if log else []), Pause(0.1), Exit(137, "OOMKilled")]


def gpu_lost(resource: str = "nvidia.com/gpu") -> list[Step]:
    """A pod that the kubelet rejects, because its device was lost after it was scheduled."""
    message = f"Allocate failed due to no healthy devices present; cannot allocate unhealthy devices {resource}"
    return [Reject("UnexpectedAdmissionError", f"Pod was rejected: {message}, which is unexpected")]


def evicted_by_api() -> list[Step]:
    """A drain: the eviction API."""
    return [Running(), Pause(0.1), Disrupt("EvictionByEvictionAPI", "Eviction API: evicting"), Gone()]


def preempted() -> list[Step]:
    """A pod of a higher priority takes its place."""
    message = "default-scheduler: preempting to accommodate a higher priority pod"
    note = Note("Preempted", "Preempted by pod 3f0e4a5c-0000-4000-8000-000000000000 on node n1", part=False)
    return [Running(), Pause(0.1), Disrupt("PreemptionByScheduler", message), note, Gone()]


def tainted() -> list[Step]:
    """A NoExecute taint that the pod does not tolerate."""
    message = "Taint manager: deleting due to NoExecute taint"
    note = Note("TaintManagerEviction", "Marking for deletion Pod", warning=False, part=False)
    return [Running(), Pause(0.1), Disrupt("DeletionByTaintManager", message), note, Gone()]


def put_out(resource: str = "memory") -> list[Step]:
    """Eviction by the kubelet of a node short of a resource."""
    message = f"The node was low on resource: {resource}. Threshold quantity: 100Mi, available: 50Mi. "
    return [Running(), Pause(0.1), Disrupt("TerminationByKubelet", message), Reject("Evicted", message)]
