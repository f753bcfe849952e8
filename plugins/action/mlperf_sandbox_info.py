# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Reads whether the sandbox of a node is complete."""

from __future__ import annotations

import json
import shlex

from ansible.plugins.loader import action_loader

OPTIONS = """
path:
  description: Folder of the sandbox on the node.
  type: path
  required: true
samples:
  description: How many samples the data set must have at least.
  type: int
  required: true
seed:
  description: The seed that it must have been built from.
  type: int
  required: true
"""


class ActionModule(action_loader.get("mlperf_base", class_only=True)):
    """Reads sandbox.json on the node, which needs neither harness nor Python there."""

    options = OPTIONS

    def work(self, arguments):
        """Whether model, data set and reference answers are there for that many samples."""
        from harness.sandbox import is_complete

        result = self._low_level_execute_command(f"cat {shlex.quote(arguments['path'] + '/sandbox.json')}")
        try:
            record = json.loads(result["stdout"]) if result["rc"] == 0 else None
            complete = record is not None and is_complete(record, arguments["samples"], arguments["seed"])
        except (ValueError, LookupError, TypeError):
            complete = False  # building it says what is wrong with the file
        return {"changed": False, "complete": complete}
