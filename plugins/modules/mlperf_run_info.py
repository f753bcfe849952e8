#!/usr/bin/python
# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Looks at the benchmark runs of a node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mlperf_run_info
short_description: Look at the benchmark runs of a node
description:
  - Reads the state files of runs; starts and changes nothing.
  - A run whose process is gone, or whose heartbeat stopped, counts as failed, whatever its file says.
  - On a cluster it asks for the node's Jobs instead.
options:
  root:
    description: Folder of this node's engines and runs.
    type: path
    required: true
  launcher:
    description: What starts engines and runs; unless it is V(process), O(command) looks at the Jobs.
    type: str
    choices: [process, kubernetes, torchx]
    default: process
  command:
    description: The C(harness cluster) command as a list of words.
    type: list
    elements: str
    default: []
  run_id:
    description: The run of interest.
    type: str
    default: ""
author: The MLPerf distributed authors
attributes:
  check_mode:
    support: full
    description: Only reads.
  diff_mode:
    support: none
    description: Changes nothing.
"""

EXAMPLES = r"""
- name: Look at a run
  mlperf_run_info:
    root: /srv/mlperf
    run_id: 20261123-181500-server-600
  register: runs

- name: Say how far it is
  ansible.builtin.debug:
    msg: "{{ runs.run.phase }} {{ runs.run.samples_done }}"
  when: runs.state == 'running'
"""

RETURN = r"""
state:
  description: State of the run O(run_id), V(absent) when there is none.
  returned: success
  type: str
  sample: finished
run:
  description: The content of its status.json, empty when there is none.
  returned: success
  type: dict
running:
  description: Names of all runs that are running on this node.
  returned: success
  type: list
  elements: str
gpus:
  description: How many GPUs a cluster's node offers; null where that is not known, and with O(launcher=process).
  returned: success
  type: int
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.mlperf_state_file import look_all, summary


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "required": True},
            "launcher": {"type": "str", "choices": ["process", "kubernetes", "torchx"], "default": "process"},
            "command": {"type": "list", "elements": "str", "default": []},
            "run_id": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    try:
        runs = look_all(module.params["root"], "runs", "status.json")
    except (OSError, ValueError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, gpus=None, **summary(runs, module.params["run_id"]))


if __name__ == "__main__":
    main()
