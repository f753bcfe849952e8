# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Compares the facts of all hosts, and says what is wrong with them."""

from __future__ import annotations

from pathlib import Path

from ansible.plugins.loader import action_loader

OPTIONS = """
hosts:
  description: Facts by host, of mlperf_host_facts; an empty dict for a host that did not answer.
  type: dict
  required: true
gpu_nodes:
  description: Hosts that should have GPUs.
  type: list
  elements: str
  default: []
cluster:
  description: Hosts that site.yml sets up. The advice for others is to do it by hand.
  type: list
  elements: str
  default: []
supported:
  description: Systems that site.yml can set up, such as debian 12. Empty for any.
  type: list
  elements: str
  default: []
path:
  description: JSON file for facts and findings, not written in check mode.
  type: path
  required: true
"""


class ActionModule(action_loader.get("mlperf_base", class_only=True)):
    """Judges the facts, predicts which nodes will be slower and why, and records both in a JSON file."""

    options = OPTIONS

    def work(self, arguments):
        """`findings`, each with host, level, check, seen and advice; and a `table` for people."""
        from harness import host_survey
        from harness.errors import BadInput
        from harness.files import write_json

        hosts = {host: facts or None for host, facts in arguments["hosts"].items()}
        findings = host_survey.judge(hosts, arguments["gpu_nodes"], arguments["cluster"], arguments["supported"])
        if not self.check_mode:
            try:
                write_json(Path(arguments["path"]), host_survey.report(hosts, findings))
            except OSError as error:
                raise BadInput(f"cannot write {arguments['path']}: {error.strerror}; give another file") from error
        # Not a change: the file only records the hosts' present state.
        return {"changed": False, "findings": findings, "table": host_survey.table(hosts, findings)}
