# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Compares the facts of all hosts. See plugins/modules/mlperf_host_survey.py for what users need."""

from __future__ import annotations

from pathlib import Path

from ansible.plugins.loader import action_loader


class ActionModule(action_loader.get("mlperf_base", class_only=True)):
    """Judges the facts and records them in a JSON file."""

    def work(self, arguments):
        """Findings and table."""
        from harness import host_survey
        from harness.errors import BadInput
        from harness.files import write_json

        hosts = {host: facts or None for host, facts in arguments["hosts"].items()}
        findings = host_survey.judge(hosts, arguments["gpu_nodes"], arguments["supported"])
        if not self.check_mode:
            try:
                write_json(Path(arguments["path"]), host_survey.report(hosts, findings))
            except OSError as error:
                raise BadInput(f"cannot write {arguments['path']}: {error.strerror}; give another file") from error
        # Not a change: the file only records the hosts' present state.
        return {"changed": False, "findings": findings, "table": host_survey.table(hosts, findings)}
