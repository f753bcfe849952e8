#!/usr/bin/python
# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""The documentation of the action plugin mlperf_run, which runs on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mlperf_run
short_description: Start, stop or release a benchmark run
description:
  - Starts a LoadGen run in the background. Watch it with M(mlperf_watch), read its state with M(mlperf_run_info).
  - Changes nothing if a run with the same spec exists, running or finished. Fails if its spec is another one, and names
    both values.
  - A run that ended without a result goes on with O(resume=true). What it has finished is not done again.
extends_documentation_fragment: [mlperf_module, mlperf_harness]
options:
  run_id:
    description: Name of the run.
    type: str
    required: true
  state:
    description:
      - V(started) if the run exists, V(stopped) if it does not run, V(released) to set a TTL on its finished Jobs once
        its files are collected.
    type: str
    choices: [started, stopped, released]
    default: started
  resume:
    description: Whether to resume a run that ended without a result; one that is running or has finished stays.
    type: bool
    default: false
  spec:
    description: The spec of the run, without its name; needed with O(state=started).
    type: dict
    default: {}
  api_keys:
    description:
      - API keys of the engines by their names, as C(mlperf_engine_keys) returned them. The run gets them on its
        standard input, and no file has them.
    type: dict
    default: {}
attributes:
  check_mode:
    description: Starts nothing, validates spec, data set, model and disk, and reports whether it would start.
  diff_mode:
    description: Shows the run's state, or the keys in which specs differ.
"""

EXAMPLES = r"""
- name: Start a run
  mlperf_run:
    command: [/srv/mlperf/env/bin/python, -m, harness]
    root: /srv/mlperf
    run_id: 20261123-181500-server-600
    spec:
      model: /srv/mlperf/model
      dataset: /srv/mlperf/cnn_eval.json
      samples: 600
      engines: [{name: node1, url: "http://127.0.0.1:8101"}]

- name: Stop it
  mlperf_run:
    command: [/srv/mlperf/env/bin/python, -m, harness]
    root: /srv/mlperf
    run_id: 20261123-181500-server-600
    state: stopped
"""

RETURN = r"""
state:
  description: State of the run, V(absent) when there is none.
  returned: success
  type: str
  sample: running
file:
  description: Path of the run's status.json.
  returned: success
  type: str
"""
