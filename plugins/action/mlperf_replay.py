# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Reads a finished run that is to be repeated, and compares what it ran on with a host."""

from __future__ import annotations

from pathlib import Path

from ansible.plugins.loader import action_loader

OPTIONS = """
original:
  description: The run's directory of results.
  type: path
  required: true
nodes:
  description: Hosts with engines in this play, matched in order with the run's.
  type: list
  elements: str
  required: true
allow:
  description: Names of differences to accept (docs/submission.md), also several in a text, separated by commas.
  type: list
  elements: str
  default: []
command:
  description: The harness command on the host as a list of words; empty to compare nothing.
  type: list
  elements: str
  default: []
asked:
  description: The public settings of this benchmark, compared with the original's where `command` is given.
  type: dict
  default: {}
root:
  description: Directory of the host's engines and runs.
  type: str
  default: ""
model:
  description: Directory of the model on the host.
  type: str
  default: ""
dataset:
  description: File of the data set on the host.
  type: str
  default: ""
punkt:
  description: Folder of Punkt's English data on the host; searched for where empty.
  type: str
  default: ""
engines:
  description: Settings of the host's engines.
  type: list
  elements: dict
  default: []
"""


class ActionModule(action_loader.get("mlperf_base", class_only=True)):
    """Without `command`, reads what the run was asked for; with it, also calls `harness facts` on the host.

    A difference fails unless `allow` names it. Changes nothing.
    """

    options = OPTIONS

    def work(self, arguments):
        """The settings that repeat the run, and a sentence for each difference that was allowed."""
        from harness import replay

        original = replay.original(Path(arguments["original"]))
        nodes, allowed = arguments["nodes"], replay.names(arguments["allow"])
        differences, places = original.other_nodes(nodes), original.counterparts(nodes)
        replay.check(differences, allowed, "this inventory")
        if arguments["command"]:
            host = self._variables["inventory_hostname"]
            here = replay.facts(self._facts(arguments, original))
            differences |= original.other_request(arguments["asked"])
            differences |= replay.differences(original.facts[places[host]], here)
            replay.check(differences, allowed, host)
        return {
            "changed": False,
            "original": str(arguments["original"]),
            "allow": list(allowed),
            "asked": original.asked,
            "seed": original.spec.seed,
            "limits": original.spec.limits.model_dump(mode="json"),
            "engine_settings": {host: original.engine_settings(node) for host, node in places.items()},
            "differences": list(differences.values()),
        }

    def _facts(self, arguments, original):
        """What a run on this host would run on."""
        paths = ["--model", arguments["model"], "--dataset", arguments["dataset"]]
        paths += ["--punkt", arguments["punkt"]] if arguments["punkt"] else []
        words = ["facts", *paths, "--samples", str(original.spec.samples), "--engines", "-"]
        return self.call_harness(arguments, words, value=[self.keyed(engine) for engine in arguments["engines"]])
