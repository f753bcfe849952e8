#!/usr/bin/python
# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Packs the harness of this checkout for installation on nodes."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mlperf_package
short_description: Pack the harness of this checkout for installation on nodes
description:
  - Runs on the controller. Writes the package C(harness) as a source archive that C(pip) installs.
  - Same content, same bytes, same name. An archive that is there is left alone.
options:
  source:
    description: The checkout.
    type: path
    required: true
  path:
    description: Directory for the archive.
    type: path
    required: true
author: The MLPerf distributed authors
attributes:
  check_mode:
    support: full
    description: Writes nothing, and says whether it would.
  diff_mode:
    support: full
    description: Shows the archive's name.
"""

EXAMPLES = r"""
- name: Pack the harness
  mlperf_package:
    source: "{{ playbook_dir }}"
    path: "{{ playbook_dir }}/.mlperf/package"
  delegate_to: localhost
  run_once: true
  register: package
"""

RETURN = r"""
file:
  description: Path of the archive.
  returned: success
  type: str
sha256:
  description: Hash of the archive.
  returned: success
  type: str
"""

import gzip
import hashlib
import io
import os
import tarfile
from typing import Any, Dict, List

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.mlperf_command import tell

NAME = "mlperf-distributed-harness"
# 1980: the earliest time that a wheel, being a zip archive, can hold.
MTIME = 315532800
ARGUMENTS: Dict[str, Dict[str, Any]] = {
    "source": {"type": "path", "required": True},
    "path": {"type": "path", "required": True},
}


def members(source: str) -> List[str]:
    """The files of the package, relative to the checkout, in a fixed order."""
    found = ["pyproject.toml"]
    for folder, folders, files in os.walk(os.path.join(source, "harness")):
        folders[:] = [name for name in folders if name != "__pycache__"]
        found += [os.path.relpath(os.path.join(folder, name), source) for name in files]
    return sorted(found)


def pack(source: str) -> bytes:
    """The archive's bytes, a function of the files' names and content only."""
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", mtime=MTIME, filename="") as stream:
        with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for name in members(source):
                with open(os.path.join(source, name), "rb") as content:
                    data = content.read()
                member = tarfile.TarInfo(f"{NAME}/{name}")
                member.size, member.mtime, member.mode = len(data), MTIME, 0o644
                archive.addfile(member, io.BytesIO(data))
    return packed.getvalue()


def answer(params: Dict[str, Any], check_mode: bool) -> Dict[str, Any]:
    """The module's result; writes the archive if it is not there."""
    try:
        content = pack(params["source"])
        sha256 = hashlib.sha256(content).hexdigest()
        file = os.path.join(params["path"], f"{NAME}-{sha256[:12]}.tar.gz")
        changed = not os.path.exists(file)
        if changed and not check_mode:
            os.makedirs(params["path"], exist_ok=True)
            with open(f"{file}.part", "wb") as stream:
                stream.write(content)
            os.replace(f"{file}.part", file)
    except OSError as error:
        return {"failed": True, "msg": str(error)}
    diff = {"before": "" if changed else f"{file}\n", "after": f"{file}\n"}
    return {"changed": changed, "file": file, "sha256": sha256, "diff": diff}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    tell(module, answer(module.params, module.check_mode))


if __name__ == "__main__":
    main()
