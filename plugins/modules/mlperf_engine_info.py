#!/usr/bin/python
# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Looks at the engines of a node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mlperf_engine_info
short_description: Look at the inference engines of a node
description:
  - Reads the state files of the engines; starts, changes and calls nothing.
  - An engine whose supervisor is gone counts as failed, whatever its file says.
options:
  root:
    description: Folder of this node's engines and runs.
    type: path
    required: true
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
- name: Look at the engines
  mlperf_engine_info:
    root: /srv/mlperf
  register: node

- name: Name those that failed
  ansible.builtin.debug:
    msg: "{{ node.engines | selectattr('state', 'eq', 'failed') | map(attribute='reason') }}"
"""

RETURN = r"""
engines:
  description: The content of every engine.json, oldest engine first.
  returned: success
  type: list
  elements: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.mlperf_state_file import look_all


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec={"root": {"type": "path", "required": True}}, supports_check_mode=True)
    try:
        module.exit_json(changed=False, engines=look_all(module.params["root"], "engines", "engine.json"))
    except (OSError, ValueError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
