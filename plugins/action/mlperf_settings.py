# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Works out the settings of a host's engines, and what all its runs have in common."""

from __future__ import annotations

from ansible.plugins.loader import action_loader

OPTIONS = """
request:
  description: What mlperf_request returned.
  type: dict
  required: true
runs:
  description: What mlperf_run_info returned on this host; without a state when the host is unreachable.
  type: dict
  default: {state: absent}
reply:
  description: What the host itself has answered to a task, which says whether it is unreachable.
  type: dict
  default: {}
runs_folder:
  description: Folder of the host's runs, from which files are collected.
  type: str
  default: ""
engines_folder:
  description: Folder of its engines, from which files are collected; empty where they are in the run's folder.
  type: str
  default: ""
engines:
  description:
    - Settings of each engine of the host, with its name and port (docs/engine-settings.md). Empty for none, auto for
      one engine for each GPU.
  type: raw
  required: true
engine_settings:
  description: Settings that all of them have, where they have none of their own.
  type: dict
  default: {}
engine_restarts:
  description: How often an engine that dies is started again, where its run goes on with others meanwhile.
  type: int
  default: 0
engine_settings_by_gpu:
  description: Whether what is not given follows from the kind of the host's GPUs (docs/engine-settings.md).
  type: bool
  default: true
address:
  description: Address at which LoadGen hosts reach the engines.
  type: str
  default: 127.0.0.1
bind:
  description:
    - Address at which the engines listen. Empty for the narrowest that works, which is 127.0.0.1 where each node has a
      LoadGen of its own, and else `address`.
  type: str
  default: ""
root:
  description: Directory of the host's engines and runs.
  type: str
  default: ""
cluster:
  description: Settings of the cluster, with another launcher than process.
  type: dict
  default: {}
model:
  description: Directory of the model, as the engines see it.
  type: str
  required: true
dataset:
  description: File of the data set, as LoadGen sees it.
  type: str
  required: true
reference_ids:
  description: File of reference answers, empty for none.
  type: str
  default: ""
punkt:
  description: Folder of Punkt's English data, empty to look in NLTK's usual places.
  type: str
  default: ""
limits:
  description: Limits of the run that differ from the harness's own.
  type: dict
  default: {}
seed:
  description: Seed of sampling.
  type: int
  default: 42
price_per_hour:
  description: What an hour of this node costs, a number from 0; empty where that is not known.
  type: str
  default: ""
metrics_bind:
  description: Address of the run's Prometheus metrics; on a cluster that of its pod.
  type: str
  default: 127.0.0.1
metrics_port:
  description: Port of the run's Prometheus metrics. 0 for none, or on a cluster for its usual one.
  type: int
  default: 0
"""


class ActionModule(action_loader.get("mlperf_base", class_only=True)):
    """Completes and checks what the inventory says of the host's engines; looks at nothing and changes nothing."""

    options = OPTIONS

    def work(self, arguments):
        """What `of_host` returns."""
        from harness.benchmark.host_settings import of_host
        from harness.benchmark.request import Request

        request = Request.of(arguments["request"])
        settings = of_host(request, self._variables["inventory_hostname"], arguments)
        # Values of an engine's environment may be secrets: they are not printed, with whatever verbosity.
        return {"changed": False, "_ansible_no_log": True, **settings}
