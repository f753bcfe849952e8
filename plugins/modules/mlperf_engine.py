#!/usr/bin/python
# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""The documentation of the action plugin mlperf_engine, which runs on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mlperf_engine
short_description: Start or stop an inference engine
description:
  - Starts an inference server (O(config.kind=vllm) or O(config.kind=deepspeed)), attaches to a running one
    (O(config.kind=endpoint)), or stops it with all its child processes.
  - Starting returns immediately. Watch the engine with M(mlperf_watch), read its state with M(mlperf_engine_info).
  - Fails if an engine of that name runs with other settings, and names both values.
extends_documentation_fragment: [mlperf_module, mlperf_harness]
options:
  name:
    description: Name of the engine.
    type: str
    required: true
  state:
    description: Whether the engine runs.
    type: str
    choices: [up, down]
    default: up
  config:
    description: The engine's settings; needed with O(state=up).
    type: dict
    default: {}
attributes:
  check_mode:
    description:
      - Starts and stops nothing, and reports whether it would. Settings, model, port and disk are checked, too.
  diff_mode:
    description: Shows the state before and after.
"""

EXAMPLES = r"""
- name: Start an engine on the second core
  mlperf_engine:
    command: [/srv/mlperf/env/bin/python, -m, harness]
    root: /srv/mlperf
    name: node2
    config:
      model: /srv/mlperf/model
      port: 8102
      cpu_cores: "1"

- name: Stop it
  mlperf_engine:
    command: [/srv/mlperf/env/bin/python, -m, harness]
    root: /srv/mlperf
    name: node2
    state: down
"""

RETURN = r"""
engine:
  description: The content of engine.json; in check mode as it is now, empty if there never was such an engine.
  returned: success
  type: dict
  sample: {name: node2, state: starting, url: "http://127.0.0.1:8102"}
state:
  description: State of the engine, V(absent) when there never was one.
  returned: success
  type: str
  sample: starting
file:
  description: Path of engine.json.
  returned: success
  type: str
"""
