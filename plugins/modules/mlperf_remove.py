#!/usr/bin/python
# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Removes files and folders, also where a folder is a mount point."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mlperf_remove
short_description: Remove files and folders, also where a folder is a mount point
description:
  - Removes each path with all that is below it. A folder that is a mount point, such as one on a disk of its own,
    cannot be removed; it is emptied instead.
  - What is mounted somewhere below a path stays, with its folders, since it belongs to something else; the task warns.
extends_documentation_fragment: [mlperf_module]
options:
  paths:
    description: Files and folders.
    type: list
    elements: path
    required: true
  mounts:
    description: File in which the kernel lists what is mounted.
    type: path
    default: /proc/self/mountinfo
attributes:
  diff_mode:
    description: Shows the paths that exist, and which of them stay as empty mount points.
"""

EXAMPLES = r"""
- name: Remove the state of the cluster
  mlperf_remove:
    paths: [/etc/kubernetes, /var/lib/kubelet, /var/lib/etcd]
"""

RETURN = r"""
removed:
  description: Paths that were removed.
  returned: success
  type: list
  elements: str
emptied:
  description: Mount points that were emptied.
  returned: success
  type: list
  elements: str
"""

import os
import re
import shutil
from typing import Any, List, Set

from ansible.module_utils.basic import AnsibleModule


def mount_points(file: str) -> Set[str]:
    """All mount points, from the kernel's list, in which a blank is written as an octal number."""
    with open(file, encoding="utf-8", errors="surrogateescape") as stream:
        fields = (line.split() for line in stream)
        return {re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), one[4]) for one in fields if len(one) > 4}


def resolved(path: str) -> str:
    """A path as the kernel's list would name it; a link stays a link, which is removed without its target."""
    folder, name = os.path.split(os.path.normpath(path))
    return os.path.join(os.path.realpath(folder), name)


def below(path: str, mounts: Set[str]) -> List[str]:
    """The mount points below a path."""
    return sorted(mount for mount in mounts if mount.startswith(f"{path}/"))


def remove(path: str, mounts: Set[str]) -> None:
    """Remove a path, except what is mounted there or below it; a mount point's own content is removed by `empty`."""
    if path in mounts:
        return
    if os.path.islink(path) or not os.path.isdir(path):
        os.unlink(path)
    elif below(path, mounts):
        empty(path, mounts)
    else:
        shutil.rmtree(path)


def empty(path: str, mounts: Set[str]) -> None:
    """Remove what is in a folder."""
    for entry in os.listdir(path):
        remove(os.path.join(path, entry), mounts)


def is_bare(path: str, mounts: Set[str]) -> bool:
    """Whether a folder holds nothing but the way to mount points."""
    for entry in os.scandir(path):
        if entry.path in mounts:
            continue
        if not (below(entry.path, mounts) and entry.is_dir(follow_symlinks=False) and is_bare(entry.path, mounts)):
            return False
    return True


def main() -> None:
    """Run the module."""
    module: Any = AnsibleModule(
        argument_spec={
            "paths": {"type": "list", "elements": "path", "required": True},
            "mounts": {"type": "path", "default": "/proc/self/mountinfo"},
        },
        supports_check_mode=True,
    )
    mounts = mount_points(module.params["mounts"])
    present = [path for path in map(resolved, module.params["paths"]) if os.path.lexists(path)]
    kept = {path: below(path, mounts) for path in present}
    # A mount point stays, and folders that lead to one stay with it.
    due = [path for path in present if not ((path in mounts or kept[path]) and is_bare(path, mounts))]
    emptied, removed = ([path for path in due if (path in mounts) is mounted] for mounted in (True, False))
    for path in [*emptied, *removed] if not module.check_mode else []:
        try:
            empty(path, mounts) if path in mounts else remove(path, mounts)
        except OSError as error:
            module.fail_json(
                msg=f"{error.filename or path} cannot be removed: {error.strerror}. `fuser -vm {path}` there shows "
                "what uses it: end that, or unmount it, and run the playbook again"
            )
    for path in present:
        if kept[path]:
            module.warn(f"{', '.join(kept[path])} below {path} stays as it is: it is mounted from elsewhere")
    before = "".join(f"{path}\n" for path in [*emptied, *removed])
    after = "".join(f"{path} (an empty mount point)\n" for path in emptied)
    module.exit_json(
        changed=bool(emptied or removed), removed=removed, emptied=emptied, diff={"before": before, "after": after}
    )


if __name__ == "__main__":
    main()
