#!/usr/bin/python
# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Runs kubeadm once, and masks its tokens."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mlperf_kubeadm
short_description: Run kubeadm once, and mask its tokens
description:
  - Runs C(kubeadm) unless O(creates) exists, and fails with its errors in one sentence.
  - Appends its output to O(log), with tokens and keys masked.
  - Resumes after an interrupted attempt, ignoring the preflight errors that the attempt's files cause.
extends_documentation_fragment: [mlperf_module]
options:
  arguments:
    description: Subcommand of kubeadm, such as V(init), with its options.
    type: list
    elements: str
    required: true
  creates:
    description: File whose existence means that kubeadm has succeeded. Written afterwards if kubeadm does not write it.
    type: path
    required: true
  partial_files:
    description: Files of an interrupted attempt. Where one of them exists, O(retry_errors) are ignored too.
    type: list
    elements: path
    default: []
  ignored_errors:
    description: Preflight errors to ignore.
    type: list
    elements: str
    default: []
  retry_errors:
    description: Preflight errors that the files of an interrupted attempt cause.
    type: list
    elements: str
    default: []
  log:
    description: File for the output of kubeadm.
    type: path
    required: true
  timeout_s:
    description: How long kubeadm may take.
    type: int
    default: 900
attributes:
  diff_mode:
    description: Shows the command.
"""

EXAMPLES = r"""
- name: Initialise the control plane
  mlperf_kubeadm:
    arguments: [init, --config=/etc/kubernetes/mlperf/init.yaml]
    creates: /etc/kubernetes/mlperf/initialised
    log: /var/log/mlperf-kubeadm.log
"""

RETURN = r"""
log:
  description: File with the output of kubeadm.
  returned: success
  type: str
"""

import os
import re
from typing import Any, List

from ansible.module_utils.basic import AnsibleModule

SECRETS = re.compile(r"\b[a-z0-9]{6}\.[a-z0-9]{16}\b|\b(?<=certificate-key )[0-9a-f]{64}\b")


def masked(text: str) -> str:
    """Text without bootstrap tokens and certificate keys."""
    return SECRETS.sub("(masked)", text)


def errors(err: str) -> str:
    """The errors that kubeadm printed, on one line."""
    preflight = re.findall(r"\[ERROR ([^\]]+)\]: (.+)", err)
    if preflight:
        return "; ".join(f"{name}: {text.strip()}" for name, text in preflight)
    lines = [
        line.strip() for line in err.splitlines() if re.match(r"error[: ]|.*(timed out|cannot|failed)", line.strip())
    ]
    lines = lines or [line.strip() for line in err.splitlines() if line.strip()][-1:]
    return "; ".join(dict.fromkeys(lines)) or "it printed no reason"


def run(module: Any, argv: List[str]) -> None:
    """Run kubeadm, log its output, and fail with its errors."""
    params = module.params
    limit = ["timeout", "--kill-after=10", str(params["timeout_s"])]
    code, out, err = module.run_command([*limit, *argv], cwd="/", environ_update={"LC_ALL": "C"})
    os.makedirs(os.path.dirname(params["log"]), exist_ok=True)
    with open(os.open(params["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a", encoding="utf-8") as stream:
        stream.write(masked(f"$ {' '.join(argv)}\n{out}{err}exit code {code}\n"))
    if code != 0:
        verb = params["arguments"][0]
        reason = f"it did not end within {params['timeout_s']} s" if code == 124 else masked(errors(err or out))
        module.fail_json(
            msg=f"kubeadm {verb} failed: {reason}. Its output is in {params['log']} on this host, the kubelet's in "
            "`journalctl -u kubelet`. Correct the cause and run the playbook again: it continues from there. An error "
            "that does not matter here can be added to kubernetes_ignored_preflight_errors",
            exit=code,
        )


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "arguments": {"type": "list", "elements": "str", "required": True},
            "creates": {"type": "path", "required": True},
            "partial_files": {"type": "list", "elements": "path", "default": []},
            "ignored_errors": {"type": "list", "elements": "str", "default": []},
            "retry_errors": {"type": "list", "elements": "str", "default": []},
            "log": {"type": "path", "required": True},
            "timeout_s": {"type": "int", "default": 900},
        },
        supports_check_mode=True,
    )
    params = module.params
    interrupted = any(os.path.exists(path) for path in params["partial_files"])
    ignored = [*params["ignored_errors"], *(params["retry_errors"] if interrupted else [])]
    argv = ["kubeadm", *params["arguments"]]
    argv += [f"--ignore-preflight-errors={','.join(dict.fromkeys(ignored))}"] if ignored else []
    changed = not os.path.exists(params["creates"])
    if changed and not module.check_mode:
        run(module, argv)
        if not os.path.exists(params["creates"]):
            os.makedirs(os.path.dirname(params["creates"]), exist_ok=True)
            with open(params["creates"], "w", encoding="utf-8") as stream:
                stream.write(f"kubeadm {params['arguments'][0]} has succeeded on this host.\n")
    diff = {"before": "", "after": masked(f"{' '.join(argv)}\n") if changed else ""}
    module.exit_json(changed=changed, log=params["log"], diff=diff)


if __name__ == "__main__":
    main()
