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
import yaml
from ansible.errors import AnsibleError
from ansible.module_utils.testing import patch_module_args
from ansible.plugins.loader import action_loader, fragment_loader, module_loader
from ansible.utils.plugin_docs import get_docstring

PLUGINS = Path(__file__).resolve().parents[2] / "plugins"
ansible.module_utils.__path__.append(str(PLUGINS / "module_utils"))
action_loader.add_directory(str(PLUGINS / "action"))
module_loader.add_directory(str(PLUGINS / "modules"))
fragment_loader.add_directory(str(PLUGINS / "doc_fragments"))
Execute = Callable[..., dict[str, Any]]


def load(name: str, kind: str = "modules") -> ModuleType:
    """A file of plugins/`kind` as a module."""
    spec = importlib.util.spec_from_file_location(f"plugins_{kind}_{name}", PLUGINS / kind / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def documentation(name: str) -> dict[str, Any]:
    """A module's documentation, with the fragments that it names."""
    result: dict[str, Any] = get_docstring(str(PLUGINS / "modules" / f"{name}.py"), fragment_loader, is_module=True)[0]
    return result


def step_options(name: str) -> dict[str, Any]:
    """The options of an action plugin that has no module, as it documents them."""
    result: dict[str, Any] = yaml.safe_load(load(name, "action").OPTIONS)
    return result


class Failed(Exception):
    """The task failed; `result` is its result."""

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
    process = subprocess.run(["/bin/sh", "-c", command], input=in_data, cwd=chdir, capture_output=True)
    return {"rc": process.returncode, "stdout": process.stdout.decode(), "stderr": process.stderr.decode()}


def call_module(name: str, arguments: dict[str, Any], *, check: bool = False) -> dict[str, Any]:
    """Run a module's main(); returns the arguments of exit_json, raises Failed for fail_json."""
    module, warnings = load(name), list[str]()

    def exit_json(self: Any, **result: Any) -> None:
        raise _Exited({**result, **({"warnings": warnings} if warnings else {})})

    def warn(self: Any, warning: str) -> None:
        warnings.append(warning)

    def fail_json(self: Any, msg: str, **result: Any) -> None:
        raise Failed({"msg": msg, **result})

    class Quiet(module.AnsibleModule):  # type: ignore[misc, name-defined]
        pass

    Quiet.exit_json, Quiet.fail_json, Quiet.warn = exit_json, fail_json, warn
    module.AnsibleModule = Quiet  # type: ignore[attr-defined]
    try:
        with patch_module_args({**arguments, "_ansible_check_mode": check}):
            module.main()
    except _Exited as exited:
        return exited.result
    raise AssertionError(f"{name} ended without exit_json")


def argument_spec(name: str) -> tuple[dict[str, Any], bool]:
    """(argument spec, supports check mode) that a module's main() declares."""
    module, captured = load(name), {}

    def note(argument_spec: dict[str, Any], supports_check_mode: bool = False) -> None:
        captured.update(spec=argument_spec, check=supports_check_mode)
        raise _Exited({})

    module.AnsibleModule = note  # type: ignore[attr-defined]
    main: Callable[[], None] = module.main
    with contextlib.suppress(_Exited):
        main()
    return captured["spec"], captured["check"]
