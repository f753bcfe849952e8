# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Starts a host's engines, watches them until they are ready, and reads their API keys."""

from __future__ import annotations

from pathlib import Path

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.loader import action_loader
from ansible.utils.display import Display

OPTIONS = """
command:
  description: The C(harness) command of the node, or C(harness cluster) of the controller, as a list of words.
  type: list
  elements: str
  required: true
launcher:
  description: What starts engines.
  type: str
  default: process
root:
  description: Folder of the node's engines and runs.
  type: str
  required: true
engines:
  description: Settings of each engine, as mlperf_settings returns them.
  type: list
  elements: dict
  required: true
key_files:
  description: The file of each API key by the engine's name, as mlperf_settings returns them.
  type: dict
  default: {}
ended:
  description: What mlperf_cluster_engines says of this host, whose engines then are not started again.
  type: dict
  default: {}
hosts:
  description: How many hosts start engines at once.
  type: int
  default: 1
interval_s:
  description: Seconds between two looks; at least one for each of O(hosts).
  type: float
  default: 10
lost_after_s:
  description: Seconds without an answer after which the node counts as lost.
  type: float
  default: 120
progress:
  description: A file on the controller to which every state is appended as a line of JSON.
  type: str
  default: ""
"""


display = Display()


class ActionModule(action_loader.get("mlperf_base", class_only=True)):
    """Calls mlperf_engine for each engine, mlperf_watch for all and mlperf_engine_keys, in one task.

    Thus `throttle` says on how many nodes engines come up at once, and Ansible goes over the hosts once. In check mode
    it ends after what mlperf_engine says.
    """

    options = OPTIONS

    def work(self, arguments):
        """What mlperf_watch returns, with `api_keys`; what fails has the reason and the state of what failed."""
        if arguments["ended"]:
            ended = arguments["ended"]
            return {"changed": False, "failed": not ended["good"], "msg": ended["reason"], **ended}
        common = {name: arguments[name] for name in ("command", "launcher", "root")}
        all_started = {}
        try:
            for config in arguments["engines"]:
                started = self.run_action("mlperf_engine", {**common, "name": config["name"], "config": config})
                if started.get("failed"):
                    return {**started, "reason": started["msg"]}
                all_started[config["name"]] = started
            changed = any(started["changed"] for started in all_started.values())
            change = {"changed": changed, "diff": self.joined_diff(all_started)}
            if self.check_mode:
                return change
            watched = self._attached(arguments, list(all_started.values())) or self.run_action(
                "mlperf_watch", {**common, **self._watching(arguments)}
            )
            if not watched.get("good"):
                return {**watched, **change, "failed": True}
            files = arguments["key_files"]
            keys = self.run_action("mlperf_engine_keys", {"files": files}) if files else {}
        except AnsibleConnectionFailure as error:
            return self.became_unreachable("while its engines were started", error)
        return {**watched, "api_keys": {}, **keys, **change}

    def _attached(self, arguments, all_started):
        """The result where all engines are servers that have just answered as ready: there is nothing to wait for."""
        from harness.benchmark import progress
        from harness.state_file import ENGINE_KEYS

        if not all(started["changed"] and started["state"] == "ready" for started in all_started):
            return None
        host = self._variables["inventory_hostname"]
        records = [{key: started["engine"].get(key) for key in ENGINE_KEYS} for started in all_started]
        for record in records:
            if arguments["progress"]:
                progress.append(Path(arguments["progress"]), host, "engine", record, None)
            if arguments["hosts"] <= progress.FEW:
                display.display(f"{host}  {progress.line('engine', record, 0.0)}")
        return {"host": host, "good": True, "state": "ready", "status": records[-1] if records else {}}

    def _watching(self, arguments):
        # A look waits on the node for an end, so that long intervals between many nodes delay nothing.
        return {
            "kind": "engine",
            "engines": [config["name"] for config in arguments["engines"]],
            "interval_s": max(arguments["interval_s"], arguments["hosts"]),
            "lost_after_s": arguments["lost_after_s"],
            "hosts": arguments["hosts"],
            "progress": arguments["progress"],
        }
