#!/usr/bin/python
# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""The documentation of the action plugin mlperf_doctor, which runs on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mlperf_doctor
short_description: Check a machine before a benchmark
description: Runs C(harness doctor), which changes nothing. Fails if a run would fail on this machine.
extends_documentation_fragment: [mlperf_module.reads, mlperf_harness]
options:
  engines:
    description: Settings of the engines to be started on this machine.
    type: list
    elements: dict
    default: []
  spec:
    description: The spec of the run to be started on this machine; empty for none.
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: Check the node
  mlperf_doctor:
    command: [/srv/mlperf/env/bin/python, -m, harness]
    root: /srv/mlperf
    engines:
      - name: node1
        model: /srv/mlperf/model
        port: 8101
    spec:
      run_id: 20261123-181500-server-600
      model: /srv/mlperf/model
      dataset: /srv/mlperf/cnn_eval.json
      samples: 600
      engines: [{name: node1, url: "http://127.0.0.1:8101"}]
"""

RETURN = r"""
findings:
  description: What was found, each with its level (V(ok), V(warn) or V(fail)).
  returned: success
  type: list
  elements: dict
"""
