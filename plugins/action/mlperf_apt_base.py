# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Base of the tasks that use apt on a host: they wait while another process has its locks, and show which."""

from __future__ import annotations

import time

from ansible.plugins.loader import action_loader
from ansible.utils.display import Display

display = Display()
LIMIT_S = 900
"""A host that installs its updates at first boot takes ten minutes."""
PAUSE_S = 5.0


class ActionModule(action_loader.get("mlperf_base", class_only=True)):
    """Runs the module of the task's name until no other process has apt's locks."""

    def work(self, arguments):
        """The module's result; after LIMIT_S the failure that names who has the lock."""
        from harness.printable import printable

        name, host = self._task.action.rpartition(".")[2], self._variables.get("inventory_hostname", "the host")
        began = time.monotonic()
        while True:
            result = self._execute_module(name, module_args=arguments, task_vars=self._variables)
            if not (holder := result.get("locked")):
                return result
            waited = time.monotonic() - began
            if waited > LIMIT_S:
                return {**result, "msg": _given_up(host, holder["text"], waited)}
            display.display(printable(f"{host}  waiting for apt: {holder['text']}, {waited:.0f} s of {LIMIT_S} s"))
            time.sleep(PAUSE_S)


def _given_up(host, holder, waited):
    return (
        f"{host}: apt cannot be used: {holder}, since {waited:.0f} s at least. Wait for its end, or end it there "
        "(`systemctl stop apt-daily.service apt-daily-upgrade.service unattended-upgrades.service`), then run the "
        "playbook again"
    )
