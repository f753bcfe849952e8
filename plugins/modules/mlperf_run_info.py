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
  - A run whose process is gone counts as failed, whatever its file says; one that lives without a heartbeat is silent,
    and still running.
  - A run whose state file cannot be read is skipped with a warning.
  - On a cluster it asks for the node's Jobs instead.
extends_documentation_fragment: [mlperf_module.reads]
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
  list_gpus:
    description:
      - Whether to ask C(nvidia-smi) for the host's GPUs, of which E(CUDA_VISIBLE_DEVICES) may hide some; a cluster's
        node is always asked.
    type: bool
    default: false
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
  description: Names of all runs that are running on this node; a calibration counts as the run that it is for.
  returned: success
  type: list
  elements: str
gpus:
  description:
    - The GPUs that engines may use on the host, or that a cluster's node offers, with C(index), C(uuid), C(name),
      C(memory_mib) and C(compute_capability), null where that is not known. Empty where they were not asked for.
  returned: success
  type: list
  elements: dict
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.mlperf_host_facts import nvidia_smi, visible_gpus
from ansible.module_utils.mlperf_state_file import look_all, summary


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "required": True},
            "launcher": {"type": "str", "choices": ["process", "kubernetes", "torchx"], "default": "process"},
            "command": {"type": "list", "elements": "str", "default": []},
            "run_id": {"type": "str", "default": ""},
            "list_gpus": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    try:
        runs, unreadable = look_all(module.params["root"], "runs", "status.json")
    except OSError as error:
        module.fail_json(msg=str(error))
    for sentence in unreadable.values():
        module.warn(sentence)
    gpus = nvidia_smi("nvidia-smi")["gpus"] if module.params["list_gpus"] else []
    gpus = visible_gpus(gpus, os.environ.get("CUDA_VISIBLE_DEVICES"))
    module.exit_json(changed=False, gpus=gpus, **summary(runs, module.params["run_id"], unreadable))


if __name__ == "__main__":
    main()
