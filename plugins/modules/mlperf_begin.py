#!/usr/bin/python
# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Writes down what is asked, once."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mlperf_begin
short_description: Write down what benchmark is asked for, so that it can be picked up
description:
  - Runs on the controller and makes the directory of the run's results, with C(request.json) in it.
  - With that file a run counts as begun. It is written once and never changed.
options:
  request:
    description: What M(mlperf_request) returned.
    type: dict
    required: true
author: The MLPerf distributed authors
attributes:
  check_mode:
    support: full
    description: Writes nothing, and says whether it would.
  diff_mode:
    support: full
    description: Shows the request.
"""

EXAMPLES = r"""
- name: Write down what is asked
  mlperf_begin:
    request: "{{ asked }}"
  delegate_to: localhost
  run_once: true
"""

RETURN = r"""
file:
  description: Path of request.json.
  returned: success
  type: str
"""

import json
import os
from typing import Any, Dict

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.mlperf_command import tell
from ansible.module_utils.mlperf_state import write_whole

ARGUMENTS: Dict[str, Dict[str, Any]] = {"request": {"type": "dict", "required": True}}


def answer(params: Dict[str, Any], check_mode: bool) -> Dict[str, Any]:
    """The module's result; writes the request if there is none yet."""
    request = params["request"]
    content = json.dumps({"schema": 1, **{key: request[key] for key in ("run_id", "asked", "nodes")}}, indent=4) + "\n"
    file = os.path.join(request["directory"], "request.json")
    changed = not os.path.exists(file)
    try:
        if changed and not check_mode:
            write_whole(file, content)
    except OSError as error:
        return {"failed": True, "msg": str(error)}
    return {"changed": changed, "file": file, "diff": {"before": "" if changed else content, "after": content}}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    tell(module, answer(module.params, module.check_mode))


if __name__ == "__main__":
    main()
