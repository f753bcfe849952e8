# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Judges the collected files of a run and writes its report."""

from __future__ import annotations

from pathlib import Path

from ansible.plugins.loader import action_loader

OPTIONS = """
path:
  description: The run's directory of results.
  type: path
  required: true
failures:
  description:
    - What failed on the nodes, each with host, phase, reason and log.
    - When not given, the file stays as it is.
  type: list
  elements: dict
ended:
  description: Whether the run has ended before. What failed then stays recorded, and failures is only returned.
  type: bool
  default: false
overruled:
  description: Recorded failures that a new look at the nodes has overruled; they are taken out of the record.
  type: list
  elements: dict
  default: []
request:
  description: What mlperf_request returned; request.json is written again where it was deleted during the run.
  type: dict
  default: {}
plan:
  description: The plan; plan.json is written again where it was deleted during the run.
  type: dict
  default: {}
"""
PRODUCTS = ("result.json", "report.md", "report.html", "junit.xml", "result.prom", "charts/*.png")


class ActionModule(action_loader.get("mlperf_base", class_only=True)):
    """Records what failed on the nodes in failures.json, with which a run counts as ended, and does `harness report`.

    A verdict of INVALID is a result, not a failure of this task. In check mode nothing is written; the diff shows which
    files of the report are new or different.
    """

    options = OPTIONS

    def work(self, arguments):
        """`verdict`, `summary` for people, and `offer`: how to resume a run that ended without a result.

        Also when no report can be made: `failures`, a sentence for each that was not a stop on request, and `stopped`.
        """
        from harness import report
        from harness.benchmark import failures
        from harness.benchmark.earlier import how_to_resume
        from harness.compare.history import write_index
        from harness.errors import HarnessError
        from harness.files import write_json

        path = Path(arguments["path"])
        file, before = path / "failures.json", _products(path)
        merged = failures.merge(
            failures.recorded(file),
            arguments["failures"],
            overruled=arguments["overruled"],
            ended=arguments["ended"],
        )
        result = failures.result(merged.failures)
        if self.check_mode:
            return {**result, "changed": "result.json" not in before}
        self._restore(arguments, path)
        if merged.changed:
            write_json(file, merged.failures)
        try:
            judged = report.report(path)
            write_index(path.parent)
        except HarnessError as error:
            return {**result, "failed": True, "msg": str(error), "exit": error.exit_code}
        after = _products(path)
        return {
            **result,
            "changed": merged.changed or before != after,
            "verdict": str(judged.verdict.level),
            "offer": how_to_resume(path),
            "summary": report.summary(judged).strip("\n"),
            "diff": {"before": _listed(before), "after": _listed(after)},
        }

    def _restore(self, arguments, path):
        """Write request and plan again where somebody has deleted them during the run."""
        from harness.benchmark.request import Request
        from harness.files import write_json

        if arguments["request"]:
            Request.of(arguments["request"]).begin()
        if arguments["plan"] and not (path / "plan.json").exists():
            write_json(path / "plan.json", arguments["plan"])


def _products(path):
    """Hash of each file of the report."""
    from harness.files import sha256_file

    files = [file for pattern in PRODUCTS for file in sorted(path.glob(pattern))]
    return {str(file.relative_to(path)): sha256_file(file) for file in files}


def _listed(products):
    return "".join(f"{name} {products[name][:12]}\n" for name in sorted(products))
