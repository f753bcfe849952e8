#!/usr/bin/python
# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Compares the facts of all hosts and says what is wrong with them."""

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
  description: What to repair or to look at, each with host, level, check, seen and advice.
  returned: success
  type: list
  elements: dict
table:
  description: Hosts and findings as text.
  returned: success
  type: str
"""

import json
import os

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.mlperf_host_survey import judge, report, table


def write(module: AnsibleModule, path: str, content: object) -> None:
    """Replace a JSON file in one step."""
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        with open(f"{path}.part", "w", encoding="utf-8") as stream:
            json.dump(content, stream, indent=2)
        os.replace(f"{path}.part", path)
    except OSError as error:
        module.fail_json(msg=f"cannot write {path}: {error}")


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "hosts": {"type": "dict", "required": True},
            "gpu_nodes": {"type": "list", "elements": "str", "default": []},
            "supported": {"type": "list", "elements": "str", "default": []},
            "path": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    params = module.params
    hosts = {host: facts or None for host, facts in params["hosts"].items()}
    findings = judge(hosts, params["gpu_nodes"], params["supported"])
    if not module.check_mode:
        write(module, params["path"], report(hosts, findings))
    # Not a change: the file only records the hosts' present state.
    module.exit_json(changed=False, findings=findings, table=table(hosts, findings))


if __name__ == "__main__":
    main()
