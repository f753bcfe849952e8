#!/usr/bin/python
# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""The documentation of the action plugin mlperf_request, which runs on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mlperf_request
short_description: Work out what benchmark is requested, and record it
description:
  - Runs on the controller and reads its result directory.
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
        description: Samples per second to offer, or V(auto), or V(peak).
        type: str
      peak_budget_minutes:
        description: Minutes for the search for the highest rate and the accuracy run after it.
        type: str
      rate_attempts:
        description: How many performance runs at most where the rate is found, 1 to 10.
        type: str
      topology:
        description: V(fleet) or V(per_node).
        type: str
      launcher:
        description: V(process), V(kubernetes) or V(torchx).
        type: str
  defaults:
    description: The same settings, where the inventory has others than the harness.
    type: dict
    default: {}
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
  record:
    description: Whether to write C(request.json), once, with which the run counts as begun.
    type: bool
    default: false
author: The MLPerf distributed authors
attributes:
  check_mode:
    support: full
    description: Writes nothing, and says whether it would.
  diff_mode:
    support: full
    description: Shows the request, when it is recorded.
"""

EXAMPLES = r"""
- name: Work out the request
  mlperf_request:
    given: {samples: "600"}
    nodes: [node1, node2]
    forks: 20
    results: "{{ playbook_dir }}/results"
  run_once: true
  register: request

- name: Record the request
  mlperf_request:
    given: {run_id: "{{ request.run_id }}"}
    defaults: "{{ request.asked }}"
    nodes: "{{ request.nodes }}"
    forks: 20
    results: "{{ playbook_dir }}/results"
    record: true
  run_once: true
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
attempts_most:
  description: How many performance runs there may be; 1 where the rate was given.
  returned: success
  type: int
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
