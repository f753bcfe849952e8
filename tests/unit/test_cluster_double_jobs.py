"""The double's Job controller, scheduler, admission and nodes, through every failure that a benchmark meets."""

import threading

import pytest
from kubernetes import watch

from tests.cluster import Cluster, kinds, scripts
from tests.unit.cluster_clients import IMAGE, Clients, Object, condition, job, only_on, pod_spec, refused, soon


def test_a_job_that_succeeds(cluster: Cluster, k8s: Clients) -> None:
    cluster.script("*", scripts.exits(0, "line 1\nline 2"))
    k8s.batch.create_namespaced_job("mlperf", job())
    finished_job = soon(lambda: condition(k8s.job(), "Complete") and k8s.job())
    assert [one["type"] for one in finished_job["status"]["conditions"]] == ["SuccessCriteriaMet", "Complete"]
    assert (
        finished_job["status"]["succeeded"] == 1
        and "active" not in finished_job["status"]
        and finished_job["status"]["completionTime"]
    )
    (pod,) = k8s.pods()
    assert pod["status"]["phase"] == "Succeeded" and pod["metadata"]["labels"]["job-name"] == "j"
    assert pod["metadata"]["ownerReferences"][0]["uid"] == finished_job["metadata"]["uid"]
    raw = k8s.core.read_namespaced_pod_log(pod["metadata"]["name"], "mlperf", tail_lines=1, _preload_content=False)
    assert raw.data == b"line 2\n"
    k8s.batch.patch_namespaced_job("j", "mlperf", {"spec": {"ttlSecondsAfterFinished": 1}})
    soon(lambda: k8s.batch.list_namespaced_job("mlperf").items == [] and k8s.pods() == [])


@pytest.mark.parametrize(
    ("steps", "reason", "message"),
    [
        (
            scripts.exits(3, "no GPU"),
            "PodFailurePolicy",
            "Container run for pod mlperf/{} failed with exit code 3 matching FailJob rule at index 1",
        ),
        (scripts.oom_killed(), "PodFailurePolicy", "failed with exit code 137 matching FailJob rule at index 1"),
        (
            scripts.evicted_by_api(),
            "PodFailurePolicy",
            "Pod mlperf/{} has condition DisruptionTarget matching FailJob rule at index 0",
        ),
        (scripts.preempted(), "PodFailurePolicy", "has condition DisruptionTarget"),
        (scripts.tainted(), "PodFailurePolicy", "has condition DisruptionTarget"),
        (scripts.put_out(), "PodFailurePolicy", "has condition DisruptionTarget"),
        (scripts.gpu_lost(), "BackoffLimitExceeded", "Job has reached the specified backoff limit"),
    ],
    ids=["exit", "memory", "evicted", "preempted", "tainted", "put-out", "gpu"],
)
def test_a_job_that_fails(cluster: Cluster, k8s: Clients, steps: list[scripts.Step], reason: str, message: str) -> None:
    cluster.script("*", steps)
    k8s.batch.create_namespaced_job("mlperf", job())
    name = soon(k8s.pods)[0]["metadata"]["name"]
    failed = soon(lambda: condition(k8s.job(), "Failed"))
    assert failed["reason"] == reason and message.format(name) in failed["message"]
    assert condition(k8s.job(), "FailureTarget")["message"] == failed["message"]
    assert k8s.job()["status"]["failed"] == 1
    assert failed["message"] in k8s.event_messages(reason)


def test_the_termination_message_of_a_container(cluster: Cluster, k8s: Clients) -> None:
    cluster.script("*", scripts.oom_killed("the last words"))
    spec = pod_spec()
    spec["containers"][0]["terminationMessagePolicy"] = "FallbackToLogsOnError"
    k8s.core.create_namespaced_pod("mlperf", {"metadata": {"name": "p"}, "spec": spec})
    soon(lambda: k8s.pods()[0]["status"]["phase"] == "Failed")
    terminated = k8s.pods()[0]["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (terminated["exitCode"], terminated["reason"], terminated["message"]) == (
        137,
        "OOMKilled",
        "the last words\n",
    )


@pytest.mark.parametrize(
    ("steps", "reason", "event"),
    [
        (scripts.pull_fails(IMAGE), "ImagePullBackOff", "Failed"),
        (scripts.never_pulled(IMAGE), "ErrImageNeverPull", "ErrImageNeverPull"),
        (scripts.invalid_name("?"), "InvalidImageName", "InspectFailed"),
        (scripts.config_error('configmap "c" not found'), "CreateContainerConfigError", "Failed"),
        (scripts.mount_fails("runs", "mount failed"), "ContainerCreating", "FailedMount"),
    ],
    ids=["pull", "never", "name", "config", "mount"],
)
def test_a_container_that_does_not_start(
    cluster: Cluster, k8s: Clients, steps: list[scripts.Step], reason: str, event: str
) -> None:
    cluster.script("j", steps)
    k8s.batch.create_namespaced_job("mlperf", job())

    def waiting() -> list[Object]:
        states = [one["state"] for pod in k8s.pods() for one in pod["status"].get("containerStatuses", ())]
        return [state.get("waiting", {}) for state in states]

    soon(lambda: [one["reason"] for one in waiting()] == [reason] and k8s.event_messages(event))
    name = k8s.pods()[0]["metadata"]["name"]
    body = refused(k8s.core.read_namespaced_pod_log, name, "mlperf")
    assert body["code"] == 400 and f'container "run" in pod "{name}" is waiting to start' in body["message"]


def test_an_unknown_image_cannot_be_pulled(k8s: Clients) -> None:
    k8s.batch.create_namespaced_job("mlperf", job())
    soon(lambda: any("Back-off pulling image" in message for message in k8s.event_messages("BackOff")))


@pytest.mark.parametrize("cause", ["security", "account", "runtime", "quota"])
def test_a_rejected_pod_is_an_event_of_its_job(cluster: Cluster, k8s: Clients, cause: str) -> None:
    spec = pod_spec()
    if cause == "security":
        spec["containers"][0]["securityContext"] = {}
        message = (
            'is forbidden: violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false (container '
            '"run" must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container '
            '"run" must set securityContext.capabilities.drop=["ALL"])'
        )
    elif cause == "account":
        spec["serviceAccountName"] = "nobody"
        message = 'error looking up service account mlperf/nobody: serviceaccount "nobody" not found'
    elif cause == "runtime":
        spec["runtimeClassName"] = "nvidia"
        message = 'is forbidden: pod rejected: RuntimeClass "nvidia" not found'
    else:
        cluster.quota({"pods": "0"})
        message = "is forbidden: exceeded quota: quota, requested: pods=1, used: pods=0, limited: pods=0"
    _, _, headers = k8s.batch.create_namespaced_job_with_http_info("mlperf", job(spec))
    assert ("would violate PodSecurity" in headers.get("Warning", "")) == (cause == "security")
    (event,) = soon(lambda: k8s.event_messages("FailedCreate"))[:1]
    assert event.startswith('Error creating: pods "j-') and message in event
    assert k8s.pods() == []
    refused(k8s.core.create_namespaced_pod, "mlperf", {"metadata": {"name": "p"}, "spec": spec})


def test_deadline_and_suspension(cluster: Cluster, k8s: Clients) -> None:
    cluster.script("*", [scripts.Running()])
    k8s.batch.create_namespaced_job("mlperf", job(suspend=True, activeDeadlineSeconds=1))
    soon(lambda: condition(k8s.job(), "Suspended").get("status") == "True")
    assert k8s.pods() == []
    k8s.batch.patch_namespaced_job("j", "mlperf", {"spec": {"suspend": False}})
    soon(lambda: condition(k8s.job(), "Failed").get("reason") == "DeadlineExceeded")


GPU = {"limits": {"nvidia.com/gpu": 1}}
FAR = {"key": "dedicated", "value": "lab", "effect": "NoSchedule"}


def test_the_schedulers_reasons(cluster: Cluster, k8s: Clients) -> None:
    cluster.node("n2", taints=[FAR])
    cluster.node("n3")
    cluster.claim("free", None, bound=False)
    volume = lambda name: [{"name": "v", "persistentVolumeClaim": {"claimName": name}}]  # noqa: E731
    gpu = pod_spec()
    gpu["containers"][0]["resources"] = {"limits": {"nvidia.com/gpu": 2}}
    cases = {
        "gpu": (
            gpu | {"affinity": only_on("n1")},
            "0/3 nodes are available: 1 Insufficient nvidia.com/gpu, 2 node(s) didn't "
            "satisfy plugin(s) [NodeAffinity]. no new claims to deallocate, preemption: 0/3 nodes are available: 3 "
            "Preemption is not helpful for scheduling.",
        ),
        "taint": (
            pod_spec(affinity=only_on("n2")),
            "1 node(s) had untolerated taint(s), 2 node(s) didn't satisfy plugin(s)",
        ),
        "nowhere": (
            pod_spec(affinity=only_on("n9")),
            "0/3 nodes are available: 3 node(s) didn't satisfy plugin(s) [NodeAffinity]",
        ),
        "unbound": (
            pod_spec(volumes=volume("free")),
            "0/3 nodes are available: pod has unbound immediate PersistentVolumeClaims",
        ),
        "absent": (
            pod_spec(volumes=volume("none")),
            '0/3 nodes are available: persistentvolumeclaim "none" not found.',
        ),
    }
    for name, (spec, _) in cases.items():
        k8s.core.create_namespaced_pod("mlperf", {"metadata": {"name": name}, "spec": spec})
    for name, (_, message) in cases.items():
        find = lambda name=name: cluster.find(kinds.POD, name)  # noqa: E731
        scheduled = soon(lambda find=find: condition(find(), "PodScheduled"))
        assert (
            scheduled["status"] == "False"
            and scheduled["reason"] == "Unschedulable"
            and message in scheduled["message"]
        )
    assert all(
        text in k8s.event_messages("FailedScheduling")
        for text in [condition(pod, "PodScheduled")["message"] for pod in k8s.pods()]
    )
    event = k8s.core.list_namespaced_event("mlperf", field_selector="reason=FailedScheduling").items[0]
    assert event.last_timestamp is None and event.event_time and event.reporting_component == "default-scheduler"
    cluster.script("*", [scripts.Running()])
    cluster.bind("free")
    soon(lambda: cluster.find(kinds.POD, "unbound")["status"]["phase"] == "Running")


def test_gpus_are_allocated_exclusively(cluster: Cluster, k8s: Clients) -> None:
    cluster.script("*", [scripts.Running()])
    spec = pod_spec()
    spec["containers"][0]["resources"] = GPU
    for name in ("first", "second"):
        k8s.core.create_namespaced_pod("mlperf", {"metadata": {"name": name}, "spec": spec})
    soon(lambda: k8s.event_messages("FailedScheduling"))
    assert sorted(pod["status"]["phase"] for pod in k8s.pods()) == ["Pending", "Running"]
    deleted = k8s.core.delete_namespaced_pod("first", "mlperf", grace_period_seconds=1)
    assert deleted.metadata.deletion_timestamp
    soon(lambda: [pod["status"]["phase"] for pod in k8s.pods()] == ["Running"])


def test_a_lost_node_keeps_its_job_waiting_until_it_is_back(cluster: Cluster, k8s: Clients) -> None:
    cluster.script("*", [scripts.Running()])
    k8s.batch.create_namespaced_job("mlperf", job())
    soon(lambda: k8s.pods() and k8s.pods()[0]["status"]["phase"] == "Running")
    cluster.lose_node("n1", evict_after_s=0.1, silent_s=0.1)
    ready = next(one for one in k8s.core.read_node("n1").status.conditions if one.type == "Ready")
    assert (ready.status, ready.reason) == ("Unknown", "NodeStatusUnknown")
    soon(lambda: condition(k8s.pods()[0], "DisruptionTarget").get("reason") == "DeletionByTaintManager")
    assert k8s.pods()[0]["metadata"]["deletionTimestamp"] and not condition(k8s.job(), "Failed")
    assert refused(k8s.core.read_namespaced_pod_log, k8s.pods()[0]["metadata"]["name"], "mlperf")["code"] == 500
    cluster.find_node("n1")
    soon(lambda: condition(k8s.job(), "Failed").get("reason") == "PodFailurePolicy")
    soon(lambda: k8s.pods() == [])


def test_a_deleted_job(cluster: Cluster, k8s: Clients) -> None:
    cluster.script("*", [scripts.Running()])
    k8s.batch.create_namespaced_job("mlperf", job())
    listed = soon(lambda: k8s.pods() and k8s.core.list_namespaced_pod("mlperf"))
    types: list[str] = []

    def look() -> None:
        since = {"resource_version": listed.metadata.resource_version, "timeout_seconds": 3}
        for event in watch.Watch().stream(k8s.core.list_namespaced_pod, "mlperf", **since):
            types.append(event["type"])

    watcher = threading.Thread(target=look)
    watcher.start()
    cluster.delete_job("j")
    soon(lambda: "DELETED" in types)
    assert refused(k8s.batch.read_namespaced_job, "j", "mlperf")["message"] == 'jobs.batch "j" not found'
    watcher.join(5)
