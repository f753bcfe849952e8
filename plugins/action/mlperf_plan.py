# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Decides which node runs what, and writes it down."""

from __future__ import annotations

import json

from ansible.plugins.loader import action_loader

OPTIONS = """
request:
  description: What mlperf_request returned.
  type: dict
  required: true
nodes:
  description: What mlperf_settings returned on each node that takes part.
  type: list
  elements: dict
  required: true
calibrations:
  description:
    - What mlperf_watch returned about the calibration on each host. Those without a result are left out; where there
      is none at all there is nothing to plan, except in check mode.
  type: list
  elements: dict
  default: []
loadgen_host:
  description: Host that drives LoadGen in topology fleet.
  type: str
  required: true
limits:
  description: Limits of the runs that differ from the harness's own.
  type: dict
  default: {}
shared_machine:
  description: Whether the nodes share one machine.
  type: bool
  default: false
"""


class ActionModule(action_loader.get("mlperf_base", class_only=True)):
    """Sizes each node's share by its measured speed, and works out how long the benchmark takes.

    A plan that was written for this run before is kept as it is. In check mode nothing is written, and without
    calibrations the speeds are those of the last run, which is named, that measured the same engines with the same
    settings, samples and scenario in the same topology.
    """

    options = OPTIONS

    def work(self, arguments):
        """The `plan`, as plan.json has it, and its `text` for people."""
        from harness.benchmark import plan, plan_text
        from harness.benchmark.request import Request
        from harness.spec import EngineRef, Limits

        calibrations = {
            watched["host"]: watched["status"]["calibration"]
            for watched in arguments["calibrations"]
            # Most hosts skip the calibration, and on some it fails.
            if watched.get("status", {}).get("calibration")
        }
        if not calibrations and not self.check_mode:
            return {"changed": False, "skipped": True, "msg": "no calibration has succeeded"}
        request, nodes = Request.of(arguments["request"]), arguments["nodes"]
        file = request.directory / "plan.json"
        kept = plan.load(file)
        basis = plan.Basis(
            request,
            {node["host"]: [EngineRef.model_validate(engine) for engine in node["references"]] for node in nodes},
            {node["host"]: node["speed_depends_on"] for node in nodes},
            arguments["loadgen_host"],
            Limits.model_validate(arguments["limits"]),
            arguments["shared_machine"],
            {node["host"]: node.get("price_per_hour") for node in nodes},
        )
        earlier, unreadable = None, []
        if not kept and not calibrations:
            earlier, unreadable = plan.comparable(request.directory.parent, basis.measured)
        made = kept or plan.make(basis, calibrations, earlier)
        if not kept and not self.check_mode:
            plan.keep(made, file)
        document = made.document()
        content = json.dumps(document, indent=2) + "\n"
        diff = {"before": content if kept else "", "after": content}
        text = "\n".join(plan_text.describe(made))
        return {"changed": not kept, "plan": document, "text": text, "diff": diff, "warnings": unreadable}
