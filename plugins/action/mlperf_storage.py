# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Makes namespace, rights and claims of a cluster that is known by its kubeconfig, and fills the claims."""

from __future__ import annotations

import json
import subprocess

from ansible.plugins.loader import action_loader
from ansible.utils.display import Display

display = Display()
OPTIONS = """
command:
  description: The command `harness cluster` with its options, as a list of words.
  type: list
  elements: str
  required: true
model:
  description: Folder of the weights, as pods see it.
  type: str
  required: true
dataset:
  description: File of the data set, as pods see it.
  type: str
  required: true
storage:
  description: Storage class, sizes, operator, and for model and dataset source and files.
  type: dict
  required: true
token:
  description: Token for the addresses; it goes to the command's standard input only.
  type: str
  default: ""
"""


class ActionModule(action_loader.get("mlperf_base", class_only=True)):
    """Calls `harness cluster storage` here for the nodes of all hosts of the play, and shows its progress meanwhile."""

    options = OPTIONS

    def work(self, arguments):
        """What was made and filled."""
        variables = self._variables
        nodes = [variables["hostvars"][host].get("harness_node") or host for host in variables["ansible_play_hosts"]]
        command = [*arguments.pop("command"), "storage", "--json"] + (["--check"] if self.check_mode else [])
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, **pipes) as process:
            process.stdin.write(json.dumps({**arguments, "nodes": nodes}))
            process.stdin.close()
            last = ""
            for line in process.stderr:
                last = line.strip()
                if not last.startswith("harness: "):
                    display.display(last)
            answer = process.stdout.read()
        return self.read_answer(process.returncode, answer, last)
