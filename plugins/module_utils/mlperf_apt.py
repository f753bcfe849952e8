# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Debian package repositories for modules: how a source and its key are written, and what apt complains about."""

from __future__ import annotations

import base64
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


def complaints(output: str) -> str:
    """The errors and warnings that apt printed, on one line; the end of its output where it marked none."""
    lines = [line[3:] for line in output.splitlines() if line.startswith(("E: ", "W: "))]
    return "; ".join(dict.fromkeys(lines)) or output.strip()[-600:]
