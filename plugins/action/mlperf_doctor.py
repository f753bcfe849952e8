# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Checks a machine before a benchmark. See plugins/modules/mlperf_doctor.py for what users need."""

from __future__ import annotations

from ansible.plugins.loader import action_loader


class ActionModule(action_loader.get("mlperf_base", class_only=True)):
    """Runs `harness doctor`, and fails when a run could not work on the machine."""

    def work(self, arguments):
        """What was found."""
        from harness.errors import NotReady

        planned = {
            "engines": [self.keyed(engine) for engine in arguments["engines"]],
            "spec": arguments["spec"] or None,
        }
        answer = self.call_harness(arguments, ["doctor", "--for", "-"], planned, accepted=(0, NotReady.exit_code))
        failed = [finding for finding in answer["findings"] if finding["level"] == "fail"]
        if failed:
            raise NotReady("; ".join(map(_sentence, failed)))
        shown = [finding for finding in answer["findings"] if finding["level"] == "warn"]
        warnings = [_sentence(finding) for finding in shown if finding["check"] in ("environment", "model")]
        return {"changed": False, "findings": answer["findings"], "warnings": warnings}


def _sentence(finding):
    """What was looked at, what was seen, what to do."""
    return "; ".join(filter(None, [f"{finding['check']}: {finding['seen']}", finding["advice"]]))
