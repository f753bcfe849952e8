"""benchmark.yml with launcher kubernetes: Jobs whose commands run as processes here, and the real engine."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from harness.cluster.rbac import RIGHTS, Right
from tests.cluster import Cluster, Image
from tests.cluster.kinds import CONFIG_MAP, JOB, POD, SECRET, SERVICE
from tests.conftest import NODE_ENVIRONMENT, REPOSITORY
from tests.engines import free_port
from tests.integration.conftest import SAMPLES, Site, until

IMAGE = "registry.example.org/mlperf-node@sha256:" + "a" * 64
NODES = ("node1", "node2")
OPERATOR = "operator"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="a pod needs a mount namespace of its own: run as root")
pytestmark = [needs_root, pytest.mark.long, pytest.mark.xdist_group("engines")]


@dataclass
class ClusterSite(Site):
    """Two nodes of a cluster, known by their names and a kubeconfig, with engines on ports of their own.

    Files of node `over_ssh` come over Ansible's connection, those of the others through the API.
    """

    cluster: Cluster = field(default_factory=Cluster)
    kubeconfig: Path = Path()
    nodes: tuple[str, ...] = NODES
    ports: list[int] = field(default_factory=lambda: [free_port() for _ in NODES])
    over_ssh: str = ""

    def extra(self, **more: Any) -> dict[str, Any]:
        """Variables of a call."""
        small = {"gpu_resource": "", "cpu": "100m", "memory": "4Gi", "run_cpu": "100m", "run_memory": "2Gi"}
        return {
            "harness_launcher": "kubernetes",
            "harness_kubeconfig": str(self.kubeconfig),
            "harness_image": IMAGE,
            "harness_model": "/var/lib/mlperf/model",
            "harness_dataset": "/var/lib/mlperf/dataset/cnn_eval.json",
            "harness_reference_ids": "/var/lib/mlperf/dataset/reference_ids.jsonl",
            "harness_samples": SAMPLES,
            "harness_results": str(self.results),
            "harness_watch_interval_s": 1,
            "harness_shared_machine": True,
            "harness_limits": {"calibration_s": 2},
            "harness_engine_settings": {"dtype": "float32", "kv_cache_gib": 1, "max_num_seqs": 64},
            "harness_cluster": small,
            **self.variables,
            **more,
        }

    def inventory(self) -> Path:
        """Names of nodes, and no SSH."""
        hosts: dict[str, dict[str, Any]] = {
            node: {"harness_engines": [{"name": node, "port": self.ports[number], "cpu_cores": str(number)}]}
            for number, node in enumerate(self.nodes)
        }
        if self.over_ssh:
            hosts[self.over_ssh] |= {"harness_collect": "ssh", "harness_root": str(self.folder / self.over_ssh)}
        local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        file = self.folder / "hosts.json"
        file.write_text(json.dumps({"gpu_nodes": {"hosts": hosts, "vars": local}, "controller": {"hosts": {}}}))
        return file

    def start(self, playbook: str = "benchmark.yml", *words: str, **more: Any) -> "subprocess.Popen[str]":
        """Start a playbook on these nodes."""
        return super().start(playbook, "-i", str(self.inventory()), *words, **more)

    def names(self, *kinds: Any) -> list[str]:
        """Names of all objects of these kinds that a benchmark made."""
        metadata = [one["metadata"] for kind in kinds for one in self.cluster.all(kind)]
        return sorted(one["name"] for one in metadata if "mlperf/run" in one.get("labels", {}))


def rules(rights: Sequence[Right]) -> list[dict[str, Any]]:
    """The operator's rules in the namespace."""
    return [
        {"apiGroups": [right.group], "resources": [right.resource], "verbs": list(right.verbs)}
        for right in rights
        if not right.cluster_wide
    ]


@pytest.fixture
def site(tmp_path: Path, sandbox: Path) -> Iterator[ClusterSite]:
    with nodes_of_a_cluster(tmp_path, sandbox, RIGHTS) as result:
        yield result


@contextmanager
def nodes_of_a_cluster(
    tmp_path: Path, sandbox: Path, rights: Sequence[Right], nodes: tuple[str, ...] = NODES
) -> Iterator[ClusterSite]:
    """A cluster with a claim for each purpose on each node, and an operator with the required rights."""
    punkt = str(NODE_ENVIRONMENT / "share" / "punkt")
    image = Image((NODE_ENVIRONMENT / "bin",), {"HARNESS_PUNKT": punkt, "PYTHONPATH": str(REPOSITORY)})
    with Cluster(images={IMAGE: image}, as_user=False) as cluster:
        cluster.service_account("mlperf-runner")
        for node in nodes:
            cluster.node(node)
            runs = tmp_path / node / "runs"
            runs.mkdir(parents=True)
            for claim, folder in {"runs": runs, "model": sandbox / "model", "dataset": sandbox}.items():
                cluster.claim(f"{claim}-{node}", folder, node=node)
        everywhere = [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]}]
        kubeconfig = cluster.user(OPERATOR, rules(rights), everywhere=everywhere)
        result = ClusterSite(tmp_path, sandbox, cluster=cluster, kubeconfig=kubeconfig, nodes=nodes)
        yield result
        result.clean()


def test_fleet_from_check_to_unchanged_second_run(site: ClusterSite) -> None:
    # Offline has no latency limits, which this machine may or may not hold.
    site.variables, site.over_ssh = {"scenario": "offline"}, "node2"
    assert site.play("benchmark.yml", "--check", "--diff", run_id="first") == 0, site.output()
    assert site.names(CONFIG_MAP, SECRET, SERVICE, JOB, POD) == []
    assert not site.results.exists()

    assert site.play(run_id="first") == 0, site.output()
    plan, result = site.read("first", "plan.json"), site.read("first", "result.json")
    assert (plan["launcher"], plan["topology"], plan["loadgens"]) == ("kubernetes", "fleet", ["node1"])
    assert result["verdict"]["level"] == "UNOFFICIAL", site.output()
    assert result["failures"] == []
    assert result["accuracy_reference"]["identical"] >= 0.99 * SAMPLES
    journal = site.lines("first", "nodes/node1/journal.jsonl")
    assert len(journal) == 2 * SAMPLES
    assert {entry["engine"] for entry in journal} == set(NODES)
    for node in NODES:
        folder = site.results / "first" / "nodes" / node
        assert subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=folder).returncode == 0
        engine = site.read("first", f"nodes/{node}/engines/{node}/engine.json")
        assert (engine["state"], engine["verified"]["enable_prefix_caching"]) == ("stopped", False)
    assert site.read("first", "nodes/node1/manifest.json")["image_digest"] == IMAGE

    # Engines are gone with their keys, the runs' Jobs stay until somebody has had time to look; one delete takes all.
    jobs = {job["metadata"]["name"]: job for job in site.cluster.all(JOB)}
    assert (len(jobs), site.names(SECRET)) == (2, [])
    assert all(job["spec"]["ttlSecondsAfterFinished"] >= 86_400 for job in jobs.values())
    assert site.names(POD) == sorted(pod["metadata"]["name"] for pod in site.cluster.all(POD))
    # What was granted was enough; unused is only what a conflict, cleaning up by hand or a slow start takes.
    used = site.cluster.rights_used(f"system:serviceaccount:mlperf:{OPERATOR}")
    granted = {(right.group, right.resource, verb) for right in RIGHTS for verb in right.verbs}
    assert used - granted == {("authorization.k8s.io", "selfsubjectaccessreviews", "create")}
    assert granted - used <= {("", "services", "get"), ("", "services", "list"), ("", "events", "list")}

    assert site.play(run_id="first") == 0, site.output()
    assert site.changed() == 0, site.output()
    assert site.play(run_id="first", samples=50) == 2

    # The run's directory decides, not its Job: it never runs again.
    for owner in site.names(CONFIG_MAP):
        if owner.startswith("mlperf-first"):
            site.cluster.delete(CONFIG_MAP, owner)
    until(lambda: site.names(CONFIG_MAP, SERVICE, JOB, POD) == [], "everything is gone with its owner")
    shutil.rmtree(site.results)
    before = (site.folder / "node1" / "runs" / "first" / "journal.jsonl").read_bytes()
    assert site.play(run_id="first") in (0, 2)
    assert (site.folder / "node1" / "runs" / "first" / "journal.jsonl").read_bytes() == before
