#!/usr/bin/python
# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Turns swap off permanently, or back on."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mlperf_swap
short_description: Turn swap off permanently, or back on
description:
  - Turns off the swap that is in use, and what would turn it on again at boot.
  - Comments out swap in C(/etc/fstab), masks C(swap.target), masks swap units that a generator of systemd makes
    (of zram, of partitions by their type) or that are installed, masks the services that make swap themselves (of
    zram-tools, zram-config, dphys-swapfile and swapspace), and tells cloud-init to make no swap file.
  - O(state=present) reverts exactly these changes, which are recorded in C(/etc/systemd/mlperf-swap).
extends_documentation_fragment: [mlperf_module]
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
attributes:
  diff_mode:
    description: Shows the lines of O(fstab), the target, the other sources and the swap in use.
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
from typing import Any, Dict, List

from ansible.module_utils.basic import AnsibleModule

MARK = "#mlperf# "
UNITS = "/etc/systemd/system"
RECORD = "/etc/systemd/mlperf-swap"
SERVICES = ["zramswap.service", "zram-config.service", "dphys-swapfile.service", "swapspace.service"]
"""Services that make swap without a unit of systemd's type swap."""
CLOUD_CONFIG = "/etc/cloud/cloud.cfg.d/99-mlperf-swap.cfg"
CLOUD_TEXT = "# Written by Ansible; changes are overwritten.\nswap: {size: 0}\n"
USER_CONFIG = "/var/lib/cloud/instance/cloud-config.txt"


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


def is_masked(unit: str) -> bool:
    """Whether systemd ignores a unit."""
    path = os.path.join(UNITS, unit)
    return os.path.islink(path) and os.readlink(path) == "/dev/null"


def units(module: Any) -> List[str]:
    """Units that turn swap on by themselves: those of type swap that have a file which is not fstab, and services."""
    found = []
    for verb in ("list-units", "list-unit-files"):
        argv = ["systemctl", verb, "--all", "--plain", "--no-legend", "--type=swap,service"]
        _code, out, _err = module.run_command(argv)
        found += [line.strip("●* ").split()[0] for line in out.splitlines() if line.strip("●* ")]
    swaps = sorted({unit for unit in found if unit.endswith(".swap")})
    return [unit for unit in swaps if has_own_file(module, unit)] + [unit for unit in SERVICES if unit in found]


def has_own_file(module: Any, unit: str) -> bool:
    """Whether a swap unit comes from a file of its own, not from fstab or from swap that happens to be in use."""
    _code, out, _err = module.run_command(["systemctl", "show", "--property=FragmentPath,SourcePath", unit])
    shown = dict(line.partition("=")[::2] for line in out.splitlines())
    return bool(shown.get("FragmentPath")) and shown.get("SourcePath") != "/etc/fstab"


def is_enabled(module: Any, unit: str) -> bool:
    """Whether a unit starts at boot."""
    _code, out, _err = module.run_command(["systemctl", "is-enabled", unit])
    return bool(out.strip() == "enabled")


def sources(module: Any) -> List[str]:
    """What is to be done to each source of swap beside fstab and swap.target, as words of the record."""
    actions = []
    for unit in units(module):
        # systemd masks no unit whose file lies where the mask would be.
        if os.path.isfile(os.path.join(UNITS, unit)):
            actions += [f"disable {unit}"] if is_enabled(module, unit) else []
        elif not is_masked(unit):
            actions.append(f"mask {unit}")
    if os.path.isdir(os.path.dirname(CLOUD_CONFIG)) and "".join(read(CLOUD_CONFIG)) != "".join(CLOUD_TEXT.splitlines()):
        actions.append(f"write {CLOUD_CONFIG}")
    return actions


def act(module: Any, action: str) -> None:
    """Turn one source off."""
    verb, name = action.split(" ", 1)
    if verb == "write":
        with open(name, "w", encoding="utf-8") as stream:
            stream.write(CLOUD_TEXT)
    else:
        run(module, ["systemctl", verb, "--now", name])


def revert(module: Any, action: str) -> None:
    """Turn one source on again, as far as it is still there."""
    verb, name = action.split(" ", 1)
    if verb == "write" and os.path.exists(name):
        os.unlink(name)
    elif verb == "mask" and is_masked(name):
        run(module, ["systemctl", "unmask", name])
    elif verb == "disable" and os.path.isfile(os.path.join(UNITS, name)):
        run(module, ["systemctl", "enable", name])


def write(module: Any, path: str, lines: List[str]) -> None:
    """Replace a file in one step."""
    temporary = os.path.join(module.tmpdir, os.path.basename(path))
    with open(temporary, "w", encoding="utf-8") as stream:
        stream.write("".join(f"{line}\n" for line in lines))
    module.atomic_move(temporary, path)


class State:
    """What a host does about swap, and what it would do as wished."""

    def __init__(self, module: Any) -> None:
        self.off = module.params["state"] == "absent"
        self.table = read(module.params["fstab"])
        self.wanted = commented_out(self.table) if self.off else restored(self.table)
        self.in_use = [line.split()[0] for line in read(module.params["swaps"])[1:]]
        self.masked = is_masked("swap.target")
        self.record = read(RECORD)
        self.actions = sources(module) if self.off else self.record
        self.turn_off = self.off and bool(self.in_use)

    @property
    def changed(self) -> bool:
        """Whether the host is not as wished."""
        return self.table != self.wanted or self.masked != self.off or bool(self.actions) or self.turn_off

    def diff(self) -> Dict[str, str]:
        """Table, target, sources and swap in use, before and after."""

        def text(table: List[str], masked: bool, done: List[str], in_use: List[str]) -> str:
            lines = [line for line in table if is_swap(line) or line.startswith(MARK)]
            lines += [f"swap.target {'masked' if masked else 'free'}", *done, *(f"in use: {name}" for name in in_use)]
            return "".join(f"{line}\n" for line in lines)

        done = list(dict.fromkeys([*self.record, *self.actions])) if self.off else []
        after = text(self.wanted, self.off, done, [] if self.off else self.in_use)
        return {"before": text(self.table, self.masked, self.record, self.in_use), "after": after}


def apply(module: Any, state: State) -> None:
    """Make the host as wished."""
    if state.table != state.wanted:
        write(module, module.params["fstab"], state.wanted)
    if state.masked != state.off:
        run(module, ["systemctl", "mask" if state.off else "unmask", "swap.target"])
    if state.off and state.actions:
        write(module, RECORD, list(dict.fromkeys([*state.record, *state.actions])))
    for action in state.actions:
        (act if state.off else revert)(module, action)
    if not state.off and state.record:
        os.unlink(RECORD)
    if state.turn_off:
        run(module, ["swapoff", "--all"])
    elif not state.off and state.table != state.wanted:
        run(module, ["swapon", "--all"])


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
    state = State(module)
    if state.turn_off and state.table == state.wanted and not state.actions:
        module.warn(
            f"swap is in use ({', '.join(state.in_use)}) that no known source turns on at boot: look for what calls "
            "swapon (`grep -rl swapon /etc /usr/local`), or it comes back with the next boot"
        )
    if state.changed and not module.check_mode:
        apply(module, state)
    if state.off and any(line.startswith("swap:") for line in read(USER_CONFIG)):
        module.warn(
            "the user data of this host's cloud instance has `swap:`, which is stronger than the host's own settings: "
            "take it out there, or cloud-init makes swap again when the instance is made anew"
        )
    module.exit_json(changed=state.changed, in_use=state.in_use, diff=state.diff())


if __name__ == "__main__":
    main()
