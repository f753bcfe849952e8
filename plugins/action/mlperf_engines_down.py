# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Stops a host's engines."""

from __future__ import annotations

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.loader import action_loader

OPTIONS = """
command:
  description: The C(harness) command of the node, or C(harness cluster) of the controller, as a list of words.
  type: list
  elements: str
  required: true
launcher:
  description: What started the engines.
  type: str
  default: process
root:
  description: Folder of the node's engines and runs.
  type: str
  required: true
engines:
  description: Names of the engines.
  type: list
  elements: str
  required: true
"""


class ActionModule(action_loader.get("mlperf_base", class_only=True)):
    """Calls mlperf_engine for each engine, in one task; a failure does not keep it from stopping the others."""

    options = OPTIONS

    def work(self, arguments):
        """Whether any was stopped; the first failure."""
        common = {name: arguments[name] for name in ("command", "launcher", "root")}
        try:
            stopped = {
                name: self.run_action("mlperf_engine", {**common, "name": name, "state": "down"})
                for name in arguments["engines"]
            }
        except AnsibleConnectionFailure as error:
            return self.became_unreachable("before its engines were stopped", error)
        failed = next((result for result in stopped.values() if result.get("failed")), None)
        if failed:
            return failed
        return {
            "changed": any(result["changed"] for result in stopped.values()),
            "diff": self.joined_diff(stopped),
        }
