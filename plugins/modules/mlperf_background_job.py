#!/usr/bin/python
# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Runs a list of long commands in the background, once."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mlperf_background_job
short_description: Run a list of long commands in the background, once
description:
  - Starts the commands one after another, detached from this connection, and returns at once. Watch them with
    M(mlperf_watch).
  - The reason of a failure is the last line of the command's output or, where pip has failed, the cause in a sentence.
  - A command that has succeeded is recorded. The next start begins at the first one that is new, was changed or failed,
    like the layers of an image.
  - Hosts that share a directory share the job. The second one finds it running.
extends_documentation_fragment: [mlperf_module]
options:
  path:
    description: Directory of the job's own files, C(job.json) and C(job.log).
    type: path
    required: true
  name:
    description: What the job does, for people.
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
    description: A path that the job creates. All commands run again when it is gone.
    type: path
    required: true
  environment_variables:
    description: Variables for the commands, such as those of a package mirror.
    type: dict
    default: {}
attributes:
  diff_mode:
    description: Shows the commands that are to run.
"""

EXAMPLES = r"""
- name: Install the environment
  mlperf_background_job:
    path: /srv/mlperf/env.install
    name: installing
    creates: /srv/mlperf/env/bin/python
    steps:
      - run: [python3, -m, venv, /srv/mlperf/env]
      - run: [/srv/mlperf/env/bin/pip, install, -r, /srv/mlperf/lock.txt]
        inputs: "{{ lookup('ansible.builtin.file', 'lock.txt') | hash('sha256') }}"
  register: installation

- name: Watch it
  mlperf_watch:
    kind: job
    files: ["{{ installation.file }}"]
"""

RETURN = r"""
file:
  description: Path of job.json.
  returned: success
  type: str
state:
  description: State of the job now, V(absent) when it was never started.
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
from typing import Any, Dict, List, Tuple

from ansible.module_utils import mlperf_job_runner, mlperf_pip_failure, mlperf_state_file
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.mlperf_state_file import RUNNING, Record, boot_id, look, uptime_s, write_json

Step = Dict[str, Any]


def digest(step: Step) -> str:
    """What tells a command from another, or from itself before its inputs changed."""
    return hashlib.sha256(json.dumps([step["run"], step["otherwise"], step["inputs"]]).encode()).hexdigest()


def first_pending(steps: List[Step], record: Record, creates: str) -> int:
    """Index of the first command that must run."""
    done = record.get("done") or [] if os.path.exists(creates) else []
    same = [old == new["digest"] for old, new in zip(done, steps)]
    return same.index(False) if False in same else len(same)


def start(params: Dict[str, Any], file: str, steps: List[Step], first: int) -> Record:
    """Start the runner, detached, and return the state it begins with."""
    folder = os.path.dirname(file)
    record = {
        "schema": 1,
        "name": params["name"],
        "state": "running",
        "reason": None,
        "progress": "starting",
        "log": os.path.join(folder, "job.log"),
        "pid": None,
        "boot_id": boot_id(),
        "started_unix": time.time(),
        "started_uptime_s": uptime_s(),
        "steps": steps,
        "done": [step["digest"] for step in steps[:first]],
    }
    write_json(file, record)
    for program in (mlperf_state_file, mlperf_pip_failure, mlperf_job_runner):
        runner = os.path.join(folder, f"{program.__name__.rpartition('.')[2]}.py")
        with open(runner, "w", encoding="utf-8") as stream:
            stream.write(inspect.getsource(program))
    variables = {key: str(value) for key, value in params["environment_variables"].items()}
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


def decide(params: Dict[str, Any], file: str, steps: List[Step]) -> Tuple[Record, bool, int]:
    """(state now, whether commands must be started, index of the first); a running job is joined.

    Raises:
        ValueError: a job with other commands is running.
        OSError: the state file cannot be read.
    """
    try:
        before = look(file) or {}
    except ValueError:
        before = {}  # damaged: a job that runs writes it every second, so none does, and all commands run again
    first = first_pending(steps, before, params["creates"])
    if before.get("state") not in RUNNING:
        return before, first < len(steps), first
    if [step["digest"] for step in before.get("steps") or ()] != [step["digest"] for step in steps]:
        raise ValueError(
            f"{before['name']} is under way in {params['path']} (process {before.get('pid')}) with other steps; "
            f"wait for its end (see {before.get('log')}) or end that process"
        )
    return before, False, first


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
    # Not the values, which may be credentials: -vvv prints what a module was called with.
    called = {"module_args": {**params, "environment_variables": sorted(params["environment_variables"])}}
    file = os.path.join(params["path"], "job.json")
    steps = [{**step, "digest": digest(step)} for step in params["steps"]]
    try:
        if module.check_mode:
            record, changed, first = decide(params, file, steps)
        else:
            os.makedirs(params["path"], exist_ok=True)
            with open(os.path.join(params["path"], ".lock"), "w", encoding="ascii") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                record, changed, first = decide(params, file, steps)
                record = start(params, file, steps, first) if changed else record
    except (OSError, ValueError) as error:
        module.fail_json(msg=str(error), invocation=called)
    after = steps if changed else steps[:first]
    before_text, after_text = (
        "".join(f"{' '.join(step['run'])}\n" for step in some) for some in (steps[:first], after)
    )
    module.exit_json(
        changed=changed,
        file=file,
        state=record.get("state", "absent"),
        pending=len(steps) - first,
        diff={"before": before_text, "after": after_text},
        invocation=called,
    )


if __name__ == "__main__":
    main()
