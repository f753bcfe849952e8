#!/usr/bin/python
# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""The documentation of the action plugin mlperf_report, which runs on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mlperf_report
short_description: Judge the collected files of a run and write its report
description:
  - Does what C(harness report) does, on the controller. The report is a function of the run's own files, and for
    efficiency and history of the results beside O(path).
  - What failed on the nodes is recorded beside it first, as C(failures.json); with that file a run counts as ended.
  - A verdict of INVALID is a result, not a failure of this module.
options:
  path:
    description: The run's directory of results.
    type: path
    required: true
  failures:
    description:
      - What failed on the nodes, each with C(host), C(phase), C(reason) and C(log).
      - When not given, the file stays as it is.
    type: list
    elements: dict
  ended:
    description: Whether the run has ended before. What failed then stays recorded, and O(failures) is only returned.
    type: bool
    default: false
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
    failures: []
  delegate_to: localhost
  run_once: true
  register: report
"""

RETURN = r"""
failures:
  description: What failed on the nodes, a sentence each, with where and at what; that a run was stopped is left out.
  returned: always
  type: list
  elements: str
stopped:
  description: Whether the run was stopped on request.
  returned: always
  type: bool
verdict:
  description: VALID, INVALID or UNOFFICIAL.
  returned: success, not in check mode
  type: str
summary:
  description: What C(harness report) prints for people.
  returned: success, not in check mode
  type: str
"""
