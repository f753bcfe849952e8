#!/usr/bin/python
# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""The documentation of the action plugin mlperf_watch, which runs on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mlperf_watch
short_description: Show the progress of a node until it has ended
description:
  - Reads state files of the node (C(job.json), C(engine.json) or C(status.json)) every few seconds and shows one line
    for each. An end is noticed within a second. On a cluster C(harness cluster watch) reads them.
  - Ends when all have ended well, or when the first has failed.
  - Never fails for what it sees. A failure, a dead process and a lost connection are returned as data.
  - A run that lives without a heartbeat is shown as silent. After O(silent_after_s) it is asked to stop and waited
    for; a run that does not end keeps its engines, and its node counts as lost.
  - An endpoint is asked for its health before it is called ready.
  - A lost connection is retried for a bounded time.
  - Watching can be interrupted and restarted at any time; what is watched continues.
extends_documentation_fragment: [mlperf_module]
options:
  kind:
    description: What is watched.
    type: str
    choices: [job, engine, calibration, run]
    required: true
  files:
    description: Paths of the state files of jobs on the node, with O(kind=job).
    type: list
    elements: path
    default: []
  engines:
    description: Names of the engines that are watched, with O(kind=engine).
    type: list
    elements: str
    default: []
  run_id:
    description: Name of the run that is watched, with O(kind=run) and O(kind=calibration).
    type: str
    default: ""
  root:
    description: Folder of this node's engines and runs.
    type: path
    default: ""
  launcher:
    description: What starts engines and runs; with another one than V(process), O(command) looks at them.
    type: str
    choices: [process, kubernetes, torchx]
    default: process
  command:
    description: The C(harness) command of the node, or C(harness cluster) of the controller, as a list of words.
    type: list
    elements: str
    default: []
  interval_s:
    description: Seconds between two reads.
    type: float
    default: 10
  lost_after_s:
    description: Seconds without an answer after which the node counts as lost.
    type: float
    default: 120
  silent_after_s:
    description: Seconds without a heartbeat after which a run that lives is given up, and stopped.
    type: float
    default: 120
  progress:
    description: A file on the controller to which every state is appended as a line of JSON.
    type: path
    default: ""
  notice:
    description: A text to show once at the start.
    type: str
    default: ""
  together:
    description:
      - The hosts of all LoadGens, where several repeat their attempts together. When all of them have ended an attempt
        (by O(progress)), O(command) tells the run on this host whether to repeat it.
    type: list
    elements: str
    default: []
  hosts:
    description:
      - How many hosts start engines or runs at once, each with a task of its own. Of many one line is shown for all (by
        O(progress)), and one for each engine or run with which something is amiss.
    type: int
    default: 1
  engine_files:
    description:
      - By the name of each engine that the run uses, its C(host) in the inventory and the C(file) with its state there.
        The run's own state says how all of them are. A host is asked only when its engine has stopped to answer.
    type: dict
    default: {}
attributes:
  check_mode:
    support: none
    description: Skipped, because nothing was started that could be watched.
  diff_mode:
    support: none
    description: Changes nothing.
"""

EXAMPLES = r"""
- name: Watch the run
  mlperf_watch:
    kind: run
    root: /srv/mlperf
    run_id: 20261123-181500-server-600
    progress: "{{ playbook_dir }}/results/20261123-181500-server-600/progress.jsonl"
  register: watched
"""

RETURN = r"""
host:
  description: The host that was watched.
  returned: always
  type: str
good:
  description: Whether it ended well (V(finished), or V(ready) for an engine).
  returned: always
  type: bool
state:
  description: The last state seen (of several files, that of the one which ended the watching), V(lost) for a lost
    node, V(absent) when there is no state file.
  returned: always
  type: str
  sample: finished
msg:
  description: Why it did not end well, empty if it did.
  returned: always
  type: str
reason:
  description: Why it did not end well, empty if it did.
  returned: except for a job, whose RV(msg) says it
  type: str
log:
  description: The log to read on the node.
  returned: except for a job, whose RV(msg) says it
  type: str
status:
  description: The last content of that state file, empty when there is none.
  returned: except for a job, whose RV(msg) says it
  type: dict
"""
