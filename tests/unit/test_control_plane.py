"""The double as the control plane of booted hosts, with the hosts' kubectl: what the roles apply holds, and lasts."""

import json
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster import control_plane
from tests.cluster.control_plane import ControlPlane
from tests.cluster.kinds import CLAIM, JOB, NODE, SECRET
from tests.cluster.store import stamp
from tests.conftest import REPOSITORY
from tests.unit.cluster_fixtures import soon
from tests.unit.test_gpu_manifests import host, namespace, nvidia

STANDINS = REPOSITORY / "tests" / "hosts" / "standins"
Object = dict[str, Any]
Kubectl = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "member" / "store.json"


@pytest.fixture
def plane(file: Path) -> Any:
    with ControlPlane(file, 0, address="127.0.0.1") as control_plane:
        yield control_plane


def kubectl_of(plane: ControlPlane, folder: Path) -> Kubectl:
    kubeconfig = plane.kubeconfig(control_plane.TOKEN, folder / "kubeconfig")

    def call(*words: str, objects: list[Object] | None = None) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, STANDINS / "kubectl", f"--kubeconfig={kubeconfig}", *words]
        command += ["--filename=-"] if objects else []
        environment = {"STANDINS_LOG": str(folder / "standins.log")}
        text = "\n---\n".join(map(json.dumps, objects or []))
        return subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, env=environment)

    return call


@pytest.fixture
def kubectl(plane: ControlPlane, tmp_path: Path) -> Kubectl:
    return kubectl_of(plane, tmp_path)


def report(plane: ControlPlane, name: str, ready: str = "True") -> None:
    """What a node's kubelet reports of itself."""
    conditions = [{"type": "Ready", "status": ready, "lastHeartbeatTime": stamp(), "message": ""}]
    size = {"cpu": "2", "memory": "8Gi", "pods": "110", "nvidia.com/gpu": "1"}
    status = {"conditions": conditions, "capacity": size, "allocatable": size}
    if plane.find(NODE, name) is None:
        plane.create(NODE, {"metadata": {"name": name}, "spec": {}})
    plane.edit(NODE, name, lambda node: node.update(status=status))


def test_what_the_roles_apply_is_stored_and_then_differs_no_more(
    kubectl: Kubectl, plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_plane, "SILENT_S", 600.0)
    for name in ("jw2", "jw3"):
        report(plane, name)
    calico = list(yaml.safe_load_all((STANDINS / "calico" / "tigera-operator.yaml").read_text()))
    for objects in (calico, nvidia("__nvidia_manifests", **host(drivers={"jw2": "", "jw3": ""})), namespace()):
        before = kubectl("diff", "--server-side", objects=objects)
        assert before.returncode in (1, 2) or 'namespaces "' in before.stderr, before.stderr
        done = kubectl("apply", "--server-side", "--force-conflicts", objects=objects)
        assert done.returncode == 0, done.stderr
        after = kubectl("diff", "--server-side", objects=objects)
        assert (after.returncode, after.stdout) == (0, ""), after.stdout + after.stderr
    soon(lambda: {claim["status"]["phase"] for claim in plane.all(CLAIM)} == {"Bound"})
    assert kubectl("apply", "--server-side", objects=[nvidia("__nvidia_proof", **host("jw3"))]).returncode == 0
    soon(lambda: "Complete" in str(plane.all(JOB)))


def test_an_object_of_an_undefined_kind_or_in_a_missing_namespace_is_rejected(kubectl: Kubectl) -> None:
    wanted = {"apiVersion": "operator.tigera.io/v1", "kind": "Installation", "metadata": {"name": "default"}}
    assert 'no matches for kind "Installation"' in kubectl("diff", objects=[wanted]).stderr
    lost = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "nowhere"}}
    assert 'namespaces "nowhere" not found' in kubectl("apply", objects=[lost]).stderr


def test_all_objects_survive_a_restart(file: Path, tmp_path: Path) -> None:
    calico = list(yaml.safe_load_all((STANDINS / "calico" / "tigera-operator.yaml").read_text()))
    installation = {"apiVersion": "operator.tigera.io/v1", "kind": "Installation", "metadata": {"name": "default"}}
    with ControlPlane(file, 0, address="127.0.0.1") as first:
        kubectl = kubectl_of(first, tmp_path)
        assert kubectl("apply", objects=calico).returncode == 0
        assert kubectl("apply", objects=[installation]).returncode == 0
    with ControlPlane(file, 0, address="127.0.0.1") as second:
        kubectl = kubectl_of(second, tmp_path)
        assert kubectl("diff", objects=[*calico, installation]).returncode == 0
        assert kubectl("delete", objects=[installation]).returncode == 0
        assert json.loads(kubectl("get", "installations", "-o", "json").stdout)["items"] == []


def test_a_node_that_does_not_report_is_lost_until_it_does(
    plane: ControlPlane, kubectl: Kubectl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_plane, "SILENT_S", 1.0)
    report(plane, "jw2")
    assert kubectl("cordon", "jw2").returncode == 0
    soon(lambda: kubectl("wait", "--for=condition=Ready", "--timeout=0s", "node", "jw2").returncode, 15)
    node = plane.find(NODE, "jw2")
    assert node is not None
    assert [one["status"] for one in node["status"]["conditions"] if one["type"] == "Ready"] == ["Unknown"]
    monkeypatch.setattr(control_plane, "SILENT_S", 60.0)
    report(plane, "jw2")
    soon(lambda: "taints" not in (plane.find(NODE, "jw2") or {})["spec"], 15)
    assert (plane.find(NODE, "jw2") or {})["spec"]["unschedulable"] is True
    assert kubectl("uncordon", "jw2").returncode == 0
    assert "unschedulable" not in (plane.find(NODE, "jw2") or {})["spec"]


def test_a_bootstrap_token_reads_what_a_node_needs_and_nothing_else(plane: ControlPlane, tmp_path: Path) -> None:
    data = {"token-id": "abcdef", "token-secret": "0123456789abcdef"}
    encoded = {name: b64encode(value.encode()).decode() for name, value in data.items()}
    plane.create(SECRET, {"metadata": {"name": "bootstrap-token-abcdef"}, "data": encoded}, "kube-system")
    sys.path.insert(0, str(STANDINS))
    try:
        import standin  # type: ignore[import-not-found]
    finally:
        sys.path.remove(str(STANDINS))
    good, bad = (standin.Api(plane.url, f"abcdef.{secret}") for secret in (data["token-secret"], "f" * 16))
    assert good.find("/api/v1/namespaces/kube-system/configmaps/kubeadm-config") is None
    for api, code in ((good, 403), (bad, 401)):
        with pytest.raises(standin.Failed) as error:
            api.request("GET", "/api/v1/nodes/jw2")
        assert error.value.code == code
