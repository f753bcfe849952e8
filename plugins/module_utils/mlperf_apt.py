# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Debian package repositories for modules: how a source and its key are written, and what apt complains about."""

from __future__ import annotations

import base64
import re
from typing import Any, Dict

from ansible.module_utils.urls import open_url

SOURCE: Dict[str, Dict[str, Any]] = {
    "suites": {"type": "list", "elements": "str", "default": ["/"]},
    "components": {"type": "list", "elements": "str", "default": []},
    "key": {"type": "str", "default": ""},
    "trusted": {"type": "bool", "default": False},
}
"""Options of a repository, beside its address."""

ARMORED = b"-----BEGIN PGP"


def stanza(uri: str, source: Dict[str, Any], keyring: str) -> str:
    """A repository as a paragraph of a deb822 .sources file, signed by the key in the file `keyring`, if not empty."""
    fields = {
        "Types": "deb",
        "URIs": uri,
        "Suites": " ".join(source["suites"]),
        "Components": " ".join(source["components"]),
        "Signed-By": keyring,
        "Trusted": "yes" if source["trusted"] else "",
    }
    return "".join(f"{name}: {value}\n" for name, value in fields.items() if value)


def read_key(location: str) -> bytes:
    """The key at an address or in a file, as armored text, which is what apt expects of a file NAME.asc.

    Raises:
        Exception: it cannot be read; open_url has no common class of errors.
    """
    if "://" in location:
        content = bytes(open_url(location, timeout=60, http_agent="ansible").read())
    else:
        with open(location, "rb") as stream:
            content = stream.read()
    if ARMORED in content:
        return content
    begin, end = (b"-----%s PGP PUBLIC KEY BLOCK-----\n" % word for word in (b"BEGIN", b"END"))
    return begin + b"\n" + base64.encodebytes(content) + end


LOCK_TIMEOUT_S = 10
"""How long apt-get itself waits for dpkg's locks; the task's action plugin shows who has them, and tries again."""
LOCKED = (
    r"[Cc]ould not get lock (?P<file>\S+?)\. It is held by process (?P<pid>\d+)(?: \((?P<process>[^)]*)\))?",
    r"(?:dpkg (?P<file>frontend lock|database lock)|status database).* locked by another process with pid (?P<pid>\d+)",
    r"[Cc]ould not get lock (?P<file>\S+)",
    r"Unable to (?:acquire the dpkg frontend lock|lock the administration directory) \((?P<file>[^)]+)\)",
)
"""What apt and dpkg print when another process has one of their locks."""


def lock_holder(output: str) -> Dict[str, str]:
    """The lock that another process has, as far as the output names it: file, pid, process; empty where none has."""
    for pattern in LOCKED:
        if found := re.search(pattern, output):
            return {
                "file": "a lock of dpkg",
                "pid": "",
                "process": "",
                **{k: v for k, v in found.groupdict().items() if v},
            }
    return {}


def fail_if_locked(module: Any, output: str) -> None:
    """Fail, with the holder as result `locked`, if another process has a lock of apt or dpkg."""
    if holder := lock_holder(output):
        process = f"process {holder['pid']} ({holder['process'] or 'unknown'})" if holder["pid"] else "another process"
        holder["text"] = f"{process} holds {holder['file']}"
        module.fail_json(msg=f"{holder['text']}; wait for its end, then try again", locked=holder)


def complaints(output: str) -> str:
    """The errors and warnings that apt printed, on one line; the end of its output where it marked none."""
    lines = [line[3:] for line in output.splitlines() if line.startswith(("E: ", "W: "))]
    return "; ".join(dict.fromkeys(lines)) or output.strip()[-600:]
