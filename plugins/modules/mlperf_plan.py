#!/usr/bin/python
# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""The documentation of the action plugin mlperf_plan, which runs on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mlperf_plan
short_description: Decide which node runs what, and write it down
description:
  - Runs on the controller. Sizes each node's share by its measured speed and works out how long the benchmark takes.
  - A plan that was written for this run before is kept as it is.
  - Without speeds (in check mode) those of the last run are taken, and named, that measured the same engines with the
    same settings, samples and scenario in the same topology.
options:
  request:
    description: What M(mlperf_request) returned.
    type: dict
    required: true
  nodes:
    description: What M(mlperf_settings) returned on each node that takes part, by host.
    type: dict
    required: true
  calibrations:
    description:
      - What M(mlperf_watch) returned on each host that watched a calibration; others and failed ones are left out.
    type: dict
    default: {}
  loadgen_host:
    description: Host that drives LoadGen in topology V(fleet).
    type: str
    required: true
  limits:
    description: Bounds of the runs that differ from the harness's own.
    type: dict
    default: {}
  shared_machine:
    description: Whether the nodes share one machine.
    type: bool
    default: false
author: The MLPerf distributed authors
attributes:
  check_mode:
    support: full
    description: Makes the plan and writes nothing.
  diff_mode:
    support: full
    description: Shows the plan.
"""

EXAMPLES = r"""
- name: Plan
  mlperf_plan:
    request: "{{ request }}"
    nodes:
      node1: "{{ hostvars.node1.settings }}"
    calibrations:
      node1: "{{ hostvars.node1.calibration }}"
    loadgen_host: node1
  run_once: true
  register: planned
"""

RETURN = r"""
plan:
  description: The content of plan.json.
  returned: success
  type: dict
text:
  description: The plan for people.
  returned: success
  type: str
"""
