# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Looks at the runs of a node. See plugins/modules/mlperf_run_info.py, which does so where they are processes."""

from __future__ import annotations

from ansible.plugins.loader import action_loader


class ActionModule(action_loader.get("mlperf_base", class_only=True)):
    """Asks a cluster for the node's Jobs, or has the module read the node's state files."""

    def work(self, arguments):
        """The run of interest, and all that are running."""
        if arguments["launcher"] == "process":
            return self.run_module("mlperf_run_info", **arguments)
        from harness.state_file import summary

        answer = self.call_harness(arguments, ["status"])
        return {"changed": False, "gpus": answer["gpus"], **summary(answer["runs"], arguments["run_id"])}
