"""Every way in which a Job, its pod or its node may fail is named, with what was seen and what to do next."""

import math
from typing import Any

import pytest

from harness.cluster.causes import Cause, Seen
from harness.cluster.diagnosis import diagnose
from harness.cluster.records import record

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


def ended(kind: str, reason: str = "", message: str = "") -> Object:
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


def seen(the_job: Object | None, *pods: Object, **more: Any) -> Seen:
    return Seen(**{"job": the_job, "pods": list(pods), "events": [], "node": node(), "now": NOW, **more})


POLICY = ended(
    "Failed",
    "PodFailurePolicy",
    "Container run for pod bench/x failed with exit code 4 matching FailJob rule at index 1",
)
PLACES = "0/3 nodes are available: 1 {0}, 2 node(s) didn't match Pod's node affinity/selector. preemption: none"
SCRIPTED: list[tuple[Cause, str, Seen, str]] = [
    (
        Cause.GPU,
        "waiting",
        seen(job(), unschedulable(PLACES.format("Insufficient nvidia.com/gpu"))),
        "Insufficient nvidia.com/gpu",
    ),
    (
        Cause.RESOURCES,
        "waiting",
        seen(job(), unschedulable(PLACES.format("Insufficient memory"))),
        "Insufficient memory",
    ),
    (
        Cause.TAINT,
        "waiting",
        seen(job(), unschedulable(PLACES.format("node(s) had untolerated taint {a: b}"))),
        "tolerated_taints",
    ),
    (
        Cause.TAINT,
        "waiting",
        seen(job(), unschedulable(PLACES.format("node(s) were unschedulable"))),
        "kubectl uncordon jw2",
    ),
    (
        Cause.NODE_UNKNOWN,
        "waiting",
        seen(job(), nowhere("3 node(s) didn't match Pod's node affinity/selector.")),
        "harness_node",
    ),
    (
        Cause.VOLUME_UNBOUND,
        "waiting",
        seen(job(), nowhere("pod has unbound immediate PersistentVolumeClaims."), claims={"runs-jw2": "Pending"}),
        "runs-jw2",
    ),
    (
        Cause.VOLUME_UNBOUND,
        "waiting",
        seen(job(), unschedulable(PLACES.format("node(s) had volume node affinity conflict"))),
        "another node than jw2",
    ),
    (
        Cause.CLAIM_MISSING,
        "waiting",
        seen(job(), nowhere('persistentvolumeclaim "runs-jw2" not found.'), claims={"runs-jw2": "absent"}),
        "runs-jw2",
    ),
    (Cause.UNSCHEDULABLE, "waiting", seen(job(), nowhere("3 something new.")), "something new"),
    (
        Cause.QUOTA,
        "waiting",
        seen(job(), events=[refused("exceeded quota: mlperf, requested: pods=1, used: pods=100, limited: pods=100")]),
        "limited: pods=100",
    ),
    (
        Cause.POD_SECURITY,
        "waiting",
        seen(job(), events=[refused('violates PodSecurity "restricted:latest": x')]),
        "restricted",
    ),
    (
        Cause.ACCOUNT,
        "waiting",
        seen(job(), events=[refused('error looking up service account mlperf/a: serviceaccount "a" not found')]),
        "service_account",
    ),
    (
        Cause.RUNTIME_CLASS,
        "waiting",
        seen(job(), events=[refused('pod rejected: RuntimeClass "nvidia" not found')]),
        "runtime_class",
    ),
    (Cause.POD_REFUSED, "waiting", seen(job(), events=[refused("a webhook said no")]), "a webhook said no"),
    (
        Cause.IMAGE,
        "waiting",
        seen(job(), waiting("ErrImagePull", 'failed to pull: "registry.example/node:1": not found')),
        "or push it",
    ),
    (
        Cause.IMAGE,
        "waiting",
        seen(
            job(),
            waiting("ImagePullBackOff", "Back-off pulling"),
            events=[event("Failed", "Failed to pull image: 401 unauthorized")],
        ),
        "pull_secrets",
    ),
    (
        Cause.IMAGE,
        "waiting",
        seen(job(), waiting("ErrImagePull", "dial tcp: i/o timeout")),
        "crictl pull registry.example/node:1",
    ),
    (
        Cause.IMAGE,
        "waiting",
        seen(job(), waiting("ErrImageNeverPull", "not present with pull policy of Never")),
        "site.yml --tags images",
    ),
    (
        Cause.IMAGE,
        "waiting",
        seen(job(), waiting("InvalidImageName", "couldn't parse image name")),
        "correct harness_image",
    ),
    (Cause.CONTAINER, "waiting", seen(job(), waiting("CreateContainerError", "no such file")), "no such file"),
    (
        Cause.CONTAINER,
        "waiting",
        seen(job(), pod(), events=[event("FailedCreatePodSandBox", 'no runtime for "nvidia" is configured')]),
        "site.yml --tags nvidia",
    ),
    (
        Cause.CONTAINER,
        "bad",
        seen(POLICY, terminated(128, "StartError", message="exec: harness: not found")),
        "harness: not found",
    ),
    (
        Cause.MOUNT,
        "waiting",
        seen(
            job(),
            pod(),
            events=[event("FailedMount", 'MountVolume.SetUp failed for volume "asked" : configmap "x" not found')],
        ),
        'configmap "x" not found',
    ),
    (Cause.OUT_OF_MEMORY, "bad", seen(POLICY, terminated(137, "OOMKilled")), "8Gi"),
    (
        Cause.GPU_LOST,
        "bad",
        seen(POLICY, terminated(4), log_tail="RuntimeError: CUDA error: uncorrectable ECC error encountered"),
        "nvidia-smi",
    ),
    (
        Cause.GPU_LOST,
        "bad",
        seen(POLICY, asking(terminated(4), 2), node=node(gpus=(2, 1))),
        "offers 1 of its 2 nvidia.com/gpu",
    ),
    (
        Cause.GPU_LOST,
        "bad",
        seen(POLICY, pod("Failed", reason="UnexpectedAdmissionError", message="no healthy devices")),
        "no healthy devices",
    ),
    (
        Cause.HARNESS,
        "bad",
        seen(POLICY, terminated(4), said={"state": "failed", "reason": "engine jw2 stopped answering"}),
        "engine jw2 stopped answering",
    ),
    (
        Cause.HARNESS,
        "bad",
        seen(POLICY, terminated(2), log_tail="harness: run_id r1 exists with another spec"),
        "another spec",
    ),
    (Cause.HARNESS, "bad", seen(POLICY, terminated(3)), "exit code 3"),
    (Cause.HARNESS, "bad", seen(POLICY), "failed"),
    (Cause.SIGNAL, "bad", seen(POLICY, terminated(139)), "signal 11"),
    (
        Cause.EVICTED,
        "bad",
        seen(POLICY, disrupted("TerminationByKubelet", "The node was low on resource: memory")),
        "low on resource",
    ),
    (
        Cause.EVICTED,
        "bad",
        seen(POLICY, pod("Failed", reason="Evicted", message="ephemeral-storage")),
        "ephemeral-storage",
    ),
    (Cause.PREEMPTED, "bad", seen(POLICY, disrupted("PreemptionByScheduler")), "priority"),
    (Cause.DRAINED, "bad", seen(POLICY, disrupted("EvictionByEvictionAPI")), "uncordon"),
    (Cause.NODE_LOST, "bad", seen(POLICY, disrupted("DeletionByTaintManager"), node=None), "kubectl get nodes"),
    (
        Cause.NODE_LOST,
        "waiting",
        seen(job(), pod("Running"), node=node("Unknown", "Kubelet stopped posting node status.")),
        "stopped posting",
    ),
    (Cause.DISRUPTED, "bad", seen(POLICY, disrupted("SomethingElse")), "SomethingElse"),
    (
        Cause.DISRUPTED,
        "bad",
        seen(
            ended(
                "Failed",
                "PodFailurePolicy",
                "Pod bench/x has condition DisruptionTarget matching FailJob rule at index 0",
            )
        ),
        "another run_id",
    ),
    (Cause.DELETED, "bad", seen(None, was_there=True), "deleted by someone"),
    (Cause.ABSENT, "waiting", seen(None), "start it again"),
    (Cause.DEADLINE, "bad", seen(ended("Failed", "DeadlineExceeded")), "60"),
    (
        Cause.SILENT,
        "waiting",
        seen(job(), pod("Running"), said={"state": "running"}, silent_s=130.0),
        "130 s",
    ),
]


@pytest.mark.parametrize(("cause", "state", "look", "words"), SCRIPTED, ids=[f"{row[0]}-{row[3]}" for row in SCRIPTED])
def test_each_cause_is_named_with_what_was_seen_and_what_to_do(
    cause: Cause, state: str, look: Seen, words: str
) -> None:
    found = diagnose("run", "jw2", "jw2", look)
    assert (found.cause, found.state) == (cause, state), found.reason
    assert words in found.reason
    assert "jw2" in found.reason or "engine" in found.reason or "run_id" in found.reason
    assert "\n" not in found.reason
    # A state that may pass says how it is shown and has an end; harness's own words say themselves what to do.
    assert found.state == "bad" or (found.patience_s < 600 and (found.progress or cause is Cause.ABSENT))
    assert ";" in found.reason or "kubectl" in found.reason or cause is Cause.HARNESS


SHUTDOWN = "Pod was terminated in response to imminent node shutdown."
PINNED = (
    "0/3 nodes are available: {}2 node(s) didn't satisfy plugin(s) [NodeAffinity]. no new claims to deallocate, "
    "preemption: 0/3 nodes are available: 1 No preemption victims found for incoming pod."
)
PULLED = 'failed to resolve reference "registry.example/node@sha256:{}": {}'
HEX = "4014034040" * 6 + "abcd"
UNREADY = [{"type": "ContainersReady", "status": "True"}, {"type": "Ready", "status": "False"}]
BACKOFF = ended("Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit")
TAINTED = {**node(), "spec": {"taints": [{"key": "team", "effect": "NoSchedule"}]}}
# As a cluster of release 1.36 words it, for a pod pinned to its node by name.
WORDED: list[tuple[Cause, Seen, str]] = [
    (
        Cause.GPU,
        seen(job(), unschedulable(PINNED.format("1 Insufficient nvidia.com/gpu, "))),
        "on node jw2: 1 Insufficient nvidia.com/gpu; `kubectl get pods -A",
    ),
    (
        Cause.GPU_LOST,
        seen(job(), asking(unschedulable(PINNED.format("1 Insufficient nvidia.com/gpu, ")), 1), node=node(gpus=(1, 0))),
        "offers 0 of its 1 nvidia.com/gpu; look on the node with `nvidia-smi`",
    ),
    (Cause.NODE_UNKNOWN, seen(job(), unschedulable(PINNED.format("")), node=None), "set harness_node"),
    (
        Cause.VOLUME_UNBOUND,
        seen(job(), unschedulable(PINNED.format("1 node(s) didn't match PersistentVolume's node affinity, "))),
        "another node than jw2",
    ),
    (Cause.QUOTA, seen(job(), events=[refused("failed quota: q: must specify limits.cpu for: run")]), "limits.cpu"),
    (
        Cause.RESOURCES,
        seen(job(), events=[refused("maximum memory usage per Container is 4Gi, but limit is 32Gi")]),
        "4Gi, but limit is 32Gi; ask for less",
    ),
    (Cause.HARNESS, seen(POLICY, terminated(4), log_tail="CUDA error: out of memory; ask for less"), "out of memory"),
    (Cause.IMAGE, seen(job(), waiting("ImageInspectError", "cannot inspect")), "cannot inspect"),
    (
        Cause.UNSCHEDULABLE,
        seen(job(), unschedulable(PINNED.format("1 node(s) didn't have free ports for the requested pod ports, "))),
        "on node jw2: 1 node(s) didn't have free ports for the requested pod ports; kubectl -n bench describe pod",
    ),
    (
        Cause.TAINT,
        seen(job(), unschedulable(PINNED.format("1 node(s) had untolerated taint(s), ")), node=TAINTED),
        "untolerated taint(s) (team); name the taint's key",
    ),
    (
        Cause.VOLUME_UNBOUND,
        seen(
            job(),
            nowhere("pod has unbound immediate PersistentVolumeClaims. preemption: no"),
            events=[event("ProvisioningFailed", 'storageclass.storage.k8s.io "fast" not found')],
            claims={"runs-jw2": "Pending"},
        ),
        '"fast" not found); the claim runs-jw2 waits',
    ),
    (
        Cause.VOLUME_UNBOUND,
        seen(job(), pod(), events=[event("ProvisioningFailed", "the pool is full")]),
        "the pool is full; kubectl -n bench describe pvc",
    ),
    (
        Cause.IMAGE,
        seen(job(), waiting("ErrImagePull", PULLED.format(HEX, "dial tcp 10.0.0.9:443: i/o timeout"))),
        "reaches the registry: crictl pull",
    ),
    (
        Cause.IMAGE,
        seen(
            job(),
            waiting("ImagePullBackOff", "Back-off pulling image"),
            events=[
                event("Failed", f"Failed to pull image: {PULLED.format(HEX, '403 Forbidden')}"),
                event("Failed", "Error: ErrImagePull"),
                event("Failed", "Error: ImagePullBackOff", "2027-01-15T08:00:09Z"),
            ],
        ),
        "403 Forbidden; correct harness_image, or give pull_secrets",
    ),
    (
        Cause.IMAGE,
        seen(job(), waiting("ErrImagePull", "write /var/lib/containerd/x: no space left on device")),
        "df -h /var/lib/containerd",
    ),
    (Cause.CONTAINER, seen(job(), waiting("SomeNewError", "it will not")), "(SomeNewError): it will not; kubectl"),
    (
        Cause.MOUNT,
        seen(job(), pod(), events=[event("FailedMount", 'path "/var/lib/mlperf/runs" does not exist')]),
        "site.yml --tags namespace",
    ),
    (
        Cause.RESOURCES,
        seen(BACKOFF, pod("Failed", reason="OutOfcpu", message="Pod was rejected: requested: 4000, capacity: 4000")),
        "(OutOfcpu): Pod was rejected: requested: 4000, capacity: 4000; kubectl -n bench describe node jw2",
    ),
    (Cause.POD_REFUSED, seen(BACKOFF, pod("Failed", reason="NodeAffinity", message="not here")), "not here; kubectl"),
    (Cause.NODE_LOST, seen(POLICY, disrupted("TerminationByKubelet", SHUTDOWN)), "shut down under run jw2"),
    (Cause.NODE_LOST, seen(POLICY, pod("Failed", reason="Terminated", message=SHUTDOWN)), "imminent node shutdown"),
    (Cause.NODE_LOST, seen(POLICY, terminated(255, "Unknown")), "last -x reboot"),
    (Cause.NODE_LOST, seen(job(), pod("Running", conditions=UNREADY), node=None), "kubectl describe node jw2"),
    (
        Cause.NODE_LOST,
        seen(
            ended("Failed", "PodFailurePolicy", "Pod bench/x has condition DisruptionTarget matching FailJob rule"),
            node=node("Unknown", "Kubelet stopped posting node status."),
        ),
        "stopped posting node status; look at its kubelet",
    ),
    (
        Cause.PREEMPTED,
        seen(POLICY, pod("Failed", reason="Preempting", message="Preempted in order to admit critical pod")),
        "to make room for a pod of the system",
    ),
    (Cause.DELETED, seen(leaving(job()), pod("Running")), "the Job of run jw2 was deleted"),
    (Cause.DELETED, seen(job(), leaving(pod("Running"))), "pod run-r1-jw2-abcde of run jw2 was deleted"),
    (
        Cause.DELETED,
        seen(POLICY, leaving(terminated(4)), said={"state": "stopped", "reason": "stopped on request"}),
        "start with another run_id",
    ),
    (
        Cause.DISRUPTED,
        seen(job(), owned(pod("Failed"), "first", "1"), owned(pod("Running"), "second", "1")),
        "started again as second, after first",
    ),
    (Cause.SIGNAL, seen(POLICY, terminated(137)), "SIGKILL (mostly by a kernel out of memory: `dmesg"),
    (Cause.SIGNAL, seen(POLICY, terminated(7)), "with exit code 7"),
    (
        Cause.SIGNAL,
        seen(job(), terminated(139), log_tail="Fatal Python error\n"),
        "Fatal Python error; kubectl -n bench logs",
    ),
    (
        Cause.POD_SECURITY,
        seen(job(), events=[refused('violates PodSecurity "restricted:latest": {seccompProfile} (container "run")')]),
        "{seccompProfile}",
    ),
    (
        Cause.GPU,
        seen(job(), events=[event("PodGroupPending", "0/3 nodes are unavailable: 1 Insufficient nvidia.com/gpu.")]),
        "on node jw2: 1 Insufficient nvidia.com/gpu;",
    ),
]


@pytest.mark.parametrize(("cause", "look", "words"), WORDED, ids=[f"{row[0]}-{row[2]}" for row in WORDED])
def test_the_words_of_a_cluster_are_understood(cause: Cause, look: Seen, words: str) -> None:
    found = diagnose("run", "jw2", "jw2", look)
    assert found.cause is cause, found.reason
    assert words in found.reason
    if found.state == "waiting":
        assert words in record("run", "jw2", found, look)["phase"]
    assert "preemption" not in found.reason
    assert ";" in found.reason or "kubectl" in found.reason


def test_harness_has_the_last_word_about_itself() -> None:
    said = {"state": "failed", "reason": "the weights are not there; run site.yml --tags assets"}
    broken = seen(POLICY, asking(terminated(3), 1), said=said, node=node(gpus=(2, 1)))
    found = diagnose("engine", "jw2", "jw2", broken)
    assert (found.cause, found.state) == (Cause.HARNESS, "bad")
    assert found.reason.startswith(said["reason"])
    assert "offers 1 of its 2 nvidia.com/gpu" in found.reason
    assert diagnose("run", "jw2", "jw2", broken).reason == said["reason"]
    # Deleted after its end, by whoever tidies up: that is not what ended it.
    assert diagnose("run", "jw2", "jw2", seen(POLICY, leaving(terminated(3)), said=said)).reason == said["reason"]
    invalid = seen(POLICY, terminated(5), said={"state": "finished"})
    assert diagnose("run", "jw2", "jw2", invalid).state == "good"


def test_pods_of_an_earlier_job_of_the_same_name_are_left_out() -> None:
    look = seen(job(), owned(leaving(terminated(143)), "old", "0"))
    assert diagnose("engine", "jw2", "jw2", look).progress == "waiting for its pod"
    look = seen(job(), owned(leaving(terminated(143)), "old", "0"), owned(pod("Running"), "new", "1"))
    assert diagnose("engine", "jw2", "jw2", look).state == "going"


def test_what_has_passed_is_forgotten() -> None:
    creating = waiting("ContainerCreating")
    failed, later = event("FailedCreatePodSandBox", "no network yet"), "2027-01-15T08:00:20Z"
    assert diagnose("run", "jw2", "jw2", seen(job(), creating, events=[failed])).cause is Cause.CONTAINER
    pulls = {"reason": "Pulling", "message": "Pulling image", "series": {"lastObservedTime": later}}
    found = diagnose("run", "jw2", "jw2", seen(job(), creating, events=[pulls, failed]))
    assert (found.state, found.progress) == ("going", "pulling the image")
    pulled = {"reason": "Pulled", "message": "Image is present", "eventTime": "2027-01-15T08:00:30.123456Z"}
    found = diagnose("run", "jw2", "jw2", seen(job(), creating, events=[pulls, pulled, failed]))
    assert found.progress == "starting its container"


def test_a_suspended_job_waits_for_its_queue_without_limit() -> None:
    held = seen(ended("Suspended", "JobSuspended", "Job suspended"))
    found = diagnose("run", "jw2", "jw2", held)
    assert (found.state, found.patience_s) == ("going", math.inf)
    assert "suspended" in found.progress


@pytest.mark.parametrize(("age_s", "cause"), [(50, Cause.RUNNING), (70, Cause.SILENT)])
def test_silence_is_told_after_a_minute_and_borne_for_two_more(age_s: float, cause: Cause) -> None:
    said = {"state": "running", "phase": "performance"}
    found = diagnose("run", "jw2", "jw2", seen(job(), pod("Running"), said=said, silent_s=age_s))
    assert found.cause is cause
    assert found.state in ("going", "waiting")
    assert found.patience_s >= 120


def test_a_node_that_is_lost_is_given_up_within_the_time_that_is_promised() -> None:
    # The cluster needs up to 50 s to notice that a kubelet is silent; all in all 90 s are promised.
    silent = seen(job(), pod("Running"), node=node("Unknown", "Kubelet stopped posting node status."))
    assert 50 + diagnose("run", "jw2", "jw2", silent).patience_s < 90
    unwell = seen(job(), pod("Running"), node=node("False", "container runtime is down"))
    assert 15 < diagnose("run", "jw2", "jw2", unwell).patience_s < 90


def test_every_failure_is_told_apart() -> None:
    told = {row[0] for row in SCRIPTED}
    assert set(Cause) - told == {Cause.STARTING, Cause.RUNNING, Cause.READY, Cause.FINISHED, Cause.STOPPED}


def test_a_run_on_its_way() -> None:
    pulling = seen(job(), pod(), events=[event("Pulling", "Pulling image")])
    assert diagnose("run", "jw2", "jw2", pulling).progress == "pulling the image"
    shown = record("run", "jw2", diagnose("run", "jw2", "jw2", pulling), pulling)
    assert (shown["state"], shown["phase"], shown["run_id"]) == ("running", "pulling the image", "r1")
    said = {"run_id": "r1", "state": "running", "phase": "performance", "samples_done": 3, "updated_unix": NOW}
    running = seen(job(), pod("Running"), said=said)
    assert record("run", "jw2", diagnose("run", "jw2", "jw2", running), running)["samples_done"] == 3
    done = seen(
        ended("Complete"), pod("Succeeded"), said={**said, "state": "finished", "calibration": {"target_qps": 5}}
    )
    shown = record("run", "jw2", diagnose("run", "jw2", "jw2", done), done)
    assert (shown["state"], shown["calibration"]) == ("finished", {"target_qps": 5})
    unread = seen(ended("Complete"), pod("Succeeded"))
    assert record("run", "jw2", diagnose("run", "jw2", "jw2", unread), unread)["state"] == "finished"


def test_an_engine_on_its_way() -> None:
    said = {"name": "jw2", "state": "starting", "progress": "loading weights", "started_unix": 5.0, "config": {}}
    loading = seen(job(), pod("Running"), said=said)
    shown = record("engine", "jw2", diagnose("engine", "jw2", "jw2", loading), loading)
    assert (shown["state"], shown["progress"], shown["started_unix"]) == ("starting", "loading weights", 5.0)
    assert "config" not in shown
    ready = seen(job(), pod("Running"), said={**said, "state": "ready", "telemetry": {"running": 3.0}})
    shown = record("engine", "jw2", diagnose("engine", "jw2", "jw2", ready), ready)
    assert (shown["state"], shown["telemetry"]) == ("ready", {"running": 3.0})
    gone = seen(
        ended("Complete"), pod("Succeeded"), said={**said, "state": "stopped", "reason": "asked to stop (SIGTERM)"}
    )
    assert diagnose("engine", "jw2", "jw2", gone).cause is Cause.STOPPED
    assert record("engine", "jw2", diagnose("engine", "jw2", "jw2", gone), gone)["state"] == "failed"


def test_a_failure_is_shown_over_what_the_log_said_last() -> None:
    said = {"run_id": "r1", "state": "running", "phase": "performance", "samples_done": 3, "updated_unix": NOW}
    killed = seen(POLICY, terminated(137, "OOMKilled"), said=said)
    shown = record("run", "jw2", diagnose("run", "jw2", "jw2", killed), killed)
    assert (shown["state"], shown["samples_done"]) == ("failed", 3)
    assert "killed for memory" in shown["reason"]
