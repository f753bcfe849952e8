#!/usr/bin/python
# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Lists files with their hashes; the action plugin of the same name calls this and fetches them."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mlperf_collect
short_description: Bring directories from a node to the controller, checked by sha256
description:
  - The hashes are computed on the node, compared after the transfer, and written beside the files as C(SHA256SUMS).
  - Files that are there with the right hash are not fetched again. A directory that does not exist yields no file.
  - A file that is being appended to is taken up to the length at which it was hashed.
  - The files are read as the login user; nothing is read into the node's memory as a whole.
  - A node is not trusted. It may offer 100,000 files of 64 GiB together, with names below O(path); one that sends more
    than it offers is stopped, with little written.
extends_documentation_fragment: [mlperf_module]
options:
  directories:
    description: Directories on the node, each with its place below O(path).
    type: list
    elements: dict
    required: true
    suboptions:
      source:
        description: Absolute path on the node.
        type: path
        required: true
      target:
        description: Path below O(path), empty for O(path) itself.
        type: str
        default: ""
      only:
        description: Names of the folders in O(directories[].source) that are wanted; all when not given.
        type: list
        elements: str
  path:
    description: Directory on the controller for this node's files.
    type: path
    required: true
  command:
    description:
      - The C(harness cluster) command as a list of words, called on the controller, which brings the directories of a
        node's claim through the cluster's API instead of over the task's connection.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    description: Fetches nothing, and says whether it would; with O(command) it always says so, for looking takes a pod.
  diff_mode:
    description: Shows the files that are fetched.
"""

EXAMPLES = r"""
- name: Collect the run's files
  mlperf_collect:
    directories:
      - source: /srv/mlperf/runs/20261123-181500-server-600
    path: "{{ playbook_dir }}/results/20261123-181500-server-600/nodes/{{ inventory_hostname }}"
"""

RETURN = r"""
files:
  description: All files of the directories.
  returned: success
  type: list
  elements: dict
  contains:
    target:
      description: Path below O(path).
      type: str
    size:
      description: Length in bytes.
      type: int
    sha256:
      description: Hash of the content.
      type: str
fetched:
  description: Those that were not there, or were different.
  returned: success
  type: list
  elements: str
"""

import hashlib
import os
from typing import Any, Dict, List, Tuple

from ansible.module_utils.basic import AnsibleModule

CHUNK = 1 << 20


def hashed(path: str) -> Tuple[int, str]:
    """Length and hash of a file as it is now; what is appended meanwhile is left out."""
    digest, left = hashlib.sha256(), os.path.getsize(path)
    size = left
    with open(path, "rb") as stream:
        while left:
            chunk = stream.read(min(CHUNK, left))
            if not chunk:
                break
            digest.update(chunk)
            left -= len(chunk)
    return size - left, digest.hexdigest()


def listed(source: str, target: str) -> List[Dict[str, Any]]:
    """Every ordinary file below a directory; hidden ones are working files and stay."""
    files = []
    for folder, folders, names in os.walk(source):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = os.path.join(folder, name)
            if name.startswith(".") or os.path.islink(path) or not os.path.isfile(path):
                continue
            size, sha256 = hashed(path)
            place = os.path.normpath(os.path.join(target, os.path.relpath(path, source)))
            files.append({"source": path, "target": place, "size": size, "sha256": sha256})
    return files


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "directories": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "source": {"type": "path", "required": True},
                    "target": {"type": "str", "default": ""},
                    "only": {"type": "list", "elements": "str"},
                },
            },
            "path": {"type": "path", "required": True},
            "command": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    files: List[Dict[str, Any]] = []
    try:
        for directory in module.params["directories"]:
            files += listed(directory["source"], directory["target"])
    except OSError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, files=files)


if __name__ == "__main__":
    main()
