#!/usr/bin/python
# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Decides who runs what, and writes it down."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mlperf_plan
short_description: Decide which node runs what, and write it down
description:
  - Runs on the controller. Sizes each node's share by its measured speed and works out how long the benchmark takes.
  - A plan that was written for this run before is kept as it is.
  - Without speeds (in check mode) those of the last run are taken, and named, that measured the same engines with the
    same settings, samples and scenario in the same topology.
options:
  request:
    description: What M(mlperf_request) returned.
    type: dict
    required: true
  nodes:
    description: Engines (name, url, node, max_in_flight) of each node that takes part, by host.
    type: dict
    required: true
  settings:
    description: A hash of the settings that the speed of each node's engines depends on, by host.
    type: dict
    required: true
  calibration:
    description: What calibrating found, by the host that calibrated.
    type: dict
    default: {}
  loadgen_host:
    description: Host that drives LoadGen in topology V(fleet).
    type: str
    required: true
  shared_machine:
    description: Whether the nodes share one machine.
    type: bool
    default: false
author: The MLPerf distributed authors
attributes:
  check_mode:
    support: full
    description: Makes the plan and writes nothing.
  diff_mode:
    support: full
    description: Shows the plan.
"""

EXAMPLES = r"""
- name: Plan
  mlperf_plan:
    request: "{{ asked }}"
    nodes:
      node1: [{name: node1, url: "http://127.0.0.1:8101"}]
    settings:
      node1: "{{ engine_settings | to_json(sort_keys=true) | hash('sha256') }}"
    calibration:
      node1: {samples_per_s: 30.1, by_engine: {node1: 30.1}, target_qps: 21.0}
    loadgen_host: node1
  delegate_to: localhost
  run_once: true
  register: planned
"""

RETURN = r"""
plan:
  description: The content of plan.json.
  returned: success
  type: dict
text:
  description: The plan for people.
  returned: success
  type: str
"""

import json
import os
import time
from typing import Any, Dict

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.mlperf_command import tell
from ansible.module_utils.mlperf_planning import NoPlan, plan, printed, speeds_of
from ansible.module_utils.mlperf_state import Record, read, write_whole

ARGUMENTS: Dict[str, Dict[str, Any]] = {
    "request": {"type": "dict", "required": True},
    "nodes": {"type": "dict", "required": True},
    "settings": {"type": "dict", "required": True},
    "calibration": {"type": "dict", "default": {}},
    "loadgen_host": {"type": "str", "required": True},
    "shared_machine": {"type": "bool", "default": False},
}


def comparable(results: str, measured: Record) -> Record:
    """The newest plan of an earlier run that calibrated what would be measured now; empty when there is none."""
    newest: Record = {}
    for name in os.listdir(results) if os.path.isdir(results) else []:
        try:
            earlier = read(os.path.join(results, name, "plan.json")) or {}
            same = earlier.get("calibration") and earlier["measured"] == measured
            if same and earlier["created_unix"] > newest.get("created_unix", 0.0):
                newest = earlier
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # a damaged plan of another run is nothing to compare with
    return newest


def measured(params: Dict[str, Any]) -> Record:
    """All that rates depend on; those of a plan hold for another one with the same."""
    asked, nodes = params["request"]["asked"], params["nodes"]
    return {
        "topology": params["request"]["topology"],
        "scenario": asked["scenario"],
        "samples": asked["samples"],
        "engines": {host: [[one["name"], one["url"]] for one in nodes[host]] for host in nodes},
        "settings": params["settings"],
    }


def make(params: Dict[str, Any]) -> Record:
    """A new plan from calibration, or from an earlier one when there is none."""
    request, calibration, rates = params["request"], params["calibration"], ""
    if not calibration:
        earlier = comparable(os.path.dirname(request["directory"]), measured(params))
        calibration = earlier.get("calibration", {})
        rates = f"speeds taken from run {earlier['run_id']}" if earlier else "no comparable earlier run"
    speeds = speeds_of(params["nodes"], calibration)
    made = plan(request, params["nodes"], speeds, params["loadgen_host"])
    made.update(
        created_unix=time.time(),
        shared_machine=params["shared_machine"],
        measured=measured(params),
        calibration=calibration,
    )
    return {**made, "rates": rates} if rates else made


def answer(params: Dict[str, Any], check_mode: bool) -> Dict[str, Any]:
    """The module's result; writes the plan if there is none yet."""
    file = os.path.join(params["request"]["directory"], "plan.json")
    try:
        kept = read(file)
        made = kept or make(params)
        content = json.dumps(made, indent=2) + "\n"
        if not kept and not check_mode:
            write_whole(file, content)
    except (NoPlan, OSError, ValueError) as error:
        return {"failed": True, "msg": str(error)}
    diff = {"before": content if kept else "", "after": content}
    return {"changed": not kept, "plan": made, "text": "\n".join(printed(made)), "diff": diff}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    tell(module, answer(module.params, module.check_mode))


if __name__ == "__main__":
    main()
