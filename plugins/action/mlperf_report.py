# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""The report of a benchmark. See plugins/modules/mlperf_report.py for what users need."""

from __future__ import annotations

from pathlib import Path

from ansible.plugins.loader import action_loader

PRODUCTS = ("result.json", "report.md", "report.html", "junit.xml", "charts/*.png")
STOPPED = "stopped"


class ActionModule(action_loader.get("mlperf_base", class_only=True)):
    """Records what failed on the nodes, then writes the report."""

    def work(self, arguments):
        """Verdict and summary; what failed is returned also when no report can be made."""
        from harness import report
        from harness.errors import HarnessError
        from harness.files import read_json, write_json

        path = Path(arguments["path"])
        file, before = path / "failures.json", _products(path)
        known = read_json(file, "failures") if file.exists() else None
        given = arguments["failures"]
        record = given is not None and not arguments["ended"] and given != known
        failures = given if record else [*(known or []), *(one for one in given or [] if one not in (known or []))]
        result = {
            "failures": [_sentence(failure) for failure in failures if failure.get("phase") != STOPPED],
            "stopped": any(failure.get("phase") == STOPPED for failure in failures),
        }
        if self.check_mode:
            return {**result, "changed": "result.json" not in before}
        if record:
            write_json(file, given)
        try:
            judged = report.report(path)
        except HarnessError as error:
            return {**result, "failed": True, "msg": str(error), "exit": error.exit_code}
        after = _products(path)
        return {
            **result,
            "changed": record or before != after,
            "verdict": str(judged.verdict.level),
            "summary": report.summary(judged).strip("\n"),
            "diff": {"before": _listed(before), "after": _listed(after)},
        }


def _sentence(failure):
    """Where, at what and why, and the log to read."""
    return " | ".join(filter(None, (failure.get(key) for key in ("host", "phase", "reason", "log"))))


def _products(path):
    """Hash of each file of the report."""
    from harness.files import sha256_file

    files = [file for pattern in PRODUCTS for file in sorted(path.glob(pattern))]
    return {str(file.relative_to(path)): sha256_file(file) for file in files}


def _listed(products):
    return "".join(f"{name} {products[name][:12]}\n" for name in sorted(products))
