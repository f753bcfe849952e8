# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""The plan of a benchmark. See plugins/modules/mlperf_plan.py for what users need."""

from __future__ import annotations

import json

from ansible.plugins.loader import action_loader


class ActionModule(action_loader.get("mlperf_base", class_only=True)):
    """Makes the plan where there is none yet."""

    def work(self, arguments):
        """The plan, as plan.json has it and for people."""
        from harness.benchmark import plan
        from harness.benchmark.request import Request
        from harness.spec import EngineRef, Limits

        request = Request.of(arguments["request"])
        file = request.directory / "plan.json"
        kept = plan.load(file)
        made = kept or plan.make(
            plan.Basis(
                request,
                {
                    host: [EngineRef.model_validate(engine) for engine in node["references"]]
                    for host, node in arguments["nodes"].items()
                },
                {host: node["speed_depends_on"] for host, node in arguments["nodes"].items()},
                arguments["loadgen_host"],
                Limits.model_validate(arguments["limits"]),
                arguments["shared_machine"],
            ),
            {
                host: watched["status"]["calibration"]
                for host, watched in arguments["calibrations"].items()
                if _found(watched)
            },
        )
        if not kept and not self.check_mode:
            plan.keep(made, file)
        document = made.document()
        content = json.dumps(document, indent=2) + "\n"
        diff = {"before": content if kept else "", "after": content}
        return {"changed": not kept, "plan": document, "text": "\n".join(plan.describe(made)), "diff": diff}


def _found(watched):
    """Whether what was watched on a host is a calibration that found something; it is skipped on most hosts."""
    return bool(watched.get("status", {}).get("calibration"))
