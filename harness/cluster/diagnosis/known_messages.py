"""Messages of the API server, the scheduler and the kubelet: what each means and what to do about it."""

from typing import NamedTuple

from harness.cluster.api_errors import QUOTA_ADVICE
from harness.cluster.diagnosis.causes import Cause


class Rule(NamedTuple):
    """A pattern of a message, its cause, the next step, and for how many seconds it may last before it is a failure."""

    pattern: str
    cause: Cause
    advice: str
    grace_s: float


GPU_ADVICE = "check `nvidia-smi` and `dmesg | grep -i xid` on node {node}; a reset or a reboot may bring it back"
PLUGIN_ADVICE = (
    "is the device plugin there (`kubectl get pods -A -o wide`), and is gpu_resource in harness_cluster right?"
)

REJECTIONS = (
    Rule("exceeded quota", Cause.QUOTA, QUOTA_ADVICE, 60.0),
    Rule("failed quota", Cause.QUOTA, "the pods set no such limit; a LimitRange of namespace {ns} can", 15.0),
    Rule("usage per", Cause.RESOURCES, "request less in harness_cluster: kubectl -n {ns} describe limitrange", 15.0),
    Rule("violates PodSecurity", Cause.POD_SECURITY,
         "the namespace enforces more than level restricted; see its labels", 0.0),
    Rule("error looking up service account", Cause.ACCOUNT,
         "create it, or set service_account in harness_cluster", 15.0),
    Rule("RuntimeClass", Cause.RUNTIME_CLASS,
         "site.yml --tags nvidia creates it; or set runtime_class in harness_cluster", 15.0),
)  # fmt: skip
"""FailedCreate events: why the API server rejects a pod."""

SCHEDULING = (
    Rule(r"Insufficient \S*gpu", Cause.GPU,
         "`kubectl get pods -A -o wide` shows which pods use it; stop them, or wait", 90.0),
    Rule(r"unbound immediate|find available persistent volumes|non-existent p|enough free storage",
         Cause.VOLUME_UNBOUND,
         "PersistentVolumeClaim {unbound} is not bound to a volume: kubectl -n {ns} describe pvc", 60.0),
    Rule(r"volume node affinity conflict|PersistentVolume's node affinity|\[.*VolumeBinding.*\] simul",
         Cause.VOLUME_UNBOUND,
         "its volume is on another node than {node}; correct the claims in harness_cluster", 0.0),
    Rule(r"Insufficient (cpu|memory|ephemeral-storage)|Too many pods", Cause.RESOURCES,
         "request less in harness_cluster (cpu, memory), or stop other pods on the node", 60.0),
    Rule(r"were unschedulable", Cause.TAINT, "the node is cordoned: kubectl uncordon {node}", 60.0),
    Rule(r"untolerated taint", Cause.TAINT,
         "add the taint's key to tolerated_taints in harness_cluster, or remove the taint", 60.0),
    Rule(r"didn't match Pod's node affinity", Cause.NODE_UNKNOWN,
         "the cluster has no such node: set harness_node to its name in `kubectl get nodes`", 15.0),
)  # fmt: skip
"""The scheduler's reasons for an unschedulable pod; the first pattern that matches counts."""

IMAGE_PULL = (
    Rule(r"no space left", Cause.IMAGE, "free its disk: `df -h /var/lib/containerd` on node {node}", 60.0),
    Rule(r"unauthorized|authentication|authorization|denied|forbidden|\b40[13]\b", Cause.IMAGE,
         "correct harness_image, or set pull_secrets in harness_cluster", 60.0),
    Rule(r"not found|manifest unknown", Cause.IMAGE, "correct harness_image, or push it", 60.0),
    Rule(r"", Cause.IMAGE, "check whether node {node} reaches the registry: crictl pull {image}", 120.0),
)  # fmt: skip
"""Why a node cannot pull an image; the first pattern that matches counts, regardless of case."""

# Reasons of a waiting or terminated container, and of an event.
SANDBOX_FAILED = "FailedCreatePodSandBox"
PULL_REASONS = frozenset(
    {
        *("ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "RegistryUnavailable"),
        *("ImageInspectError", "SignatureValidationFailed"),
    }
)
CREATE_REASONS = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
START_REASONS = frozenset({"StartError", "ContainerCannotRun"})
