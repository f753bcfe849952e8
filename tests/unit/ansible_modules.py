"""Modules and action plugins of plugins/, called in this process as Ansible calls them; the node is this machine."""

import contextlib
import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import ansible.module_utils
from ansible.errors import AnsibleError
from ansible.module_utils.testing import patch_module_args
from ansible.plugins.loader import action_loader, module_loader

PLUGINS = Path(__file__).resolve().parents[2] / "plugins"
ansible.module_utils.__path__.append(str(PLUGINS / "module_utils"))
action_loader.add_directory(str(PLUGINS / "action"))
module_loader.add_directory(str(PLUGINS / "modules"))
Execute = Callable[..., dict[str, Any]]


def load(name: str, kind: str = "modules") -> ModuleType:
    """A file of plugins/`kind` as a module."""
    spec = importlib.util.spec_from_file_location(f"plugins_{kind}_{name}", PLUGINS / kind / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


class Failed(Exception):
    """The task failed; `result` is what it gave."""

    def __init__(self, result: dict[str, Any]) -> None:
        super().__init__(result["msg"])
        self.result = result


class _Exited(Exception):
    def __init__(self, result: dict[str, Any]) -> None:
        super().__init__()
        self.result = result


def call(
    name: str,
    arguments: dict[str, Any],
    *,
    check: bool = False,
    execute: Execute | None = None,
    variables: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """A task's result: of its action plugin where there is one, else of its module. Raises Failed.

    `execute` stands for the connection to the node: (command, in_data, chdir) to rc, stdout and stderr. `variables` are
    those of the host.
    """
    if (PLUGINS / "action" / f"{name}.py").exists():
        plugin = action(name, arguments, check=check, execute=execute or on_this_machine)
        result: dict[str, Any] = plugin.run(task_vars=variables or {})
        if result.get("failed"):
            raise Failed(result)
        return result
    return call_module(name, arguments, check=check)


def action(name: str, arguments: dict[str, Any], *, check: bool, execute: Execute) -> Any:
    """An action plugin, whose node is this machine."""
    task = MagicMock(action=name, check_mode=check, args=arguments, async_val=0)
    plugin = load(name, "action").ActionModule(task, *(MagicMock() for _ in range(5)))

    def execute_module(module_name: str, module_args: dict[str, Any], **more: Any) -> dict[str, Any]:
        try:
            return call_module(module_name, module_args, check=check)
        except Failed as failed:
            return {"failed": True, **failed.result}

    plugin._low_level_execute_command, plugin._execute_module = execute, execute_module
    run = plugin.run

    def run_or_fail(**more: Any) -> dict[str, Any]:
        try:
            result: dict[str, Any] = run(**more)
        except AnsibleError as error:
            raise Failed({"msg": str(error)}) from error
        return result

    plugin.run = run_or_fail
    return plugin


def on_this_machine(command: str, in_data: bytes | None = None, chdir: str | None = None) -> dict[str, Any]:
    """What Ansible's local connection does."""
    done = subprocess.run(["/bin/sh", "-c", command], input=in_data, cwd=chdir, capture_output=True)
    return {"rc": done.returncode, "stdout": done.stdout.decode(), "stderr": done.stderr.decode()}


def call_module(name: str, arguments: dict[str, Any], *, check: bool = False) -> dict[str, Any]:
    """Run a module's main(); returns what it gave to exit_json, raises Failed for fail_json."""
    module = load(name)

    def exit_json(self: Any, **result: Any) -> None:
        raise _Exited(result)

    def fail_json(self: Any, msg: str, **result: Any) -> None:
        raise Failed({"msg": msg, **result})

    class Quiet(module.AnsibleModule):  # type: ignore[misc, name-defined]
        pass

    Quiet.exit_json, Quiet.fail_json = exit_json, fail_json
    module.AnsibleModule = Quiet  # type: ignore[attr-defined]
    try:
        with patch_module_args({**arguments, "_ansible_check_mode": check}):
            module.main()
    except _Exited as done:
        return done.result
    raise AssertionError(f"{name} ended without exit_json")


def argument_spec(name: str) -> tuple[dict[str, Any], bool]:
    """(argument spec, supports check mode) that a module's main() declares."""
    module, seen = load(name), {}

    def note(argument_spec: dict[str, Any], supports_check_mode: bool = False) -> None:
        seen.update(spec=argument_spec, check=supports_check_mode)
        raise _Exited({})

    module.AnsibleModule = note  # type: ignore[attr-defined]
    main: Callable[[], None] = module.main
    with contextlib.suppress(_Exited):
        main()
    return seen["spec"], seen["check"]
