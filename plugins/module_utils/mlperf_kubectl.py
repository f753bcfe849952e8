# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Calls of `kubectl` from modules, and what its errors mean."""

from __future__ import annotations

import json
import os
import re
from typing import Any, Dict, List, Optional, Tuple

ARGUMENTS: Dict[str, Dict[str, Any]] = {
    "kubectl": {"type": "str", "default": "kubectl"},
    "kubeconfig": {"type": "path", "default": "/etc/kubernetes/admin.conf"},
}
"""What every module that calls kubectl takes."""

NOT_YET = re.compile(r'namespaces "[^"]*" not found|no matches for kind|resource mapping not found', re.IGNORECASE)
"""The cluster answers, but a namespace or a kind that is to be made earlier is not there."""

NO_ANSWER = re.compile(
    r"was refused|connection refused|unable to connect|no route to host|i/o timeout|tls handshake timeout|EOF$",
    re.IGNORECASE | re.MULTILINE,
)
"""The cluster does not answer."""

Answer = Tuple[int, str, str]


def missing(module: Any) -> Optional[str]:
    """Why kubectl cannot be called on this host at all, None when it can."""
    if module.get_bin_path(module.params["kubectl"]) is None:
        return f"{module.params['kubectl']} is not on this host"
    if not os.path.exists(module.params["kubeconfig"]):
        return f"{module.params['kubeconfig']} is not on this host: it is no control plane yet"
    return None


def call(module: Any, arguments: List[str], data: Optional[str] = None) -> Answer:
    """Run kubectl with this module's kubeconfig and return (exit code, output, errors)."""
    kubectl = module.get_bin_path(module.params["kubectl"], required=True)
    argv = [kubectl, f"--kubeconfig={module.params['kubeconfig']}", *arguments]
    code, out, err = module.run_command(argv, data=data, cwd="/", environ_update={"LC_ALL": "C"})
    return code, out, err


def get(module: Any, arguments: List[str]) -> Tuple[List[Dict[str, Any]], str]:
    """(objects that `kubectl get ARGUMENTS` lists, why there is no list)."""
    reason = missing(module)
    if reason:
        return [], reason
    code, out, err = call(module, ["get", *arguments, "--output=json", "--request-timeout=20s"])
    if code != 0:
        return [], sentence(err)
    listed = json.loads(out)
    return listed.get("items", [listed]), ""


def containers(pod: Dict[str, Any]) -> List[Dict[str, Any]]:
    """What a pod says of its containers, those first that run before the others."""
    status = pod.get("status", {})
    return [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]


def held_up(container: Dict[str, Any]) -> Dict[str, Any]:
    """Reason and message of a container that waits for more than being made; empty for any other."""
    waiting: Dict[str, Any] = container.get("state", {}).get("waiting") or {}
    return waiting if waiting.get("reason") not in (None, "ContainerCreating", "PodInitializing") else {}


def sentence(err: str) -> str:
    """The errors of kubectl, without empty and repeated lines, as one line."""
    lines = [line.strip() for line in err.splitlines() if line.strip() and not re.match(r"[EW]\d{4} ", line)]
    return "; ".join(dict.fromkeys(lines)) or "kubectl printed no reason"
