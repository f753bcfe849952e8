# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Works out what benchmark is requested, and records it."""

from __future__ import annotations

import json
from pathlib import Path

from ansible.plugins.loader import action_loader
from ansible.utils.vars import load_extra_vars

OPTIONS = """
given:
  description: The public settings of benchmark.yml as the user gave them; an empty one counts as not given.
  type: dict
  required: true
defaults:
  description: The same settings, where the inventory has others than the harness.
  type: dict
  default: {}
nodes:
  description: Hosts of this play that have engines.
  type: list
  elements: str
  default: []
controllers:
  description: Hosts of this play that are controllers.
  type: list
  elements: str
  default: []
forks:
  description: How many hosts Ansible works on at once; needed with `results`.
  type: int
results:
  description: Directory of all results. Without it, only the settings are checked.
  type: path
replay_of:
  description: Name of the run that this one repeats, empty for none.
  type: str
  default: ""
record:
  description:
    - Whether to write request.json, once, with which the run counts as begun. Of a run that is resumed, what was
      collected and reported is moved into interrupted/N.
  type: bool
  default: false
"""


class ActionModule(action_loader.get("mlperf_base", class_only=True)):
    """Checks the public settings, completes them and names the run; a run that was begun before keeps its own.

    In check mode nothing is recorded; the diff shows the request that is.
    """

    options = OPTIONS

    def work(self, arguments):
        """The fields of a `Request`."""
        from harness.benchmark import public_settings, request

        given = {name: str(value) for name, value in arguments["given"].items() if value not in (None, "")}
        public_settings.reject_misspelt(load_extra_vars(self._loader), self._role_variables())
        if arguments["results"] is None:
            public_settings.check(given, arguments["defaults"])
            return {"changed": False}
        resolved = request.resolve(
            given,
            defaults=arguments["defaults"],
            nodes=arguments["nodes"],
            controllers=arguments["controllers"],
            forks=arguments["forks"],
            results=Path(arguments["results"]),
            replay_of=arguments["replay_of"] or None,
            origin=self.origin(),
        )
        if resolved.asked.baseline and not resolved.begun:
            from harness.compare import refuse_unfit

            asked = {**resolved.asked.model_dump(mode="json"), "topology": resolved.topology.value}
            refuse_unfit(resolved.asked.baseline, asked, Path(arguments["results"]))
        plain = resolved.model_dump(mode="json")
        plain["warnings"] = plain["warnings"] if not arguments["record"] else []
        if not arguments["record"]:
            return {"changed": False, **plain}
        new = not resolved.begun or resolved.resume
        if new and not self.check_mode:
            resolved.begin()
            if resolved.resume:
                resolved.move_aside()
        content = json.dumps(resolved.document(), indent=2) + "\n"
        diff = {"before": "" if new else content, "after": content}
        return {"changed": new, **plain, "diff": diff}

    def _role_variables(self):
        """Names of the settings of the role that the task is in."""
        role = self._task._role
        return [name for name in role.get_default_vars() if not name.startswith("__")] if role else []
