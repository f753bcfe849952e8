#!/usr/bin/python
# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Keeps large files in a folder, each with the checksum it must have."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mlperf_assets
short_description: Keep large files in a folder, each with the checksum it must have
description:
  - Looks at the files, and fetches those that are missing or wrong when there is an address. A download that was cut is
    taken up where it ended.
  - Checksums of gigabytes take minutes, so a file that was found right is not read again while its size and time of
    change stay the same (C(.verified.json) in the folder remembers them).
options:
  path:
    description: The folder.
    type: path
    required: true
  files:
    description: SHA-256 of each file, by its name in the folder.
    type: dict
    required: true
  url:
    description: Address of a folder that has these files. Empty only looks.
    type: str
    default: ""
  token:
    description: Bearer token for O(url). It is sent to that host alone, and never shown.
    type: str
    default: ""
  owner:
    description: User and group id of what is written.
    type: int
  timeout_s:
    description: How long the server may be silent.
    type: int
    default: 60
  tries:
    description: How often a download is taken up again.
    type: int
    default: 5
author: The MLPerf distributed authors
attributes:
  check_mode:
    support: full
    description: Fetches nothing, and says which files it would.
  diff_mode:
    support: full
    description: Shows the names of the files that are right.
"""

EXAMPLES = r"""
- name: Fetch the weights
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

import hashlib
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
ELSEWHERE = "name a mirror, or bring the files from a folder of the controlling machine"
HINTS = {
    401: "The token is missing or wrong",
    403: "The token may not read this: its owner must accept the model's licence",
}


class Refused(Exception):
    """What another try will not change: where, what, and what to do."""


class Cut(Exception):
    """A download that ended before its end; what came is kept."""


class SameHost(urllib.request.HTTPRedirectHandler):
    """Follows redirects, and keeps the token from other hosts: hubs send to a store that takes no token."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        """The request that follows."""
        new = super().redirect_request(req, fp, code, msg, headers, newurl)
        if new is not None and urllib.parse.urlsplit(newurl).netloc != urllib.parse.urlsplit(req.full_url).netloc:
            new.remove_header("Authorization")
        return new


def sha256(path: str) -> str:
    """Checksum of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for chunk in iter(lambda: stream.read(CHUNK), b""):
            digest.update(chunk)
    return digest.hexdigest()


def load(folder: str) -> Dict[str, Any]:
    """What was found right before."""
    try:
        with open(os.path.join(folder, VERIFIED), encoding="utf-8") as stream:
            found = json.load(stream)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def mark(path: str) -> Optional[List[int]]:
    """Size and time of change of a file; None when there is none."""
    try:
        seen = os.stat(path)
    except OSError:
        return None
    return [seen.st_size, seen.st_mtime_ns]


def wrong_files(folder: str, files: Dict[str, str], verified: Dict[str, Any]) -> List[str]:
    """Names of the files that are missing or not as they must be; `verified` learns of the right ones."""
    found = []
    for name, expected in files.items():
        path = os.path.join(folder, name)
        stamp = mark(path)
        if stamp is not None and (verified.get(name) == [expected, *stamp] or sha256(path) == expected):
            verified[name] = [expected, *stamp]
        else:
            verified.pop(name, None)
            found.append(name)
    return found


def stream_to(part: str, url: str, token: str, timeout_s: int) -> None:
    """Fetch what is still missing of a file."""
    have = os.path.getsize(part) if os.path.exists(part) else 0
    headers = {"Range": f"bytes={have}-"} if have else {}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    opener = urllib.request.build_opener(SameHost())
    try:
        answer = opener.open(urllib.request.Request(url, headers=headers), timeout=timeout_s)
    except urllib.error.HTTPError as error:
        if error.code == BEYOND_END and have:
            return
        if 400 <= error.code < 500:
            raise Refused(
                f"{url}: {error.code} {error.reason}. {HINTS.get(error.code, ELSEWHERE[0].upper() + ELSEWHERE[1:])}"
            ) from None
        raise Cut(str(error)) from None
    except (OSError, http.client.HTTPException) as error:
        raise Cut(str(error)) from None
    with answer, open(part, "ab" if answer.status == PARTIAL else "wb") as stream:
        missing = answer.length
        while True:
            try:
                chunk = answer.read(CHUNK)
            except (OSError, http.client.HTTPException) as error:
                raise Cut(str(error)) from None
            if not chunk:
                break
            stream.write(chunk)
            missing = None if missing is None else missing - len(chunk)
    if missing:
        raise Cut(f"the connection ended {missing} bytes early")


def fetch(params: Any, name: str) -> None:
    """Fetch one file, take it up again when the line is cut, and put it in place when its checksum is right."""
    path = os.path.join(params["path"], name)
    part, url = f"{path}.part", f"{params['url'].rstrip('/')}/{urllib.parse.quote(name)}"
    os.makedirs(os.path.dirname(path), exist_ok=True)
    for left in reversed(range(params["tries"])):
        try:
            stream_to(part, url, params["token"], params["timeout_s"])
            break
        except Cut as error:
            if not left:
                raise Refused(
                    f"{url}: {error}, after {params['tries']} tries. What came is kept: run this again to go on, "
                    f"or {ELSEWHERE}"
                ) from None
            time.sleep(1)
    found = sha256(part)
    if found != params["files"][name]:
        os.unlink(part)
        raise Refused(
            f"{url}: has the sha256 {found}, expected {params['files'][name]}. It was not kept: compare with what its "
            f"publisher says, or {ELSEWHERE}"
        )
    os.replace(part, path)


def own(folder: str, names: List[str], owner: Optional[int]) -> None:
    """Give files and folder to whom they belong."""
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
    known = load(folder)
    verified = dict(known)
    wrong = wrong_files(folder, files, verified)
    try:
        for name in wrong if params["url"] and not module.check_mode else []:
            fetch(params, name)
            verified[name] = [files[name], *(mark(os.path.join(folder, name)) or [])]
        if verified != known and os.path.isdir(folder) and not module.check_mode:
            with open(os.path.join(folder, VERIFIED), "w", encoding="utf-8") as stream:
                json.dump(verified, stream)
            own(folder, list(files), params["owner"])
    except Refused as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(
            msg=f"{error.filename or folder}: {error.strerror or error}. Make room there or name another folder"
        )
    right = "".join(f"{name}\n" for name in files if name not in wrong)
    after = "".join(f"{name}\n" for name in files) if params["url"] else right
    module.exit_json(changed=bool(wrong and params["url"]), wrong=wrong, diff={"before": right, "after": after})


if __name__ == "__main__":
    main()
