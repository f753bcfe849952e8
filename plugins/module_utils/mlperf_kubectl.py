# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""`kubectl` for modules: calls, and what its errors and its objects say."""

from __future__ import annotations

import json
import os
import re
from typing import Any, Dict, List, Optional, Tuple

ARGUMENTS: Dict[str, Dict[str, Any]] = {
    "kubectl": {"type": "str", "default": "kubectl"},
    "kubeconfig": {"type": "path", "default": "/etc/kubernetes/admin.conf"},
}
"""Options of every module that calls kubectl."""

NOT_YET = re.compile(r'namespaces "[^"]*" not found|no matches for kind|resource mapping not found', re.IGNORECASE)
"""The cluster answers, but lacks the namespace or the kind, which an earlier step creates."""

NO_ANSWER = re.compile(
    r"was refused|connection refused|unable to connect|no route to host|i/o timeout|tls handshake timeout|EOF$",
    re.IGNORECASE | re.MULTILINE,
)
"""The cluster does not answer."""

STARTING = ("ContainerCreating", "PodInitializing")
"""Reasons of a container that waits only for being started."""

Answer = Tuple[int, str, str]


def missing(module: Any) -> Optional[str]:
    """Why kubectl cannot be called on this host at all, None when it can."""
    if module.get_bin_path(module.params["kubectl"]) is None:
        return f"{module.params['kubectl']} is not on this host"
    if not os.path.exists(module.params["kubeconfig"]):
        return f"{module.params['kubeconfig']} is not on this host: it is not a control plane yet"
    return None


def call(module: Any, arguments: List[str], data: Optional[str] = None) -> Answer:
    """Run kubectl with this module's kubeconfig and return (exit code, output, errors)."""
    kubectl = module.get_bin_path(module.params["kubectl"], required=True)
    argv = [kubectl, f"--kubeconfig={module.params['kubeconfig']}", *arguments]
    code, out, err = module.run_command(argv, data=data, cwd="/", environ_update={"LC_ALL": "C"})
    return code, out, err


def get(module: Any, arguments: List[str]) -> Tuple[List[Dict[str, Any]], str]:
    """(objects that `kubectl get ARGUMENTS` lists, why it lists none)."""
    reason = missing(module)
    if reason:
        return [], reason
    code, out, err = call(module, ["get", *arguments, "--output=json", "--request-timeout=20s"])
    if code != 0:
        return [], sentence(err)
    answer = json.loads(out)
    return answer.get("items", [answer]), ""


def pod_problem(pod: Dict[str, Any]) -> str:
    """Why a pod does not run, as a sentence; empty when nothing keeps it from running."""
    status, metadata = pod.get("status", {}), pod["metadata"]
    name = f"{metadata.get('namespace', '')}/{metadata['name']} on {pod.get('spec', {}).get('nodeName') or 'no node'}"
    for container in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
        state = container.get("state", {})
        waiting, ended = state.get("waiting") or {}, state.get("terminated") or {}
        if waiting.get("reason") not in (None, *STARTING):
            return f"{name}: {waiting['reason']} ({waiting.get('message', 'no message')})"
        if ended.get("exitCode"):
            message = " ".join((ended.get("message") or ended.get("reason", "no message")).split())
            return f"{name}: exit code {ended['exitCode']} ({message})"
    for condition in status.get("conditions", []):
        if condition.get("status") == "False" and condition.get("reason") == "Unschedulable":
            return f"{name}: {condition.get('message', 'unschedulable')}"
    return ""


def sentence(err: str) -> str:
    """The errors of kubectl on one line, without empty lines, repetitions and log lines."""
    lines = [line.strip() for line in err.splitlines() if line.strip() and not re.match(r"[EW]\d{4} ", line)]
    return "; ".join(dict.fromkeys(lines)) or "kubectl printed no reason"
