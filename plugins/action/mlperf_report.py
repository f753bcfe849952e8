# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""The report of a benchmark. See plugins/modules/mlperf_report.py for what users need."""

from __future__ import annotations

import json
from pathlib import Path

from ansible.plugins.loader import action_loader

PRODUCTS = ("result.json", "report.md", "report.html", "junit.xml", "charts/*.png")


class ActionModule(action_loader.get("mlperf_base", class_only=True)):
    """Writes what failed, then the report."""

    def work(self, arguments):
        """Verdict and summary."""
        from harness import report
        from harness.files import write_atomic

        path = Path(arguments["path"])
        before = _products(path)
        if self.check_mode:
            return {"changed": "result.json" not in before}
        noted = False
        if arguments["failures"] is not None:
            file, content = path / "failures.json", json.dumps(arguments["failures"], indent=4) + "\n"
            noted = not file.exists() or file.read_text(encoding="utf-8") != content
            if noted:
                write_atomic(file, content)
        result = report.report(path)
        after = _products(path)
        return {
            "changed": noted or before != after,
            "verdict": str(result.verdict.level),
            "summary": report.summary(result).strip("\n"),
            "diff": {"before": _listed(before), "after": _listed(after)},
        }


def _products(path):
    """Hash of each file of the report."""
    from harness.files import sha256_file

    files = [file for pattern in PRODUCTS for file in sorted(path.glob(pattern))]
    return {str(file.relative_to(path)): sha256_file(file) for file in files}


def _listed(products):
    return "".join(f"{name} {products[name][:12]}\n" for name in sorted(products))
