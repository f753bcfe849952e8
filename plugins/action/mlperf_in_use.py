# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Fails if a run or an engine of this machine uses a folder that is about to change."""

from __future__ import annotations

import shlex

from ansible.plugins.loader import action_loader

OPTIONS = """
path:
  description: The folder that is about to change.
  type: path
  required: true
root:
  description: Folder of this host's engines and runs.
  type: path
  required: true
command:
  description: The harness command on the host as a list of words.
  type: list
  elements: str
  required: true
"""


class ActionModule(action_loader.get("mlperf_base", class_only=True)):
    """Looks at the state files of all runs and engines; changes nothing.

    GPU nodes that share a machine differ in harness_root, so that the folders of all GPU nodes are looked at.
    """

    options = OPTIONS

    def work(self, arguments):
        """Nothing.

        Raises:
            NotReady: something uses the folder; says how to stop it.
        """
        from harness.errors import NotReady
        from harness.state_file import ENGINE_RUNNING

        roots = self._roots(arguments["root"])
        for root in roots:
            for run_id in self.run_module("mlperf_run_info", root=root)["running"]:
                how = f"wait for its end, or end it with `{self.origin().commands(run_id).end}`"
                raise NotReady(f"{arguments['path']} is in use by run {run_id}: {how}, then try again")
        for root in roots:
            for engine in self.run_module("mlperf_engine_info", root=root)["engines"]:
                if engine["kind"] != "endpoint" and engine["state"] in ENGINE_RUNNING:
                    name = engine["name"]
                    command = shlex.join([*arguments["command"], "engine", "down", name, "--root", root])
                    raise NotReady(
                        f"{arguments['path']} is in use by engine {name}: take it down with `{command}`, then try again"
                    )
        return {"changed": False}

    def _roots(self, own):
        variables = self._variables
        nodes = [variables["hostvars"][name] for name in variables.get("groups", {}).get("gpu_nodes", ())]
        return list(dict.fromkeys([*(str(node.get("harness_root", own)) for node in nodes), own]))
