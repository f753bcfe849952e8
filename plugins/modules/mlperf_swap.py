#!/usr/bin/python
# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Turns swap off permanently, or back on."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mlperf_swap
short_description: Turn swap off permanently, or back on
description:
  - Comments out swap in C(/etc/fstab), masks C(swap.target), which would activate swap partitions, and turns off the
    swap that is in use.
  - O(state=present) reverts exactly these changes.
options:
  state:
    description: Whether the host may use swap.
    type: str
    choices: [absent, present]
    default: absent
  fstab:
    description: Table of file systems.
    type: path
    default: /etc/fstab
  swaps:
    description: File in which the kernel lists the swap in use.
    type: path
    default: /proc/swaps
author: The MLPerf distributed authors
attributes:
  check_mode:
    support: full
    description: Changes nothing.
  diff_mode:
    support: full
    description: Shows the lines of O(fstab), the target and the swap in use.
"""

EXAMPLES = r"""
- name: Turn swap off permanently
  mlperf_swap:
    state: absent
"""

RETURN = r"""
in_use:
  description: Swap that was in use.
  returned: success
  type: list
  elements: str
"""

import os
import re
from typing import Any, List

from ansible.module_utils.basic import AnsibleModule

MARK = "#mlperf# "
MASK = "/etc/systemd/system/swap.target"


def read(path: str) -> List[str]:
    """The lines of a file; none where there is no file."""
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8") as stream:
        return stream.read().splitlines()


def is_swap(line: str) -> bool:
    """Whether a line of fstab names swap."""
    return re.match(r"\s*[^#\s]\S*\s+\S+\s+swap\s", f"{line} ") is not None


def commented_out(table: List[str]) -> List[str]:
    """The table with swap commented out."""
    return [MARK + line if is_swap(line) else line for line in table]


def restored(table: List[str]) -> List[str]:
    """The table with swap as it was before."""
    return [line[len(MARK) :] if line.startswith(MARK) else line for line in table]


def run(module: Any, argv: List[str]) -> None:
    """Run a command that must succeed."""
    code, _out, err = module.run_command(argv)
    if code != 0:
        module.fail_json(msg=f"{' '.join(argv)}: {err.strip() or f'exit code {code}'}")


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["absent", "present"], "default": "absent"},
            "fstab": {"type": "path", "default": "/etc/fstab"},
            "swaps": {"type": "path", "default": "/proc/swaps"},
        },
        supports_check_mode=True,
    )
    off = module.params["state"] == "absent"
    table = read(module.params["fstab"])
    wanted = commented_out(table) if off else restored(table)
    in_use = [line.split()[0] for line in read(module.params["swaps"])[1:]]
    masked = os.path.islink(MASK) and os.readlink(MASK) == "/dev/null"
    turn_off = off and bool(in_use)
    changed = table != wanted or masked != off or turn_off
    if changed and not module.check_mode:
        if table != wanted:
            temporary = os.path.join(module.tmpdir, "fstab")
            with open(temporary, "w", encoding="utf-8") as stream:
                stream.write("".join(f"{line}\n" for line in wanted))
            module.atomic_move(temporary, module.params["fstab"])
        if masked != off:
            run(module, ["systemctl", "mask" if off else "unmask", "swap.target"])
        if turn_off:
            run(module, ["swapoff", "--all"])
        elif not off and table != wanted:
            run(module, ["swapon", "--all"])
    states = [("masked" if masked else "free", in_use), ("masked" if off else "free", [] if off else in_use)]
    before, after = (
        "".join(f"{line}\n" for line in lines if is_swap(line) or line.startswith(MARK))
        + f"swap.target {target}\n"
        + "".join(f"in use: {name}\n" for name in used)
        for lines, (target, used) in zip((table, wanted), states)
    )
    module.exit_json(changed=changed, in_use=in_use, diff={"before": before, "after": after})


if __name__ == "__main__":
    main()
