# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Reports the repeats of a run, and compares it with a baseline."""

from __future__ import annotations

from pathlib import Path

from ansible.plugins.loader import action_loader

OPTIONS = """
path:
  description: The directory of results of the first run.
  type: path
  required: true
baseline:
  description: A run, latest or pinned; empty for none.
  type: str
  default: ""
regression_percent:
  description: How much slower it may be.
  type: float
"""
PRODUCTS = ("compare.*", "repeats.*", "summary.md", "junit.xml")


class ActionModule(action_loader.get("mlperf_base", class_only=True)):
    """Writes repeats.json, repeats.md and repeats.html, and with a baseline compare.* and summary.md, after the report.

    The gate of the comparison becomes a test case of junit.xml. In check mode nothing is compared.
    """

    options = OPTIONS

    def work(self, arguments):
        """`text`, the conclusion in words; `slower`, what the gate says where it failed; which runs are `invalid`.

        Ansible shows `warnings`: what the gate says where it is not certain.
        """
        from harness import compare
        from harness.compare.history import write_index

        path, baseline = Path(arguments["path"]), arguments["baseline"] or None
        if self.check_mode or not (path / "result.json").exists():
            return {"changed": False, "text": "", "slower": "", "invalid": []}
        before = _products(path)
        made = compare.conclude(path, baseline, arguments["regression_percent"])
        if made.repeats or made.comparison:
            write_index(path.parent)  # that of the report has no links to these pages yet
        return {
            "changed": before != _products(path),
            "text": made.text,
            "slower": made.slower,
            "invalid": list(made.invalid),
            "warnings": list(made.warnings),
        }


def _products(path):
    """The content of each file that a comparison writes."""
    return {file.name: file.read_bytes() for pattern in PRODUCTS for file in sorted(path.glob(pattern))}
