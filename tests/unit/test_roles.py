"""Roles: every input stands in defaults and in argument_specs with the same value, and is used."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.role_values import value

REPOSITORY = Path(__file__).resolve().parents[2]
ROLES = sorted(path.name for path in (REPOSITORY / "roles").iterdir())


def read(role: str, name: str) -> Any:
    return yaml.safe_load((REPOSITORY / "roles" / role / name).read_text())


def yaml_texts(role: str, *folders: str) -> str:
    files = [path for folder in folders for path in (REPOSITORY / "roles" / role / folder).rglob("*.yml")]
    return "\n".join(path.read_text() for path in files)


@pytest.mark.parametrize("role", ROLES)
def test_defaults_equal_argument_specs(role: str) -> None:
    options = read(role, "meta/argument_specs.yml")["argument_specs"]["main"]["options"]
    assert {name: option["default"] for name, option in options.items()} == read(role, "defaults/main.yml")


@pytest.mark.parametrize("role", ROLES)
def test_inputs_have_the_roles_prefix_and_are_described_and_used(role: str) -> None:
    options = read(role, "meta/argument_specs.yml")["argument_specs"]["main"]["options"]
    used = yaml_texts(role, "tasks", "vars", "defaults")
    for name, option in options.items():
        assert name.startswith(f"{role}_")
        assert option["description"]
        assert len(re.findall(rf"\b{name}\b", used)) > 1, f"{name} is declared and not used"


@pytest.mark.parametrize("role", ROLES)
def test_internal_names_begin_with_two_underscores_and_the_role(role: str) -> None:
    tasks = yaml_texts(role, "tasks")
    registered = re.findall(r"register: (\S+)", tasks) + list(read(role, "vars/main.yml"))
    assert registered
    assert all(name.startswith(f"__{role}_") for name in registered)


@pytest.mark.parametrize("role", ROLES)
def test_no_variable_of_a_role_is_used_without_being_known(role: str) -> None:
    """A misspelt role variable would only be found when its task runs."""
    known = {*read(role, "defaults/main.yml"), *read(role, "vars/main.yml")}
    texts = yaml_texts(role, "tasks", "vars", "defaults")
    known |= set(re.findall(r"register: (\w+)", texts)) | set(re.findall(r"^\s+(__\w+|harness_\w+):", texts, re.M))
    used = set(re.findall(rf"\b((?:__)?{role}_\w+)", re.sub(r"#.*", "", texts)))
    assert used <= known


@pytest.mark.parametrize("inventory", ["local", "jw"])
def test_inventories_set_only_inputs_that_exist(inventory: str) -> None:
    inputs = set(read("harness", "defaults/main.yml"))
    for path in (REPOSITORY / "inventory" / inventory / "group_vars").glob("*.yml"):
        names = {name for name in yaml.safe_load(path.read_text()) if name.startswith("harness_")}
        assert names <= inputs, path


SITE = ("node", "containerd", "kubernetes", "calico", "nvidia", "images", "namespace", "assets", "monitoring", "bundle")


@pytest.mark.parametrize("role", SITE)
def test_roles_of_the_site_look_for_what_would_fail_before_they_touch_anything(role: str) -> None:
    first = read(role, "tasks/main.yml")[0]
    first = first.get("block", [first])[0]
    assert first["ansible.builtin.import_tasks"] == "preflight.yml"
    changing = re.findall(
        r"ansible.builtin.(copy|file|apt|template|systemd_service)",
        (REPOSITORY / "roles" / role / "tasks" / "preflight.yml").read_text(),
    )
    assert not changing


@pytest.mark.parametrize("role", ROLES)
def test_what_is_notified_is_handled_and_every_handler_is_notified(role: str) -> None:
    """Where nothing that runs must restart, a role has no handlers."""
    notified = set(re.findall(r"notify: (.+)", yaml_texts(role, "tasks")))
    file = REPOSITORY / "roles" / role / "handlers" / "main.yml"
    assert notified == ({task["name"] for task in yaml.safe_load(file.read_text())} if file.exists() else set())


def test_kernel_settings_that_differ_are_the_ones_to_apply() -> None:
    settings = {"net.ipv4.ip_forward": 1, "net.ipv4.tcp_rmem": "4096 131072  6291456", "net.bridge.bridge-nf": 1}
    # What grep prints of /proc/sys; a parameter whose module is not loaded has no file.
    lines = ["/proc/sys/net/ipv4/ip_forward:0", "/proc/sys/net/ipv4/tcp_rmem:4096\t131072\t6291456"]
    given = {"node_sysctls": settings, "__node_sysctl_values": {"stdout_lines": lines}}
    assert value("node", "__node_sysctls_to_set", **given) == [
        "/proc/sys/net/ipv4/ip_forward:1",
        "/proc/sys/net/bridge/bridge-nf:1",
    ]
    assert value("node", "__node_kernel_files", **given)["/etc/sysctl.d/90-mlperf.conf"][:2] == [
        "net.ipv4.ip_forward = 1",
        "net.ipv4.tcp_rmem = 4096 131072 6291456",
    ]
    loaded = {"node_modules": ["overlay", "br-netfilter"], "__node_loaded": {"stdout_lines": ["module", "overlay"]}}
    assert value("node", "__node_modules_to_load", **loaded) == ["br_netfilter"]
