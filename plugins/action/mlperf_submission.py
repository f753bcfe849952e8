# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Writes the tree of a submission from finished runs, and checks it."""

from __future__ import annotations

from pathlib import Path

from ansible.plugins.loader import action_loader

OPTIONS = """
runs:
  description: Names of an Offline run and of a Server or Interactive run, or of all three.
  type: list
  elements: str
  required: true
results:
  description: Directory with the directories of these runs.
  type: path
  required: true
submitter:
  description: The organisation's name, as it stands in paths.
  type: str
  required: true
submissions:
  description: Directory with a directory for each submitter, of the tree and of its answers.
  type: path
  required: true
unofficial:
  description: Whether to take runs that no division allows. The tree then says so in its name.
  type: bool
  default: false
"""


class ActionModule(action_loader.get("mlperf_base", class_only=True)):
    """Does what `harness submission` does; a tree that is there already must be the same.

    What no measurement can tell is asked for in SUBMITTER/system.yml below `submissions`, which is written with
    comments; the task fails until it is filled in. In check mode the tree is made and checked, and not kept.
    """

    options = OPTIONS

    def work(self, arguments):
        """The path of the `tree`, its `division`, a line for each rule, and those of them that are `broken`.

        `summary` says where the tree is, its division, and of each run that is not Closed why, a line each.
        """
        from harness.submission import submission

        results, submitter = Path(arguments["results"]), arguments["submitter"]
        made = submission(
            [results / run.strip() for run in arguments["runs"]],
            submitter,
            Path(arguments["submissions"]) / submitter,
            unofficial=arguments["unofficial"],
            write=not self.check_mode,
        )
        return {
            "changed": made.changed,
            "tree": str(made.path),
            "division": made.division,
            "summary": made.summary,
            "lines": [str(line) for line in made.lines],
            "broken": [str(line) for line in made.lines if line.problem],
        }
