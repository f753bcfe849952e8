#!/usr/bin/python
# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Judges the collected files of a run and writes its report."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mlperf_report
short_description: Judge the collected files of a run and write its report
description:
  - Runs C(harness report) on the controller. The report is a function of the run's own files, and for
    efficiency and history of the results beside O(path).
  - What failed on the nodes is written beside it first, as C(failures.json); with that file a run counts as ended.
  - A verdict of INVALID is a result, not a failure of this module.
options:
  path:
    description: The run's directory of results.
    type: path
    required: true
  source:
    description: The checkout that holds the package C(harness).
    type: path
    required: true
  failures:
    description:
      - What failed on the nodes, each with C(host), C(phase), C(reason) and C(log).
      - When not given, the file stays as it is.
    type: list
    elements: dict
author: The MLPerf distributed authors
attributes:
  check_mode:
    support: full
    description: Writes nothing, and says that it would when there is no report.
  diff_mode:
    support: full
    description: Shows which files of the report are new or different.
"""

EXAMPLES = r"""
- name: Judge and report
  mlperf_report:
    path: "{{ playbook_dir }}/results/20261123-181500-server-600"
    source: "{{ playbook_dir }}"
    failures: []
  delegate_to: localhost
  run_once: true
  register: report
"""

RETURN = r"""
verdict:
  description: VALID, INVALID or UNOFFICIAL.
  returned: success, not in check mode
  type: str
summary:
  description: What C(harness report) prints for people.
  returned: success, not in check mode
  type: str
"""

import glob
import hashlib
import json
import os
import subprocess
import sys
from typing import Any, Dict, List

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.mlperf_command import tell
from ansible.module_utils.mlperf_state import read, write_whole

PRODUCTS = ("result.json", "report.md", "report.html", "junit.xml", "charts/*.png")
FINISHED_BUT_INVALID = 5
ARGUMENTS: Dict[str, Dict[str, Any]] = {
    "path": {"type": "path", "required": True},
    "source": {"type": "path", "required": True},
    "failures": {"type": "list", "elements": "dict"},
}


def note(path: str, failures: List[Dict[str, Any]]) -> bool:
    """Write failures.json; whether that changed it."""
    file, content = os.path.join(path, "failures.json"), json.dumps(failures, indent=4) + "\n"
    if os.path.exists(file):
        with open(file, encoding="utf-8") as stream:
            if stream.read() == content:
                return False
    write_whole(file, content)
    return True


def products(path: str) -> Dict[str, str]:
    """Hash of each file of the report."""
    found = {}
    for pattern in PRODUCTS:
        for file in sorted(glob.glob(os.path.join(glob.escape(path), pattern))):
            with open(file, "rb") as stream:
                found[os.path.relpath(file, path)] = hashlib.sha256(stream.read()).hexdigest()
    return found


def render(path: str, source: str) -> str:
    """Write the report; returns its summary.

    Raises:
        ValueError: no report could be made of these files.
    """
    argv = [sys.executable, "-m", "harness", "report", path]
    environment = {**os.environ, "PYTHONPATH": source}
    done = subprocess.run(argv, cwd="/", env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode not in (0, FINISHED_BUT_INVALID):
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise ValueError(lines[-1] if lines else f"harness report ended with {done.returncode}")
    return done.stdout.strip("\n")


def answer(params: Dict[str, Any], check_mode: bool) -> Dict[str, Any]:
    """The module's result; writes failures and report."""
    path, failures = params["path"], params["failures"]
    try:
        before = products(path)
        if check_mode:
            return {"changed": "result.json" not in before}
        noted = failures is not None and note(path, failures)
        summary = render(path, params["source"])
        after = products(path)
        verdict = (read(os.path.join(path, "result.json")) or {})["verdict"]["level"]
    except (OSError, ValueError, KeyError) as error:
        return {"failed": True, "msg": f"{path}: {error}"}
    lines = [[f"{name} {found[name][:12]}\n" for name in sorted(found)] for found in (before, after)]
    diff = {"before": "".join(lines[0]), "after": "".join(lines[1])}
    return {"changed": noted or before != after, "verdict": verdict, "summary": summary, "diff": diff}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    tell(module, answer(module.params, module.check_mode))


if __name__ == "__main__":
    main()
