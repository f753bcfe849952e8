"""The exit code of the real playbooks/doctor.yml over prepared facts of hosts."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_host_survey import A30, TOOL, node

REPOSITORY = Path(__file__).resolve().parents[2]
# Takes the place of the module that looks at a host.
LOOK = """\
#!/usr/bin/python3
# WANT_JSON
import json, sys
arguments = json.load(open(sys.argv[1]))
with open(arguments["root"]) as stream:
    facts = json.load(stream)
if not arguments["python"]:
    facts["interpreter"] = None
print(json.dumps({"changed": False, "facts": facts}))
"""


@pytest.mark.parametrize(
    ("line", "status", "words"),
    [
        (A30, 0, "2 hosts, 0 failed, 0 warnings"),
        (A30.replace("165.00, 165.00, 165.00", "100.00, 165.00, 165.00"), 2, "jw3 slower: will be slower than jw2"),
    ],
)
def test_exit_code_shows_whether_action_is_needed(tmp_path: Path, line: str, status: int, words: str) -> None:
    facts = {"jw2": node(), "jw3": node(line)}
    result, report = look(tmp_path, facts, cluster={"children": {"gpu_nodes": {}}})
    assert result.returncode == status, result.stdout + result.stderr
    assert words in " ".join(result.stdout.split())
    assert set(report["nodes"]) == {"jw2", "jw3"}


def test_gpu_hosts_without_a_cluster_need_a_driver(tmp_path: Path) -> None:
    bare = {**node(), "smi": {**node()["smi"], "path": None, "gpus": []}}
    result, report = look(tmp_path, {"gpu1": bare}, harness_engine_build="cuda")
    assert (result.returncode, [one["seen"] for one in report["findings"]]) == (2, ["not installed"])


@pytest.mark.parametrize("in_cluster", [True, False])
def test_a_host_without_kubernetes_needs_a_compiler_and_may_run_any_system(tmp_path: Path, in_cluster: bool) -> None:
    system = {"id": "rocky", "version": "9.6", "name": "Rocky Linux 9.6"}
    facts = {"gpu1": {**node(os=system), "interpreter": {**TOOL, "headers": False}}}
    cluster = {"children": {"gpu_nodes": {}}} if in_cluster else None
    _, report = look(tmp_path, facts, cluster=cluster, harness_engine_build="cuda")
    assert [one["check"] for one in report["findings"]] == ["system" if in_cluster else "compiler"]


def test_this_machine_is_not_reported_as_a_node_of_a_cluster(tmp_path: Path) -> None:
    result, report = look(tmp_path, {"gpu-1": node()}, harness_launcher="kubernetes", harness_engine_build="cuda")
    assert result.returncode == 2 and "no host was looked at" in result.stdout, result.stdout + result.stderr
    assert report["nodes"] == {}
    assert "gpu-1: reached through the API of a cluster only" in " ".join(result.stdout.split())


def look(
    tmp_path: Path, facts: dict[str, Any], *, cluster: dict[str, Any] | None = None, **variables: str
) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """Run the playbook over GPU nodes with these facts; its outcome, and the content of the report."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "mlperf_host_facts.py").write_text(LOOK)
    hosts: dict[str, Any] = {}
    for name, own in facts.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(own))
        hosts[name] = {"ansible_connection": "local", "harness_root": str(tmp_path / f"{name}.json"), **variables}
    inventory = tmp_path / "hosts.json"
    inventory.write_text(json.dumps({"gpu_nodes": {"hosts": hosts}, "cluster": cluster or {}}))
    report = tmp_path / "doctor.json"
    playbook = [Path(sys.executable).with_name("ansible-playbook"), "-i", inventory, "playbooks/doctor.yml"]
    result = subprocess.run(
        [*playbook, "-e", f"doctor_file={report}"],
        cwd=REPOSITORY,
        env={**os.environ, "ANSIBLE_LIBRARY": f"{tmp_path / 'modules'}:plugins/modules", "ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return result, json.loads(report.read_text())
