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

        request = Request.model_validate({name: arguments["request"][name] for name in Request.model_fields})
        file = request.directory / "plan.json"
        kept = plan.load(file)
        made = kept or plan.make(
            plan.Basis(
                request,
                {
                    host: [EngineRef.model_validate(engine) for engine in engines]
                    for host, engines in arguments["nodes"].items()
                },
                arguments["settings"],
                arguments["loadgen_host"],
                Limits.model_validate(arguments["limits"]),
                arguments["shared_machine"],
            ),
            arguments["calibration"],
        )
        if not kept and not self.check_mode:
            plan.keep(made, file)
        document = made.document()
        content = json.dumps(document, indent=2) + "\n"
        diff = {"before": content if kept else "", "after": content}
        return {"changed": not kept, "plan": document, "text": "\n".join(plan.describe(made)), "diff": diff}
