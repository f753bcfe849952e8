"""Role volcano through the real Ansible, with a kubectl that records its calls."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import REPOSITORY
from tests.integration.conftest import PLAYBOOK

MANIFEST = "apiVersion: v1\nkind: Namespace\nmetadata: {name: volcano-system}\n"
KUBECTL = """#!/bin/sh
# Everything is as it should be once it was applied.
cd "$(dirname "$0")"
for word in "$@"; do
  case $word in diff|apply|wait) verb=$word;; *.yaml) file=$word;; esac
done
echo "$verb ${file:-objects}" >> calls
case $verb in
  diff) [ "${file:-}" ] || cat > /dev/null
        [ -e "applied.$(basename "${file:-objects}")" ] && exit 0; echo "+ kind: new"; exit 1;;
  apply) [ "${file:-}" ] || cat > objects.json; touch "applied.$(basename "${file:-objects}")";;
  wait) [ ! -e away ] || { echo "error: timed out waiting for the condition" >&2; exit 1; };;
esac
"""


@dataclass
class Cluster:
    """A control plane in a folder."""

    folder: Path
    output: str = ""
    settings: dict[str, Any] = field(default_factory=dict)

    def play(self, *words: str, **more: Any) -> int:
        """Run the playbook; returns its exit status."""
        host = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        inventory = {"cluster": {"hosts": {"one": host}}, "controller": {"hosts": {"one": {}}}}
        (self.folder / "hosts.yml").write_text(yaml.safe_dump(inventory))
        settings = {
            "ansible_become": False,
            "volcano_folder": str(self.folder / "kept"),
            "volcano_kubeconfig": str(self.folder / "kubeconfig"),
            **self.settings,
            **more,
        }
        command = [PLAYBOOK, "-i", str(self.folder / "hosts.yml"), "playbooks/volcano.yml", "-e", json.dumps(settings)]
        path = f"{self.folder}:{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "ANSIBLE_NOCOLOR": "1"}
        result = subprocess.run(
            [*command, *words], cwd=REPOSITORY, capture_output=True, text=True, timeout=120, env=environment
        )
        self.output = result.stdout + result.stderr
        return result.returncode

    def calls(self) -> list[str]:
        """Calls of kubectl since the last look, by verb and file."""
        file = self.folder / "calls"
        lines = file.read_text().split("\n")[:-1] if file.exists() else []
        file.unlink(missing_ok=True)
        return [f"{verb} {name.rsplit('/')[-1]}" for verb, _, name in (line.partition(" ") for line in lines)]


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    (tmp_path / "kubectl").write_text(KUBECTL)
    (tmp_path / "kubectl").chmod(0o755)
    (tmp_path / "kubeconfig").write_text("{}")
    (tmp_path / "mirror.yaml").write_text(MANIFEST)
    url = f"file://{tmp_path}/mirror.yaml"
    sha256 = hashlib.sha256(MANIFEST.encode()).hexdigest()
    return Cluster(tmp_path, settings={"launcher": "torchx", "volcano_url": url, "volcano_sha256": sha256})


def test_volcano_is_installed_once_pinned_and_its_queue_created_when_it_is_ready(cluster: Cluster) -> None:
    assert cluster.play("--check") == 0, cluster.output
    assert "would download file://" in cluster.output
    assert not (cluster.folder / "kept").exists()
    assert not {call.split()[0] for call in cluster.calls()} & {"apply", "wait"}
    assert cluster.play(volcano_queue="benchmarks", volcano_queue_settings={"weight": 4}) == 0, cluster.output
    steps = [call for call in cluster.calls() if not call.startswith("diff")]
    assert steps == ["apply v1.15.1-mirror.yaml", "wait objects", "apply objects"]
    queue, role, binding = json.loads((cluster.folder / "objects.json").read_text())["items"]
    assert (queue["metadata"], queue["spec"]["weight"]) == ({"name": "benchmarks"}, 4)
    assert role["rules"][0] == {
        "apiGroups": ["batch.volcano.sh"], "resources": ["jobs"], "verbs": ["get", "list", "create", "delete"],
    }  # fmt: skip
    assert binding["subjects"][0]["name"] == "mlperf-operator"
    assert cluster.play(volcano_queue="benchmarks", volcano_queue_settings={"weight": 4}) == 0, cluster.output
    assert "changed=0" in cluster.output
    assert not [call for call in cluster.calls() if call.startswith("apply")]


def wrong_file(cluster: Cluster) -> dict[str, Any]:
    return {"volcano_sha256": "0" * 64}


def not_there(cluster: Cluster) -> dict[str, Any]:
    return {"volcano_manifest": str(cluster.folder / "none.yaml")}


def no_checksum(cluster: Cluster) -> dict[str, Any]:
    return {"volcano_sha256": "abc"}


def wrong_given(cluster: Cluster) -> dict[str, Any]:
    return {"volcano_manifest": str(cluster.folder / "mirror.yaml"), "volcano_sha256": "1" * 64}


def never_up(cluster: Cluster) -> dict[str, Any]:
    (cluster.folder / "away").touch()
    return {}


@pytest.mark.parametrize(
    ("make", "message", "applied"),
    [
        (wrong_file, "checksum", False),
        (not_there, "none.yaml on Ansible's control node: correct volcano_manifest", False),
        (no_checksum, "volcano_sha256 = 'abc': give 64 hexadecimal digits", False),
        (wrong_given, f"not volcano_sha256 = {'1' * 64}", False),
        (never_up, "were not available after 600 s", True),
    ],
)
def test_errors_are_reported_before_a_queue_is_created(
    cluster: Cluster, make: Callable[[Cluster], dict[str, Any]], message: str, applied: bool
) -> None:
    assert cluster.play(**make(cluster)) == 2
    assert message in " ".join(cluster.output.split())
    calls = cluster.calls()
    assert "apply objects" not in calls
    assert any(call.startswith("apply") for call in calls) is applied


def test_a_local_manifest_needs_no_network_and_an_unpinned_one_is_named_with_its_checksum(cluster: Cluster) -> None:
    local = str(cluster.folder / "mirror.yaml")
    assert cluster.play(volcano_manifest=local, volcano_url="http://nowhere.invalid/x.yaml") == 0, cluster.output
    assert "apply mirror.yaml" in cluster.calls()
    for applied in cluster.folder.glob("applied.*"):
        applied.unlink()
    assert cluster.play(volcano_sha256="") == 0, cluster.output
    printed = " ".join(cluster.output.split())  # long lines are wrapped
    assert f"pin this one with volcano_sha256: {cluster.settings['volcano_sha256']}" in printed


def test_another_launcher_installs_nothing(cluster: Cluster) -> None:
    assert cluster.play(launcher="kubernetes") == 0, cluster.output
    assert cluster.calls() == []
    assert not (cluster.folder / "kept").exists()
