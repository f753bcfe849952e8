"""The default launcher: a cluster where there are credentials for one; never on inventory/local."""

from pathlib import Path

import yaml

from tests.unit.role_values import ROLES, value


def default(kubeconfig: str, **more: object) -> str:
    return str(value("harness", "harness_launcher", harness_kubeconfig=kubeconfig, **more))


def test_credentials_on_this_machine_decide(tmp_path: Path) -> None:
    there, missing = tmp_path / "config", tmp_path / "gone"
    there.write_text("{}")
    assert default(str(there)) == default(f"{there}:{missing}") == "kubernetes"
    assert default(str(missing)) == default("") == "process"
    # A kubeconfig of another cluster makes no cluster of hosts.
    assert default(str(there), groups={"gpu_nodes": ["jw2"]}) == "process"
    assert default(str(there), groups={"gpu_nodes": ["jw2"], "cluster": []}) == "process"


def test_this_machine_as_two_nodes_never_touches_a_cluster() -> None:
    folder = ROLES.parent / "inventory" / "local"
    settings = yaml.safe_load((folder / "group_vars" / "gpu_nodes.yml").read_text())
    assert settings["harness_launcher"] == "process"
    hosts = yaml.safe_load((folder / "hosts.yml").read_text())
    assert hosts["cluster"]["hosts"] == hosts["controller"]["hosts"] == {}
