# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Begins a repeat of a benchmark."""

from __future__ import annotations

from ansible.plugins.loader import action_loader

OPTIONS = """
request:
  description: What mlperf_request returned for the first run.
  type: dict
  required: true
number:
  description: Which repeat, from 2.
  type: int
  required: true
"""


class ActionModule(action_loader.get("mlperf_base", class_only=True)):
    """Writes request and plan of the repeat beside the results of the first run, which have been collected.

    The repeat has the rates that the first run found, as numbers. In check mode nothing is written.
    """

    options = OPTIONS

    def work(self, arguments):
        """`request` and `plan` of the repeat."""
        from harness.benchmark import plan, repeats
        from harness.benchmark.request import Request
        from harness.errors import RunFailed

        first = Request.of(arguments["request"])
        made = plan.load(first.directory / "plan.json")
        if made is None:
            raise RunFailed(f"run {first.run_id} has no plan, so there is nothing to repeat")
        if self.check_mode:
            return {"changed": True}
        request, planned = repeats.begin(first, made, arguments["number"])
        return {"changed": True, "request": request.model_dump(mode="json"), "plan": planned.document()}
