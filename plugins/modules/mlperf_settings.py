#!/usr/bin/python
# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""The documentation of the action plugin mlperf_settings, which runs on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mlperf_settings
short_description: Work out the engines and the run of a host
description:
  - Runs on the controller. Completes what the inventory says of a host's engines, checks it, and works out how runs
    refer to them.
  - On a cluster, one engine that is described stands for as many as the node has GPUs for.
options:
  request:
    description: What M(mlperf_request) returned.
    type: dict
    required: true
  engines:
    description: Settings of each engine of the host, with its name and port (docs/engine-settings.md); empty for none.
    type: list
    elements: dict
    required: true
  engine_settings:
    description: Settings that all of them have, where they have none of their own.
    type: dict
    default: {}
  address:
    description: Address at which LoadGen hosts reach the engines.
    type: str
    default: 127.0.0.1
  bind:
    description: Address at which the engines listen.
    type: str
    default: 127.0.0.1
  cluster:
    description: Settings of the cluster, with another launcher than V(process).
    type: dict
    default: {}
  gpus:
    description: How many GPUs the cluster's node offers, where that is known.
    type: int
  model:
    description: Directory of the model, as the engines see it.
    type: str
    required: true
  dataset:
    description: File of the data set, as LoadGen sees it.
    type: str
    required: true
  reference_ids:
    description: File of reference answers, empty for none.
    type: str
    default: ""
  punkt:
    description: Folder of Punkt's English data, empty to look in NLTK's usual places.
    type: str
    default: ""
  limits:
    description: Bounds of the run that differ from the harness's own.
    type: dict
    default: {}
  seed:
    description: Seed of sampling.
    type: int
    default: 42
  metrics_port:
    description: Port of the run's Prometheus metrics. 0 for none, or on a cluster for its usual one.
    type: int
    default: 0
author: The MLPerf distributed authors
attributes:
  check_mode:
    support: full
    description: Only works out.
  diff_mode:
    support: none
    description: Changes nothing.
"""

EXAMPLES = r"""
- name: Work out this host's engines and run
  mlperf_settings:
    request: "{{ request }}"
    engines: [{name: node1, port: 8101}]
    model: /srv/mlperf/model
    dataset: /srv/mlperf/cnn_eval.json
  register: settings
"""

RETURN = r"""
engines:
  description: The settings of each engine, as M(mlperf_engine) takes them, with its name.
  returned: success
  type: list
  elements: dict
references:
  description: How runs refer to each engine (name, url, node, max_in_flight).
  returned: success
  type: list
  elements: dict
spec:
  description: The run as M(mlperf_run) takes it, without engines, share and rate.
  returned: success
  type: dict
speed_depends_on:
  description: A hash of the settings that the speed of the engines depends on.
  returned: success
  type: str
"""
