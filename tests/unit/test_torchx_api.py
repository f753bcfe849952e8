"""Launcher torchx on the double with Volcano: idempotent creation, names, states, failures and remains."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from torchx.specs import AppState

from harness.cli import cli
from harness.cluster import launch, torchx_app, watch
from harness.cluster.launch import Launcher
from harness.cluster.rbac import VOLCANO_RIGHTS
from harness.cluster.settings import parse_cluster
from harness.cluster.torchx_api import TorchxApi, job_state
from harness.errors import BadInput
from tests.cluster import ADMIN, Cluster, scripts
from tests.cluster.kinds import CONFIG_MAP, JOB, POD, SECRET, SERVICE, VOLCANO_GROUP, VOLCANO_JOB
from tests.cluster.kinds import NODE as NODES
from tests.unit import cluster_fixtures
from tests.unit.cluster_fixtures import IMAGE, OPERATOR, Object, engine, failure, furnish, operator, see, soon, spec

RUN = "20261125-093000-server-13368"
NODE = "gpu-017.cluster.hpc.example.org"
RUNNING = [scripts.Running(), scripts.Log('{"run_id": "r1", "state": "running", "phase": "performance"}')]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster() as double:
        furnish(double, "n1", gpus=2)
        yield double


@pytest.fixture(autouse=True)
def haste(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "MIN_INTERVAL_S", 0.1)


def launcher(cluster: Cluster, token: str = ADMIN, queue: str = "default") -> Launcher:
    api = TorchxApi(cluster.namespace, cluster.kubeconfig(token), retry_s=1.0, queue=queue)
    return Launcher(api, parse_cluster({"image": IMAGE, "queue": queue}))


def names(cluster: Cluster) -> list[str]:
    result = [one["metadata"]["name"] for kind in (VOLCANO_JOB, VOLCANO_GROUP, JOB, POD) for one in cluster.all(kind)]
    return [*result, *cluster_fixtures.names(cluster)]


def test_pod_names_fit_into_63_characters_and_match_their_labels(cluster: Cluster) -> None:
    furnish_another(cluster, NODE)
    cluster.script("*", RUNNING)
    starter = launcher(cluster)
    starter.start(spec(RUN, NODE), NODE)
    for number in range(2):
        starter.engine_up(RUN, NODE, engine(f"{NODE}-{number}", port=8000 + number))
    pods = soon(lambda: len(cluster.all(POD)) == 3 and cluster.all(POD))
    assert len({pod["metadata"]["name"] for pod in pods}) == 3
    for pod in pods:
        values = [pod["metadata"]["name"], *pod["metadata"]["labels"].values()]
        assert all(len(value) <= 63 for value in values), values
        (listed,) = starter.api.list_objects("Pod", f"mlperf/name={pod['metadata']['labels']['mlperf/name']}")
        assert listed["metadata"]["name"] == pod["metadata"]["name"]
        # What `torchx log` looks for.
        role = pod["metadata"]["labels"]["torchx.pytorch.org/role-name"]
        job = pod["metadata"]["labels"]["volcano.sh/job-name"]
        assert pod["metadata"]["name"] == f"{job}-{role}-0-0"
    assert [one["run_id"] for one in starter.runs(NODE)] == [RUN]


def furnish_another(cluster: Cluster, node: str) -> None:
    cluster.node(node, gpus=2)
    for claim in ("runs", "model", "dataset"):
        cluster.claim(f"{claim}-{node}", None, node=node)


def test_an_engine_is_created_once_and_deleted_with_its_pod(cluster: Cluster) -> None:
    cluster.queue("benchmarks")
    cluster.script(
        "engine-*",
        [scripts.Running(), scripts.Log('{"name": "e1", "kind": "vllm", "state": "ready", "url": "http://e1:8000"}')],
    )
    starter = launcher(cluster, queue="benchmarks")
    assert [starter.engine_up("r1", "n1", engine()).changed for _ in range(2)] == [True, False]
    assert starter.engine_up("r1", "n1", engine(), dry_run=True).changed is False
    (job,), owner = cluster.all(VOLCANO_JOB), cluster.find(CONFIG_MAP, "mlperf-r1")
    assert owner is not None
    assert job["spec"]["queue"] == "benchmarks"
    assert [one["uid"] for one in job["metadata"]["ownerReferences"]] == [owner["metadata"]["uid"]]
    with pytest.raises(BadInput, match="exists with other settings"):
        starter.engine_up("r1", "n1", engine(max_num_seqs=8))
    with pytest.raises(BadInput, match="cannot be changed after its creation"):
        starter.api.patch("Job", "engine-r1-e1", {"spec": {"ttlSecondsAfterFinished": 86400}})
    see(starter, "engine", lambda look: look["records"][0]["state"] == "ready")
    assert starter.engine_down("r1", "e1", dry_run=True) is True
    assert [starter.engine_down("r1", "e1") for _ in range(2)] == [True, False]
    assert cluster.all(POD) == [] and cluster.all(VOLCANO_JOB) == [] and cluster.all(SERVICE) == []
    soon(lambda: cluster.all(VOLCANO_GROUP) == [])
    assert starter.engine_up("r1", "n1", engine()).changed is True


def test_an_engine_that_has_ended_can_be_started_again(cluster: Cluster) -> None:
    cluster.script("engine-*", scripts.exits(0), times=1)
    starter = launcher(cluster)
    starter.engine_up("r1", "n1", engine())
    assert "before it was taken down" in failure(starter, "engine")
    cluster.script("engine-*", RUNNING)
    assert starter.engine_up("r1", "n1", engine()).changed is True
    soon(lambda: [pod["status"]["phase"] for pod in cluster.all(POD)] == ["Running"])


def test_more_gpus_than_the_node_has_are_an_error_unless_nodes_cannot_be_read(cluster: Cluster) -> None:
    starter = launcher(cluster)
    with pytest.raises(BadInput, match=r"of node n1 request 4 nvidia\.com/gpu, it has 2; lower engines_per_node"):
        starter.engine_up("r1", "n1", engine(tensor_parallel=4))
    assert cluster.all(VOLCANO_JOB) == []
    operator(cluster, [right for right in VOLCANO_RIGHTS if not right.cluster_wide])
    assert launcher(cluster, OPERATOR).engine_up("r1", "n1", engine(tensor_parallel=4)).changed is True


def test_a_dry_run_is_validated_by_the_api_server_and_stores_nothing(cluster: Cluster) -> None:
    assert launcher(cluster).engine_up("r1", "n1", engine(), dry_run=True).changed is True
    assert names(cluster) == []
    assert ("batch.volcano.sh", "jobs", "create") in cluster.rights_used()


@pytest.mark.parametrize(
    ("phase", "state", "condition"),
    [
        ("Completed", AppState.SUCCEEDED, "Complete"),
        ("Terminated", AppState.FAILED, "Failed"),
        ("Failed", AppState.FAILED, "Failed"),
        ("Aborted", AppState.CANCELLED, "Failed"),
        ("Running", AppState.RUNNING, None),
        ("Pending", AppState.PENDING, None),
    ],
)
def test_phases_become_conditions_of_a_batch_job(
    cluster: Cluster, phase: str, state: AppState, condition: str | None
) -> None:
    cluster.script("*", RUNNING, unschedulable="never" if phase == "Pending" else "")
    starter = launcher(cluster)
    starter.engine_up("r1", "n1", engine())
    soon(lambda: phase_of(cluster) == ("Pending" if phase == "Pending" else "Running"))
    if condition:
        final_state = {"phase": phase, "message": "its policy"}
        cluster.edit(VOLCANO_JOB, "engine-r1-e1", lambda job: job["status"].update(state=final_state))
    api = starter.api
    assert isinstance(api, TorchxApi)
    assert api.state("engine-r1-e1") == state
    for job in (api.read("Job", "engine-r1-e1"), *api.list_objects("Job")):
        assert job is not None
        conditions = [(one["type"], one["message"]) for one in job["status"]["conditions"]]
        assert conditions == ([(condition, "its policy")] if condition else [])
        assert (job["metadata"]["name"], job["kind"]) == ("engine-r1-e1", "Job")


def phase_of(cluster: Cluster) -> str:
    """The phase of the only job of Volcano; empty while it has no status."""
    (job,) = cluster.all(VOLCANO_JOB)
    return phase(job) if "state" in job.get("status", {}) else ""


def test_a_job_without_a_status_is_pending() -> None:
    assert job_state({"metadata": {"name": "new"}}) is AppState.PENDING


def small_queue(cluster: Cluster) -> Launcher:
    cluster.queue("small", {"nvidia.com/gpu": "0"})
    return launcher(cluster, queue="small")


def taken_gpus(cluster: Cluster) -> Launcher:
    other = launcher(cluster)
    other.engine_up("other", "n1", engine("e2", tensor_parallel=2, port=8001))
    soon(lambda: cluster.all(POD) and cluster.all(POD)[0]["spec"].get("nodeName"))
    cluster.node("n3", gpus=8)
    return other


def no_account(cluster: Cluster) -> Launcher:
    starter = launcher(cluster)
    return Launcher(starter.api, starter.cluster.model_copy(update={"service_account": "nobody"}))


def tainted(cluster: Cluster) -> Launcher:
    taint = {"key": "example.org/lab", "effect": "NoSchedule"}
    cluster.edit(NODES, "n1", lambda node: node["spec"].update(taints=[taint]), "")
    cluster.node("without")
    return launcher(cluster)


@pytest.mark.parametrize(
    ("arrange", "words"),
    [
        (
            tainted,
            "cannot be scheduled on node n1: 1 node(s) had untolerated taint(s) (example.org/lab); add the taint's key",
        ),
        (small_queue, "queue resource quota insufficient: insufficient nvidia.com/gpu; "),
        (taken_gpus, "1 Insufficient nvidia.com/gpu; `kubectl get pods -A -o wide` shows which pods use it"),
        (no_account, 'mlperf/nobody: serviceaccount "nobody" not found; create it, or set service_account'),
    ],
)
def test_the_reason_of_a_pending_job_is_reported(cluster: Cluster, arrange: object, words: str) -> None:
    cluster.script("*", RUNNING)
    starter: Launcher = arrange(cluster)  # type: ignore[operator]
    starter.engine_up("r1", "n1", engine())
    look = see(starter, "engine", lambda look: words in str(look["records"][0].get("progress")))
    text = str(look["records"][0]["progress"])
    assert "ErrStatus" not in text and "pod group is not ready" not in text


def test_a_failed_pod_is_diagnosed_after_volcano_ends_the_job(cluster: Cluster) -> None:
    cluster.script("run-*", scripts.oom_killed())
    starter = launcher(cluster)
    starter.start(spec(), "n1")
    assert "run n1 was OOM-killed: exceeded its memory limit of 8Gi" in failure(starter)
    soon(lambda: starter.state("r1", "n1") == "failed")
    starter.stop("r1", "n1")


def test_an_evicted_run_is_diagnosed(cluster: Cluster) -> None:
    cluster.script("run-*", RUNNING)
    starter = launcher(cluster)
    starter.start(spec(), "n1")
    going = soon(lambda: [one for one in cluster.all(POD) if one["status"]["phase"] == "Running"])
    message = failure(starter, then=lambda: cluster.evict(going[0]["metadata"]["name"]))
    assert "evicted through the API, as `kubectl drain` does" in message
    soon(lambda: starter.state("r1", "n1") == "failed" and not cluster.all(POD))
    assert starter.stop("r1", "n1") is False


def test_a_deleted_job_is_diagnosed(cluster: Cluster) -> None:
    cluster.script("run-*", RUNNING)
    starter = launcher(cluster)
    starter.start(spec(), "n1")
    soon(lambda: cluster.all(POD))
    (job,) = cluster.all(VOLCANO_JOB)
    message = failure(starter, then=lambda: cluster.delete_volcano_job(job["metadata"]["name"]))
    assert "was deleted by someone" in message


def test_stopping_a_run_deletes_its_pod(cluster: Cluster) -> None:
    cluster.script("run-*", RUNNING)
    starter = launcher(cluster)
    assert [starter.start(spec(), "n1") for _ in range(2)] == [True, False]
    soon(lambda: cluster.all(POD))
    assert [starter.stop("r1", "n1") for _ in range(2)] == [True, False]
    assert cluster.all(POD) == [] and cluster.all(VOLCANO_JOB) == []


def test_a_collected_run_is_deleted_after_its_ttl(cluster: Cluster) -> None:
    cluster.script("run-*", scripts.exits(0, '{"state": "finished"}'))
    operator(cluster, VOLCANO_RIGHTS)
    starter = launcher(cluster, OPERATOR)
    for run_id in ("r1", "old"):
        starter.start(spec(run_id), "n1")
    soon(lambda: [one["state"] for one in starter.runs()] == 2 * ["finished"])
    assert starter.release(["r1"], dry_run=True) is True
    assert [starter.release(["r1"]) for _ in range(2)] == [True, False]
    assert starter.release(["r1"], dry_run=True) is False

    def age(owner: Object) -> None:
        owner["metadata"]["annotations"][launch.COLLECTED] = f"{time.time() - 8 * 86_400:.0f}"

    cluster.edit(CONFIG_MAP, "mlperf-old", age)
    starter.release(["r1"])
    soon(lambda: [one["metadata"]["name"] for one in cluster.all(VOLCANO_JOB)] == [torchx_app.job_name("run-r1-n1")])
    # One delete cleans the rest.
    cluster.delete(CONFIG_MAP, "mlperf-r1")
    soon(lambda: names(cluster) == [])


def test_an_unknown_queue_is_an_error(cluster: Cluster) -> None:
    with pytest.raises(BadInput, match=r"unable to find job queue: .*none.* not found"):
        launcher(cluster, queue="none").start(spec(), "n1")


def test_torchx_and_its_own_command_show_a_running_job(cluster: Cluster) -> None:
    stopped = threading.Event()
    steps = [scripts.Running(), scripts.Log("loading … weights"), scripts.Until(stopped.is_set), scripts.Exit(0)]
    cluster.script("engine-*", steps)
    starter = launcher(cluster)
    starter.engine_up("r1", "n1", engine())
    soon(lambda: [pod["status"].get("phase") for pod in cluster.all(POD)] == ["Running"])
    api = starter.api
    assert isinstance(api, TorchxApi)
    assert soon(lambda: api.state("engine-r1-e1") == AppState.RUNNING)
    (line,) = soon(lambda: api.log_lines("engine-r1-e1", "engine-n1"))
    assert line.endswith("Z loading … weights")
    handle = api.handle("engine-r1-e1")
    assert handle == "kubernetes://mlperf/mlperf:engine-r1-e1"
    assert "RUNNING" in torchx(cluster, "status", handle)
    stopped.set()
    log = torchx(cluster, "log", "--tail", f"{handle}/engine-n1/0")
    assert "loading" in log and "b'" not in log


def torchx(cluster: Cluster, *arguments: str) -> str:
    """The output of TorchX's own command."""
    command = [Path(sys.executable).with_name("torchx"), *arguments]
    environment = {**os.environ, "KUBECONFIG": str(cluster.kubeconfig())}
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_a_merged_job_is_gang_scheduled_and_completes_with_its_run(cluster: Cluster) -> None:
    furnish_another(cluster, NODE)
    cluster.script("*-engine-*", [scripts.Running()])
    cluster.script("*-run-*", scripts.exits(0, after_s=0.5))
    words = ["--node", "n1", "--node", NODE, "--image", IMAGE, "--run-id", RUN, "--launcher", "torchx"]
    result = CliRunner().invoke(cli, ["manifests", *words])
    assert result.exit_code == 0, result.output
    kind = {**{one.kind: one for one in (CONFIG_MAP, SECRET, SERVICE)}, "Job": VOLCANO_JOB}
    for body in yaml.safe_load_all(result.stdout):
        cluster.create(kind[body["kind"]], body)
    soon(lambda: len(cluster.all(POD)) == 3)
    assert all(len(pod["metadata"]["name"]) <= 63 for pod in cluster.all(POD))
    (job,) = soon(lambda: [one for one in cluster.all(VOLCANO_JOB) if phase(one) == "Completed"])
    assert [one["status"] for one in job["status"]["conditions"]] == ["Pending", "Running", "Completing", "Completed"]
    assert [pod["status"]["phase"] for pod in cluster.all(POD)] == ["Succeeded"]
    cluster.delete(VOLCANO_JOB, job["metadata"]["name"])
    soon(lambda: cluster.all(POD) == [])


def phase(job: Object) -> str:
    return str(job["status"]["state"]["phase"])
