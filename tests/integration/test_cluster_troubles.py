"""Failures on a cluster during a playbook, with pods that only print their state."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.cluster.rbac import RIGHTS
from tests.cluster import scripts
from tests.cluster.kinds import CONFIG_MAP, JOB, POD, SERVICE
from tests.integration.conftest import until
from tests.integration.test_benchmark_cluster import IMAGE, OPERATOR, ClusterSite, needs_root, nodes_of_a_cluster, rules

pytestmark = needs_root
NODES = ("node1",)
CALIBRATED = {
    "samples_per_s": 10.0,
    "by_engine": {"node1": 10.0},
    "seconds": 1.0,
    "samples": 10,
    "target_qps": 8.0,
    "slope_s": None,
    "notes": [],
}


@pytest.fixture
def site(tmp_path: Path, sandbox: Path) -> Iterator[ClusterSite]:
    with nodes_of_a_cluster(tmp_path, sandbox, RIGHTS, NODES) as result:
        yield result


def say(**state: Any) -> list[scripts.Step]:
    """A container that prints this state, and continues unless it has ended."""
    steps: list[scripts.Step] = [scripts.Running(), scripts.Log(json.dumps(state))]
    return [*steps, scripts.Exit(0)] if state["state"] == "finished" else steps


def begin(site: ClusterSite, run_id: str) -> "subprocess.Popen[str]":
    """Start a benchmark on one node whose engine and LoadGen only print their state; returns once its run started."""
    site.cluster.script("engine-*", say(name="node1", kind="vllm", state="ready"))
    site.cluster.script("run-*", say(state="running", run_id=run_id, phase="performance", samples_done=7))
    site.cluster.script(
        "run-*-calibration-*", say(state="finished", run_id=run_id, phase="finished", calibration=CALIBRATED)
    )
    process = site.start(run_id=run_id)
    until(lambda: "node1  performance" in site.output() or process.poll() is not None, "the run is under way")
    assert process.poll() is None, site.output()
    return process


def running(site: ClusterSite) -> list[str]:
    """Names of the pods that have not ended."""
    pods = [pod for pod in site.cluster.all(POD) if pod["status"].get("phase") not in ("Succeeded", "Failed")]
    return [pod["metadata"]["name"] for pod in pods]


def test_a_run_whose_job_is_deleted_ends_with_its_reason_and_a_report(site: ClusterSite) -> None:
    process = begin(site, "deleted")
    site.cluster.delete_job("run-deleted-node1")
    assert process.wait(120) == 2, site.output()
    (failure,) = site.read("deleted", "result.json")["failures"]
    assert (failure["node"], failure["phase"]) == ("node1", "run")
    assert failure["reason"] == "the Job of run node1 was deleted by someone; start with another run_id"
    assert (site.results / "deleted" / "report.html").exists()
    assert running(site) == []


@pytest.mark.long
def test_an_abandoned_job_does_not_begin_later(site: ClusterSite) -> None:
    site.cluster.script("engine-*", say(name="node1", kind="vllm", state="ready"))
    site.cluster.script("run-*", scripts.never_pulled(IMAGE))
    assert site.play(run_id="waits") == 2, site.output()
    (failure,) = site.read("waits", "result.json")["failures"]
    assert "node node1 cannot pull the image" in failure["reason"]
    assert running(site) == []


@pytest.mark.long
def test_stop_ends_a_run_and_its_engines_whoever_watched_it(site: ClusterSite) -> None:
    site.interrupt(begin(site, "stopped"))
    assert {name.rsplit("-", 1)[0] for name in running(site)} == {"engine-stopped-node1", "run-stopped-node1"}
    assert site.play("playbooks/stop.yml", run_id="stopped") == 0, site.output()
    assert running(site) == []
    result = site.read("stopped", "result.json")
    assert [one["reason"] for one in result["failures"]] == ["stopped on request by playbooks/stop.yml"]


def test_a_missing_requirement_fails_preflight_with_one_sentence(site: ClusterSite) -> None:
    site.cluster.user(OPERATOR, rules([right for right in RIGHTS if right.resource != "services"]))
    assert site.play(run_id="refused") == 2
    assert "no permission to get, list, create, delete services in namespace mlperf" in site.output()
    site.cluster.user(OPERATOR, rules(RIGHTS))
    more = {"harness_cluster": {**site.extra()["harness_cluster"], "runs_claim": "nowhere"}}
    assert site.play(run_id="refused", **more) == 2
    assert (
        "namespace mlperf has no PersistentVolumeClaim nowhere (for runs); create it, or name another one (runs_claim)"
        in site.output()
    )
    assert site.names(CONFIG_MAP, SERVICE, JOB, POD) == []
    assert not site.results.exists()
