"""Every failure of a pod that a benchmark can meet ends in a record with its reason and the next step."""

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from harness.cluster import api as apis
from harness.cluster import watch
from harness.cluster.diagnosis import Diagnosis, Kind, Observation, diagnose
from harness.cluster.diagnosis.termination import NODE_GRACE_S
from harness.cluster.launch import Launcher
from harness.cluster.rbac import RIGHTS
from tests.cluster import Cluster, scripts
from tests.cluster.kinds import CONFIG_MAP, NODE, POD
from tests.unit.cluster_fixtures import IMAGE, OPERATOR, engine, failure, furnish, launcher, operator, see, soon, spec

RUNNING = [scripts.Running(), scripts.Log('{"run_id": "r1", "state": "running", "phase": "performance"}')]
HASTE = 100
UNKNOWN_AFTER_S = 50.0
"""After so long without a sign of life a node's Ready condition is Unknown."""
INTERVAL_S = 10.0


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster() as double:
        furnish(double, "n1", gpus=1)
        yield double


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Grace periods are a hundred times shorter."""

    def soon_enough(kind: Kind, name: str, node: str, observation: Observation) -> Diagnosis:
        diagnosis = diagnose(kind, name, node, observation)
        return dataclasses.replace(diagnosis, grace_s=diagnosis.grace_s / HASTE)

    monkeypatch.setattr(watch, "diagnose", soon_enough)
    monkeypatch.setattr(watch, "MIN_INTERVAL_S", 0.1)


def up(starter: Launcher, kind: Kind = "engine", node: str = "n1") -> None:
    """Start an engine or a run."""
    if kind == "engine":
        starter.engine_up("r1", node, engine())
    else:
        starter.start(spec(), node)


Arrange = Callable[[Cluster], object]


def tainted(cluster: Cluster) -> None:
    def change(node: dict[str, object]) -> None:
        node["spec"] = {"taints": [{"key": "example.org/special", "effect": "NoSchedule"}]}

    cluster.edit(NODE, "n1", change)


def gpu_taken(cluster: Cluster) -> None:
    cluster.script("engine-r0-*", [scripts.Running()])
    launcher(cluster).engine_up("r0", "n1", engine())
    soon(lambda: "nodeName" in str(cluster.all(POD)))


def without_gpu(node: dict[str, Any]) -> None:
    for part in ("capacity", "allocatable"):
        node["status"][part].pop("nvidia.com/gpu")


PLACES: dict[str, tuple[Arrange, list[str]]] = {
    "GPU taken": (gpu_taken, ["cannot be scheduled on node n1", "Insufficient nvidia.com/gpu", "kubectl get pods -A"]),
    "GPU gone": (lambda c: c.gpus("n1", 0), ["node n1 offers 0 of its 1 nvidia.com/gpu", "nvidia-smi"]),
    "no GPU": (lambda c: c.edit(NODE, "n1", without_gpu), ["node n1 has no nvidia.com/gpu", "device plugin"]),
    "taint": (tainted, ["example.org/special", "tolerated_taints"]),
    "cordon": (lambda c: c.edit(NODE, "n1", lambda n: n["spec"].update(unschedulable=True)), ["kubectl uncordon n1"]),
    "quota": (
        lambda c: c.quota({"requests.nvidia.com/gpu": "0"}),
        ["rejects the pod of engine e1", "exceeded quota", "kubectl -n mlperf describe quota"],
    ),
}


@pytest.mark.parametrize("trouble", PLACES)
def test_a_pod_that_cannot_be_scheduled(cluster: Cluster, hasty: None, trouble: str) -> None:
    arrange, words = PLACES[trouble]
    arrange(cluster)
    starter = launcher(cluster)
    up(starter)
    reason = failure(starter, "engine")
    assert [word for word in words if word not in reason] == [], reason


def test_a_blocked_engine_shows_the_cause_and_recovers(cluster: Cluster) -> None:
    cluster.script("engine-*", [scripts.Running(), scripts.Log('{"name": "e1", "kind": "vllm", "state": "ready"}')])
    cluster.edit(NODE, "n1", lambda node: node["spec"].update(unschedulable=True))
    starter = launcher(cluster)
    up(starter)
    waiting = see(starter, "engine", lambda look: "taint" in look["records"][0].get("progress", ""))["records"][0]
    assert (waiting["state"], "kubectl uncordon n1" in waiting["progress"]) == ("starting", True)
    cluster.edit(NODE, "n1", lambda node: node["spec"].pop("unschedulable"))
    see(starter, "engine", lambda look: look["records"][0]["state"] == "ready")


@pytest.mark.parametrize(
    ("claim", "words"),
    [
        ("nowhere", ["needs PersistentVolumeClaim nowhere, which does not exist; create it"]),
        ("late", ["PersistentVolumeClaim late is not bound to a volume", "describe pvc"]),
        ("elsewhere", ["its volume is on another node than n1"]),
    ],
)
def test_missing_or_unbound_volumes(cluster: Cluster, hasty: None, claim: str, words: list[str]) -> None:
    cluster.node("n2")
    cluster.claim("late", None, bound=False)
    cluster.claim("elsewhere", None, node="n2")
    starter = launcher(cluster, runs_claim=claim)
    up(starter)
    reason = failure(starter, "engine")
    assert [word for word in words if word not in reason] == [], reason


def test_an_unknown_node_is_said_before_its_claims(cluster: Cluster, hasty: None) -> None:
    starter = launcher(cluster)
    up(starter, node="n9")
    assert "cannot be scheduled on node n9; the cluster has no such node" in failure(starter, "engine", node="n9")


def test_without_the_right_to_read_nodes_the_claims_are_named(cluster: Cluster, hasty: None) -> None:
    operator(cluster, [right for right in RIGHTS if right.resource != "nodes"])
    starter = launcher(cluster, OPERATOR)
    up(starter, node="n9")
    reason = failure(starter, "engine", node="n9")
    assert "needs PersistentVolumeClaim " in reason and "runs-n9" in reason and "no such node" not in reason


FAILED = json.dumps(
    {"run_id": "r1", "state": "failed", "reason": "engine: the model folder holds no weights; run site.yml"}
)
CONTAINERS: dict[str, tuple[Kind, list[scripts.Step], list[str]]] = {
    "image": ("engine", scripts.pull_fails(IMAGE), ["node n1 cannot pull the image", "correct harness_image"]),
    "image never": ("engine", scripts.never_pulled(IMAGE), ["load it on the node", "pull_policy"]),
    "image name": ("engine", scripts.invalid_name("?"), ["InvalidImageName", "correct harness_image"]),
    "mount": ("run", scripts.mount_fails("runs", "/x does not exist"), ["cannot be mounted", "site.yml --tags names"]),
    "config": ("run", scripts.config_error('configmap "c" not found'), ["CreateContainerConfigError", "kubectl"]),
    "memory": (
        "engine",
        scripts.oom_killed(),
        ["engine e1 was OOM-killed: exceeded its memory limit of 32Gi", "(memory)"],
    ),
    "memory of run": (
        "run",
        scripts.oom_killed(),
        ["run n1 was OOM-killed: exceeded its memory limit of 8Gi", "(run_memory)"],
    ),
    "GPU at admission": ("engine", scripts.gpu_lost(), ["node n1 did not admit engine e1", "healthy", "nvidia-smi"]),
    "GPU under way": (
        "engine",
        scripts.exits(4, "CUDA error: uncorrectable ECC error encountered"),
        ["engine e1 lost its GPU", "ECC", "dmesg"],
    ),
    "harness": ("run", scripts.exits(4, FAILED), ["engine: the model folder holds no weights; run site.yml"]),
    "harness, not ready": (
        "run",
        scripts.exits(3),
        ["reported that its machine is not ready (exit code 3)", "logs run-r1-n1"],
    ),
    "harness, its words": ("run", scripts.exits(2, "harness: samples: 0 is too few"), ["samples: 0 is too few"]),
    "harness, cut": ("run", [*RUNNING, scripts.Exit(4)], ["run n1 failed (exit code 4)", "logs run-r1-n1"]),
    "signal": ("engine", scripts.exits(139), ["by signal 11 SIGSEGV"]),
    "drained": ("run", scripts.evicted_by_api(), ["evicted through the API", "kubectl uncordon n1"]),
    "preempted": ("run", scripts.preempted(), ["was preempted by a pod of higher priority"]),
    "taken by a taint": ("run", scripts.tainted(), ["a taint with effect NoExecute", "tolerated_taints"]),
    "put out": ("run", scripts.put_out(), ["node n1 evicted run n1", "low on resource: memory"]),
    "pod deleted": (
        "run",
        [*RUNNING, scripts.Pause(0.7), scripts.Gone()],
        ["was deleted by someone", "another run_id"],
    ),
}


@pytest.mark.parametrize("trouble", CONTAINERS)
def test_a_container_that_fails(cluster: Cluster, hasty: None, trouble: str) -> None:
    kind, steps, words = CONTAINERS[trouble]
    cluster.script(f"{kind}-*", steps)
    starter = launcher(cluster)
    up(starter, kind)
    reason = failure(starter, kind, seconds=5.0)
    assert [word for word in words if word not in reason] == [], reason
    assert not reason.startswith("{")


@pytest.mark.parametrize("deleted", ["job", "owner"])
def test_a_deleted_job(cluster: Cluster, deleted: str) -> None:
    cluster.script("run-*", RUNNING)
    starter = launcher(cluster)
    up(starter, "run")
    see(starter, until=lambda look: look["records"][0]["phase"] == "performance")

    def delete() -> None:
        cluster.delete_job("run-r1-n1") if deleted == "job" else cluster.delete(CONFIG_MAP, "mlperf-r1")

    start = time.monotonic()
    reason = failure(starter, then=delete, interval_s=INTERVAL_S)
    assert reason == "the Job of run n1 was deleted by someone; start with another run_id"
    assert time.monotonic() - start < 20


def test_a_finished_run_and_a_ready_engine(cluster: Cluster) -> None:
    cluster.script("run-*", scripts.exits(0, '{"run_id": "r1", "state": "finished", "samples_done": 5}'))
    cluster.script(
        "engine-*",
        [scripts.Running(), scripts.Log('{"name": "e1", "kind": "vllm", "state": "ready", "url": "http://x"}')],
    )
    starter = launcher(cluster)
    up(starter, "run")
    up(starter)
    record = see(starter, until=lambda look: look["records"][0]["state"] == "finished")["records"][0]
    assert record["samples_done"] == 5
    assert (
        see(starter, "engine", lambda look: look["records"][0]["state"] == "ready")["records"][0]["url"] == "http://x"
    )


@pytest.mark.parametrize("nodes", ["read", "hidden"])
def test_a_lost_node_is_noticed_in_time(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, hasty: None, nodes: str
) -> None:
    monkeypatch.setattr(apis, "LOG_S", 0.5)
    rights = [right for right in RIGHTS if not right.cluster_wide] if nodes == "hidden" else RIGHTS
    operator(cluster, rights)
    cluster.script("run-*", RUNNING)
    starter = launcher(cluster, OPERATOR)
    up(starter, "run")
    see(starter, until=lambda look: look["records"][0]["phase"] == "performance")
    start = time.monotonic()
    reason = failure(starter, then=lambda: cluster.lose_node("n1", silent_s=30.0))
    assert time.monotonic() - start < 20
    words = "node n1 is not Ready since" if nodes == "read" else "may read nodes for `kubectl describe node n1`"
    assert words in reason


def test_the_time_until_a_lost_node_is_noticed_is_below_90_s() -> None:
    """The sum of the cluster's own delay, a look that waits for its log, the grace period, and the next look."""
    assert UNKNOWN_AFTER_S + apis.LOG_S + NODE_GRACE_S + INTERVAL_S < 90.0


def test_a_node_that_recovers_soon_does_not_fail_the_run(cluster: Cluster) -> None:
    cluster.script("run-*", RUNNING)
    starter = launcher(cluster)
    up(starter, "run")
    see(starter, until=lambda look: look["records"][0]["phase"] == "performance")
    lost = see(
        starter,
        until=lambda look: "not Ready" in look["records"][0]["phase"],
        then=lambda: cluster.lose_node("n1", silent_s=0.1),
    )
    assert lost["records"][0]["state"] == "running"
    see(
        starter,
        until=lambda look: look["records"][0]["phase"] == "performance",
        then=lambda: cluster.find_node("n1"),
    )


def test_a_run_with_a_silent_log_is_silent(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, hasty: None) -> None:
    monkeypatch.setattr("harness.cluster.diagnosis.checks.STALE_S", 0.5)
    cluster.script("run-*", RUNNING)
    starter = launcher(cluster)
    up(starter, "run")
    record = see(starter, until=lambda look: look["records"][0]["state"] == "silent")["records"][0]
    assert "run n1 has written nothing for" in record["reason"]
    assert record["silent_s"] > 0.5
