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
import sys
from typing import Any, Dict, List

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.mlperf_state import read

PRODUCTS = ("result.json", "report.md", "report.html", "junit.xml", "charts/*.png")
FINISHED_BUT_INVALID = 5


def note(path: str, failures: List[Dict[str, Any]]) -> bool:
    """Write failures.json; whether that changed it."""
    file, content = os.path.join(path, "failures.json"), json.dumps(failures, indent=4) + "\n"
    if os.path.exists(file):
        with open(file, encoding="utf-8") as stream:
            if stream.read() == content:
                return False
    with open(f"{file}.part", "w", encoding="utf-8") as stream:
        stream.write(content)
    os.replace(f"{file}.part", file)
    return True


def products(path: str) -> Dict[str, str]:
    """Hash of each file of the report."""
    found = {}
    for pattern in PRODUCTS:
        for file in sorted(glob.glob(os.path.join(glob.escape(path), pattern))):
            with open(file, "rb") as stream:
                found[os.path.relpath(file, path)] = hashlib.sha256(stream.read()).hexdigest()
    return found


def render(module: Any) -> str:
    """Write the report; returns its summary."""
    argv = [sys.executable, "-m", "harness", "report", module.params["path"]]
    environment = {"PYTHONPATH": module.params["source"]}
    code, out, err = module.run_command(argv, cwd="/", environ_update=environment)
    if code not in (0, FINISHED_BUT_INVALID):
        lines = [line for line in (err or out).splitlines() if line.strip()]
        module.fail_json(msg=lines[-1] if lines else f"harness report ended with {code}", cmd=argv)
    return str(out).strip("\n")


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "source": {"type": "path", "required": True},
            "failures": {"type": "list", "elements": "dict"},
        },
        supports_check_mode=True,
    )
    path, failures = module.params["path"], module.params["failures"]
    try:
        before = products(path)
        if module.check_mode:
            module.exit_json(changed="result.json" not in before)
        noted = failures is not None and note(path, failures)
        summary = render(module)
        after = products(path)
        verdict = (read(os.path.join(path, "result.json")) or {})["verdict"]["level"]
    except (OSError, ValueError, KeyError) as error:
        module.fail_json(msg=f"{path}: {error}")
    lines = [[f"{name} {found[name][:12]}\n" for name in sorted(found)] for found in (before, after)]
    diff = {"before": "".join(lines[0]), "after": "".join(lines[1])}
    module.exit_json(changed=noted or before != after, verdict=verdict, summary=summary, diff=diff)


if __name__ == "__main__":
    main()
