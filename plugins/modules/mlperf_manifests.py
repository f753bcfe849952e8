#!/usr/bin/python
# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Applies objects to a Kubernetes cluster."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mlperf_manifests
short_description: Apply objects to a Kubernetes cluster
description:
  - Runs where C(kubectl) and a kubeconfig are, usually on the control plane.
  - Uses server-side apply and owns only the fields in the manifests. Applies nothing if C(kubectl diff) shows no
    difference.
extends_documentation_fragment: [mlperf_module, mlperf_kubectl]
options:
  manifests:
    description: The objects. Give either these or O(src).
    type: list
    elements: dict
    default: []
  src:
    description: A YAML file on the host.
    type: path
  timeout_s:
    description: How long to wait for a custom resource definition to be established.
    type: int
    default: 120
attributes:
  check_mode:
    description:
      - Applies nothing and shows what C(kubectl diff) prints.
      - Where the cluster, the namespace or the kind does not exist yet, reports that the objects would be applied.
  diff_mode:
    description: Shows what C(kubectl diff) prints. Values of secrets are masked.
"""

EXAMPLES = r"""
- name: Create the namespace
  mlperf_manifests:
    manifests:
      - apiVersion: v1
        kind: Namespace
        metadata:
          name: mlperf
"""

RETURN = r"""
reason:
  description: Why the cluster could not be queried; empty when it could.
  returned: success
  type: str
"""

import json
import re
import time
from typing import Any, List, Optional, Tuple

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.mlperf_kubectl import ARGUMENTS, NO_ANSWER, NOT_YET, call, missing, sentence


def source(module: Any) -> Tuple[List[str], Optional[str]]:
    """(arguments that name the objects' source for kubectl, its standard input)."""
    manifests, src = module.params["manifests"], module.params["src"]
    if bool(manifests) == bool(src):
        module.fail_json(msg="give either manifests (a list with at least one object) or src (a YAML file on the host)")
    if src:
        return ["--filename", src], None
    return ["--filename", "-"], json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests})


def readable(diff: str) -> str:
    """A diff with object names in place of kubectl's temporary files."""
    kept = [line for line in diff.splitlines() if not line.startswith("diff -")]
    return "\n".join(re.sub(r"^(---|\+\+\+) \S*/(LIVE|MERGED)-[^/]*/(\S+).*", r"\1 \3", line) for line in kept) + "\n"


def apply(module: Any, options: List[str], where: List[str], data: Optional[str]) -> None:
    """Apply, and retry while a kind is unknown whose definition is among the same objects."""
    until = time.monotonic() + module.params["timeout_s"]
    while True:
        code, _out, err = call(module, ["apply", *options, *where], data)
        if code == 0:
            return
        if not NOT_YET.search(err) or time.monotonic() > until:
            module.fail_json(msg=f"the objects cannot be applied: {sentence(err)}")
        time.sleep(2)


def present(module: Any, where: List[str], data: Optional[str]) -> None:
    """Apply the objects if they differ."""
    options = ["--server-side", "--force-conflicts", "--field-manager=mlperf"]
    code, out, err = call(module, ["diff", *options, *where], data)
    if code == 0:
        module.exit_json(changed=False, reason="", diff={"prepared": ""})
    # Exit code 1 means that there are differences, more than 1 that kubectl could not compute them.
    reason = "" if code == 1 and out else sentence(err)
    if reason and not NOT_YET.search(err):
        if module.check_mode and NO_ANSWER.search(err):
            would_apply(module, reason)
        module.fail_json(msg=f"kubectl diff failed: {reason}")
    if not module.check_mode:
        apply(module, options, where, data)
    module.exit_json(changed=True, reason=reason, diff={"prepared": readable(out) if out else f"+ {reason}\n"})


def would_apply(module: Any, reason: str) -> None:
    """Report a change in check mode where there is no cluster yet."""
    count = len(module.params["manifests"])
    what = f"{count} objects" if count else module.params["src"]
    module.exit_json(changed=True, reason=reason, msg=f"would apply {what} ({reason})", diff={"prepared": ""})


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **ARGUMENTS,
            "manifests": {"type": "list", "elements": "dict", "default": []},
            "src": {"type": "path"},
            "timeout_s": {"type": "int", "default": 120},
        },
        supports_check_mode=True,
    )
    where, data = source(module)
    reason = missing(module)
    if reason and module.check_mode:
        would_apply(module, reason)
    if reason:
        module.fail_json(msg=f"{reason}; run site.yml first, which sets up the cluster")
    present(module, where, data)


if __name__ == "__main__":
    main()
