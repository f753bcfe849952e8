"""Modules and module_utils of plugins/, called in this process with Ansible's own argument parsing."""

import contextlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import ansible.module_utils
from ansible.module_utils.testing import patch_module_args

PLUGINS = Path(__file__).resolve().parents[2] / "plugins"
ansible.module_utils.__path__.append(str(PLUGINS / "module_utils"))


def load(name: str, kind: str = "modules") -> ModuleType:
    """A file of plugins/`kind` as a module."""
    spec = importlib.util.spec_from_file_location(f"plugins_{kind}_{name}", PLUGINS / kind / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


class Failed(Exception):
    """The module called fail_json; `result` is what it gave."""

    def __init__(self, result: dict[str, Any]) -> None:
        super().__init__(result["msg"])
        self.result = result


class _Exited(Exception):
    def __init__(self, result: dict[str, Any]) -> None:
        super().__init__()
        self.result = result


def call(name: str, arguments: dict[str, Any], *, check: bool = False) -> dict[str, Any]:
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
