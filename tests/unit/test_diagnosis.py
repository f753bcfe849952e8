"""Every failure of a Job, its pod or its node is named, with the evidence and the next step."""

import math
from typing import Any

import pytest

from harness.cluster.diagnosis import Cause, Kind, Observation, diagnose
from harness.cluster.status_record import record

NOW = 1_800_000_000.0
CREATED = "2027-01-15T08:00:00Z"
Object = dict[str, Any]


def job(*conditions: Object) -> Object:
    return {
        "metadata": {
            "name": "run-r1-jw2", "namespace": "bench", "creationTimestamp": CREATED, "uid": "1",
            "annotations": {"mlperf/run-id": "r1"},
        },
        "spec": {"activeDeadlineSeconds": 60},
        "status": {"conditions": list(conditions)},
    }  # fmt: skip


def job_with_condition(kind: str, reason: str = "", message: str = "") -> Object:
    return job({"type": kind, "status": "True", "reason": reason, "message": message})


def pod(phase: str = "Pending", **status: Any) -> Object:
    container = {"name": "run", "image": "registry.example/node:1", "resources": {"limits": {"memory": "8Gi"}}}
    return {
        "metadata": {"name": "run-r1-jw2-abcde", "namespace": "bench", "uid": "2"},
        "spec": {"containers": [container]},
        "status": {"phase": phase, **status},
    }


def waiting(reason: str, message: str = "") -> Object:
    return pod(containerStatuses=[{"name": "run", "state": {"waiting": {"reason": reason, "message": message}}}])


def terminated(code: int, reason: str = "Error", **more: Any) -> Object:
    state = {"terminated": {"exitCode": code, "reason": reason, **more}}
    return pod("Failed", containerStatuses=[{"name": "run", "state": state}])


def asking(the_pod: Object, gpus: int) -> Object:
    the_pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] = str(gpus)
    return the_pod


def leaving(the_pod: Object) -> Object:
    the_pod["metadata"]["deletionTimestamp"] = CREATED
    return the_pod


def owned(the_pod: Object, name: str, uid: str) -> Object:
    the_pod["metadata"] |= {"name": name, "ownerReferences": [{"kind": "Job", "uid": uid}]}
    return the_pod


def unschedulable(message: str) -> Object:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    return pod(conditions=[condition])


def nowhere(why: str) -> Object:
    return unschedulable(f"0/3 nodes are available: {why}")


def disrupted(reason: str, message: str = "words of the API") -> Object:
    condition = {"type": "DisruptionTarget", "status": "True", "reason": reason, "message": message}
    return pod("Failed", conditions=[condition])


def event(reason: str, message: str, at: str = CREATED) -> Object:
    return {"reason": reason, "message": message, "lastTimestamp": at, "involvedObject": {"uid": "1"}}


def refused(why: str) -> Object:
    return event("FailedCreate", f'Error creating: pods "x" is forbidden: {why}')


def node(
    ready: str = "True", message: str = "kubelet is posting ready status", gpus: tuple[int, int] = (1, 1)
) -> Object:
    condition = {"type": "Ready", "status": ready, "message": message, "lastTransitionTime": CREATED}
    has, offers = ({"nvidia.com/gpu": str(number)} for number in gpus)
    return {
        "metadata": {"name": "jw2"},
        "spec": {},
        "status": {"conditions": [condition], "capacity": has, "allocatable": offers},
    }


def observe(the_job: Object | None, *pods: Object, **more: Any) -> Observation:
    return Observation(**{"job": the_job, "pods": list(pods), "events": [], "node": node(), "now": NOW, **more})


POLICY = job_with_condition(
    "Failed",
    "PodFailurePolicy",
    "Container run for pod bench/x failed with exit code 4 matching FailJob rule at index 1",
)
PLACES = "0/3 nodes are available: 1 {0}, 2 node(s) didn't match Pod's node affinity/selector. preemption: none"
SCRIPTED: list[tuple[Cause, str, Observation, str]] = [
    (
        Cause.GPU,
        "blocked",
        observe(job(), unschedulable(PLACES.format("Insufficient nvidia.com/gpu"))),
        "Insufficient nvidia.com/gpu",
    ),
    (
        Cause.RESOURCES,
        "blocked",
        observe(job(), unschedulable(PLACES.format("Insufficient memory"))),
        "Insufficient memory",
    ),
    (
        Cause.TAINT,
        "blocked",
        observe(job(), unschedulable(PLACES.format("node(s) had untolerated taint {a: b}"))),
        "tolerated_taints",
    ),
    (
        Cause.TAINT,
        "blocked",
        observe(job(), unschedulable(PLACES.format("node(s) were unschedulable"))),
        "kubectl uncordon jw2",
    ),
    (
        Cause.NODE_UNKNOWN,
        "blocked",
        observe(job(), nowhere("3 node(s) didn't match Pod's node affinity/selector.")),
        "harness_node",
    ),
    (
        Cause.VOLUME_UNBOUND,
        "blocked",
        observe(job(), nowhere("pod has unbound immediate PersistentVolumeClaims."), claims={"runs-jw2": "Pending"}),
        "runs-jw2",
    ),
    (
        Cause.VOLUME_UNBOUND,
        "blocked",
        observe(job(), unschedulable(PLACES.format("node(s) had volume node affinity conflict"))),
        "another node than jw2",
    ),
    (
        Cause.CLAIM_MISSING,
        "blocked",
        observe(job(), nowhere('persistentvolumeclaim "runs-jw2" not found.'), claims={"runs-jw2": "absent"}),
        "runs-jw2",
    ),
    (Cause.UNSCHEDULABLE, "blocked", observe(job(), nowhere("3 something new.")), "something new"),
    (
        Cause.QUOTA,
        "blocked",
        observe(
            job(), events=[refused("exceeded quota: mlperf, requested: pods=1, used: pods=100, limited: pods=100")]
        ),
        "limited: pods=100",
    ),
    (
        Cause.POD_SECURITY,
        "blocked",
        observe(job(), events=[refused('violates PodSecurity "restricted:latest": x')]),
        "restricted",
    ),
    (
        Cause.ACCOUNT,
        "blocked",
        observe(job(), events=[refused('error looking up service account mlperf/a: serviceaccount "a" not found')]),
        "service_account",
    ),
    (
        Cause.RUNTIME_CLASS,
        "blocked",
        observe(job(), events=[refused('pod rejected: RuntimeClass "nvidia" not found')]),
        "runtime_class",
    ),
    (Cause.POD_REJECTED, "blocked", observe(job(), events=[refused("a webhook said no")]), "a webhook said no"),
    (
        Cause.IMAGE,
        "blocked",
        observe(job(), waiting("ErrImagePull", 'failed to pull: "registry.example/node:1": not found')),
        "or push it",
    ),
    (
        Cause.IMAGE,
        "blocked",
        observe(
            job(),
            waiting("ImagePullBackOff", "Back-off pulling"),
            events=[event("Failed", "Failed to pull image: 401 unauthorized")],
        ),
        "pull_secrets",
    ),
    (
        Cause.IMAGE,
        "blocked",
        observe(job(), waiting("ErrImagePull", "dial tcp: i/o timeout")),
        "crictl pull registry.example/node:1",
    ),
    (
        Cause.IMAGE,
        "blocked",
        observe(job(), waiting("ErrImageNeverPull", "not present with pull policy of Never")),
        "site.yml --tags images",
    ),
    (
        Cause.IMAGE,
        "blocked",
        observe(job(), waiting("InvalidImageName", "couldn't parse image name")),
        "correct harness_image",
    ),
    (Cause.CONTAINER, "blocked", observe(job(), waiting("CreateContainerError", "no such file")), "no such file"),
    (
        Cause.CONTAINER,
        "blocked",
        observe(job(), pod(), events=[event("FailedCreatePodSandBox", 'no runtime for "nvidia" is configured')]),
        "site.yml --tags nvidia",
    ),
    (
        Cause.CONTAINER,
        "failed",
        observe(POLICY, terminated(128, "StartError", message="exec: harness: not found")),
        "harness: not found",
    ),
    (
        Cause.MOUNT,
        "blocked",
        observe(
            job(),
            pod(),
            events=[event("FailedMount", 'MountVolume.SetUp failed for volume "asked" : configmap "x" not found')],
        ),
        'configmap "x" not found',
    ),
    (Cause.OUT_OF_MEMORY, "failed", observe(POLICY, terminated(137, "OOMKilled")), "8Gi"),
    (
        Cause.GPU_LOST,
        "failed",
        observe(POLICY, terminated(4), log_tail="RuntimeError: CUDA error: uncorrectable ECC error encountered"),
        "nvidia-smi",
    ),
    (
        Cause.GPU_LOST,
        "failed",
        observe(POLICY, asking(terminated(4), 2), node=node(gpus=(2, 1))),
        "offers 1 of its 2 nvidia.com/gpu",
    ),
    (
        Cause.GPU_LOST,
        "failed",
        observe(POLICY, pod("Failed", reason="UnexpectedAdmissionError", message="no healthy devices")),
        "no healthy devices",
    ),
    (
        Cause.HARNESS,
        "failed",
        observe(POLICY, terminated(4), last_status={"state": "failed", "reason": "engine jw2 stopped answering"}),
        "engine jw2 stopped answering",
    ),
    (
        Cause.HARNESS,
        "failed",
        observe(POLICY, terminated(2), log_tail="harness: run_id r1 exists with another spec"),
        "another spec",
    ),
    (Cause.HARNESS, "failed", observe(POLICY, terminated(3)), "exit code 3"),
    (Cause.HARNESS, "failed", observe(POLICY), "failed"),
    (Cause.SIGNAL, "failed", observe(POLICY, terminated(139)), "signal 11"),
    (
        Cause.EVICTED,
        "failed",
        observe(POLICY, disrupted("TerminationByKubelet", "The node was low on resource: memory")),
        "low on resource",
    ),
    (
        Cause.EVICTED,
        "failed",
        observe(POLICY, pod("Failed", reason="Evicted", message="ephemeral-storage")),
        "ephemeral-storage",
    ),
    (Cause.PREEMPTED, "failed", observe(POLICY, disrupted("PreemptionByScheduler")), "priority"),
    (Cause.DRAINED, "failed", observe(POLICY, disrupted("EvictionByEvictionAPI")), "uncordon"),
    (Cause.NODE_LOST, "failed", observe(POLICY, disrupted("DeletionByTaintManager"), node=None), "kubectl get nodes"),
    (
        Cause.NODE_LOST,
        "blocked",
        observe(job(), pod("Running"), node=node("Unknown", "Kubelet stopped posting node status.")),
        "stopped posting",
    ),
    (Cause.DISRUPTED, "failed", observe(POLICY, disrupted("SomethingElse")), "SomethingElse"),
    (
        Cause.DISRUPTED,
        "failed",
        observe(
            job_with_condition(
                "Failed",
                "PodFailurePolicy",
                "Pod bench/x has condition DisruptionTarget matching FailJob rule at index 0",
            )
        ),
        "another run_id",
    ),
    (Cause.DELETED, "failed", observe(None, job_existed=True), "deleted by someone"),
    (Cause.ABSENT, "blocked", observe(None), "start it again"),
    (Cause.DEADLINE, "failed", observe(job_with_condition("Failed", "DeadlineExceeded")), "60"),
    (
        Cause.SILENT,
        "blocked",
        observe(job(), pod("Running"), last_status={"state": "running"}, silent_s=130.0),
        "130 s",
    ),
]


@pytest.mark.parametrize(
    ("cause", "state", "observation", "words"), SCRIPTED, ids=[f"{row[0]}-{row[3]}" for row in SCRIPTED]
)
def test_each_cause_is_diagnosed_with_its_evidence_and_advice(
    cause: Cause, state: str, observation: Observation, words: str
) -> None:
    diagnosis = diagnose("run", "jw2", "jw2", observation)
    assert (diagnosis.cause, diagnosis.state) == (cause, state), diagnosis.reason
    assert words in diagnosis.reason
    assert "jw2" in diagnosis.reason or "engine" in diagnosis.reason or "run_id" in diagnosis.reason
    assert "\n" not in diagnosis.reason
    # A state that may pass says how it is shown and has an end, which for a silent run its watcher decides; harness's
    # own words say themselves what to do.
    ends = diagnosis.grace_s < 600 or cause is Cause.SILENT
    assert diagnosis.state == "failed" or (ends and (diagnosis.progress or cause is Cause.ABSENT))
    assert ";" in diagnosis.reason or "kubectl" in diagnosis.reason or cause is Cause.HARNESS


SHUTDOWN = "Pod was terminated in response to imminent node shutdown."
PINNED = (
    "0/3 nodes are available: {}2 node(s) didn't satisfy plugin(s) [NodeAffinity]. no new claims to deallocate, "
    "preemption: 0/3 nodes are available: 1 No preemption victims found for incoming pod."
)
PULLED = 'failed to resolve reference "registry.example/node@sha256:{}": {}'
HEX = "4014034040" * 6 + "abcd"
UNREADY = [{"type": "ContainersReady", "status": "True"}, {"type": "Ready", "status": "False"}]
BACKOFF = job_with_condition("Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit")
TAINTED = {**node(), "spec": {"taints": [{"key": "team", "effect": "NoSchedule"}]}}
# As a cluster of release 1.36 words it, for a pod pinned to its node by name.
WORDED: list[tuple[Cause, Observation, str]] = [
    (
        Cause.GPU,
        observe(job(), unschedulable(PINNED.format("1 Insufficient nvidia.com/gpu, "))),
        "on node jw2: 1 Insufficient nvidia.com/gpu; `kubectl get pods -A",
    ),
    (
        Cause.GPU_LOST,
        observe(
            job(), asking(unschedulable(PINNED.format("1 Insufficient nvidia.com/gpu, ")), 1), node=node(gpus=(1, 0))
        ),
        "offers 0 of its 1 nvidia.com/gpu; check `nvidia-smi`",
    ),
    (
        Cause.GPU,
        observe(
            job(), asking(unschedulable(PINNED.format("1 Insufficient nvidia.com/gpu, ")), 1), node=node(gpus=(0, 0))
        ),
        "cannot be scheduled: node jw2 has no nvidia.com/gpu; is the device plugin there",
    ),
    (
        Cause.GPU,
        observe(
            job(),
            asking(unschedulable(PINNED.format("1 Insufficient nvidia.com/gpu, ")), 1),
            node={**node(), "status": {**node()["status"], "capacity": {"cpu": "8"}, "allocatable": {"cpu": "8"}}},
        ),
        "cannot be scheduled: node jw2 has no nvidia.com/gpu; is the device plugin there",
    ),
    (Cause.NODE_UNKNOWN, observe(job(), unschedulable(PINNED.format("")), node=None), "set harness_node"),
    (
        Cause.GPU,
        observe(job(), asking(unschedulable(PINNED.format("1 Insufficient nvidia.com/gpu, ")), 2)),
        "on node jw2: it asks for 2 nvidia.com/gpu, and the node has 1; lower tensor_parallel",
    ),
    (
        Cause.NODE_UNKNOWN,
        observe(
            job(),
            nowhere("3 node(s) didn't satisfy plugin(s) [NodeAffinity]. no new claims to deallocate, preemption: no"),
            node=None,
            claims={"runs-jw2": "absent"},
        ),
        "the cluster has no such node: set harness_node",
    ),
    (
        Cause.NODE_UNKNOWN,
        observe(
            job(),
            nowhere('persistentvolumeclaim "runs-jw2" not found. not found'),
            node=None,
            node_absent=True,
            claims={"runs-jw2": "absent"},
        ),
        "run jw2 cannot be scheduled on node jw2; the cluster has no such node: set harness_node",
    ),
    (
        Cause.CLAIM_MISSING,
        observe(job(), nowhere('persistentvolumeclaim "runs-jw2" not found. not found'), node=None),
        "needs PersistentVolumeClaim runs-jw2, which does not exist",
    ),
    (
        Cause.GPU,
        observe(
            job(),
            nowhere(
                "1 Insufficient nvidia.com/gpu, 2 node(s) didn't satisfy plugin(s) [NodeAffinity VolumeBinding]. "
                "preemption: no"
            ),
        ),
        "on node jw2: 1 Insufficient nvidia.com/gpu;",
    ),
    (
        Cause.VOLUME_UNBOUND,
        observe(job(), nowhere("3 node(s) didn't satisfy plugin(s) [NodeAffinity VolumeBinding] simultaneously.")),
        "another node than jw2",
    ),
    (
        Cause.CLAIM_MISSING,
        observe(job(), nowhere('persistentvolumeclaim "nope" not found. not found')),
        "needs PersistentVolumeClaim nope, which does not exist",
    ),
    (
        Cause.VOLUME_UNBOUND,
        observe(job(), nowhere("pod has unbound immediate PersistentVolumeClaims. not found")),
        "pod has unbound immediate PersistentVolumeClaims; PersistentVolumeClaim of its claims",
    ),
    (
        Cause.QUOTA,
        observe(
            job(),
            events=[event("FailedCreate", 'Error creating: pods "run-r1-jw2-kdpfv" is forbidden: exceeded quota: q')],
        ),
        'pods "run-r1-jw2" is forbidden: exceeded quota',
    ),
    (
        Cause.TAINT,
        observe(
            POLICY,
            disrupted("DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint"),
            node={**node(), "spec": {"taints": [{"key": "maintenance", "effect": "NoExecute"}]}},
        ),
        "a taint with effect NoExecute (maintenance); remove it",
    ),
    (
        Cause.NODE_LOST,
        observe(POLICY, disrupted("DeletionByTaintManager"), node=node("Unknown", "Kubelet stopped posting.")),
        "Kubelet stopped posting; check its kubelet",
    ),
    (
        Cause.DELETED,
        observe(job_with_condition("Complete"), leaving(pod("Succeeded")), last_status={"state": "running"}),
        "pod run-r1-jw2-abcde of run jw2 was deleted by someone",
    ),
    (
        Cause.PREEMPTED,
        observe(job({"type": "Suspended", "status": "True"}), last_status={"state": "running"}),
        "was suspended while it ran",
    ),
    (
        Cause.VOLUME_UNBOUND,
        observe(job(), unschedulable(PINNED.format("1 node(s) didn't match PersistentVolume's node affinity, "))),
        "another node than jw2",
    ),
    (Cause.QUOTA, observe(job(), events=[refused("failed quota: q: must specify limits.cpu for: run")]), "limits.cpu"),
    (
        Cause.RESOURCES,
        observe(job(), events=[refused("maximum memory usage per Container is 4Gi, but limit is 32Gi")]),
        "4Gi, but limit is 32Gi; request less",
    ),
    (
        Cause.HARNESS,
        observe(POLICY, terminated(4), log_tail="CUDA error: out of memory; ask for less"),
        "out of memory",
    ),
    (Cause.IMAGE, observe(job(), waiting("ImageInspectError", "cannot inspect")), "cannot inspect"),
    (
        Cause.UNSCHEDULABLE,
        observe(job(), unschedulable(PINNED.format("1 node(s) didn't have free ports for the requested pod ports, "))),
        "on node jw2: 1 node(s) didn't have free ports for the requested pod ports; kubectl -n bench describe pod",
    ),
    (
        Cause.TAINT,
        observe(job(), unschedulable(PINNED.format("1 node(s) had untolerated taint(s), ")), node=TAINTED),
        "untolerated taint(s) (team); add the taint's key",
    ),
    (
        Cause.VOLUME_UNBOUND,
        observe(
            job(),
            nowhere("pod has unbound immediate PersistentVolumeClaims. preemption: no"),
            events=[event("ProvisioningFailed", 'storageclass.storage.k8s.io "fast" not found')],
            claims={"runs-jw2": "Pending"},
        ),
        '"fast" not found); PersistentVolumeClaim runs-jw2 is not bound',
    ),
    (
        Cause.VOLUME_UNBOUND,
        observe(job(), pod(), events=[event("ProvisioningFailed", "the pool is full")]),
        "the pool is full; kubectl -n bench describe pvc",
    ),
    (
        Cause.IMAGE,
        observe(job(), waiting("ErrImagePull", PULLED.format(HEX, "dial tcp 10.0.0.9:443: i/o timeout"))),
        "reaches the registry: crictl pull",
    ),
    (
        Cause.IMAGE,
        observe(
            job(),
            waiting("ImagePullBackOff", "Back-off pulling image"),
            events=[
                event("Failed", f"Failed to pull image: {PULLED.format(HEX, '403 Forbidden')}"),
                event("Failed", "Error: ErrImagePull"),
                event("Failed", "Error: ImagePullBackOff", "2027-01-15T08:00:09Z"),
            ],
        ),
        "403 Forbidden; correct harness_image, or set pull_secrets",
    ),
    (
        Cause.IMAGE,
        observe(job(), waiting("ErrImagePull", "write /var/lib/containerd/x: no space left on device")),
        "df -h /var/lib/containerd",
    ),
    (Cause.CONTAINER, observe(job(), waiting("SomeNewError", "it will not")), "(SomeNewError): it will not; kubectl"),
    (
        Cause.MOUNT,
        observe(job(), pod(), events=[event("FailedMount", 'path "/var/lib/mlperf/runs" does not exist')]),
        "site.yml --tags namespace",
    ),
    (
        Cause.RESOURCES,
        observe(BACKOFF, pod("Failed", reason="OutOfcpu", message="Pod was rejected: requested: 4000, capacity: 4000")),
        "(OutOfcpu): Pod was rejected: requested: 4000, capacity: 4000; kubectl -n bench describe node jw2",
    ),
    (
        Cause.POD_REJECTED,
        observe(BACKOFF, pod("Failed", reason="NodeAffinity", message="not here")),
        "not here; kubectl",
    ),
    (
        Cause.POD_REJECTED,
        observe(
            BACKOFF,
            pod("Failed", reason="UnexpectedAdmissionError", message="write checkpoint: no space left on device"),
        ),
        "no space left on device; kubectl -n bench describe node jw2",
    ),
    (
        Cause.NODE_LOST,
        observe(POLICY, disrupted("TerminationByKubelet", SHUTDOWN)),
        "shut down while run jw2 was running",
    ),
    (Cause.NODE_LOST, observe(POLICY, pod("Failed", reason="Terminated", message=SHUTDOWN)), "imminent node shutdown"),
    (Cause.NODE_LOST, observe(POLICY, terminated(255, "Unknown")), "last -x reboot"),
    (Cause.NODE_LOST, observe(job(), pod("Running", conditions=UNREADY), node=None), "kubectl describe node jw2"),
    (
        Cause.NODE_LOST,
        observe(
            job_with_condition(
                "Failed", "PodFailurePolicy", "Pod bench/x has condition DisruptionTarget matching FailJob rule"
            ),
            node=node("Unknown", "Kubelet stopped posting node status."),
        ),
        "stopped posting node status; check its kubelet",
    ),
    (
        Cause.PREEMPTED,
        observe(POLICY, pod("Failed", reason="Preempting", message="Preempted in order to admit critical pod")),
        "preempted run jw2 for a critical pod of the system",
    ),
    (Cause.DELETED, observe(leaving(job()), pod("Running")), "the Job of run jw2 was deleted"),
    (Cause.DELETED, observe(job(), leaving(pod("Running"))), "pod run-r1-jw2-abcde of run jw2 was deleted"),
    (
        Cause.DELETED,
        observe(POLICY, leaving(terminated(4)), last_status={"state": "stopped", "reason": "stopped on request"}),
        "start with another run_id",
    ),
    (
        Cause.DISRUPTED,
        observe(job(), owned(pod("Failed"), "first", "1"), owned(pod("Running"), "second", "1")),
        "restarted as pod second, after first",
    ),
    (Cause.SIGNAL, observe(POLICY, terminated(137)), "SIGKILL (usually the kernel's OOM killer: `dmesg"),
    (Cause.SIGNAL, observe(POLICY, terminated(7)), "with exit code 7"),
    (
        Cause.SIGNAL,
        observe(job(), terminated(139), log_tail="Fatal Python error\n"),
        "Fatal Python error; kubectl -n bench logs",
    ),
    (
        Cause.POD_SECURITY,
        observe(
            job(), events=[refused('violates PodSecurity "restricted:latest": {seccompProfile} (container "run")')]
        ),
        "{seccompProfile}",
    ),
    (
        Cause.GPU,
        observe(job(), events=[event("PodGroupPending", "0/3 nodes are unavailable: 1 Insufficient nvidia.com/gpu.")]),
        "on node jw2: 1 Insufficient nvidia.com/gpu;",
    ),
    (
        Cause.GPU,
        observe(
            job(),
            events=[event("PodGroupPending", "1/1 tasks in gang unschedulable: 1 Insufficient nvidia.com/gpu")],
            node=None,
        ),
        "run jw2 cannot be scheduled on node jw2: 1/1 tasks in gang unschedulable",
    ),
]


def test_a_node_without_gpus_is_not_waited_for_as_one_whose_gpus_are_taken() -> None:
    pending = asking(unschedulable(PINNED.format("1 Insufficient nvidia.com/gpu, ")), 1)
    absent, taken = (
        diagnose("run", "jw2", "jw2", observe(job(), pending, node=node(gpus=gpus))) for gpus in ((0, 0), (1, 1))
    )
    assert (absent.state, taken.state) == ("blocked", "blocked")
    assert absent.grace_s <= 30 < taken.grace_s


@pytest.mark.parametrize(("cause", "observation", "words"), WORDED, ids=[f"{row[0]}-{row[2]}" for row in WORDED])
def test_messages_of_a_real_cluster(cause: Cause, observation: Observation, words: str) -> None:
    diagnosis = diagnose("run", "jw2", "jw2", observation)
    assert diagnosis.cause is cause, diagnosis.reason
    assert words in diagnosis.reason
    if diagnosis.state == "blocked":
        assert words in record("run", "jw2", diagnosis, observation)["phase"]
    assert "preemption" not in diagnosis.reason
    assert ";" in diagnosis.reason or "kubectl" in diagnosis.reason


@pytest.mark.parametrize(
    ("log", "status", "cause", "words"),
    [
        (
            "CUDA error: system not yet initialized\nRuntimeError: end",
            "",
            Cause.HARNESS,
            "initialized; the GPUs' NVSwitch",
        ),
        ("CUDA error: unspecified launch failure", "", Cause.HARNESS, "launch failure; a kernel failed"),
        ("CUDA error: unspecified launch failure", "Free memory on device cuda:0; end it", Cause.HARNESS, "end it"),
        ("CUDA error: unknown error\nNVMLError_GpuIsLost: GPU is lost", "", Cause.GPU_LOST, "GPU is lost"),
        ("CUDA error: unknown error", "RuntimeError: uncorrectable ECC error; x", Cause.GPU_LOST, "check `nvidia-smi`"),
    ],
)
def test_only_a_broken_gpu_is_called_lost(log: str, status: str, cause: Cause, words: str) -> None:
    last = {"state": "failed", "reason": status} if status else None
    diagnosis = diagnose("engine", "e1", "jw2", observe(POLICY, terminated(4), log_tail=log, last_status=last))
    assert diagnosis.cause is cause and words in diagnosis.reason
    assert ("lost its GPU" in diagnosis.reason) is (cause is Cause.GPU_LOST)


def test_the_cause_of_a_failed_pull_is_shown_however_long_the_name_is() -> None:
    image = f"registry.example.org:5000/department/team/mlperf-node@sha256:{HEX}"
    words = f'failed to pull and unpack image "{image}": failed to resolve reference "{image}": {image}: not found'
    message = f'Failed to pull image "{image}": rpc error: code = NotFound desc = {words}'
    assert len(message) > 400
    diagnosis = diagnose("run", "jw2", "jw2", observe(job(), waiting("ErrImagePull", message)))
    assert f"{image}: not found; correct harness_image" in diagnosis.reason


RAW = "\x1b[31mValueError\x1b[0m: \x07\x00 a\rb\n" + "x" * 100_000


@pytest.mark.parametrize(
    "observation",
    [
        observe(POLICY, terminated(4), log_tail=RAW),
        observe(POLICY, terminated(4), last_status={"state": "failed", "reason": RAW, "log": RAW, "progress": RAW}),
        observe(POLICY, terminated(4), last_status={"error": RAW}),
        observe(POLICY, terminated(139), log_tail=RAW),
        observe(POLICY, terminated(4, message=RAW)),
        observe(POLICY, terminated(128, "StartError", message=RAW)),
        observe(POLICY, pod("Failed", reason="UnexpectedAdmissionError", message=RAW)),
        observe(POLICY, disrupted("SomethingElse", RAW)),
        observe(job_with_condition("Failed", "BackoffLimitExceeded", RAW)),
        observe(job(), waiting("SomeNewError", RAW)),
        observe(job(), events=[refused(RAW)]),
        observe(job(), pod("Running"), node=node("Unknown", RAW)),
        observe(
            job(),
            pod("Running", containerStatuses=[{"state": {"running": {}}}]),
            last_status={"state": "running", "phase": RAW, "reason": RAW},
        ),
    ],
)
@pytest.mark.parametrize("kind", ["engine", "run"])
def test_what_nodes_and_pods_print_arrives_as_short_plain_lines(kind: Kind, observation: Observation) -> None:
    diagnosis = diagnose(kind, "jw2", "jw2", observation)
    one = record(kind, "jw2", diagnosis, observation)
    for text in (diagnosis.reason, diagnosis.progress, *(value for value in one.values() if isinstance(value, str))):
        assert not set(text) & {chr(code) for code in [*range(9), *range(11, 32), 127]}
    for text in (diagnosis.reason, diagnosis.progress, one["reason"] or ""):
        assert "\n" not in text and len(text) <= 2500


def test_the_harness_own_status_takes_precedence() -> None:
    status = {"state": "failed", "reason": "the weights are not there; run site.yml --tags assets"}
    broken = observe(POLICY, asking(terminated(3), 1), last_status=status, node=node(gpus=(2, 1)))
    diagnosis = diagnose("engine", "jw2", "jw2", broken)
    assert (diagnosis.cause, diagnosis.state) == (Cause.HARNESS, "failed")
    assert diagnosis.reason.startswith(status["reason"])
    assert "offers 1 of its 2 nvidia.com/gpu" in diagnosis.reason
    assert diagnose("run", "jw2", "jw2", broken).reason == status["reason"]
    # Deleted after its end, by whoever tidies up: that is not what ended it.
    assert (
        diagnose("run", "jw2", "jw2", observe(POLICY, leaving(terminated(3)), last_status=status)).reason
        == status["reason"]
    )
    invalid = observe(POLICY, terminated(5), last_status={"state": "finished"})
    assert diagnose("run", "jw2", "jw2", invalid).state == "ok"


def test_pods_of_an_earlier_job_of_the_same_name_are_ignored() -> None:
    observation = observe(job(), owned(leaving(terminated(143)), "old", "0"))
    assert diagnose("engine", "jw2", "jw2", observation).progress == "waiting for its pod"
    observation = observe(job(), owned(leaving(terminated(143)), "old", "0"), owned(pod("Running"), "new", "1"))
    assert diagnose("engine", "jw2", "jw2", observation).state == "progressing"


def test_an_orphaned_pod_of_a_job_that_is_gone_is_ignored() -> None:
    orphan = terminated(137)
    orphan["metadata"]["labels"] = {"batch.kubernetes.io/controller-uid": "of an earlier Job"}
    assert diagnose("run", "jw2", "jw2", observe(job(), orphan)).cause is Cause.STARTING


def test_only_the_newest_event_counts() -> None:
    creating = waiting("ContainerCreating")
    failed, later = event("FailedCreatePodSandBox", "no network yet"), "2027-01-15T08:00:20Z"
    assert diagnose("run", "jw2", "jw2", observe(job(), creating, events=[failed])).cause is Cause.CONTAINER
    pulls = {"reason": "Pulling", "message": "Pulling image", "series": {"lastObservedTime": later}}
    diagnosis = diagnose("run", "jw2", "jw2", observe(job(), creating, events=[pulls, failed]))
    assert (diagnosis.state, diagnosis.progress) == ("progressing", "pulling the image")
    pulled = {"reason": "Pulled", "message": "Image is present", "eventTime": "2027-01-15T08:00:30.123456Z"}
    diagnosis = diagnose("run", "jw2", "jw2", observe(job(), creating, events=[pulls, pulled, failed]))
    assert diagnosis.progress == "starting its container"


def test_a_suspended_job_may_wait_for_its_queue_without_limit() -> None:
    suspended = observe(job_with_condition("Suspended", "JobSuspended", "Job suspended"))
    diagnosis = diagnose("run", "jw2", "jw2", suspended)
    assert (diagnosis.state, diagnosis.grace_s) == ("progressing", math.inf)
    assert "suspended" in diagnosis.progress


@pytest.mark.parametrize(("age_s", "cause"), [(50, Cause.RUNNING), (70, Cause.SILENT)])
def test_a_silent_run_is_blocked_after_one_minute_and_tolerated_for_two_more(age_s: float, cause: Cause) -> None:
    status = {"state": "running", "phase": "performance"}
    diagnosis = diagnose("run", "jw2", "jw2", observe(job(), pod("Running"), last_status=status, silent_s=age_s))
    assert diagnosis.cause is cause
    assert diagnosis.state in ("progressing", "blocked")
    assert diagnosis.grace_s >= 120


def test_a_lost_node_is_a_failure_within_90_s() -> None:
    # The cluster needs up to 50 s to notice that a kubelet is silent; all in all 90 s are promised.
    silent = observe(job(), pod("Running"), node=node("Unknown", "Kubelet stopped posting node status."))
    assert 50 + diagnose("run", "jw2", "jw2", silent).grace_s < 90
    unwell = observe(job(), pod("Running"), node=node("False", "container runtime is down"))
    assert 15 < diagnose("run", "jw2", "jw2", unwell).grace_s < 90


def test_every_cause_has_a_test_case() -> None:
    covered = {row[0] for row in SCRIPTED}
    assert set(Cause) - covered == {Cause.STARTING, Cause.RUNNING, Cause.READY, Cause.FINISHED, Cause.STOPPED}


def test_the_record_of_a_run() -> None:
    pulling = observe(job(), pod(), events=[event("Pulling", "Pulling image")])
    assert diagnose("run", "jw2", "jw2", pulling).progress == "pulling the image"
    result = record("run", "jw2", diagnose("run", "jw2", "jw2", pulling), pulling)
    assert (result["state"], result["phase"], result["run_id"]) == ("running", "pulling the image", "r1")
    status = {"run_id": "r1", "state": "running", "phase": "performance", "samples_done": 3, "updated_unix": NOW}
    running = observe(job(), pod("Running"), last_status=status)
    assert record("run", "jw2", diagnose("run", "jw2", "jw2", running), running)["samples_done"] == 3
    finished = observe(
        job_with_condition("Complete"),
        pod("Succeeded"),
        last_status={**status, "state": "finished", "calibration": {"target_qps": 5}},
    )
    result = record("run", "jw2", diagnose("run", "jw2", "jw2", finished), finished)
    assert (result["state"], result["calibration"]) == ("finished", {"target_qps": 5})
    unread = observe(job_with_condition("Complete"), pod("Succeeded"))
    assert record("run", "jw2", diagnose("run", "jw2", "jw2", unread), unread)["state"] == "finished"


def test_the_record_of_an_engine() -> None:
    status = {"name": "jw2", "state": "starting", "progress": "loading weights", "started_unix": 5.0, "config": {}}
    loading = observe(job(), pod("Running"), last_status=status)
    result = record("engine", "jw2", diagnose("engine", "jw2", "jw2", loading), loading)
    assert (result["state"], result["progress"], result["started_unix"]) == ("starting", "loading weights", 5.0)
    assert "config" not in result
    ready = observe(job(), pod("Running"), last_status={**status, "state": "ready", "telemetry": {"running": 3.0}})
    result = record("engine", "jw2", diagnose("engine", "jw2", "jw2", ready), ready)
    assert (result["state"], result["telemetry"]) == ("ready", {"running": 3.0})
    deleted = observe(
        job_with_condition("Complete"),
        pod("Succeeded"),
        last_status={**status, "state": "stopped", "reason": "asked to stop (SIGTERM)"},
    )
    assert diagnose("engine", "jw2", "jw2", deleted).cause is Cause.STOPPED
    assert record("engine", "jw2", diagnose("engine", "jw2", "jw2", deleted), deleted)["state"] == "failed"


def test_a_diagnosed_failure_overrides_the_last_status() -> None:
    status = {"run_id": "r1", "state": "running", "phase": "performance", "samples_done": 3, "updated_unix": NOW}
    killed = observe(POLICY, terminated(137, "OOMKilled"), last_status=status)
    result = record("run", "jw2", diagnose("run", "jw2", "jw2", killed), killed)
    assert (result["state"], result["samples_done"]) == ("failed", 3)
    assert "was OOM-killed: exceeded its memory limit of 8Gi" in result["reason"]
