# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Large files, downloaded or copied with their checksums. For modules on a host's own Python as well: no other imports.

A download that ends early goes on where it stopped. What was verified is remembered in the folder, because a checksum
of gigabytes takes minutes.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any, Callable, Dict, List, Optional

CHUNK = 4 << 20
PARTIAL = 206
BEYOND_END = 416
PART = ".part"
VERIFIED = ".verified.json"
ALTERNATIVE = "use a mirror, or copy the files from a folder on Ansible's control node"
HINTS = {
    401: "The token is missing or wrong",
    403: "The token may not read this: its owner must accept the model's licence",
}
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
LFS_ADVICE = "is a Git LFS pointer, not the file itself: run `git lfs pull` in its repository, or download the file"


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


def is_lfs_pointer(path: str) -> bool:
    """Whether a file is only Git LFS's pointer to it, as a clone without LFS has it."""
    with open(path, "rb") as stream:
        return stream.read(len(LFS_POINTER)) == LFS_POINTER


def sha256(path: str) -> str:
    """Hex SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for chunk in iter(lambda: stream.read(CHUNK), b""):
            digest.update(chunk)
    return digest.hexdigest()


def load(folder: str) -> Dict[str, Any]:
    """The content of `.verified.json`: checksum, size and modification time of each verified file."""
    try:
        with open(os.path.join(folder, VERIFIED), encoding="utf-8") as stream:
            verified = json.load(stream)
    except (OSError, ValueError):
        return {}
    return verified if isinstance(verified, dict) else {}


def save(folder: str, verified: Dict[str, Any]) -> None:
    """Write `.verified.json`."""
    with open(os.path.join(folder, VERIFIED), "w", encoding="utf-8") as stream:
        json.dump(verified, stream)


def stamp(path: str) -> Optional[List[int]]:
    """Size and modification time of a file; None where there is no file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


def verify(folder: str, files: Dict[str, str], verified: Dict[str, Any]) -> List[str]:
    """Names of the files that are missing or have another checksum; updates `verified` for all of them."""
    wrong = []
    for name, expected in files.items():
        path = os.path.join(folder, name)
        now = stamp(path)
        if now is not None and (verified.get(name) == [expected, *now] or sha256(path) == expected):
            verified[name] = [expected, *now]
        else:
            verified.pop(name, None)
            wrong.append(name)
    return wrong


def resume(part: str, url: str, token: str, timeout_s: float, progress: Callable[[int, Optional[int]], None]) -> None:
    """Download the rest of a file, of which `part` holds the beginning.

    Args:
        part: the file to append to.
        url: its address.
        token: bearer token for that host alone; empty for none.
        timeout_s: how long the server may be silent.
        progress: called with the bytes that are there and the whole length, None where the server does not say it.
    """
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
    is_rest = response.status == PARTIAL
    with response, open(part, "ab" if is_rest else "wb") as stream:
        missing = response.length
        have = have if is_rest else 0
        whole = None if missing is None else have + missing
        while True:
            try:
                chunk = response.read(CHUNK)
            except (OSError, http.client.HTTPException) as error:
                raise Interrupted(str(error)) from None
            if not chunk:
                break
            stream.write(chunk)
            missing = None if missing is None else missing - len(chunk)
            have += len(chunk)
            progress(have, whole)
    if missing:
        raise Interrupted(f"the connection ended {missing} bytes early")


def download(
    url: str,
    path: str,
    expected: str,
    token: str = "",
    timeout_s: float = 60,
    tries: int = 5,
    progress: Callable[[int, Optional[int]], None] = lambda have, whole: None,
) -> None:
    """Download a file, resuming after interruptions, and put it in place if it has the `expected` SHA-256.

    Raises:
        Rejected: the server refuses it, was interrupted too often, or sends another file.
    """
    part = path + PART
    os.makedirs(os.path.dirname(path), exist_ok=True)
    for left in reversed(range(tries)):
        try:
            resume(part, url, token, timeout_s, progress)
            break
        except Interrupted as error:
            if not left:
                raise Rejected(
                    f"{url}: {error}, after {tries} tries. The part is kept: run this again to resume, or {ALTERNATIVE}"
                ) from None
            time.sleep(1)
    accept(part, path, expected, url)


def accept(part: str, path: str, expected: str, source: str) -> None:
    """Put a whole file in place if it has the `expected` SHA-256, else delete it; `source` names it in the error.

    Raises:
        Rejected: it has another one.
    """
    checksum = sha256(part)
    if checksum != expected:
        if is_lfs_pointer(part):
            problem = f"{source} {LFS_ADVICE}"
        else:
            problem = (
                f"{source}: has the sha256 {checksum}, expected {expected}. It was not kept: compare with its "
                f"publisher's checksum, or {ALTERNATIVE}"
            )
        os.unlink(part)
        raise Rejected(problem)
    os.replace(part, path)
