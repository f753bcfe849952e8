# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Runs the module of the same name in Ansible's own process.

It reads and writes the controller's files only, and starting a Python for it would take half a second. mlperf_begin,
mlperf_package, mlperf_plan and mlperf_report are links to this file.
"""

from __future__ import annotations

import importlib.util
import os

import ansible.module_utils
from ansible.plugins.action import ActionBase
from ansible.plugins.loader import module_loader, module_utils_loader


class ActionModule(ActionBase):
    """The module's `answer` to the task's arguments."""

    _supports_check_mode = True

    def run(self, tmp=None, task_vars=None):
        """Validate the arguments as the module would, and answer."""
        result = super().run(tmp, task_vars)
        module = _module(self._task.action.rpartition(".")[2])
        _, params = self.validate_argument_spec(module.ARGUMENTS)
        return {**result, **module.answer(params, self._task.check_mode)}


def _module(name):
    folder = os.path.dirname(module_utils_loader.find_plugin("mlperf_state"))
    if folder not in ansible.module_utils.__path__:
        ansible.module_utils.__path__.append(folder)
    spec = importlib.util.spec_from_file_location(name, module_loader.find_plugin(name))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
