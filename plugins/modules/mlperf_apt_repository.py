#!/usr/bin/python
# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Gives a host a Debian package repository."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mlperf_apt_repository
short_description: Give a host a Debian package repository
description:
  - Writes C(/etc/apt/sources.list.d/NAME.sources) and, where there is a key, C(/etc/apt/keyrings/NAME.asc).
  - Reads the package lists of this repository alone, and only when one of the files has changed.
  - Needs nothing but the system's Python. A key that is fetched is fetched once.
options:
  name:
    description: Name of the repository's files.
    type: str
    required: true
  uri:
    description: Address of the repository.
    type: str
    default: ""
  suites:
    description: Suites. A path that ends in V(/) takes no components.
    type: list
    elements: str
    default: [/]
  components:
    description: Components.
    type: list
    elements: str
    default: []
  key:
    description:
      - The key that signs the repository, as armored text, as an address or as the absolute path of a file on the host.
        Address and file may hold it binary.
      - Without one, the repository must be signed by a key that the host trusts already.
    type: str
    default: ""
  trusted:
    description: Whether the repository is used without a signature. For one that came with checksums some other way.
    type: bool
    default: false
  state:
    description: Whether the host has the repository.
    type: str
    choices: [present, absent]
    default: present
author: The MLPerf distributed authors
attributes:
  check_mode:
    support: full
    description: Writes nothing, and says whether it would. An address of a key is not asked.
  diff_mode:
    support: full
    description: Shows the file C(NAME.sources).
"""

EXAMPLES = r"""
- name: Add the repository of Kubernetes
  mlperf_apt_repository:
    name: kubernetes
    uri: https://pkgs.k8s.io/core:/stable:/v1.36/deb/
    key: https://pkgs.k8s.io/core:/stable:/v1.36/deb/Release.key
"""

RETURN = r"""
file:
  description: The file that describes the repository.
  returned: success
  type: str
"""

import base64
import os
import tempfile
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.urls import open_url

SOURCES = "/etc/apt/sources.list.d"
KEYRINGS = "/etc/apt/keyrings"
ADDRESSES = ("http://", "https://", "file://", "ftp://")


def stanza(params: Any, origin: str, keyring: str) -> str:
    """The content of the .sources file; `origin` is where the key came from, so that another address is noticed."""
    fields = [("Types", "deb"), ("URIs", params["uri"]), ("Suites", " ".join(params["suites"]))]
    fields += [("Components", " ".join(params["components"])), ("Signed-By", keyring)]
    fields += [("Trusted", "yes" if params["trusted"] else "")]
    comment = f"# Key: {origin}\n" if origin else ""
    return comment + "".join(f"{name}: {value}\n" for name, value in fields if value)


def key(module: Any) -> bytes:
    """The key's own bytes."""
    given = module.params["key"]
    if not given.startswith((*ADDRESSES, "/")):
        text = given.strip() + "\n"
        if not text.startswith("-----BEGIN PGP"):
            module.fail_json(
                msg=f"key = '{given[:40]}' of repository {module.params['name']}: give an address, the absolute path "
                "of a file on the host, or text that begins with -----BEGIN PGP PUBLIC KEY BLOCK-----"
            )
        return str(text).encode()
    try:
        if given.startswith("/"):
            with open(given, "rb") as stream:
                return stream.read()
        return bytes(open_url(given, timeout=30, http_agent="ansible").read())
    except Exception as error:
        module.fail_json(
            msg=f"the key of repository {module.params['name']} cannot be read from {given}: {error}. Give its "
            "address, a file on the host, or its armored text"
        )
        raise AssertionError("fail_json returned") from error


def armored(content: bytes) -> bytes:
    """A key as text: that is what apt takes a file NAME.asc for, and keyrings on a host are mostly binary."""
    if b"-----BEGIN PGP" in content:
        return content
    head, tail = (b"-----%s PGP PUBLIC KEY BLOCK-----\n" % word for word in (b"BEGIN", b"END"))
    return head + b"\n" + base64.encodebytes(content) + tail


def read(path: str) -> bytes:
    """A file's content, nothing where there is none."""
    if not os.path.exists(path):
        return b""
    with open(path, "rb") as stream:
        return stream.read()


def write(module: Any, path: str, content: bytes) -> None:
    """Write a file at once, readable by everyone."""
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=module.tmpdir)
    with os.fdopen(handle, "wb") as stream:
        stream.write(content)
    os.chmod(temporary, 0o644)
    module.atomic_move(temporary, path)


def update(module: Any, file: str) -> None:
    """Read the package lists of this repository alone."""
    argv = ["apt-get", "update", "--quiet", f"-oDir::Etc::sourcelist={file}", "-oDir::Etc::sourceparts=-"]
    argv += ["-oAPT::Get::List-Cleanup=0", "-oDPkg::Lock::Timeout=300", "-oAPT::Update::Error-Mode=any"]
    code, out, err = module.run_command(argv, environ_update={"LC_ALL": "C"})
    if code != 0:
        # Without its file, the next run would take the repository for configured.
        os.unlink(file)
        errors = [line[3:] for line in (out + err).splitlines() if line.startswith(("E: ", "W: "))]
        module.fail_json(
            msg=f"repository {module.params['name']} at {module.params['uri']} cannot be read: "
            f"{'; '.join(dict.fromkeys(errors)) or err.strip()}. Correct its address or key, or name a mirror"
        )


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "uri": {"type": "str", "default": ""},
            "suites": {"type": "list", "elements": "str", "default": ["/"]},
            "components": {"type": "list", "elements": "str", "default": []},
            "key": {"type": "str", "default": ""},
            "trusted": {"type": "bool", "default": False},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        supports_check_mode=True,
    )
    params = module.params
    file, keyring = f"{SOURCES}/{params['name']}.sources", f"{KEYRINGS}/{params['name']}.asc"
    before = read(file)
    if params["state"] == "absent":
        there = [path for path in (file, keyring) if os.path.exists(path)]
        for path in there if not module.check_mode else []:
            os.unlink(path)
        module.exit_json(changed=bool(there), file=file, diff={"before": before.decode(), "after": ""})
    if not params["uri"]:
        module.fail_json(msg=f"repository {params['name']}: uri is empty; give its address")
    address = params["key"] if params["key"].startswith(ADDRESSES) else ""
    after = stanza(params, address, keyring if params["key"] else "").encode()
    # An address is asked once, and again only when it is another one.
    settled = not params["key"] or (address and os.path.exists(keyring) and before == after)
    unread = address and module.check_mode
    content = read(keyring) if settled or unread else armored(key(module))
    changed = before != after or bool(params["key"] and content != read(keyring)) or bool(unread and not settled)
    if changed and not module.check_mode:
        if params["key"]:
            write(module, keyring, content)
        write(module, file, after)
        update(module, file)
    module.exit_json(changed=changed, file=file, diff={"before": before.decode(), "after": after.decode()})


if __name__ == "__main__":
    main()
