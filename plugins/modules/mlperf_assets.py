#!/usr/bin/python
# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Downloads large files and verifies their checksums."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mlperf_assets
short_description: Download large files and verify their checksums
description:
  - Verifies the files and, with O(url), downloads those that are missing or have another checksum. An interrupted
    download resumes where it stopped.
  - Does not read a verified file again while its size and modification time stay the same, because a checksum of
    gigabytes takes minutes. Both are stored in C(.verified.json) in the folder.
extends_documentation_fragment: [mlperf_module]
options:
  path:
    description: The folder.
    type: path
    required: true
  files:
    description: SHA-256 of each file by its name.
    type: dict
    required: true
  url:
    description: Address of a folder with these files. Empty to verify only.
    type: str
    default: ""
  token:
    description: Bearer token for O(url). Sent only to that host, and never shown.
    type: str
    default: ""
  owner:
    description: User id and group id of the files.
    type: int
  timeout_s:
    description: How long to wait for data from the server.
    type: int
    default: 60
  tries:
    description: How often to try a download.
    type: int
    default: 5
attributes:
  check_mode:
    description: Downloads nothing and reports which files it would download.
  diff_mode:
    description: Shows the names of the verified files.
"""

EXAMPLES = r"""
- name: Download the weights
  mlperf_assets:
    path: /var/lib/mlperf/model/tiny
    url: https://models.example.org/tiny
    files:
      config.json: 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
"""

RETURN = r"""
wrong:
  description: Files that were missing or had another checksum before.
  returned: success
  type: list
  elements: str
msg:
  description: Which of them are Git LFS pointers, without O(url); else empty.
  returned: success
  type: str
"""

import os
import urllib.parse
from typing import List, Optional

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.mlperf_downloads import (
    LFS_ADVICE,
    VERIFIED,
    Rejected,
    download,
    is_lfs_pointer,
    load,
    save,
    stamp,
    verify,
)


def chown(folder: str, names: List[str], owner: Optional[int]) -> None:
    """Give files and folder to their owner."""
    for name in [*names, VERIFIED, ""]:
        path = os.path.join(folder, name)
        if owner is not None and os.path.exists(path) and os.stat(path).st_uid != owner:
            os.chown(path, owner, owner)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "files": {"type": "dict", "required": True},
            "url": {"type": "str", "default": ""},
            "token": {"type": "str", "default": "", "no_log": True},
            "owner": {"type": "int"},
            "timeout_s": {"type": "int", "default": 60},
            "tries": {"type": "int", "default": 5},
        },
        supports_check_mode=True,
    )
    params = module.params
    folder, files = params["path"], params["files"]
    recorded = load(folder)
    verified = dict(recorded)
    wrong = verify(folder, files, verified)
    try:
        for name in wrong if params["url"] and not module.check_mode else []:
            url = f"{params['url'].rstrip('/')}/{urllib.parse.quote(name)}"
            path = os.path.join(folder, name)
            download(url, path, files[name], params["token"], params["timeout_s"], params["tries"])
            verified[name] = [files[name], *(stamp(os.path.join(folder, name)) or [])]
        if verified != recorded and os.path.isdir(folder) and not module.check_mode:
            save(folder, verified)
            chown(folder, list(files), params["owner"])
    except Rejected as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(
            msg=f"{error.filename or folder}: {error.strerror or error}. Free space there, or use another folder"
        )
    right = "".join(f"{name}\n" for name in files if name not in wrong)
    after = "".join(f"{name}\n" for name in files) if params["url"] else right
    left = [] if params["url"] else [os.path.join(folder, name) for name in wrong]
    pointers = [path for path in left if os.path.exists(path) and is_lfs_pointer(path)]
    module.exit_json(
        changed=bool(wrong and params["url"]),
        wrong=wrong,
        diff={"before": right, "after": after},
        msg="; ".join(f"{path} {LFS_ADVICE}" for path in pointers),
    )


if __name__ == "__main__":
    main()
