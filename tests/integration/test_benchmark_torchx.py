"""benchmark.yml with launcher torchx: jobs of Volcano whose pods run as processes here, and the real engine."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.cluster.rbac import VOLCANO_RIGHTS
from harness.report.record import Result
from tests.cluster import scripts
from tests.cluster.kinds import CONFIG_MAP, JOB, POD, SERVICE, VOLCANO_GROUP, VOLCANO_JOB
from tests.integration.conftest import until
from tests.integration.test_benchmark_cluster import OPERATOR, ClusterSite, needs_root, nodes_of_a_cluster

NODES = ("gpu-017.hpc.example.org", "gpu-018.hpc.example.org")
RUN = "20261125-093000-server-13368"
SAMPLES = 60
pytestmark = [needs_root, pytest.mark.long, pytest.mark.xdist_group("engines")]


@pytest.fixture
def site(tmp_path: Path, sandbox: Path) -> Iterator[ClusterSite]:
    with nodes_of_a_cluster(tmp_path, sandbox, VOLCANO_RIGHTS, NODES) as result:
        result.variables = {"harness_launcher": "torchx", "harness_samples": SAMPLES}
        yield result


def test_the_same_result_comes_from_jobs_of_volcano(site: ClusterSite) -> None:
    request = {"run_id": RUN, "scenario": "offline"}
    assert site.play("benchmark.yml", "--check", "--diff", **request) == 0, site.output()
    assert site.names(CONFIG_MAP, SERVICE, VOLCANO_JOB, POD) == []

    assert site.play(**request) == 0, site.output()
    plan, result = site.read(RUN, "plan.json"), site.read(RUN, "result.json")
    assert (plan["launcher"], plan["topology"], plan["loadgens"]) == ("torchx", "fleet", [NODES[0]])
    assert (result["asked"]["launcher"], result["failures"]) == ("torchx", []), site.output()
    assert list(result) == list(Result.model_fields)
    assert result["accuracy_reference"]["identical"] >= 0.99 * SAMPLES
    journal = site.lines(RUN, f"nodes/{NODES[0]}/journal.jsonl")
    assert {entry["engine"] for entry in journal} == set(NODES)
    for node in NODES:
        folder = site.results / RUN / "nodes" / node
        assert subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=folder).returncode == 0
        assert site.read(RUN, f"nodes/{node}/engines/{node}/engine.json")["state"] == "stopped"

    # Engines are gone; what is left is the run, which one delete takes away.
    assert site.cluster.all(JOB) == []
    jobs = site.cluster.all(VOLCANO_JOB)
    assert all(job["status"]["state"]["phase"] == "Completed" for job in jobs), jobs
    until(lambda: site.cluster.all(VOLCANO_GROUP) == [], "no PodGroup is left")
    pods = [pod["metadata"]["name"] for pod in site.cluster.all(POD)]
    assert pods == [f"{job['metadata']['name']}-{job['spec']['tasks'][0]['name']}-0" for job in jobs]
    assert all(len(name) <= 63 for name in pods)
    used = site.cluster.rights_used(f"system:serviceaccount:mlperf:{OPERATOR}")
    granted = {(right.group, right.resource, verb) for right in VOLCANO_RIGHTS for verb in right.verbs}
    assert used - granted == {("authorization.k8s.io", "selfsubjectaccessreviews", "create")}
    # Only a Service that is there already is read, and events only of a pod that does not start at once.
    assert granted - used <= {("", "services", "get"), ("", "services", "list"), ("", "events", "list")}

    assert site.play(**request) == 0, site.output()
    assert site.changed() == 0, site.output()


def test_a_stopped_run_leaves_no_job(site: ClusterSite) -> None:
    ready = {"name": "engine", "kind": "vllm", "state": "ready", "url": "http://engine:8711", "max_in_flight": 8}
    site.cluster.script("engine-*", [scripts.Running(), scripts.Log(json.dumps(ready))])
    site.cluster.script(
        "run-*", [scripts.Running(), scripts.Log('{"run_id": "r1", "state": "running", "phase": "calibration"}')]
    )
    process = site.start(run_id=RUN, scenario="offline")
    running = lambda: [pod for pod in site.cluster.all(POD) if pod["status"]["phase"] == "Running"]  # noqa: E731
    until(lambda: len(running()) == 3, "engines and LoadGen")
    site.interrupt(process)
    assert len(running()) == 3
    assert site.play("playbooks/stop.yml", run_id=RUN) == 0, site.output()
    assert (site.cluster.all(VOLCANO_JOB), site.cluster.all(POD)) == ([], [])
    (stopped, *_) = site.read(RUN, "failures.json")
    assert "stopped on request" in stopped["reason"]
    assert site.read(RUN, "result.json")["verdict"]["level"] == "INVALID"
