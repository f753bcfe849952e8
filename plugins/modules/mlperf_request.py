#!/usr/bin/python
# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Makes one complete request of what a user gave, what an earlier start of the same run was given, and defaults."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mlperf_request
short_description: Work out what benchmark is asked for
description:
  - Runs on the controller and reads its result directory; changes nothing.
  - Checks the public settings of C(benchmark.yml), fills in what was not given, and names the run.
  - With the name of a run that was begun before, values not given are taken from it, and others are refused.
  - Without a name, a run that was begun and not brought to its end is an error that says how to pick it up or stop it.
options:
  given:
    description: The public settings as the user gave them; an empty one counts as not given.
    type: dict
    required: true
    suboptions:
      run_id:
        description: Name of the run.
        type: str
      scenario:
        description: V(server), V(offline) or V(interactive).
        type: str
      mode:
        description: V(performance), V(accuracy) or V(both).
        type: str
      samples:
        description: How many samples of the data set, 1 to 13368.
        type: str
      target_qps:
        description: Samples per second to offer, or V(auto).
        type: str
      topology:
        description: V(fleet) or V(per_node).
        type: str
      launcher:
        description: V(process), V(kubernetes) or V(torchx).
        type: str
  samples:
    description: How many samples when none are given.
    type: int
    required: true
  launcher:
    description: The launcher when none is given.
    type: str
    default: process
  nodes:
    description: Hosts of this play that have engines.
    type: list
    elements: str
    required: true
  controllers:
    description: Hosts of this play that are controllers.
    type: list
    elements: str
    default: []
  forks:
    description: How many hosts Ansible works on at once.
    type: int
    required: true
  results:
    description: Directory of all results.
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
- name: Work out what is asked
  mlperf_request:
    given: {samples: "600"}
    samples: 13368
    nodes: [node1, node2]
    forks: 20
    results: "{{ playbook_dir }}/results"
  delegate_to: localhost
  run_once: true
  register: asked
"""

RETURN = r"""
run_id:
  description: Name of the run.
  returned: success
  type: str
  sample: 20261123-181500-server-600
asked:
  description: All public settings, complete.
  returned: success
  type: dict
directory:
  description: Where this run's results go on the controller.
  returned: success
  type: str
begun:
  description: Whether the run was begun before.
  returned: success
  type: bool
ended:
  description: Whether it was also brought to its end, well or not.
  returned: success
  type: bool
plan:
  description: The plan made then, empty when there is none.
  returned: success
  type: dict
nodes:
  description: Hosts of this play that have engines.
  returned: success
  type: list
  elements: str
topology:
  description: The topology in effect; a node that is alone in the play is V(per_node).
  returned: success
  type: str
loadgen_hosts:
  description: Hosts that may drive LoadGen, in the order of preference.
  returned: success
  type: list
  elements: str
"""

import os
import re
import time
from typing import Any, Dict, List, Optional

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.mlperf_command import tell
from ansible.module_utils.mlperf_state import read

FULL_SAMPLES = 13368
BAD_INPUT = 2
# The harness takes names of 100 characters; calibrating appends ".calibration".
RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,87}")
CHOICES = {
    "scenario": ("server", "offline", "interactive"),
    "mode": ("performance", "accuracy", "both"),
    "topology": ("fleet", "per_node"),
    "launcher": ("process", "kubernetes", "torchx"),
}
DEFAULTS = {"scenario": "server", "mode": "both", "target_qps": "auto"}
PUBLIC = ("scenario", "mode", "samples", "target_qps", "topology", "launcher")
ARGUMENTS: Dict[str, Dict[str, Any]] = {
    "given": {
        "type": "dict",
        "required": True,
        "options": {name: {"type": "str"} for name in ("run_id", *PUBLIC)},
    },
    "samples": {"type": "int", "required": True},
    "launcher": {"type": "str", "default": "process"},
    "nodes": {"type": "list", "elements": "str", "required": True},
    "controllers": {"type": "list", "elements": "str", "default": []},
    "forks": {"type": "int", "required": True},
    "results": {"type": "path", "required": True},
}


class Refused(Exception):
    """A setting is wrong; the message says which and what would be right."""


def checked(name: str, value: str) -> Any:
    """A public setting in its own type."""
    if name == "samples":
        if not re.fullmatch("[0-9]+", value) or not 1 <= int(value) <= FULL_SAMPLES:
            raise Refused(f"samples = {value!r}: give a whole number from 1 to {FULL_SAMPLES}")
        return int(value)
    if name == "target_qps":
        if value == "auto":
            return value
        try:
            number = float(value)
        except ValueError:
            number = 0.0
        if not 0 < number < float("inf"):
            raise Refused(f"target_qps = {value!r}: give samples per second as a number above 0, or auto")
        return number
    if value not in CHOICES[name]:
        raise Refused(f"{name} = {value!r}: give {' or '.join(CHOICES[name])}")
    return value


def complete(given: Dict[str, Any], before: Dict[str, Any], defaults: Dict[str, Any]) -> Dict[str, Any]:
    """All public settings: given, else as before, else the default; a contradiction to before is refused."""
    asked = {name: checked(name, given[name].strip()) for name in PUBLIC if given.get(name)}
    other = [name for name in asked if name in before and asked[name] != before[name]]
    if other:
        values = "; ".join(f"{name}: it has {before[name]!r}, you ask {asked[name]!r}" for name in other)
        raise Refused(f"run_id {given['run_id']} was begun with other settings ({values}); choose another run_id")
    return {name: asked.get(name, before.get(name, defaults.get(name))) for name in PUBLIC}


def unfinished(results: str) -> List[str]:
    """Names of the runs that were begun and not brought to their end."""
    names = sorted(os.listdir(results)) if os.path.isdir(results) else []
    folders = [(name, os.path.join(results, name)) for name in names]
    return [name for name, folder in folders if _has(folder, "request.json") and not _has(folder, "failures.json")]


def _has(folder: str, name: str) -> bool:
    return os.path.isfile(os.path.join(folder, name))


def offers(run_id: str) -> str:
    """How to go on with an unfinished run."""
    return (
        f"run {run_id} is not finished: pick it up with `ansible-playbook benchmark.yml -e run_id={run_id}`, "
        f"or end it with `ansible-playbook playbooks/stop.yml -e run_id={run_id}`"
    )


def request(params: Dict[str, Any], now: Optional[time.struct_time] = None) -> Dict[str, Any]:
    """The complete request.

    Raises:
        Refused: a setting is wrong, or an unfinished run is in the way.
        ValueError, OSError: files of an earlier start are damaged or unreadable.
    """
    given, nodes, results = params["given"], params["nodes"], params["results"]
    hosts = len({*nodes, *params["controllers"]})
    if not nodes:
        raise Refused("no host of group gpu_nodes is in this play: check the inventory and --limit")
    if params["forks"] < hosts:
        raise Refused(
            f"forks = {params['forks']} is less than the {hosts} hosts to watch at once: call with -f {hosts}"
        )
    run_id = given.get("run_id") or ""
    if run_id and not RUN_ID.fullmatch(run_id):
        raise Refused(f"run_id = {run_id!r}: give letters, digits, dot, dash and underscore only, 88 at most")
    directory = os.path.join(results, run_id)
    before = (read(os.path.join(directory, "request.json")) if run_id else None) or {}
    if before and before["nodes"] != nodes:
        raise Refused(
            f"run_id {run_id} was begun on other nodes (it has {', '.join(before['nodes'])}, this play has "
            f"{', '.join(nodes)}); choose another run_id or the same --limit"
        )
    if run_id and not before and os.path.isdir(directory) and os.listdir(directory):
        raise Refused(f"run_id {run_id}: {directory} holds files of something else; choose another run_id")
    topology = "fleet" if len(nodes) > 1 else "per_node"
    defaults = {**DEFAULTS, "samples": params["samples"], "launcher": params["launcher"], "topology": topology}
    asked = complete(given, before.get("asked", {}), defaults)
    topology = asked["topology"] if len(nodes) > 1 else "per_node"
    if topology == "per_node" and asked["samples"] < len(nodes):
        raise Refused(
            f"samples = {asked['samples']}: give at least one for each of the {len(nodes)} nodes, or topology=fleet"
        )
    if not run_id:
        if unfinished(results):
            raise Refused("; ".join(map(offers, unfinished(results))))
        run_id = f"{time.strftime('%Y%m%d-%H%M%S', now or time.localtime())}-{asked['scenario']}-{asked['samples']}"
        directory = os.path.join(results, run_id)
    return {
        "run_id": run_id,
        "asked": asked,
        "directory": directory,
        "begun": bool(before),
        "ended": _has(directory, "failures.json"),
        "plan": read(os.path.join(directory, "plan.json")) or {},
        "nodes": nodes,
        "topology": topology,
        "loadgen_hosts": [*params["controllers"], *nodes] if topology == "fleet" else nodes,
    }


def answer(params: Dict[str, Any], check_mode: bool) -> Dict[str, Any]:
    """The module's result."""
    try:
        return {"changed": False, **request(params)}
    except (Refused, OSError, ValueError, KeyError) as error:
        return {"failed": True, "msg": str(error), "exit": BAD_INPUT}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    tell(module, answer(module.params, module.check_mode))


if __name__ == "__main__":
    main()
