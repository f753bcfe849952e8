#!/usr/bin/python
# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Checks a machine before a benchmark."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mlperf_doctor
short_description: Check a machine before a benchmark
description: Runs C(harness doctor), which changes nothing, and fails when a run could not work on this machine.
options:
  command:
    description: The C(harness) command as a list of words.
    type: list
    elements: str
    required: true
  root:
    description: Folder of this node's engines and runs.
    type: path
    required: true
  model:
    description: Model directory to check; empty for none.
    type: str
    default: ""
  dataset:
    description: Data set to check; empty for none.
    type: str
    default: ""
  punkt:
    description: Folder of Punkt's data, empty to look in the usual places.
    type: str
    default: ""
  host:
    description: Address that engines are going to listen on.
    type: str
    default: 127.0.0.1
  ports:
    description: Ports that engines are going to need.
    type: list
    elements: int
    default: []
author: The MLPerf distributed authors
attributes:
  check_mode:
    support: full
    description: Only looks.
  diff_mode:
    support: none
    description: Changes nothing.
"""

EXAMPLES = r"""
- name: Check the node
  mlperf_doctor:
    command: [/srv/mlperf/env/bin/python, -m, harness]
    root: /srv/mlperf
    model: /srv/mlperf/model
    dataset: /srv/mlperf/cnn_eval.json
    ports: [8101]
"""

RETURN = r"""
findings:
  description: What was found, each with its level (V(ok), V(warn) or V(fail)).
  returned: success
  type: list
  elements: dict
"""

from typing import Any, Dict

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.mlperf_command import ARGUMENTS, call

NOT_READY = 3


def describe(finding: Dict[str, Any]) -> str:
    """A finding in one sentence: what was looked at, what was seen, what to do."""
    return "; ".join(filter(None, [f"{finding['check']}: {finding['seen']}", finding["advice"]]))


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **ARGUMENTS,
            "model": {"type": "str", "default": ""},
            "dataset": {"type": "str", "default": ""},
            "punkt": {"type": "str", "default": ""},
            "host": {"type": "str", "default": "127.0.0.1"},
            "ports": {"type": "list", "elements": "int", "default": []},
        },
        supports_check_mode=True,
    )
    params = module.params
    arguments = ["doctor"]
    for option in ("model", "dataset", "punkt", "host"):
        arguments += [f"--{option}", params[option]] if params[option] else []
    for port in params["ports"]:
        arguments += ["--port", str(port)]
    findings = call(module, arguments, accepted=(0, NOT_READY))["findings"]
    wrong = [describe(finding) for finding in findings if finding["level"] == "fail"]
    if wrong:
        module.fail_json(msg="; ".join(wrong), exit=NOT_READY)
    module.exit_json(changed=False, findings=findings)


if __name__ == "__main__":
    main()
