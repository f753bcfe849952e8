"""Checks before a benchmark on a cluster: a missing right, claim, GPU or API is reported."""

import dataclasses
import threading
from collections.abc import Iterator

import pytest

from harness.cluster import collect as collecting
from harness.cluster import doctor, watch
from harness.cluster.api import Api
from harness.cluster.api_errors import Forbidden
from harness.cluster.collect import collect
from harness.cluster.launch import Launcher
from harness.cluster.rbac import RIGHTS, Right
from harness.errors import BadInput, HarnessError
from tests.cluster import Cluster, scripts
from tests.cluster.kinds import NODE
from tests.unit.cluster_fixtures import (
    OPERATOR,
    WELL,
    Object,
    engine,
    furnish,
    launcher,
    names,
    operator,
    see,
    soon,
    spec,
)

FINISHES = scripts.exits(0, '{"run_id": "r1", "state": "finished"}')


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    monkeypatch.setattr(watch, "MIN_INTERVAL_S", 0.1)
    monkeypatch.setattr(collecting, "_PAUSE_S", 0.1)
    with Cluster() as double:
        furnish(double, "n1", gpus=2)
        yield double


def without(right: Right, verb: str) -> list[Right]:
    """All rights but one verb of one."""
    reduced = dataclasses.replace(right, verbs=tuple(one for one in right.verbs if one != verb))
    return [reduced if one is right else one for one in RIGHTS]


def look(cluster: Cluster, token: str = OPERATOR, node: str = "n1", **settings: object) -> list[Object]:
    """The doctor's findings that are not ok."""
    starter = launcher(cluster, token, **{"collect_over_api": True, **settings})
    findings = doctor.check(starter, "r1", node, [engine()], spec())
    assert names(cluster) == []
    return [one for one in findings if one["level"] != "ok"]


@pytest.mark.parametrize("right", RIGHTS, ids=lambda right: f"{right.resource}-{right.needed}")
def test_each_missing_right_is_reported(cluster: Cluster, right: Right) -> None:
    for verb in right.verbs:
        operator(cluster, without(right, verb))
        findings = [one for one in look(cluster) if one["check"] == "rights"]
        where = "" if right.cluster_wide else " in namespace mlperf"
        assert [one["seen"] for one in findings] == [f"no permission to {verb} {right.resource}{where} ({right.why})"]
        assert findings[0]["level"] == ("warn" if right.needed == "optional" else "fail")
        assert "docs/operations.md" in findings[0]["advice"] or right.needed == "optional"


def test_rights_for_collecting_are_checked_only_when_collecting_over_the_api(cluster: Cluster) -> None:
    operator(cluster, [right for right in RIGHTS if right.needed != "collecting"])
    assert look(cluster, collect_over_api=False) == []
    assert len(look(cluster)) == 2


def test_the_rights_are_sufficient_and_all_are_used(cluster: Cluster) -> None:
    operator(cluster)
    is_ready = threading.Event()
    steps: list[scripts.Step] = [
        scripts.Until(is_ready.is_set),
        scripts.Running(),
        scripts.Log('{"name": "e1", "kind": "vllm", "state": "ready"}'),
    ]
    cluster.script("*", steps)
    cluster.script("look-*", WELL)
    cluster.script("run-r1-n1", FINISHES)
    starter = launcher(cluster, OPERATOR, collect_over_api=True)
    doctor.check(starter, "r1", "n1", [engine()], spec())
    assert [starter.engine_up("r1", "n1", engine()).changed for _ in range(2)] == [True, False]
    starter.start(spec(), "n1")
    starter.start(spec(node="n2"), "n1")
    starter.compare(spec())
    see(starter, "engine", lambda state: state["records"][0]["state"] == "ready", then=is_ready.set)
    see(starter, until=lambda state: state["records"][0]["state"] == "finished")
    with pytest.raises(HarnessError, match="container not found"):  # nothing runs in a pod that is only a script
        collect(starter.api, starter.cluster, starter.owner("r1"), "r1", "n1", {"/x": ""}, cluster.kubeconfig().parent)
    assert len(starter.runs()) == 2
    starter.engine_down("r1", "e1")
    assert starter.stop("r1", "n2") is True
    starter.release(["r1"])
    # What docs/operations.md tells a person to do by hand: deleting by label lists first.
    for kind in ("ConfigMap", "Service", "Job"):
        for one in starter.api.list_objects(kind, "mlperf/run=r1"):
            starter.api.delete(kind, one["metadata"]["name"])
    assert [one for one in cluster.requests if not one.allowed] == []
    used = cluster.rights_used(f"system:serviceaccount:mlperf:{OPERATOR}")
    granted = {(right.group, right.resource, verb) for right in RIGHTS for verb in right.verbs}
    assert used ^ granted == {("authorization.k8s.io", "selfsubjectaccessreviews", "create")}


def test_a_right_lost_during_a_run_is_reported_with_advice(cluster: Cluster) -> None:
    operator(cluster, [right for right in RIGHTS if right.resource != "jobs"])
    with pytest.raises(
        Forbidden, match=r"no permission to get Job engine-r1-e1 in namespace mlperf: .*docs/operations\.md"
    ):
        launcher(cluster, OPERATOR).engine_up("r1", "n1", engine())


@pytest.mark.parametrize("hidden", ["nodes", "watch"])
def test_a_missing_optional_right_is_a_warning(cluster: Cluster, hidden: str) -> None:
    pods = next(right for right in RIGHTS if "watch" in right.verbs)
    operator(cluster, [one for one in RIGHTS if not one.cluster_wide] if hidden == "nodes" else without(pods, "watch"))
    if hidden == "nodes":
        findings = look(cluster)
        assert {one["level"] for one in findings} == {"warn"}
        assert "no permission to read nodes, so GPUs are not counted" in str(findings)
        assert doctor.gpus(launcher(cluster, OPERATOR).api, launcher(cluster).cluster, "n1") == []
    cluster.script("run-*", FINISHES)
    starter = launcher(cluster, OPERATOR)
    starter.start(spec(), "n1")
    see(starter, until=lambda state: state["records"][0]["state"] == "finished")


def close(cluster: Cluster) -> None:
    cluster.edit(NODE, "n1", lambda node: node["spec"].update(unschedulable=True))


SENTENCES = {
    "claim": (
        "namespace mlperf has no PersistentVolumeClaim nowhere (for runs)",
        "create it, or name another one (runs_claim)",
    ),
    "closed": ("node n1 is cordoned", "kubectl uncordon n1"),
    "lost": ("node n1 is not Ready: Kubelet stopped posting node status.", "kubectl describe node n1"),
    "GPU": ("node n1 offers 0 nvidia.com/gpu, 1 needed by 1 engine", "gpu_resource"),
    "unknown": ("the cluster has no node n9", "set harness_node"),
    "stranger": ("rejects these credentials (Unauthorized)", "renew them"),
    "away": ("does not answer", ""),
}


@pytest.mark.parametrize("trouble", SENTENCES)
def test_the_doctor_reports_what_would_fail_later(cluster: Cluster, trouble: str) -> None:
    operator(cluster)
    if trouble == "closed":
        close(cluster)
    elif trouble == "lost":
        cluster.lose_node("n1")
    elif trouble == "GPU":
        cluster.gpus("n1", 0)
    starter = launcher(
        cluster,
        trouble if trouble == "stranger" else OPERATOR,
        runs_claim="nowhere" if trouble == "claim" else "runs-{node}",
    )
    if trouble == "away":
        cluster.down()
    node = "n9" if trouble == "unknown" else "n1"
    findings = [one for one in doctor.check(starter, "r1", node, [engine()], spec()) if one["level"] != "ok"]
    if trouble == "away":
        cluster.up()
    only, *more = findings
    # An unknown node's claims, which are named after it, are missing as well.
    assert {one["check"] for one in more} == ({"claims"} if trouble == "unknown" else set())
    message, advice = SENTENCES[trouble]
    assert message in only["seen"] and advice in only["advice"], only
    assert names(cluster) == []


def test_the_doctor_names_everything_that_is_wrong_with_node_claims_and_run(cluster: Cluster) -> None:
    cluster.script("*", [scripts.Running()])
    launcher(cluster).start(spec(), "n1")
    close(cluster)
    starter = launcher(cluster, runs_claim="nowhere", model_claim="nothing")
    findings = doctor.check(starter, "r1", "n1", [engine()], spec(samples=6))
    failed = [(one["check"], one["seen"]) for one in findings if one["level"] == "fail"]
    assert [check for check, _ in failed] == ["node", "claims", "claims", "api"]
    for words, (_, seen) in zip(("cordoned", "nowhere", "nothing", "samples: existing 5"), failed, strict=True):
        assert words in seen
    # Nothing was started to look into claims that are not there.
    assert not [name for name in names(cluster) if name.startswith("look-")]


def test_the_doctor_reports_an_existing_run_with_another_spec(cluster: Cluster) -> None:
    cluster.script("*", [scripts.Running()])
    starter = launcher(cluster)
    starter.start(spec(), "n1")
    findings = doctor.check(starter, "r1", "n1", [], spec(samples=6))
    assert "samples: existing 5, requested 6" in str([one for one in findings if one["level"] == "fail"])


def test_the_doctor_reports_a_job_quota_and_a_missing_namespace(cluster: Cluster) -> None:
    cluster.quota({"count/jobs.batch": "0"})
    with pytest.raises(
        BadInput, match=r"create Job engine-r1-e1: .*exceeded quota.*; delete .* -n mlperf describe quota"
    ):
        launcher(cluster).engine_up("r1", "n1", engine())
    settings = launcher(cluster, namespace="nowhere").cluster
    absent = Launcher(Api("nowhere", cluster.kubeconfig(), retry_s=1.0), settings)
    with pytest.raises(BadInput, match=r'namespaces "nowhere" not found; create namespace nowhere, or set another one'):
        absent.engine_up("r1", "n1", engine())
    # The claims are not blamed, which are missing in a namespace that does not exist.
    (finding,) = [one for one in doctor.check(absent, "r1", "n1", [engine()], spec()) if one["level"] != "ok"]
    assert 'namespaces "nowhere" not found' in finding["seen"] and "create namespace nowhere" in finding["advice"]


def test_an_account_without_any_right_is_asked_whether_the_namespace_exists(cluster: Cluster) -> None:
    operator(cluster)
    absent = Launcher(Api("nowhere", cluster.kubeconfig(OPERATOR), retry_s=1.0), launcher(cluster).cluster)
    (finding,) = doctor.check(absent, "r1", "n1", [engine()], spec())
    assert finding["seen"] == "no permission to do anything in namespace nowhere"
    assert "check that it exists" in finding["advice"]


@pytest.mark.parametrize(("resource", "vendor"), [("amd.com/gpu", "AMD"), ("gpu.intel.com/i915", "Intel")])
def test_a_node_with_the_gpus_of_another_vendor_is_refused_by_name(
    cluster: Cluster, resource: str, vendor: str
) -> None:
    def offer(nvidia: str) -> None:
        offered = {"nvidia.com/gpu": nvidia, resource: "8"}
        cluster.edit(NODE, "n1", lambda node: node["status"]["allocatable"].update(offered))

    operator(cluster)
    offer("0")
    for settings in ({}, {"gpu_resource": resource}):
        (only,) = look(cluster, **settings)
        assert f"node n1: no NVIDIA GPU, but {vendor} ({resource})" in only["seen"]
        assert "kind: endpoint with its url and launcher: process" in only["advice"]
    cluster.script("look-*", WELL)
    assert look(cluster, gpu_resource="") == []
    offer("2")
    assert look(cluster) == []


def test_two_engines_share_a_node_as_its_gpus_allow(cluster: Cluster) -> None:
    cluster.script("*", [scripts.Running(), scripts.Log('{"name": "e1", "kind": "vllm", "state": "ready"}')])
    cluster.script("look-*", WELL)
    starter = launcher(cluster)
    pair = [engine("n1-0", tensor_parallel=1), engine("n1-1", tensor_parallel=1)]
    assert [one for one in doctor.check(starter, "r1", "n1", pair, None) if one["level"] == "fail"] == []
    for config in pair:
        starter.engine_up("r1", "n1", config)
    soon(
        lambda: all(
            one["state"] == "ready"
            for one in next(watch.snapshots(starter.api, "engine", "r1", ["n1-0", "n1-1"], "n1", 0.2))["records"]
        )
    )
    three = [*pair, engine("n1-2")]
    (only,) = [one for one in doctor.check(starter, "r2", "n1", three, None) if one["level"] == "fail"]
    assert "node n1 offers 2 nvidia.com/gpu, 3 needed by 3 engines" in only["seen"]


def test_the_doctor_reports_a_node_that_is_too_small(cluster: Cluster) -> None:
    operator(cluster)
    (finding,) = look(cluster, memory="250Gi", run_memory="8Gi")
    assert finding["seen"] == "node n1 offers 256Gi memory, less than 1 engine of 250Gi and a LoadGen of 8Gi", finding
    assert finding["advice"] == "lower memory or run_memory in harness_cluster"
    assert look(cluster, memory="240Gi", run_memory="8Gi") == []
