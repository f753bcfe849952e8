# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Checks a host before anything is installed on it."""

from __future__ import annotations

from ansible.plugins.loader import action_loader

OPTIONS = """
env:
  description: Folder of the environment that would be made.
  type: str
  required: true
root:
  description: Folder of engines and runs.
  type: str
  required: true
python:
  description: The Python to make the environment with.
  type: str
  required: true
cuda:
  description: Whether vLLM's CUDA build would be installed.
  type: bool
  required: true
gpu_node:
  description: Whether engines run on the host.
  type: bool
  required: true
in_cluster:
  description: Whether site.yml sets the host up.
  type: bool
  default: false
installs_engine:
  description: Whether vLLM and its packages would be installed, and not only the harness.
  type: bool
  default: true
model:
  description: Folder of a model that must be there already; empty for none.
  type: str
  default: ""
dataset:
  description: File of a data set that must be there already; empty for none.
  type: str
  default: ""
engines:
  description: Settings of the engines that would be started; without it they are not known yet.
  type: list
  elements: dict
"""


class ActionModule(action_loader.get("mlperf_base", class_only=True)):
    """Checks what can be known without the harness there, and fails with one list of everything that is missing.

    Looks at Python, folders, disk, memory, GPU, driver, compiler, model, data set and ports; changes nothing.
    """

    options = OPTIONS

    def work(self, arguments):
        """The `facts` of a host that is ready, as mlperf_host_facts returns them."""
        from harness.errors import NotReady
        from harness.readiness import problems

        names = ("env", "root", "model", "dataset")
        facts = self.run_module(
            "mlperf_host_facts",
            root=arguments["env"],
            python=arguments.pop("python"),
            paths=[arguments[name] for name in names if arguments[name]],
            ports=[engine["port"] for engine in arguments["engines"] or () if engine.get("kind") != "endpoint"],
        )["facts"]
        host = self._variables["inventory_hostname"]
        if sentences := problems(host, facts, **arguments):
            raise NotReady("\n".join(f"{host}: {sentence}" for sentence in sentences))
        return {"changed": False, "facts": facts}
