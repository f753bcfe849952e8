#!/usr/bin/python
# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""The documentation of the action plugin mlperf_package, which runs on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mlperf_package
short_description: Pack the harness of this checkout for installation on nodes
description:
  - Runs on the controller. Writes the package C(harness) as a source archive that C(pip) installs.
  - Same content, same bytes, same name. An archive that is there is left alone.
options:
  source:
    description: The checkout.
    type: path
    required: true
  path:
    description: Directory for the archive.
    type: path
    required: true
  environment:
    description: The environment on a node that the harness and its engine are installed into.
    type: dict
    suboptions:
      path:
        description: Folder of the environment.
        type: path
        required: true
      staging:
        description: Folder on the node for the archive and RV(files).
        type: path
        required: true
      requirements:
        description: Folder of the pinned requirements here.
        type: path
        required: true
      build:
        description: Which build of vLLM.
        type: str
        choices: [cpu, cuda]
        required: true
      deepspeed:
        description: Whether DeepSpeed is installed beside it.
        type: bool
        default: false
      python:
        description: Python that the environment is made with.
        type: str
        default: python3
      torch_index:
        description: Index of PyTorch's CPU wheels, asked for torch alone when the configured sources have none.
        type: str
        default: https://download.pytorch.org/whl/cpu
author: The MLPerf distributed authors
attributes:
  check_mode:
    support: full
    description: Writes nothing, and says whether it would.
  diff_mode:
    support: full
    description: Shows the archive's name.
"""

EXAMPLES = r"""
- name: Pack the harness
  mlperf_package:
    source: "{{ playbook_dir }}"
    path: "{{ playbook_dir }}/.mlperf/package"
  delegate_to: localhost
  run_once: true
  register: package
"""

RETURN = r"""
file:
  description: Path of the archive.
  returned: success
  type: str
files:
  description: Names of the files in O(environment.requirements) that the steps need on the node.
  returned: with O(environment)
  type: list
  elements: str
steps:
  description: The commands that install, as M(mlperf_background_job) takes them.
  returned: with O(environment)
  type: list
  elements: dict
sha256:
  description: Hash of the archive.
  returned: success
  type: str
"""
