#!/usr/bin/python
# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""The documentation of the action plugin mlperf_run, which runs on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mlperf_run
short_description: Start or stop a benchmark run on a node
description:
  - Starts a LoadGen run in the background. Watch it with M(mlperf_watch), look at it with M(mlperf_run_info).
  - A run that exists with the same spec, running or finished, is left as it is. With another spec it is refused,
    both values named.
options:
  command:
    description: The C(harness) command as a list of words.
    type: list
    elements: str
    required: true
  root:
    description: Folder of this node's engines and runs.
    type: path
    required: true
  launcher:
    description:
      - What starts engines and runs. With another one than V(process) O(command) is C(harness cluster), which works on
        a cluster from wherever it is called, and O(root) is the folder that pods have their claims in.
    type: str
    choices: [process, kubernetes, torchx]
    default: process
  run_id:
    description: Name of the run.
    type: str
    required: true
  state:
    description:
      - Whether it shall run (or have run), be ended, or, when its files were collected, be removed by its cluster in
        due time.
    type: str
    choices: [started, stopped, released]
    default: started
  spec:
    description: What is asked, without the run's name; needed with O(state=started).
    type: dict
    default: {}
author: The MLPerf distributed authors
attributes:
  check_mode:
    support: full
    description: Validates the spec, the data set, the model and the disk, starts nothing, and says whether it would.
  diff_mode:
    support: full
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

- name: End it
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
