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
author: The MLPerf distributed authors
attributes:
  check_mode:
    support: full
    description: Downloads nothing and reports which files it would download.
  diff_mode:
    support: full
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
"""

import http.client
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any, Dict, List, Optional

from ansible.module_utils.basic import AnsibleModule

CHUNK = 4 << 20
PARTIAL = 206
BEYOND_END = 416
VERIFIED = ".verified.json"
ALTERNATIVE = "use a mirror, or copy the files from a folder on Ansible's control node"
HINTS = {
    401: "The token is missing or wrong",
    403: "The token may not read this: its owner must accept the model's licence",
}


class Rejected(Exception):
    """An error that another attempt will not change."""


class Interrupted(Exception):
    """A download that ended early; its part of the file is kept."""


class SameHost(urllib.request.HTTPRedirectHandler):
    """Follows redirects without sending the token to other hosts: hubs redirect to storage that rejects it."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        """The redirected request."""
        new = super().redirect_request(req, fp, code, msg, headers, newurl)
        if new is not None and urllib.parse.urlsplit(newurl).netloc != urllib.parse.urlsplit(req.full_url).netloc:
            new.remove_header("Authorization")
        return new


def load(folder: str) -> Dict[str, Any]:
    """The content of C(.verified.json): checksum, size and modification time of each verified file."""
    try:
        with open(os.path.join(folder, VERIFIED), encoding="utf-8") as stream:
            verified = json.load(stream)
    except (OSError, ValueError):
        return {}
    return verified if isinstance(verified, dict) else {}


def stamp(path: str) -> Optional[List[int]]:
    """Size and modification time of a file; None where there is no file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


def verify(module: Any, verified: Dict[str, Any]) -> List[str]:
    """Names of the files that are missing or have another checksum; updates `verified` for all of them."""
    wrong = []
    for name, expected in module.params["files"].items():
        path = os.path.join(module.params["path"], name)
        now = stamp(path)
        if now is not None and (verified.get(name) == [expected, *now] or module.sha256(path) == expected):
            verified[name] = [expected, *now]
        else:
            verified.pop(name, None)
            wrong.append(name)
    return wrong


def resume(part: str, url: str, token: str, timeout_s: int) -> None:
    """Download the rest of a file, of which `part` holds the beginning."""
    have = os.path.getsize(part) if os.path.exists(part) else 0
    headers = {"Range": f"bytes={have}-"} if have else {}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    opener = urllib.request.build_opener(SameHost())
    try:
        response = opener.open(urllib.request.Request(url, headers=headers), timeout=timeout_s)
    except urllib.error.HTTPError as error:
        if error.code == BEYOND_END and have:
            return
        if 400 <= error.code < 500:
            raise Rejected(
                f"{url}: {error.code} {error.reason}. {HINTS.get(error.code, ALTERNATIVE[0].upper() + ALTERNATIVE[1:])}"
            ) from None
        raise Interrupted(str(error)) from None
    except (OSError, http.client.HTTPException) as error:
        raise Interrupted(str(error)) from None
    with response, open(part, "ab" if response.status == PARTIAL else "wb") as stream:
        missing = response.length
        while True:
            try:
                chunk = response.read(CHUNK)
            except (OSError, http.client.HTTPException) as error:
                raise Interrupted(str(error)) from None
            if not chunk:
                break
            stream.write(chunk)
            missing = None if missing is None else missing - len(chunk)
    if missing:
        raise Interrupted(f"the connection ended {missing} bytes early")


def download(module: Any, name: str) -> None:
    """Download a file, resuming after interruptions, and put it in place if its checksum is right."""
    params = module.params
    path = os.path.join(params["path"], name)
    part, url = f"{path}.part", f"{params['url'].rstrip('/')}/{urllib.parse.quote(name)}"
    os.makedirs(os.path.dirname(path), exist_ok=True)
    for left in reversed(range(params["tries"])):
        try:
            resume(part, url, params["token"], params["timeout_s"])
            break
        except Interrupted as error:
            if not left:
                raise Rejected(
                    f"{url}: {error}, after {params['tries']} tries. The part is kept: run this again to resume, "
                    f"or {ALTERNATIVE}"
                ) from None
            time.sleep(1)
    checksum = module.sha256(part)
    if checksum != params["files"][name]:
        os.unlink(part)
        raise Rejected(
            f"{url}: has the sha256 {checksum}, expected {params['files'][name]}. It was not kept: compare with its "
            f"publisher's checksum, or {ALTERNATIVE}"
        )
    os.replace(part, path)


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
    wrong = verify(module, verified)
    try:
        for name in wrong if params["url"] and not module.check_mode else []:
            download(module, name)
            verified[name] = [files[name], *(stamp(os.path.join(folder, name)) or [])]
        if verified != recorded and os.path.isdir(folder) and not module.check_mode:
            with open(os.path.join(folder, VERIFIED), "w", encoding="utf-8") as stream:
                json.dump(verified, stream)
            chown(folder, list(files), params["owner"])
    except Rejected as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(
            msg=f"{error.filename or folder}: {error.strerror or error}. Free space there, or use another folder"
        )
    right = "".join(f"{name}\n" for name in files if name not in wrong)
    after = "".join(f"{name}\n" for name in files) if params["url"] else right
    module.exit_json(changed=bool(wrong and params["url"]), wrong=wrong, diff={"before": right, "after": after})


if __name__ == "__main__":
    main()
