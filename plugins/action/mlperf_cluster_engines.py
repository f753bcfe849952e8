# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Starts the engines of all hosts of a cluster, and watches them until each is ready or has failed."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from ansible.plugins.loader import action_loader
from ansible.utils.display import Display

OPTIONS = """
command:
  description: The C(harness cluster) command of the controller, as a list of words.
  type: list
  elements: str
  required: true
hosts:
  description: Hosts whose engines are started, as mlperf_settings returned them there.
  type: list
  elements: str
  required: true
at_once:
  description: On how many hosts engines come up at once; 0 for all.
  type: int
  default: 0
interval_s:
  description: Seconds between two looks.
  type: float
  default: 10
lost_after_s:
  description: Seconds without an answer of the API after which watching ends.
  type: float
  default: 1800
progress:
  description: A file on the controller to which every state is appended as a line of JSON.
  type: str
  default: ""
"""

display = Display()


class ActionModule(action_loader.get("mlperf_base", class_only=True)):
    """One command makes the Jobs of a wave of hosts, and one watches them; changes nothing in check mode.

    It does not fail: what fails is a failure of each host of the wave, which its own next task reports and records.
    """

    options = OPTIONS

    def work(self, arguments):
        """By host, whether its engines are ready (`good`), else a `reason`, the `state` and the `log` to read."""
        from harness.benchmark import waves

        if self.check_mode:
            return {"changed": False, "hosts": {}}
        return waves.run(
            arguments["hosts"],
            arguments["at_once"],
            lambda hosts: self._start(arguments["command"], {host: self._wanted(host) for host in hosts}),
            lambda hosts: self._watch(arguments, {host: self._wanted(host) for host in hosts}),
        )

    def _wanted(self, host):
        recorded = self._variables["hostvars"][host]
        engines = [self.keyed(engine) for engine in recorded["__harness_settings"]["engines"]]
        return {"node": recorded.get("harness_node", host), "engines": json.loads(json.dumps(engines))}

    def _start(self, command, wave):
        argv = [*command, "engine", "up-all", "--json"]
        done = subprocess.run(argv, input=json.dumps(wave), capture_output=True, text=True, check=False)
        return self.read_answer(done.returncode, done.stdout, done.stderr)["hosts"]

    def _watch(self, arguments, wave):
        from harness.benchmark import watch, waves

        engines = [(host, f"{engine['name']}@{one['node']}") for host, one in wave.items() for engine in one["engines"]]
        words = ["watch", "--interval", str(arguments["interval_s"]), "engine"]
        options = watch.Options(
            kind="engine",
            command=[*arguments["command"], *words, *(name for _, name in engines)],
            interval_s=arguments["interval_s"],
            lost_after_s=arguments["lost_after_s"],
            progress=Path(arguments["progress"]) if arguments["progress"] else None,
            to_the_last=True,
        )
        node = watch.Node("cluster", self._no_node, lambda: None, lambda line: display.display(f"cluster  {line}"))
        watching = watch.Watch(node, options)
        last = watching.run()
        if last["state"] == "lost":
            return {host: waves.failed(last["reason"], "lost") for host in wave}
        return waves.ends(zip((host for host, _ in engines), watching.records, strict=True))

    @staticmethod
    def _no_node(command):
        raise ConnectionError(f"{command}: the cluster has no shell")
