"""One setting, node_proxy, gives tasks, apt and containerd their proxy, with the cluster's own addresses excepted."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

from tests.unit.role_values import GROUPS, ROLES, rendered, value

PROXY = "http://proxy.example:3128"
PLAYBOOKS = ROLES.parent / "playbooks"


def environment(**settings: Any) -> dict[str, str]:
    loader = DataLoader()
    hostvars = {host: {"ansible_host": f"192.0.2.1{host[-1]}"} for host in GROUPS["cluster"]}
    hostvars["jw3"]["node_address"] = "10.9.9.3"
    variables = {"groups": GROUPS, "hostvars": hostvars, "inventory_hostname": "jw2"}
    variables |= loader.load_from_file(str(PLAYBOOKS / "vars/proxy.yml"), trusted_as_template=True)
    result: dict[str, str] = Templar(loader, variables=variables | settings).template(
        trust_as_template("{{ node_proxy_environment }}")
    )
    return result


def test_without_a_proxy_nothing_is_set() -> None:
    assert environment() == environment(node_proxy="") == {}


PLAY = """
- hosts: all
  gather_facts: false
  vars_files: ["{folder}/vars/proxy.yml"]
  environment: "{{{{ node_proxy_environment }}}}"
  tasks: [{{name: Look at the host, ansible.builtin.command: "true"}}]
"""


@pytest.mark.parametrize("proxy", ["http://user:hunter2-pass@proxy.example:3128", "user:hunter2-pass@proxy.example"])
def test_a_login_is_refused_and_never_printed(tmp_path: Path, proxy: str) -> None:
    (tmp_path / "play.yml").write_text(PLAY.format(folder=PLAYBOOKS))
    (tmp_path / "hosts.yml").write_text(f"all: {{hosts: {{h1: {{ansible_connection: local, node_proxy: '{proxy}'}}}}}}")
    playbook = Path(sys.executable).with_name("ansible-playbook")
    command = [playbook, "-i", tmp_path / "hosts.yml", "-vvvv", "--diff", tmp_path / "play.yml"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.returncode != 0 and "node_proxy holds a login" in " ".join(done.stdout.split())
    assert "hunter2" not in done.stdout + done.stderr and "user:" not in done.stdout


def test_the_clusters_own_addresses_are_reached_without_it() -> None:
    settings = {"node_no_proxy": ["mirror.lan", "10.0.0.0/8"], "kubernetes_api_endpoint": "api.lan:6443"}
    names = environment(node_proxy=PROXY, **settings)
    assert names["http_proxy"] == names["HTTPS_PROXY"] == PROXY
    assert names["NO_PROXY"] == names["no_proxy"]
    assert names["no_proxy"].split(",") == [
        "localhost", "127.0.0.1", "::1", ".svc", ".cluster.local", "10.244.0.0/16", "10.96.0.0/12",
        "jw1", "jw2", "jw3", "192.0.2.11", "192.0.2.12", "10.9.9.3", "api.lan", "mirror.lan", "10.0.0.0/8",
    ]  # fmt: skip


def test_the_networks_are_those_of_the_role() -> None:
    text = (PLAYBOOKS / "vars/proxy.yml").read_text()
    defaults = yaml.safe_load((ROLES / "kubernetes/defaults/main.yml").read_text())
    for name in ("kubernetes_pod_network", "kubernetes_service_network"):
        assert f"{name} | default('{defaults[name]}')" in text


ENVIRONMENT = {"http_proxy": PROXY, "no_proxy": ".svc,a b"}


def test_containerd_pulls_through_it() -> None:
    unit = {"Service": {"LimitNOFILE": 20000, "Environment": ["A=1"]}}
    text = rendered("containerd", "unit.conf.j2", containerd_unit=unit, node_proxy_environment=ENVIRONMENT)
    lines = text.splitlines()
    assert f'Environment="http_proxy={PROXY}"' in lines and 'Environment="no_proxy=.svc,a b"' in lines
    assert lines.index("Environment=A=1") > lines.index('Environment="no_proxy=.svc,a b"')
    assert "LimitNOFILE=20000" in lines
    assert value("containerd", "__containerd_unit", containerd_unit={}, node_proxy_environment={}) == {}


def test_apt_uses_it_also_outside_of_plays() -> None:
    text = value("node", "__node_apt_proxy_text", node_proxy=PROXY, node_no_proxy=["mirror.lan", ".lan", "10.0.0.0/8"])
    assert text.splitlines()[1:] == [
        f'Acquire::http::Proxy "{PROXY}";',
        'Acquire::http::Proxy::mirror.lan "DIRECT";',
        f'Acquire::https::Proxy "{PROXY}";',
        'Acquire::https::Proxy::mirror.lan "DIRECT";',
    ]


NO_DOWNLOADS = {"Check the settings", "Gather the hosts' facts", "Request"}


@pytest.mark.parametrize(
    "name",
    ["cluster", "gpu", "namespace", "volcano", "images", "assets", "monitoring", "prepare", "upgrade", "benchmark"],
)
def test_every_play_that_installs_has_the_environment(name: str) -> None:
    plays = yaml.safe_load(Path(PLAYBOOKS / f"{name}.yml").read_text())
    if name == "benchmark":
        plays = [play for play in plays if play["name"] == "Preflight"]
    installing = [play for play in plays if play["name"] not in NO_DOWNLOADS]
    assert installing
    for play in installing:
        assert play["vars_files"] == ["vars/proxy.yml"] and play["environment"] == "{{ node_proxy_environment }}"
