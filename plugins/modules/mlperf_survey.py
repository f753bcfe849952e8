#!/usr/bin/python
# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Judges what was seen on all hosts."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mlperf_survey
short_description: Judge what was seen on all hosts
description:
  - Compares hosts that M(mlperf_node_info) has looked at, says what is wrong and which nodes will be slower and why.
  - Runs on the controlling machine.
options:
  nodes:
    description: What was seen, by host; an empty dict for a host that did not answer.
    type: dict
    required: true
  gpu_nodes:
    description: Hosts that should have GPUs.
    type: list
    elements: str
    default: []
  supported:
    description: Systems that the roles are for. Empty for any.
    type: list
    elements: str
    default: []
  path:
    description: JSON file to write all of it to.
    type: path
    required: true
author: The MLPerf distributed authors
attributes:
  check_mode:
    support: full
    description: Does not write the file.
  diff_mode:
    support: none
    description: The file is new every time.
"""

EXAMPLES = r"""
- name: Judge
  mlperf_survey:
    nodes:
      jw2: "{{ hostvars.jw2.looked.node }}"
    gpu_nodes: [jw2]
    path: /tmp/doctor.json
"""

RETURN = r"""
findings:
  description: What is worth a sentence, each with host, level, check, seen and advice.
  returned: success
  type: list
  elements: dict
table:
  description: All hosts and findings for people.
  returned: success
  type: str
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.mlperf_steps import write
from ansible.module_utils.mlperf_survey import judge, report, table


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "nodes": {"type": "dict", "required": True},
            "gpu_nodes": {"type": "list", "elements": "str", "default": []},
            "supported": {"type": "list", "elements": "str", "default": []},
            "path": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    params = module.params
    every = {host: node or None for host, node in params["nodes"].items()}
    nodes = {host: node for host, node in every.items() if node}
    absent = [host for host in every if host not in nodes]
    findings = judge(nodes, params["gpu_nodes"], absent, params["supported"])
    if not module.check_mode:
        try:
            os.makedirs(os.path.dirname(params["path"]) or ".", exist_ok=True)
            write(params["path"], report(every, findings))
        except OSError as error:
            module.fail_json(msg=f"cannot write {params['path']}: {error}")
    # Nothing that anyone keeps has changed: the file tells what was seen just now.
    module.exit_json(changed=False, findings=findings, table=table(every, findings))


if __name__ == "__main__":
    main()
