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
  - An engine whose supervisor is gone counts as failed, whatever its file says. One whose state file cannot be read is
    skipped with a warning.
extends_documentation_fragment: [mlperf_module.reads]
options:
  root:
    description: Folder of this node's engines and runs.
    type: path
    required: true
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
        engines, unreadable = look_all(module.params["root"], "engines", "engine.json")
    except OSError as error:
        module.fail_json(msg=str(error))
    for sentence in unreadable.values():
        module.warn(sentence)
    module.exit_json(changed=False, engines=engines)


if __name__ == "__main__":
    main()
