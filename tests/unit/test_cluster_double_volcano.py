"""The double's Volcano: phases of jobs, gangs, queues and admission."""

from collections.abc import Iterator
from typing import Any

import pytest
from kubernetes import client

from tests.cluster import Cluster, kinds, scripts
from tests.unit.cluster_clients import Clients, Object, only_on, pod_spec, refused, soon

WHERE = {"group": "batch.volcano.sh", "version": "v1alpha1", "namespace": "mlperf", "plural": "jobs"}
ENDS = [{"events": ["PodFailed", "PodEvicted"], "action": "TerminateJob"}]
WITH_IT = [{"event": "TaskCompleted", "action": "CompleteJob"}]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster() as double:
        double.node("n1", gpus=1)
        double.node("n2", gpus=1)
        yield double


def gpu_spec(node: str, gpus: int = 1, cpu: str = "1") -> Object:
    spec = pod_spec(affinity=only_on(node))
    gpu = {"nvidia.com/gpu": gpus}
    spec["containers"][0]["resources"] = {"limits": gpu, "requests": {"cpu": cpu, **gpu}}
    return spec


def job(*tasks: Object, **more: Any) -> Object:
    spec = {"policies": ENDS, "maxRetry": 1, "tasks": list(tasks) or [task("t")], **more}
    return {"apiVersion": "batch.volcano.sh/v1alpha1", "kind": "Job", "metadata": {"name": "j"}, "spec": spec}


def task(name: str, spec: Object | None = None, **more: Any) -> Object:
    template = {"metadata": {"labels": {"mlperf/run": "r"}, "annotations": {"a": "b"}}, "spec": spec or pod_spec()}
    return {"name": name, "replicas": 1, "template": template, **more}


def make(k8s: Clients, body: Object) -> Object:
    return dict(client.CustomObjectsApi(k8s.api).create_namespaced_custom_object(**WHERE, body=body))


def status(cluster: Cluster) -> Object:
    job_object = cluster.find(kinds.VOLCANO_JOB, "j")
    return dict(job_object.get("status", {})) if job_object else {}


def phase(cluster: Cluster) -> str:
    return str(status(cluster).get("state", {}).get("phase", ""))


def phases(cluster: Cluster) -> list[str]:
    return [one["status"] for one in status(cluster)["conditions"]]


def test_a_job_completes_and_expires_by_its_ttl(cluster: Cluster, k8s: Clients) -> None:
    cluster.script("*", scripts.exits(0, after_s=0.3))
    created = make(k8s, job(ttlSecondsAfterFinished=1))
    assert (created["spec"]["queue"], created["spec"]["minAvailable"], created["spec"]["schedulerName"]) == (
        "default", 1, "volcano",
    )  # fmt: skip
    (pod,) = soon(k8s.pods)
    assert (pod["metadata"]["name"], pod["spec"]["schedulerName"]) == ("j-t-0", "volcano")
    labels = {"volcano.sh/job-name": "j", "volcano.sh/task-spec": "t", "volcano.sh/queue-name": "default"}
    assert {**labels, "mlperf/run": "r", "volcano.sh/job-namespace": "mlperf"}.items() <= pod["metadata"][
        "labels"
    ].items()
    group = f"j-{created['metadata']['uid']}"
    notes = pod["metadata"]["annotations"]
    assert (notes["scheduling.k8s.io/group-name"], notes["volcano.sh/job-version"], notes["a"]) == (group, "0", "b")
    (owner,) = pod["metadata"]["ownerReferences"]
    assert (owner["apiVersion"], owner["uid"], owner["controller"]) == (
        "batch.volcano.sh/v1alpha1", created["metadata"]["uid"], True,
    )  # fmt: skip
    soon(lambda: status(cluster).get("taskStatusCount") == {"t": {"phase": {"Running": 1}}})
    soon(lambda: phase(cluster) == "Completed")
    assert phases(cluster) == ["Pending", "Running", "Completed"]
    assert (status(cluster)["succeeded"], status(cluster)["running"]) == (1, 0)
    soon(lambda: not cluster.all(kinds.VOLCANO_GROUP))
    soon(lambda: not cluster.all(kinds.VOLCANO_JOB) and not k8s.pods())


def test_a_failed_pod_terminates_its_job_and_remains(cluster: Cluster, k8s: Clients) -> None:
    cluster.script("j-bad-*", scripts.exits(3, after_s=0.3))
    cluster.script("j-good-*", [scripts.Running()])
    make(k8s, job(task("good"), task("bad")))
    soon(lambda: phase(cluster) == "Terminated")
    assert phases(cluster) == ["Pending", "Running", "Terminating", "Terminated"]
    (pod,) = k8s.pods()
    assert pod["metadata"]["name"] == "j-bad-0"
    assert pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 3
    assert (status(cluster)["failed"], status(cluster)["terminating"]) == (1, 0)


def test_a_task_that_completes_may_complete_its_job(cluster: Cluster, k8s: Clients) -> None:
    cluster.script("j-run-*", scripts.exits(0, after_s=0.3))
    cluster.script("j-engine-*", [scripts.Running()])
    make(k8s, job(task("engine"), task("run", policies=WITH_IT)))
    soon(lambda: phase(cluster) == "Completed")
    assert phases(cluster) == ["Pending", "Running", "Completing", "Completed"]
    assert [pod["metadata"]["name"] for pod in k8s.pods()] == ["j-run-0"]


def test_an_evicted_pod_terminates_its_job_or_is_recreated_without_a_policy(cluster: Cluster, k8s: Clients) -> None:
    cluster.script("*", [scripts.Running()])
    make(k8s, job())
    soon(lambda: phase(cluster) == "Running")
    cluster.evict("j-t-0")
    soon(lambda: phase(cluster) == "Terminated" and not k8s.pods())
    cluster.delete_volcano_job("j")
    make(k8s, job(policies=[]))
    soon(lambda: phase(cluster) == "Running")
    uid = k8s.pods()[0]["metadata"]["uid"]
    cluster.delete(kinds.POD, "j-t-0", grace_s=0)
    soon(lambda: [pod["metadata"]["uid"] for pod in k8s.pods()] not in ([], [uid]))


def test_a_job_is_restarted_up_to_max_retry(cluster: Cluster, k8s: Clients) -> None:
    cluster.script("*", scripts.exits(1))
    make(k8s, job(maxRetry=2, policies=[{"event": "PodFailed", "action": "RestartJob"}]))
    soon(lambda: phase(cluster) == "Failed", 10)
    assert (status(cluster)["retryCount"], phases(cluster).count("Restarting")) == (2, 2)


def test_deleting_a_job_deletes_its_pods(cluster: Cluster, k8s: Clients) -> None:
    cluster.script("*", [scripts.Running()])
    make(k8s, job())
    soon(lambda: phase(cluster) == "Running")
    client.CustomObjectsApi(k8s.api).delete_namespaced_custom_object(**WHERE, name="j", propagation_policy="Background")
    soon(lambda: not k8s.pods() and not cluster.all(kinds.VOLCANO_JOB) and not cluster.all(kinds.VOLCANO_GROUP))


def test_gang_scheduling(cluster: Cluster, k8s: Clients) -> None:
    cluster.script("*", [scripts.Running()])
    make(k8s, job(task("a", gpu_spec("n1")), task("b", gpu_spec("n1"))))
    (message,) = soon(lambda: k8s.event_messages("PodGroupPending"))
    assert message == (
        "PodGroup mlperf:j unschedulable, reason: 2/2 tasks in gang unschedulable: pod group is not ready, 2 Pending, "
        "2 minAvailable; Pending: 1 Schedulable, 1 Unschedulable"
    )
    messages = {one for pod in k8s.pods() for one in [pod["status"]["conditions"][0]["message"]]}
    short = "1 Insufficient nvidia.com/gpu, 1 node(s) didn't match Pod's node affinity/selector."
    fits = "Pod mlperf/j-a-0 can possibly be assigned to n1, once minAvailable is satisfied"
    assert messages == {fits, f"0/2 nodes are unavailable: {short}"}
    assert phase(cluster) == "Pending"
    cluster.gpus("n1", 2)
    soon(lambda: phase(cluster) == "Running")
    assert {pod["spec"]["nodeName"] for pod in k8s.pods()} == {"n1"}


def test_a_full_queue_or_cluster_admits_no_job(cluster: Cluster, k8s: Clients) -> None:
    cluster.script("*", [scripts.Running()])
    cluster.queue("small", {"nvidia.com/gpu": "0"})
    make(k8s, job(task("a", gpu_spec("n1")), queue="small"))
    why = "queue resource quota insufficient: insufficient nvidia.com/gpu"
    soon(lambda: why in k8s.event_messages("Unschedulable"))
    assert k8s.pods() == [] and phase(cluster) == "Pending"
    cluster.delete_volcano_job("j")
    make(k8s, job(task("a", gpu_spec("n1", cpu="900"))))
    soon(lambda: "resource in cluster is overused: overused cpu" in k8s.event_messages("Unschedulable"))
    assert k8s.pods() == []


def test_a_rejected_pod_is_an_event_with_a_go_struct(cluster: Cluster, k8s: Clients) -> None:
    make(k8s, job(task("a", pod_spec(serviceAccountName="nobody"))))
    (message,) = soon(lambda: k8s.event_messages("FailedCreate"))
    assert message.startswith(
        "Error creating pods: [failed to create pod j-a-0, err: &errors.StatusError{ErrStatus:v1.St"
    )
    assert 'Message:"pods \\"j-a-0\\" is forbidden: error looking up service account mlperf/nobody' in message


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (job(queue="none"), 'unable to find job queue: queues.scheduling.volcano.sh "none" not found'),
        (job(tasks=[]), "No task specified in job spec"),
        (job(task("a"), task("a")), "duplicated task name a"),
        (job(task("x" * 62)), "create pod with name j-"),
        (job(minAvailable=2), "job 'minAvailable' should not be greater than total replicas in tasks"),
    ],
)
def test_bad_jobs_are_refused(k8s: Clients, body: Object, message: str) -> None:
    custom = client.CustomObjectsApi(k8s.api)
    answer = refused(custom.create_namespaced_custom_object, **WHERE, body=body)
    assert answer["message"].startswith('admission webhook "validatejob.volcano.sh" denied the request: ')
    assert message in answer["message"]


def test_the_spec_of_a_job_is_immutable(cluster: Cluster, k8s: Clients) -> None:
    make(k8s, job(task("a", gpu_spec("n9"))))
    patch = client.CustomObjectsApi(k8s.api).patch_namespaced_custom_object
    answer = refused(patch, **WHERE, name="j", body={"spec": {"ttlSecondsAfterFinished": 86400}})
    assert "job updates may not change fields other than" in answer["message"]
    assert patch(**WHERE, name="j", body={"metadata": {"annotations": {"a": "b"}}, "spec": {"maxRetry": 2}})
