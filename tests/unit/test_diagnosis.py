"""Every way in which a Job, its pod or its node may fail is named, with what was seen and what to do next."""

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
    (Cause.GPU_LOST, "bad", seen(POLICY, terminated(4), node=node(gpus=(2, 1))), "offers 1 of its 2 nvidia.com/gpu"),
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
        seen(job(), pod("Running"), said={"state": "running", "updated_unix": NOW - 130}),
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
