# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Works out what failed on a host, from the result of the task that failed."""

from __future__ import annotations

from ansible.plugins.loader import action_loader

OPTIONS = """
result:
  description: The task's result, ansible_failed_result. Of a loop, the first item that failed counts.
  type: dict
  required: true
phase:
  description: The part of the benchmark, such as engine.
  type: str
  required: true
end:
  description: The command that ends the run.
  type: str
  required: true
unreachable:
  description: Whether the host did not answer.
  type: bool
  default: false
"""


class ActionModule(action_loader.get("mlperf_base", class_only=True)):
    """Turns a task's result into an entry of failures.json; looks at nothing and changes nothing."""

    options = OPTIONS

    def work(self, arguments):
        """The entry, and whether the host is lost: not watched any more, so that its engines may still run."""
        from harness.benchmark import failures

        failure, lost = failures.of_task(**arguments, host=self._variables["inventory_hostname"])
        return {"changed": False, "failure": failure.model_dump(), "lost": lost}
