#!/usr/bin/python
# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Loads kernel modules and sets kernel parameters, now and at every boot."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mlperf_kernel
short_description: Load kernel modules and set kernel parameters, now and at every boot
description:
  - Writes C(/etc/modules-load.d/NAME.conf) and C(/etc/sysctl.d/NAME.conf), and sees that the kernel agrees with them.
  - Reads and writes the parameters in these files alone, so that what other files ask for is left as it is.
options:
  name:
    description: Name of the files.
    type: str
    required: true
  modules:
    description: Kernel modules.
    type: list
    elements: str
    default: []
  sysctls:
    description: Kernel parameters.
    type: dict
    default: {}
  state:
    description: Whether the files are there. Without them, the kernel keeps what it has until it boots.
    type: str
    choices: [present, absent]
    default: present
author: The MLPerf distributed authors
attributes:
  check_mode:
    support: full
    description: Only looks.
  diff_mode:
    support: full
    description: Shows the files, the modules that are not loaded and the parameters that differ.
"""

EXAMPLES = r"""
- name: Let containers reach each other
  mlperf_kernel:
    name: 90-mlperf
    modules: [br_netfilter, overlay]
    sysctls:
      net.ipv4.ip_forward: 1
"""

RETURN = r"""
loaded:
  description: Modules that were not in the kernel.
  returned: success
  type: list
  elements: str
set:
  description: Parameters that had another value.
  returned: success
  type: list
  elements: str
"""

import os
from typing import Any, Dict, List, Optional

from ansible.module_utils.basic import AnsibleModule

HEADER = "# Written by Ansible; changes are overwritten.\n"


def read(path: str) -> Optional[str]:
    """A file's text, None where there is none."""
    try:
        with open(path, encoding="utf-8") as stream:
            return stream.read()
    except OSError:
        return None


def builtin() -> List[str]:
    """Modules that are part of the kernel itself."""
    text = read(f"/lib/modules/{os.uname().release}/modules.builtin") or ""
    return [os.path.basename(line).split(".")[0].replace("-", "_") for line in text.split()]


def absent_modules(names: List[str]) -> List[str]:
    """Those that the kernel does not have now."""
    away = [name for name in names if not os.path.isdir(f"/sys/module/{name.replace('-', '_')}")]
    fixed = builtin() if away else []
    return [name for name in away if name.replace("-", "_") not in fixed]


def value(parameter: str) -> Optional[str]:
    """What the kernel has for a parameter, None where it does not know it."""
    text = read("/proc/sys/" + parameter.replace(".", "/"))
    return None if text is None else " ".join(text.split())


def write(module: Any, path: str, text: Optional[str]) -> None:
    """Write a file at once, or remove it."""
    if text is None:
        os.unlink(path)
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = os.path.join(module.tmpdir, os.path.basename(os.path.dirname(path)))
    with open(temporary, "w", encoding="utf-8") as stream:
        stream.write(text)
    os.chmod(temporary, 0o644)
    module.atomic_move(temporary, path)


def run(module: Any, argv: List[str], advice: str) -> None:
    """Run a command that must succeed."""
    code, _out, err = module.run_command(argv)
    if code != 0:
        module.fail_json(msg=f"{' '.join(argv)}: {err.strip() or f'exit code {code}'}. {advice}")


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "modules": {"type": "list", "elements": "str", "default": []},
            "sysctls": {"type": "dict", "default": {}},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        supports_check_mode=True,
    )
    params = module.params
    there = params["state"] == "present"
    sysctls: Dict[str, str] = {name: " ".join(str(given).split()) for name, given in params["sysctls"].items()}
    files = {
        f"/etc/modules-load.d/{params['name']}.conf": HEADER + "".join(f"{name}\n" for name in params["modules"]),
        f"/etc/sysctl.d/{params['name']}.conf": HEADER + "".join(f"{name} = {sysctls[name]}\n" for name in sysctls),
    }
    before = {path: read(path) for path in files}
    after = {path: text if there else None for path, text in files.items()}
    load = absent_modules(params["modules"]) if there else []
    differing = [name for name in sysctls if there and value(name) != sysctls[name]]
    if not module.check_mode:
        for path, text in after.items():
            if text != before[path]:
                write(module, path, text)
        for name in load:
            run(module, ["modprobe", name], "The kernel has no such module: take it out of node_modules, or install it")
        if differing:
            path = f"/etc/sysctl.d/{params['name']}.conf"
            run(module, ["sysctl", "--load", path], "The kernel refuses it: correct it in node_sysctls, or take it out")
    texts = [
        "".join(f"{path}:\n{text}" for path, text in state.items() if text is not None) for state in (before, after)
    ]
    now = "".join(f"module {name}: not loaded\n" for name in load)
    now += "".join(f"{name} = {value(name) if module.check_mode else 'another value'}\n" for name in differing)
    then = "".join(f"module {name}: loaded\n" for name in load) + "".join(f"{n} = {sysctls[n]}\n" for n in differing)
    module.exit_json(
        changed=before != after or bool(load or differing),
        loaded=load,
        set=differing,
        diff={"before": texts[0] + now, "after": texts[1] + then},
    )


if __name__ == "__main__":
    main()
