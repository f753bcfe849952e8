# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Works out the part of every host in the benchmark, as things stand."""

from __future__ import annotations

import json

from ansible.plugins.loader import action_loader

OPTIONS = """
request:
  description: What mlperf_request returned.
  type: dict
  required: true
plan:
  description: The content of plan.json, empty when there is none.
  type: dict
  default: {}
stops:
  description: Whether the benchmark is being stopped on request.
  type: bool
  default: false
"""


class ActionModule(action_loader.get("mlperf_base", class_only=True)):
    """Reads what role harness has recorded of all hosts in variables, once for all of them; changes nothing."""

    options = OPTIONS

    def work(self, arguments):
        """What `of_all` returns: decisions, and specs of the hosts' runs."""
        from harness.benchmark.part import of_all
        from harness.benchmark.request import Request

        request = Request.of(arguments["request"])
        hosts = {name: self._host(name) for name in dict.fromkeys((*request.controllers, *request.nodes))}
        parts = of_all(request, hosts, arguments["plan"], stops=arguments["stops"], check_mode=self.check_mode)
        return {"changed": False, **parts}

    def _host(self, name):
        from harness.benchmark.part import Host
        from harness.benchmark.progress import answering

        recorded = self._variables["hostvars"][name]
        settings, watched = (recorded.get(f"__harness_{key}") or {} for key in ("settings", "watched"))
        return Host(
            engines=_plain(settings.get("references", [])),
            spec=_plain(settings.get("spec", {})),
            state=settings.get("state", "lost"),
            running=_plain(settings.get("running", [])),
            overruled=_plain(settings.get("overruled", [])),
            failures=_plain(recorded.get("__harness_failures", settings.get("failures", []))),
            lost=bool(recorded.get("__harness_lost", settings.get("lost", False))),
            finished=bool(watched.get("good", False)),
            answering=answering(_plain(watched.get("status", {}))),
            runs_folder=settings.get("runs_folder", ""),
            engines_folder=settings.get("engines_folder", ""),
        )


def _plain(value):
    """A value without the tags that Ansible's own carry."""
    return json.loads(json.dumps(value))
