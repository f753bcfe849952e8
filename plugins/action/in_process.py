# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Does what the module of the same name does in Ansible's own process.

A Python of its own takes a module half a second, and a benchmark is many modules. Those that read and write the
controller's files only, and those that only call the harness on the node, need none; they are links to this file.
"""

from __future__ import annotations

import importlib.util
import os
import shlex

import ansible.module_utils
from ansible.plugins.action import ActionBase
from ansible.plugins.loader import module_loader, module_utils_loader

CALL_THE_HARNESS = {"mlperf_doctor", "mlperf_engine", "mlperf_run"}


class ActionModule(ActionBase):
    """The module's result for the task's arguments."""

    _supports_check_mode = True

    def run(self, tmp=None, task_vars=None):
        """Validate the arguments as the module would, and do its work."""
        result = super().run(tmp, task_vars)
        name = self._task.action.rpartition(".")[2]
        module, check_mode = _module(name), self._task.check_mode
        _, params = self.validate_argument_spec(module.ARGUMENTS)
        looks = check_mode or params.get("state") == "stopped"
        if name in CALL_THE_HARNESS and looks and params["launcher"] == "process":
            return {**result, **self._execute_module(task_vars=task_vars)}  # it looks at the node's files, too
        try:
            found = module.act(_Node(self, params)) if name in CALL_THE_HARNESS else module.answer(params, check_mode)
        except _Failed as failure:
            found = failure.result
        return {**result, **found}


class _Failed(Exception):
    """The module has failed with this result."""

    def __init__(self, result):
        super().__init__()
        self.result = result


class _Node:
    """What calling the harness needs of an AnsibleModule, over the task's connection."""

    def __init__(self, action, params):
        self._action, self.params, self.check_mode = action, params, action._task.check_mode

    def run_command(self, argv, data=None, cwd=None, handle_exceptions=True):
        """(exit code, output, errors) of a command on the node."""
        stdin = None if data is None else data.encode()
        done = self._action._low_level_execute_command(shlex.join(argv), in_data=stdin, chdir=cwd)
        return done["rc"], done["stdout"], done["stderr"]

    def fail_json(self, **result):
        """End the task as failed."""
        raise _Failed({"failed": True, **result})


def _module(name):
    folder = os.path.dirname(module_utils_loader.find_plugin("mlperf_state"))
    if folder not in ansible.module_utils.__path__:
        ansible.module_utils.__path__.append(folder)
    spec = importlib.util.spec_from_file_location(name, module_loader.find_plugin(name))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
