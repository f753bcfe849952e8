#!/usr/bin/python
# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Carries out a list of long commands in the background, once."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mlperf_step
short_description: Carry out a list of long commands in the background, once
description:
  - Starts the commands one after another, detached from this connection, and returns at once. Watch them with
    M(mlperf_watch).
  - Each command is remembered when it has succeeded. The list is taken up again at the first command that is new,
    was changed or failed, like the layers of an image.
  - Hosts that share a directory share the work. Whoever comes second finds it running.
options:
  path:
    description: Directory of the steps' own files, C(job.json) and C(job.log).
    type: path
    required: true
  name:
    description: What the steps do, for people.
    type: str
    required: true
  steps:
    description: The commands in order.
    type: list
    elements: dict
    required: true
    suboptions:
      run:
        description: The command as a list of words.
        type: list
        elements: str
        required: true
      otherwise:
        description: A command to try when O(steps[].run) fails.
        type: list
        elements: str
        default: []
      inputs:
        description: Anything whose change means that the command must run again, such as a checksum.
        type: str
        default: ""
  creates:
    description: A path that the steps make. All of them run again when it is gone.
    type: path
    required: true
  environment_variables:
    description: Variables for the commands, such as those of a package mirror.
    type: dict
    default: {}
author: The MLPerf distributed authors
attributes:
  check_mode:
    support: full
    description: Starts nothing, and says whether it would.
  diff_mode:
    support: full
    description: Shows the commands that are to run.
"""

EXAMPLES = r"""
- name: Install the environment
  mlperf_step:
    path: /srv/mlperf/env.install
    name: installing
    creates: /srv/mlperf/env/bin/python
    steps:
      - run: [python3, -m, venv, /srv/mlperf/env]
      - run: [/srv/mlperf/env/bin/pip, install, -r, /srv/mlperf/lock.txt]
        inputs: "{{ lookup('ansible.builtin.file', 'lock.txt') | hash('sha256') }}"
  register: installing

- name: Watch it
  mlperf_watch:
    kind: step
    files: ["{{ installing.file }}"]
"""

RETURN = r"""
file:
  description: Path of job.json.
  returned: success
  type: str
state:
  description: State of the steps now, V(absent) when they were never started.
  returned: success
  type: str
  sample: running
pending:
  description: How many of the commands are not done yet.
  returned: success
  type: int
"""

import fcntl
import hashlib
import inspect
import json
import os
import subprocess
import sys
import time
from typing import Any, Dict, List

from ansible.module_utils import mlperf_steps
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.mlperf_state import Record, boot_id, look


def digest(step: Dict[str, Any]) -> str:
    """What tells a command from another, or from itself before its inputs changed."""
    return hashlib.sha256(json.dumps([step["run"], step["otherwise"], step["inputs"]]).encode()).hexdigest()


def left_to_do(wanted: List[Dict[str, Any]], before: Record, creates: str) -> int:
    """Index of the first command that must run."""
    done = before.get("done") or [] if os.path.exists(creates) else []
    same = [old == new["digest"] for old, new in zip(done, wanted)]
    return same.index(False) if False in same else len(same)


def start(module: Any, file: str, wanted: List[Dict[str, Any]], first: int) -> Record:
    """Start the runner, detached, and return the state it begins with."""
    folder = os.path.dirname(file)
    record = {
        "schema": 1,
        "name": module.params["name"],
        "state": "running",
        "reason": None,
        "progress": "starting",
        "log": os.path.join(folder, "job.log"),
        "pid": None,
        "boot_id": boot_id(),
        "started_unix": time.time(),
        "steps": wanted,
        "done": [step["digest"] for step in wanted[:first]],
    }
    mlperf_steps.write(file, record)
    runner = os.path.join(folder, "job.py")
    with open(runner, "w", encoding="utf-8") as stream:
        stream.write(inspect.getsource(mlperf_steps))
    variables = {key: str(value) for key, value in module.params["environment_variables"].items()}
    with open(os.path.join(folder, "job.log"), "ab") as log:
        subprocess.Popen(
            [sys.executable, runner, file],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env={**os.environ, **variables, "PYTHONUNBUFFERED": "1"},
            start_new_session=True,
        )
    return record


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "name": {"type": "str", "required": True},
            "steps": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "run": {"type": "list", "elements": "str", "required": True},
                    "otherwise": {"type": "list", "elements": "str", "default": []},
                    "inputs": {"type": "str", "default": ""},
                },
            },
            "creates": {"type": "path", "required": True},
            "environment_variables": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    params = module.params
    file = os.path.join(params["path"], "job.json")
    wanted = [{**step, "digest": digest(step)} for step in params["steps"]]
    if module.check_mode:
        record, changed, first = decide(module, file, wanted)
    else:
        os.makedirs(params["path"], exist_ok=True)
        with open(os.path.join(params["path"], ".lock"), "w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            record, changed, first = decide(module, file, wanted)
            record = start(module, file, wanted, first) if changed else record
    diff = {
        "before": "".join(f"{' '.join(step['run'])}\n" for step in wanted[:first]),
        "after": "".join(f"{' '.join(step['run'])}\n" for step in (wanted if changed else wanted[:first])),
    }
    module.exit_json(
        changed=changed, file=file, state=record.get("state", "absent"), pending=len(wanted) - first, diff=diff
    )


def decide(module: Any, file: str, wanted: List[Dict[str, Any]]) -> Any:
    """(state now, whether commands must be started, index of the first); work under way is joined or refused."""
    try:
        before = look(file) or {}
    except (OSError, ValueError) as error:
        module.fail_json(msg=str(error))
    first = left_to_do(wanted, before, module.params["creates"])
    if before.get("state") != "running":
        return before, first < len(wanted), first
    if [step["digest"] for step in before["steps"]] != [step["digest"] for step in wanted]:
        module.fail_json(
            msg=f"{before['name']} is under way in {module.params['path']} (process {before['pid']}) with other steps; "
            f"wait for its end (see {before['log']}) or end that process"
        )
    return before, False, first


if __name__ == "__main__":
    main()
