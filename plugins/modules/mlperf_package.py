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
sha256:
  description: Hash of the archive.
  returned: success
  type: str
"""
