#!/usr/bin/python
# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""The documentation of the action plugin mlperf_host_survey, which runs on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mlperf_host_survey
short_description: Compare the facts of all hosts and say what is wrong with them
description:
  - Judges the facts that M(mlperf_host_facts) returned for each host, and predicts which nodes will be slower, and why.
  - Runs on the controller.
options:
  hosts:
    description: Facts by host; an empty dict for a host that did not answer.
    type: dict
    required: true
  gpu_nodes:
    description: Hosts that should have GPUs.
    type: list
    elements: str
    default: []
  supported:
    description: Supported systems, such as V(debian 12). Empty for any.
    type: list
    elements: str
    default: []
  path:
    description: JSON file for facts and findings.
    type: path
    required: true
author: The MLPerf distributed authors
attributes:
  check_mode:
    support: full
    description: Does not write the file.
  diff_mode:
    support: none
    description: The file is written anew every time.
"""

EXAMPLES = r"""
- name: Judge the hosts
  mlperf_host_survey:
    hosts:
      jw2: "{{ hostvars.jw2.host.facts }}"
    gpu_nodes: [jw2]
    path: /tmp/doctor.json
"""

RETURN = r"""
findings:
  description: Failures and warnings, each with host, level, check, seen and advice.
  returned: success
  type: list
  elements: dict
table:
  description: Hosts and findings as text.
  returned: success
  type: str
"""
