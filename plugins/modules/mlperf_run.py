#!/usr/bin/python
# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Starts or stops a benchmark run."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mlperf_run
short_description: Start or stop a benchmark run on a node
description:
  - Starts a LoadGen run in the background. Watch it with M(mlperf_watch), look at it with M(mlperf_run_info).
  - A run that exists with the same spec, running or finished, is left as it is. With another spec it is refused,
    both values named.
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
  launcher:
    description:
      - What starts engines and runs. With another one than V(process) O(command) is C(harness cluster), which works on
        a cluster from wherever it is called, and O(root) is the folder that pods have their claims in.
    type: str
    choices: [process, kubernetes, torchx]
    default: process
  run_id:
    description: Name of the run.
    type: str
    required: true
  state:
    description:
      - Whether it shall run (or have run), be ended, or, when its files were collected, be removed by its cluster in
        due time.
    type: str
    choices: [started, stopped, released]
    default: started
  spec:
    description: What is asked, without the run's name; needed with O(state=started).
    type: dict
    default: {}
author: The MLPerf distributed authors
attributes:
  check_mode:
    support: full
    description: Validates the spec, the data set, the model and the disk, starts nothing, and says whether it would.
  diff_mode:
    support: full
    description: Shows the run's state, or the keys in which specs differ.
"""

EXAMPLES = r"""
- name: Start a run
  mlperf_run:
    command: [/srv/mlperf/env/bin/python, -m, harness]
    root: /srv/mlperf
    run_id: 20261123-181500-server-600
    spec:
      model: /srv/mlperf/model
      dataset: /srv/mlperf/cnn_eval.json
      samples: 600
      engines: [{name: node1, url: "http://127.0.0.1:8101"}]

- name: End it
  mlperf_run:
    command: [/srv/mlperf/env/bin/python, -m, harness]
    root: /srv/mlperf
    run_id: 20261123-181500-server-600
    state: stopped
"""

RETURN = r"""
state:
  description: State of the run, V(absent) when there is none.
  returned: success
  type: str
  sample: running
file:
  description: Path of the run's status.json.
  returned: success
  type: str
"""

from typing import Any, Dict

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.mlperf_command import COMMAND, call, on_cluster, tell
from ansible.module_utils.mlperf_state import look, run_file

BAD_INPUT = 2
ARGUMENTS: Dict[str, Dict[str, Any]] = {
    **COMMAND,
    "run_id": {"type": "str", "required": True},
    "state": {"type": "str", "choices": ["started", "stopped", "released"], "default": "started"},
    "spec": {"type": "dict", "default": {}},
}


def act(module: Any) -> Dict[str, Any]:
    """Start the run; the result of the module. `module` is what `call` takes."""
    if module.params["state"] == "stopped":
        return stop_on_cluster(module)
    if module.params["state"] == "released":
        return release(module)
    if module.check_mode:
        return check(module, "absent")
    given = {**module.params["spec"], "run_id": module.params["run_id"]}
    answer = call(module, ["start", "--spec", "-"], given)
    return told(module.params, answer["changed"], answer["state"], "absent" if answer["changed"] else answer["state"])


def check(module: Any, before: str) -> Dict[str, Any]:
    """Say what starting the run would change."""
    given = {**module.params["spec"], "run_id": module.params["run_id"]}
    answer = call(module, ["start", "--spec", "-", "--check"], given)
    if answer["diff"]:
        values = "; ".join(f"{key}: it has {old!r}, you ask {new!r}" for key, (old, new) in answer["diff"].items())
        return {
            "failed": True,
            "msg": f"run_id {given['run_id']} exists with another spec ({values}); choose another run_id",
            "exit": BAD_INPUT,
            "diff": {
                "before": {key: old for key, (old, new) in answer["diff"].items()},
                "after": {key: new for key, (old, new) in answer["diff"].items()},
            },
        }
    before = answer.get("state", before)
    return told(module.params, answer["would_change"], before, before)


def stop_on_cluster(module: Any) -> Dict[str, Any]:
    """End the run's Job, or say whether that would change anything."""
    words = ["stop", module.params["run_id"]] + (["--check"] if module.check_mode else [])
    answer = call(module, words)
    return told(module.params, answer["changed"], answer["state"], "running" if answer["changed"] else answer["state"])


def release(module: Any) -> Dict[str, Any]:
    """Let the cluster remove the run's Jobs in due time."""
    words = ["release"] + (["--check"] if module.check_mode else [])
    changed = on_cluster(module) and call(module, words)["changed"]
    return told(module.params, changed, "released", "finished")


def stop(module: Any, before: str) -> Dict[str, Any]:
    """End the run, or say whether that would change anything."""
    if before != "running" or module.check_mode:
        return told(module.params, before == "running", before, before)
    answer = call(module, ["stop", module.params["run_id"]])
    return told(module.params, answer["changed"], answer["state"], before)


def told(params: Dict[str, Any], changed: bool, state: str, before: str) -> Dict[str, Any]:
    """The module's result: the run's state now, and in its diff that before with what was asked for."""
    diff = {"before": {"state": before}, "after": {"state": params["state"] if changed else before}}
    return {"changed": changed, "state": state, "file": run_file(params["root"], params["run_id"]), "diff": diff}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    starts = module.params["state"] == "started"
    if on_cluster(module) or (starts and not module.check_mode):
        tell(module, act(module))
    try:
        before = (look(run_file(module.params["root"], module.params["run_id"])) or {"state": "absent"})["state"]
    except (OSError, ValueError) as error:
        module.fail_json(msg=str(error))
    tell(module, (check if starts else stop)(module, before))


if __name__ == "__main__":
    main()
