#!/usr/bin/python
# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Reads the nodes of a Kubernetes cluster, and waits until they are ready."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mlperf_k8s_nodes
short_description: Read the nodes of a Kubernetes cluster, and wait until they are ready
description:
  - Waits until the nodes are Ready and offer O(gpu_resource), and O(jobs) are complete. Otherwise fails with the reason
    of each node, Job and pod.
  - Runs where C(kubectl) and a kubeconfig are, usually on the control plane. Changes nothing.
extends_documentation_fragment: [mlperf_module.reads, mlperf_kubectl]
options:
  wait_for:
    description: Nodes to wait for. Empty to return the cluster's nodes at once.
    type: list
    elements: str
    default: []
  gpu_resource:
    description: Resource of which each of these nodes must offer at least one. Empty for nodes without GPU.
    type: str
    default: ""
  namespace:
    description: Namespace of the device plugin and of the Jobs. Empty for all namespaces.
    type: str
    default: ""
  jobs:
    description: Jobs that must be complete.
    type: list
    elements: str
    default: []
  timeout_s:
    description: How long to wait.
    type: int
    default: 300
attributes:
  check_mode:
    description: Reads once and does not wait; what is not ready is in RV(not_ready), and nothing fails.
"""

EXAMPLES = r"""
- name: Wait for the nodes
  mlperf_k8s_nodes:
    wait_for: [jw1, jw2, jw3]

- name: Wait for the GPUs
  mlperf_k8s_nodes:
    wait_for: [jw2, jw3]
    gpu_resource: nvidia.com/gpu
    namespace: gpu-system
"""

RETURN = r"""
nodes:
  description: Nodes by name, each with RV(ignore:ready), RV(ignore:message) and RV(ignore:schedulable).
  returned: success
  type: dict
not_ready:
  description: Reason for each node and Job that is not ready, by its name.
  returned: always
  type: dict
reason:
  description: Why the cluster could not be read; empty when it could.
  returned: success
  type: str
"""

import time
from typing import Any, Dict, List, Tuple

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.mlperf_kubectl import ARGUMENTS, get, pod_problem

INTERVAL_S = 2
UNKNOWN = "not a node of the cluster. If it was one before, reset it (playbooks/reset.yml); then run site.yml"
NOT_REPORTED: Dict[str, str] = {"status": "False", "message": "its kubelet has not reported yet"}


def conditions(item: Dict[str, Any]) -> Dict[str, Dict[str, Any]]:
    """The conditions of an object by type."""
    return {condition["type"]: condition for condition in item.get("status", {}).get("conditions", [])}


def node_problem(name: str, items: Dict[str, Dict[str, Any]], resource: str) -> str:
    """Why a node is not ready; empty when it is."""
    if name not in items:
        return UNKNOWN
    condition = conditions(items[name]).get("Ready", NOT_REPORTED)
    if condition["status"] != "True":
        return str(condition.get("message") or condition.get("reason") or "not Ready")
    if resource and int(items[name]["status"].get("allocatable", {}).get(resource, "0")) < 1:
        return f"offers no {resource}: its device plugin does not run or sees no GPU"
    return ""


def job_problems(jobs: List[Dict[str, Any]], names: List[str]) -> Tuple[Dict[str, str], bool]:
    """(why each Job is not complete, whether one has failed)."""
    problems, failed = {}, False
    for name in names:
        types = {
            kind: condition
            for job in jobs
            if job["metadata"]["name"] == name
            for kind, condition in conditions(job).items()
            if condition["status"] == "True"
        }
        if "Failed" in types:
            failed = True
            problems[f"Job {name}"] = f"failed ({types['Failed'].get('message', 'no message')}); delete it to retry"
        elif "Complete" not in types:
            problems[f"Job {name}"] = "not complete"
    return problems, failed


def read(module: Any) -> Dict[str, Any]:
    """The module's result now, and whether waiting is of no use."""
    params = module.params
    items, reason = get(module, ["nodes"])
    by_name = {item["metadata"]["name"]: item for item in items}
    nodes = {}
    for name, item in by_name.items():
        problem = node_problem(name, by_name, "")
        schedulable = not item.get("spec", {}).get("unschedulable", False)
        nodes[name] = {"ready": not problem, "message": problem, "schedulable": schedulable}
    problems = {name: node_problem(name, by_name, params["gpu_resource"]) for name in params["wait_for"]}
    not_ready = {name: problem for name, problem in problems.items() if problem}
    failed = False
    if params["jobs"] and not not_ready and not reason:
        jobs, reason = get(module, ["jobs", *scope(module)])
        not_ready, failed = job_problems(jobs, params["jobs"])
    return {"nodes": nodes, "not_ready": not_ready, "reason": reason, "failed_job": failed}


def scope(module: Any) -> List[str]:
    """The arguments with which kubectl reads the namespace."""
    return ["--namespace", module.params["namespace"]] if module.params["namespace"] else ["--all-namespaces"]


def pod_problems(module: Any, nodes: List[str]) -> List[str]:
    """Why pods of the namespace do not run, on these nodes or on none yet; at most five sentences."""
    pods, _reason = get(module, ["pods", *scope(module)])
    near = [pod for pod in pods if pod.get("spec", {}).get("nodeName", "") in ("", *nodes)]
    return list(filter(None, map(pod_problem, near)))[:5]


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **ARGUMENTS,
            "wait_for": {"type": "list", "elements": "str", "default": []},
            "gpu_resource": {"type": "str", "default": ""},
            "namespace": {"type": "str", "default": ""},
            "jobs": {"type": "list", "elements": "str", "default": []},
            "timeout_s": {"type": "int", "default": 300},
        },
        supports_check_mode=True,
    )
    until = time.monotonic() + module.params["timeout_s"]
    while True:
        result = read(module)
        failed = result.pop("failed_job")
        if not result["not_ready"] or module.check_mode:
            module.exit_json(changed=False, **result)
        if failed or time.monotonic() > until:
            break
        time.sleep(INTERVAL_S)
    sentences = [f"{name}: {problem}" for name, problem in result["not_ready"].items()]
    if result["reason"]:
        sentences = [f"the cluster does not answer: {result['reason']}"]
    else:
        sentences += pod_problems(module, module.params["wait_for"])
    waited = "a Job failed" if failed else f"not ready after {module.params['timeout_s']} s"
    module.fail_json(
        msg=f"{waited}: {'; '.join(sentences)}. See `kubectl describe node`, `kubectl get pods -A -o wide`, and "
        "`journalctl -u kubelet -u containerd` on the node (docs/operations.md, nodes NotReady and GPU not detected)",
        not_ready=result["not_ready"],
    )


if __name__ == "__main__":
    main()
