"""Roles: every input is in defaults and argument_specs with the same value, and is used."""

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
def test_no_undefined_variable_is_used(role: str) -> None:
    """A misspelt role variable would only be found when its task runs."""
    names = {*read(role, "defaults/main.yml"), *read(role, "vars/main.yml")}
    texts = yaml_texts(role, "tasks", "vars", "defaults")
    names |= set(re.findall(r"register: (\w+)", texts)) | set(re.findall(r"^\s+(__\w+|harness_\w+):", texts, re.M))
    used = set(re.findall(rf"\b((?:__)?{role}_\w+)", re.sub(r"#.*", "", texts)))
    assert used <= names


@pytest.mark.parametrize("inventory", ["local", "jw"])
def test_inventories_set_only_inputs_that_exist(inventory: str) -> None:
    inputs = set(read("harness", "defaults/main.yml"))
    for path in (REPOSITORY / "inventory" / inventory / "group_vars").glob("*.yml"):
        names = {name for name in yaml.safe_load(path.read_text()) if name.startswith("harness_")}
        assert names <= inputs, path


SITE = ("node", "containerd", "kubernetes", "calico", "nvidia", "images", "namespace", "assets", "monitoring", "bundle")


@pytest.mark.parametrize("role", SITE)
def test_roles_of_the_site_check_before_they_change_anything(role: str) -> None:
    first = read(role, "tasks/main.yml")[0]
    first = first.get("block", [first])[0]
    assert first["ansible.builtin.import_tasks"] == "preflight.yml"
    changing = re.findall(
        r"ansible.builtin.(copy|file|apt|template|systemd_service)",
        (REPOSITORY / "roles" / role / "tasks" / "preflight.yml").read_text(),
    )
    assert not changing


@pytest.mark.parametrize("role", ROLES)
def test_every_notification_has_a_handler_and_every_handler_is_notified(role: str) -> None:
    """A role without a service to restart has no handlers."""
    notified = set(re.findall(r"notify: (.+)", yaml_texts(role, "tasks")))
    file = REPOSITORY / "roles" / role / "handlers" / "main.yml"
    assert notified == ({task["name"] for task in yaml.safe_load(file.read_text())} if file.exists() else set())


@pytest.mark.parametrize(
    ("wanted", "result", "differs"),
    [
        (1, {"stdout": "1"}, False),
        (1, {"stdout": "0"}, True),
        ("4096 131072  6291456", {"stdout": "4096\t131072\t6291456"}, False),
        # A parameter whose module is not loaded; a host that has no sysctl.
        (1, {"stdout": "", "rc": 255}, True),
        (1, {"msg": "No such file or directory: b'sysctl'"}, True),
    ],
)
def test_a_kernel_parameter_differs_by_its_value(wanted: Any, result: dict[str, Any], differs: bool) -> None:
    block = next(task["block"] for task in read("node", "tasks/kernel.yml") if "block" in task)
    (condition,) = (task["changed_when"] for task in block if task.get("register") == "__node_sysctl")
    assert value("node", condition, item={"key": "k", "value": wanted}, __node_sysctl=result) is differs


def test_kernel_settings_are_written_as_the_boot_reads_them() -> None:
    settings = {"net.ipv4.ip_forward": 1, "net.ipv4.tcp_rmem": "4096 131072 6291456"}
    assert value("node", "__node_kernel_files", node_sysctls=settings)["/etc/sysctl.d/90-mlperf.conf"] == [
        "net.ipv4.ip_forward = 1",
        "net.ipv4.tcp_rmem = 4096 131072 6291456",
    ]
    loaded = {"node_modules": ["overlay", "br-netfilter"], "__node_loaded": {"stdout_lines": ["module", "overlay"]}}
    assert value("node", "__node_modules_to_load", **loaded) == ["br_netfilter"]


def test_a_share_of_a_lost_node_is_run_resumed_and_watched_as_the_nodes_own() -> None:
    def options(file: str, module: str) -> dict[str, Any]:
        (block,) = read("harness", f"tasks/{file}.yml")
        (task,) = [task for task in block["block"] if module in task]
        return dict(task[module])

    for module, of_one_run in (
        ("mlperf_run", {"run_id", "spec"}),
        ("mlperf_watch", {"run_id", "notice", "together", "engine_files", "hosts"}),
    ):
        own, share = (options(file, module) for file in ("run", "take_over"))
        assert {name: own[name] for name in own.keys() - of_one_run} == {
            name: share[name] for name in share.keys() - of_one_run
        }
