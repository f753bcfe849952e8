"""benchmark.yml on a real cluster: Pod Security, RBAC, the Job controller and watches as they really are.

    pytest tests/live --kubeconfig FILE --image REFERENCE --node NAME --node NAME \
      --settings '{"namespace": "mlperf", "gpu_resource": "", "cpu": "500m", "memory": "6Gi", "run_cpu": "500m"}'

The account needs the rights of docs/operations.md, and must be allowed to create claims and pods for the sandbox.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.live.conftest import SAMPLES, Live

PLAYBOOK = Path(sys.executable).with_name("ansible-playbook")


def play(live: Live, folder: Path, playbook: str, run_id: str, *words: str) -> "subprocess.CompletedProcess[str]":
    inventory = folder / "hosts.json"
    hosts = {node: {"harness_engines": [{"name": node, "port": 8741 + n}]} for n, node in enumerate(live.nodes)}
    local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    inventory.write_text(
        json.dumps({"gpu_nodes": {"hosts": hosts, "vars": {**local, **live.variables()}}, "controller": {"hosts": {}}})
    )
    variables = {
        "run_id": run_id,
        "samples": SAMPLES,
        "scenario": "offline",
        "harness_results": str(folder / "results"),
    }
    command = [PLAYBOOK, "-i", inventory, playbook, "-e", json.dumps(variables), *words]
    return subprocess.run(
        command, cwd=REPOSITORY, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=3600,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1"},
    )  # fmt: skip


def remaining_maps(live: Live, run_id: str) -> list[str]:
    maps = live.core.list_namespaced_config_map(live.namespace, label_selector="app.kubernetes.io/component=asked")
    return [one.metadata.name for one in maps.items if one.metadata.annotations["mlperf/run-id"].startswith(run_id)]


def clean(live: Live, run_id: str) -> None:
    for name in remaining_maps(live, run_id):
        live.core.delete_namespaced_config_map(name, live.namespace)


@pytest.mark.parametrize("topology", ["fleet", "per_node"])
def test_benchmark_from_check_to_report(live: Live, tmp_path: Path, topology: str) -> None:
    run_id = f"{live.folder}-{topology.replace('_', '-')}"
    try:
        checked = play(live, tmp_path, "benchmark.yml", run_id, "--check", "-e", f"topology={topology}")
        assert checked.returncode == 0, checked.stdout[-4000:]
        assert remaining_maps(live, run_id) == []
        process = play(live, tmp_path, "benchmark.yml", run_id, "-e", f"topology={topology}")
        result = json.loads((tmp_path / "results" / run_id / "result.json").read_text())
        assert result["failures"] == [], process.stdout[-4000:]
        assert result["verdict"]["level"] == "UNOFFICIAL", process.stdout[-4000:]
        again = play(live, tmp_path, "benchmark.yml", run_id)
        assert again.returncode == 0, again.stdout[-4000:]
        pods = live.core.list_namespaced_pod(live.namespace, label_selector="app.kubernetes.io/component=engine").items
        assert [pod.metadata.name for pod in pods if pod.metadata.annotations.get("mlperf/run-id") == run_id] == []
    finally:
        clean(live, run_id)
