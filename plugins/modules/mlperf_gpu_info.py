#!/usr/bin/python
# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Waits until a cluster's GPUs can be used, and says what keeps them from it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mlperf_gpu_info
short_description: Wait until a cluster's GPUs can be used
description:
  - Waits until every node offers GPUs and every Job that looks at them has succeeded; fails with what is in the way.
  - Runs where C(kubectl) and a kubeconfig are, usually on the control plane. Only looks.
options:
  nodes:
    description: Names of the nodes.
    type: list
    elements: str
    required: true
  resource:
    description: The resource that nodes offer.
    type: str
    default: nvidia.com/gpu
  namespace:
    description: Namespace of the device plugin and of the Jobs.
    type: str
    required: true
  jobs:
    description: Names of the Jobs.
    type: list
    elements: str
    default: []
  timeout_s:
    description: How long to wait in all.
    type: int
    default: 600
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
    description: Only looks.
  diff_mode:
    support: none
    description: Changes nothing.
"""

EXAMPLES = r"""
- name: Wait for the GPUs
  mlperf_gpu_info:
    nodes: [jw2, jw3]
    namespace: gpu-system
"""

RETURN = r"""
gpus:
  description: How many GPUs each node offers.
  returned: success
  type: dict
  sample: {"jw2": 1}
"""

import time
from typing import Any, Dict, List

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.mlperf_kubectl import ARGUMENTS, containers, get, held_up

INTERVAL_S = 3


def conditions(item: Dict[str, Any]) -> Dict[str, Dict[str, Any]]:
    """The conditions of an object that are true, by type."""
    return {one["type"]: one for one in item.get("status", {}).get("conditions", []) if one.get("status") == "True"}


def node_trouble(name: str, items: List[Dict[str, Any]], resource: str) -> str:
    """What keeps a node from offering GPUs; empty when it offers some."""
    found = [item for item in items if item["metadata"]["name"] == name]
    if not found:
        return f"{name} is no node of the cluster: join it first (site.yml --tags kubernetes)"
    if "Ready" not in conditions(found[0]):
        return f"{name} is not Ready: kubectl describe node {name}"
    if int(found[0]["status"].get("allocatable", {}).get(resource, "0")) < 1:
        return f"{name} offers no {resource}: its device plugin does not run or sees no GPU"
    return ""


def pod_trouble(pod: Dict[str, Any]) -> str:
    """What keeps a pod from running; empty when nothing does."""
    status = pod.get("status", {})
    place = f"{pod['metadata']['name']} on {pod.get('spec', {}).get('nodeName') or 'no node'}"
    for container in containers(pod):
        waiting, ended = held_up(container), container.get("state", {}).get("terminated", {})
        if waiting:
            return f"{place}: {waiting['reason']} ({waiting.get('message', 'no message')})"
        if ended.get("exitCode"):
            return (
                f"{place}: exit code {ended['exitCode']} ({ended.get('message') or ended.get('reason', 'no message')})"
            )
    for one in status.get("conditions", []):
        if one.get("status") == "False" and one.get("reason") == "Unschedulable":
            return f"{place}: {one.get('message', 'unschedulable')}"
    return ""


def look(module: Any) -> Dict[str, Any]:
    """One look: what is wrong still, and whether it can still come right."""
    params = module.params
    nodes, why = get(module, ["nodes"])
    if why:
        return {"troubles": [why], "over": False, "gpus": {}}
    troubles = list(filter(None, (node_trouble(name, nodes, params["resource"]) for name in params["nodes"])))
    over = False
    if not troubles and params["jobs"]:
        jobs, why = get(module, ["jobs", "--namespace", params["namespace"]])
        states = {job["metadata"]["name"]: conditions(job) for job in jobs}
        for name in params["jobs"]:
            if "Failed" in states.get(name, {}):
                over = True
                troubles.append(f"Job {name} has failed: {states[name]['Failed'].get('message', 'no message')}")
            elif "Complete" not in states.get(name, {}):
                troubles.append(why or f"Job {name} has not finished")
    if troubles:
        pods, _why = get(module, ["pods", "--namespace", params["namespace"]])
        troubles += list(filter(None, map(pod_trouble, pods)))
    gpus = {
        node["metadata"]["name"]: int(node["status"].get("allocatable", {}).get(params["resource"], "0"))
        for node in nodes
        if node["metadata"]["name"] in params["nodes"]
    }
    return {"troubles": troubles, "over": over, "gpus": gpus}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **ARGUMENTS,
            "nodes": {"type": "list", "elements": "str", "required": True},
            "resource": {"type": "str", "default": "nvidia.com/gpu"},
            "namespace": {"type": "str", "required": True},
            "jobs": {"type": "list", "elements": "str", "default": []},
            "timeout_s": {"type": "int", "default": 600},
        },
        supports_check_mode=True,
    )
    until = time.monotonic() + module.params["timeout_s"]
    while True:
        seen = look(module)
        if not seen["troubles"]:
            module.exit_json(changed=False, gpus=seen["gpus"])
        if seen["over"] or time.monotonic() > until:
            space = module.params["namespace"]
            module.fail_json(
                msg=f"{'; '.join(seen['troubles'])}. Look at `kubectl get pods -n {space} -o wide` and "
                f"`kubectl logs -n {space} -l app.kubernetes.io/name=nvidia-device-plugin`; a Job that failed is tried "
                f"again once it is deleted",
                **seen,
            )
        time.sleep(INTERVAL_S)


if __name__ == "__main__":
    main()
