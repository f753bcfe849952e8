#!/usr/bin/python
# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Looks at the benchmark runs of a node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mlperf_run_info
short_description: Look at the benchmark runs of a node
description:
  - Reads the state files of runs; starts, changes and calls nothing.
  - A run whose process is gone, or whose heartbeat stopped, counts as failed, whatever its file says.
options:
  root:
    description: Folder of this node's engines and runs.
    type: path
    required: true
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
  register: found

- name: Say how far it is
  ansible.builtin.debug:
    msg: "{{ found.run.phase }} {{ found.run.samples_done }}"
  when: found.state == 'running'
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
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.mlperf_state import look_all


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={"root": {"type": "path", "required": True}, "run_id": {"type": "str", "default": ""}},
        supports_check_mode=True,
    )
    root, run_id = module.params["root"], module.params["run_id"]
    try:
        runs = {run["run_id"]: run for run in look_all(root, "runs", "status.json")}
    except (OSError, ValueError, KeyError) as error:
        module.fail_json(msg=str(error))
    run = runs.get(run_id, {})
    module.exit_json(
        changed=False,
        state=run.get("state", "absent"),
        run=run,
        running=[name for name, found in runs.items() if found["state"] == "running"],
    )


if __name__ == "__main__":
    main()
