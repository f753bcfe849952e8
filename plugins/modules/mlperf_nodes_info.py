#!/usr/bin/python
# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Looks at the nodes of a Kubernetes cluster, and waits for them."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mlperf_nodes_info
short_description: Look at the nodes of a Kubernetes cluster, and wait for them
description:
  - Runs where C(kubectl) and a kubeconfig are. Changes nothing.
  - Waits until the wanted nodes are Ready, and otherwise says what each of them lacks, and which pods do not start.
options:
  wanted:
    description: Nodes that must be Ready. Empty to look only.
    type: list
    elements: str
    default: []
  timeout_s:
    description: How long to wait for them.
    type: int
    default: 300
  kubectl:
    description: The command.
    type: str
    default: kubectl
  kubeconfig:
    description: Credentials for the cluster.
    type: path
    default: /etc/kubernetes/admin.conf
author: The MLPerf distributed authors
attributes:
  check_mode:
    support: full
    description: Looks once and does not wait; nodes that are not Ready are in RV(lacking), and nothing fails.
  diff_mode:
    support: none
    description: Changes nothing.
"""

EXAMPLES = r"""
- name: Wait for the nodes
  mlperf_nodes_info:
    wanted: [jw1, jw2, jw3]
"""

RETURN = r"""
nodes:
  description: Nodes by name, each with RV(ignore:ready), RV(ignore:version), RV(ignore:schedulable), RV(ignore:labels).
  returned: success
  type: dict
lacking:
  description: What the wanted nodes lack, by node.
  returned: success
  type: dict
reason:
  description: Why the cluster could not be asked; empty when it could.
  returned: success
  type: str
"""

import time
from typing import Any, Dict, List, Tuple

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.mlperf_kubectl import ARGUMENTS, containers, get, held_up

Nodes = Dict[str, Dict[str, Any]]


def ready(node: Dict[str, Any]) -> Tuple[bool, str]:
    """(whether a node is Ready, what it says otherwise)."""
    for condition in node.get("status", {}).get("conditions", []):
        if condition["type"] == "Ready":
            return condition["status"] == "True", condition.get("message") or condition.get("reason", "")
    return False, "its kubelet has not reported yet"


def look(module: Any) -> Tuple[Nodes, str]:
    """(nodes by name, why they cannot be listed)."""
    objects, reason = get(module, ["nodes"])
    nodes = {}
    for found in objects:
        is_ready, message = ready(found)
        nodes[found["metadata"]["name"]] = {
            "ready": is_ready,
            "message": message,
            "version": found.get("status", {}).get("nodeInfo", {}).get("kubeletVersion", ""),
            "schedulable": not found.get("spec", {}).get("unschedulable", False),
            "labels": found["metadata"].get("labels", {}),
        }
    return nodes, reason


def lacks(nodes: Nodes, wanted: List[str]) -> Dict[str, str]:
    """What the wanted nodes lack."""
    unknown = (
        "the cluster does not know it. If it had joined before, reset it (playbooks/reset.yml) and run site.yml again"
    )
    return {
        name: nodes[name]["message"] if name in nodes else unknown
        for name in wanted
        if name not in nodes or not nodes[name]["ready"]
    }


def stuck(module: Any, nodes: List[str]) -> List[str]:
    """Containers on these nodes, or on none yet, that do not start, and why."""
    objects, _reason = get(module, ["pods", "--all-namespaces"])
    found = []
    for pod in objects:
        where = pod.get("spec", {}).get("nodeName", "")
        if where and where not in nodes:
            continue
        for container in containers(pod):
            if waiting := held_up(container):
                text = f"{waiting['reason']}: {waiting.get('message', '')}".rstrip(": ")
                found.append(f"{pod['metadata']['namespace']}/{pod['metadata']['name']} on {where}: {text}")
    return found[:5]


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **ARGUMENTS,
            "wanted": {"type": "list", "elements": "str", "default": []},
            "timeout_s": {"type": "int", "default": 300},
        },
        supports_check_mode=True,
    )
    wanted = module.params["wanted"]
    until = time.monotonic() + module.params["timeout_s"]
    while True:
        nodes, reason = look(module)
        lacking = lacks(nodes, wanted)
        if not lacking or module.check_mode:
            module.exit_json(changed=False, nodes=nodes, lacking=lacking, reason=reason)
        if time.monotonic() > until:
            break
        time.sleep(2)
    sentences = [f"{name}: {what}" for name, what in lacking.items()]
    if reason:
        sentences = [f"the cluster does not answer: {reason}"]
    else:
        sentences += stuck(module, list(lacking))
    module.fail_json(
        msg=f"not Ready after {module.params['timeout_s']} s: {'; '.join(sentences)}. Look at `kubectl describe node` "
        "and `journalctl -u kubelet -u containerd` there (docs/operations.md, nodes NotReady)",
        lacking=lacking,
    )


if __name__ == "__main__":
    main()
