#!/usr/bin/python
# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Configures a Debian package repository."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mlperf_apt_repository
short_description: Configure a Debian package repository
description:
  - Writes C(/etc/apt/sources.list.d/NAME.sources) and, where there is a key, C(/etc/apt/keyrings/NAME.asc).
  - Updates the package lists of this repository only, and only when one of the files has changed.
  - Needs only the system's Python, and downloads a key only once.
  - Where another process has apt's locks, the task shows which, and waits for its end, 15 minutes at most.
extends_documentation_fragment: [mlperf_module]
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
    description: Suites. A path that ends in V(/) has no components.
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
      - The key that signs the repository, as armored text, an address, or the absolute path of a file on the host.
        At the address and in the file it may be binary.
      - Without a key, the repository must be signed by one that the host trusts already.
    type: str
    default: ""
  trusted:
    description: Whether to use the repository without a signature, for one whose files were verified another way.
    type: bool
    default: false
  state:
    description: Whether the repository is configured.
    type: str
    choices: [present, absent]
    default: present
attributes:
  check_mode:
    description: Writes nothing and reports what would change. The key is not downloaded.
  diff_mode:
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
  description: The C(.sources) file.
  returned: success
  type: str
"""

import os
import tempfile
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.mlperf_apt import (
    ARMORED,
    LOCK_TIMEOUT_S,
    SOURCE,
    complaints,
    fail_if_locked,
    read_key,
    stanza,
)

SOURCES = "/etc/apt/sources.list.d"
KEYRINGS = "/etc/apt/keyrings"


def key(module: Any) -> bytes:
    """The key as armored text."""
    value, name = module.params["key"].strip(), module.params["name"]
    if value.encode().startswith(ARMORED):
        return f"{value}\n".encode()
    if "://" not in value and not value.startswith("/"):
        module.fail_json(
            msg=f"key = '{value[:40]}' of repository {name}: give an address, the absolute path of a file on the host, "
            "or text that begins with -----BEGIN PGP PUBLIC KEY BLOCK-----"
        )
    try:
        content: bytes = read_key(value)
        return content
    except Exception as error:
        module.fail_json(
            msg=f"the key of repository {name} cannot be read from {value}: {error}. Give its address, a file on the "
            "host, or its armored text"
        )
        raise AssertionError("fail_json returned") from error


def read(path: str) -> bytes:
    """A file's content, empty where there is no file."""
    if not os.path.exists(path):
        return b""
    with open(path, "rb") as stream:
        return stream.read()


def write(module: Any, path: str, content: bytes) -> None:
    """Replace a file in one step, readable by everyone."""
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=module.tmpdir)
    with os.fdopen(handle, "wb") as stream:
        stream.write(content)
    os.chmod(temporary, 0o644)
    module.atomic_move(temporary, path)


def update(module: Any, file: str) -> None:
    """Read the package lists of this repository only."""
    argv = ["apt-get", "update", "--quiet", f"-oDir::Etc::sourcelist={file}", "-oDir::Etc::sourceparts=-"]
    argv += ["-oAPT::Get::List-Cleanup=0", f"-oDPkg::Lock::Timeout={LOCK_TIMEOUT_S}", "-oAPT::Update::Error-Mode=any"]
    code, out, err = module.run_command(argv, environ_update={"LC_ALL": "C"})
    if code != 0:
        # Otherwise the next run would take the repository for configured.
        os.unlink(file)
        fail_if_locked(module, out + err)
        module.fail_json(
            msg=f"repository {module.params['name']} at {module.params['uri']} cannot be read: "
            f"{complaints(out + err)}. Correct its address or key, or name a mirror"
        )


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "uri": {"type": "str", "default": ""},
            **SOURCE,
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        supports_check_mode=True,
    )
    params = module.params
    file, keyring = f"{SOURCES}/{params['name']}.sources", f"{KEYRINGS}/{params['name']}.asc"
    before = read(file)
    if params["state"] == "absent":
        existing = [path for path in (file, keyring) if os.path.exists(path)]
        for path in existing if not module.check_mode else []:
            os.unlink(path)
        module.exit_json(changed=bool(existing), file=file, diff={"before": before.decode(), "after": ""})
    if not params["uri"]:
        module.fail_json(msg=f"repository {params['name']}: uri is empty; give its address")
    address = params["key"] if "://" in params["key"] else ""
    comment = f"# Key: {address}\n" if address else ""
    after = (comment + stanza(params["uri"], params, keyring if params["key"] else "")).encode()
    # A key is downloaded once; the comment shows when its address has changed.
    current = not params["key"] or (address and os.path.exists(keyring) and before == after)
    unread = address and module.check_mode
    content = read(keyring) if current or unread else key(module)
    changed = before != after or bool(params["key"] and content != read(keyring)) or bool(unread and not current)
    if changed and not module.check_mode:
        if params["key"]:
            write(module, keyring, content)
        write(module, file, after)
        update(module, file)
    module.exit_json(changed=changed, file=file, diff={"before": before.decode(), "after": after.decode()})


if __name__ == "__main__":
    main()
