#!/usr/bin/python
# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Runs kubeadm once, and keeps its tokens to itself."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mlperf_kubeadm
short_description: Run kubeadm once, and keep its tokens to itself
description:
  - Runs C(kubeadm) unless O(done) is there, and says in one sentence what it complained about.
  - What it prints goes to O(log), with tokens and keys masked.
  - Work that was cut in the middle is taken up again. What it left behind is then no complaint.
options:
  arguments:
    description: What kubeadm is to do, such as V(init), with its options.
    type: list
    elements: str
    required: true
  done:
    description: A file that says that it is done. Written when kubeadm has succeeded and has not made it itself.
    type: path
    required: true
  remains:
    description: Files that tell of a try that was cut. Where one is, O(forgiven) is ignored too.
    type: list
    elements: path
    default: []
  ignored:
    description: Preflight errors to ignore.
    type: list
    elements: str
    default: []
  forgiven:
    description: Preflight errors that the remains of a cut try cause.
    type: list
    elements: str
    default: []
  log:
    description: File for what kubeadm prints.
    type: path
    required: true
  timeout_s:
    description: How long it may take.
    type: int
    default: 900
author: The MLPerf distributed authors
attributes:
  check_mode:
    support: full
    description: Runs nothing, and says whether it would.
  diff_mode:
    support: full
    description: Shows the command.
"""

EXAMPLES = r"""
- name: Make the control plane
  mlperf_kubeadm:
    arguments: [init, --config=/etc/kubernetes/mlperf/init.yaml]
    done: /etc/kubernetes/mlperf/initialised
    log: /var/log/mlperf-kubeadm.log
"""

RETURN = r"""
log:
  description: File with what kubeadm printed.
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


def complaints(err: str) -> str:
    """What kubeadm complained about, in one line."""
    found = re.findall(r"\[ERROR ([^\]]+)\]: (.+)", err)
    if found:
        return "; ".join(f"{name}: {text.strip()}" for name, text in found)
    lines = [
        line.strip() for line in err.splitlines() if re.match(r"error[: ]|.*(timed out|cannot|failed)", line.strip())
    ]
    lines = lines or [line.strip() for line in err.splitlines() if line.strip()][-1:]
    return "; ".join(dict.fromkeys(lines)) or "it printed no reason"


def run(module: Any, argv: List[str]) -> None:
    """Run kubeadm, write down what it printed, fail with its complaints."""
    params = module.params
    limit = ["timeout", "--kill-after=10", str(params["timeout_s"])]
    code, out, err = module.run_command([*limit, *argv], cwd="/", environ_update={"LC_ALL": "C"})
    os.makedirs(os.path.dirname(params["log"]), exist_ok=True)
    with open(os.open(params["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a", encoding="utf-8") as stream:
        stream.write(masked(f"$ {' '.join(argv)}\n{out}{err}exit code {code}\n"))
    if code != 0:
        verb = params["arguments"][0]
        reason = f"no end after {params['timeout_s']} s" if code == 124 else masked(complaints(err or out))
        module.fail_json(
            msg=f"kubeadm {verb} failed: {reason}. All it said is in {params['log']} on this host, and "
            "`journalctl -u kubelet` has the kubelet's side. Correct the cause and run the playbook again: it goes on "
            "from there. An error that does not matter here can be named in kubernetes_ignored_preflight_errors",
            exit=code,
        )


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "arguments": {"type": "list", "elements": "str", "required": True},
            "done": {"type": "path", "required": True},
            "remains": {"type": "list", "elements": "path", "default": []},
            "ignored": {"type": "list", "elements": "str", "default": []},
            "forgiven": {"type": "list", "elements": "str", "default": []},
            "log": {"type": "path", "required": True},
            "timeout_s": {"type": "int", "default": 900},
        },
        supports_check_mode=True,
    )
    params = module.params
    cut = any(os.path.exists(path) for path in params["remains"])
    ignored = [*params["ignored"], *(params["forgiven"] if cut else [])]
    argv = ["kubeadm", *params["arguments"]]
    argv += [f"--ignore-preflight-errors={','.join(dict.fromkeys(ignored))}"] if ignored else []
    changed = not os.path.exists(params["done"])
    if changed and not module.check_mode:
        run(module, argv)
        if not os.path.exists(params["done"]):
            os.makedirs(os.path.dirname(params["done"]), exist_ok=True)
            with open(params["done"], "w", encoding="utf-8") as stream:
                stream.write(f"kubeadm {params['arguments'][0]} has succeeded on this host.\n")
    diff = {"before": "", "after": masked(f"{' '.join(argv)}\n") if changed else ""}
    module.exit_json(changed=changed, log=params["log"], diff=diff)


if __name__ == "__main__":
    main()
