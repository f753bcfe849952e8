#!/usr/bin/python
# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Collects packages with all that they need into one archive that is an apt repository."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mlperf_bundle_apt
short_description: Collect packages with all that they need into an apt repository
description:
  - Resolves the packages for a system other than this one against an empty package state, so that a host installed with
    nothing but its base finds everything. The state of this machine is neither used nor changed.
  - Writes a tar archive of a flat repository, and beside it what it was made of. Needs C(apt-get) and C(dpkg-deb) here.
options:
  path:
    description: The archive.
    type: path
    required: true
  cache:
    description: Folder for downloads, which are kept for the next time.
    type: path
    required: true
  architecture:
    description: Debian's name of the hosts' architecture.
    type: str
    default: amd64
  sources:
    description: The repositories to take packages from.
    type: list
    elements: dict
    required: true
    suboptions:
      uri:
        description: Address.
        type: str
        required: true
      suites:
        description: Suites, or V(/) for a flat repository.
        type: list
        elements: str
        default: [/]
      components:
        description: Components.
        type: list
        elements: str
        default: []
      key:
        description: Address or file of the key that signs it.
        type: str
        default: ""
      trusted:
        description: Whether it is used without a signature.
        type: bool
        default: false
  packages:
    description: Names of the packages, each with its version, which may hold V(*); V("") for any version.
    type: dict
    required: true
  preferences:
    description: Preferences as in apt_preferences(5), where several repositories or versions have the same package.
    type: str
    default: ""
author: The MLPerf distributed authors
attributes:
  check_mode:
    support: full
    description: Downloads nothing, and says whether something else was asked than the last time.
  diff_mode:
    support: full
    description: Shows the packages in the archive before and after.
"""

EXAMPLES = r"""
- name: Collect the packages
  mlperf_bundle_apt:
    path: /media/bundle/apt/debian-12.tar
    cache: /media/bundle/.cache/debian-12
    sources:
      - uri: http://deb.debian.org/debian
        suites: [bookworm]
        components: [main]
        key: /usr/share/keyrings/debian-archive-keyring.gpg
    packages:
      containerd: ""
"""

RETURN = r"""
packages:
  description: Names of the files in the archive.
  returned: success
  type: list
  elements: str
"""

import hashlib
import io
import json
import os
import subprocess
import tarfile
import urllib.request
from typing import Any, Dict, List

from ansible.module_utils.basic import AnsibleModule

BEGIN = b"-----BEGIN PGP"


def sha256(path: str) -> str:
    """Checksum of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for chunk in iter(lambda: stream.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()


def keep_key(module: Any, folder: str, index: int, given: str) -> str:
    """The key as a file that apt takes."""
    try:
        return write_key(folder, index, given)
    except OSError as error:
        module.fail_json(msg=f"key {given} cannot be read: {error}; correct bundle_systems or bundle_repositories")
        raise


def write_key(folder: str, index: int, given: str) -> str:
    """Fetch or read a key and keep it."""
    if "://" in given:
        with urllib.request.urlopen(given, timeout=60) as answer:
            content = answer.read()
    else:
        with open(given, "rb") as stream:
            content = stream.read()
    path = os.path.join(folder, f"key-{index}.{'asc' if content.startswith(BEGIN) else 'gpg'}")
    with open(path, "wb") as stream:
        stream.write(content)
    return path


def prepare(module: Any) -> List[str]:
    """An apt of its own below the cache folder; returns the options that lead apt-get there."""
    params = module.params
    cache = params["cache"]
    for name in ("lists/partial", "archives/partial", "etc/empty", "log"):
        os.makedirs(os.path.join(cache, name), exist_ok=True)
    stanzas = []
    for index, source in enumerate(params["sources"]):
        # apt would use packages of a folder where they lie; copy: has it fetch them like all others.
        uri = "copy:" + source["uri"][len("file:") :] if source["uri"].startswith("file:") else source["uri"]
        lines = ["Types: deb", f"URIs: {uri}", f"Suites: {' '.join(source['suites'])}"]
        if source["components"]:
            lines.append(f"Components: {' '.join(source['components'])}")
        if source["trusted"]:
            lines.append("Trusted: yes")
        elif source["key"]:
            lines.append(f"Signed-By: {keep_key(module, os.path.join(cache, 'etc'), index, source['key'])}")
        stanzas.append("\n".join(lines))
    with open(os.path.join(cache, "etc", "all.sources"), "w", encoding="utf-8") as stream:
        stream.write("\n\n".join(stanzas) + "\n")
    with open(os.path.join(cache, "etc", "preferences"), "w", encoding="utf-8") as stream:
        stream.write(params["preferences"])
    # The empty package state: nothing is installed, so everything that is needed is fetched.
    open(os.path.join(cache, "status"), "w", encoding="utf-8").close()
    settings = {
        "Dir::State": cache,
        "Dir::State::status": f"{cache}/status",
        "Dir::State::lists": f"{cache}/lists",
        "Dir::Cache": cache,
        "Dir::Cache::archives": f"{cache}/archives",
        "Dir::Etc::sourcelist": f"{cache}/etc/all.sources",
        "Dir::Etc::sourceparts": "-",
        "Dir::Etc::preferences": f"{cache}/etc/preferences",
        "Dir::Etc::preferencesparts": f"{cache}/etc/empty",
        "Dir::Log": f"{cache}/log",
        "APT::Architecture": params["architecture"],
        "APT::Architectures": params["architecture"],
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "",
        "APT::Update::Error-Mode": "any",
        "Debug::NoLocking": "true",
    }
    return [f"-o{name}={value}" for name, value in settings.items()]


def apt(module: Any, options: List[str], arguments: List[str]) -> None:
    """Call apt-get on that apt."""
    argv = ["apt-get", "--quiet", "--yes", *options, *arguments]
    code, out, err = module.run_command(argv, environ_update={"LC_ALL": "C", "APT_CONFIG": ""})
    if code != 0:
        errors = [line[3:] for line in (out + err).splitlines() if line.startswith(("E: ", "W: "))]
        module.fail_json(
            msg=f"apt-get {arguments[0]}: {'; '.join(dict.fromkeys(errors)) or err.strip()[-600:]}. Is every "
            "repository reachable from here, and does it have these packages for this system?",
            stdout=out[-4000:],
        )


def stanza(path: str) -> bytes:
    """A package's entry in the repository's list."""
    control = subprocess.run(["dpkg-deb", "--field", path], stdout=subprocess.PIPE, check=True).stdout.rstrip(b"\n")
    name = os.path.basename(path)
    return control + f"\nFilename: ./{name}\nSize: {os.path.getsize(path)}\nSHA256: {sha256(path)}\n\n".encode()


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    """Put a text into the archive."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), 0o644
    archive.addfile(member, io.BytesIO(content))


def pack(path: str, folder: str, names: List[str]) -> None:
    """Write the repository as one archive, in one step."""
    listed = b"".join(stanza(os.path.join(folder, name)) for name in names)
    head = "Origin: mlperf\nSuite: bundle\nDate: Thu, 01 Jan 1970 00:00:00 UTC\n"
    release = f"{head}SHA256:\n {hashlib.sha256(listed).hexdigest()} {len(listed)} Packages\n"
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with tarfile.open(f"{path}.part", "w") as archive:
        add(archive, "Packages", listed)
        add(archive, "Release", release.encode())
        for name in names:
            member = archive.gettarinfo(os.path.join(folder, name), name)
            member.uid = member.gid = 0
            member.uname = member.gname = "root"
            member.mode, member.mtime = 0o644, 0
            with open(os.path.join(folder, name), "rb") as stream:
                archive.addfile(member, stream)
    os.replace(f"{path}.part", path)


def recall(path: str) -> Dict[str, Any]:
    """What the archive was made of the last time."""
    try:
        with open(path, encoding="utf-8") as stream:
            found: Dict[str, Any] = json.load(stream)
    except (OSError, ValueError):
        return {}
    return found


def main() -> None:
    """Run the module."""
    source = {
        "uri": {"type": "str", "required": True},
        "suites": {"type": "list", "elements": "str", "default": ["/"]},
        "components": {"type": "list", "elements": "str", "default": []},
        "key": {"type": "str", "default": ""},
        "trusted": {"type": "bool", "default": False},
    }
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "cache": {"type": "path", "required": True},
            "architecture": {"type": "str", "default": "amd64"},
            "sources": {"type": "list", "elements": "dict", "required": True, "options": source},
            "packages": {"type": "dict", "required": True},
            "preferences": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    params = module.params
    note = f"{params['path']}.json"
    before = recall(note)
    asked = {name: params[name] for name in ("architecture", "sources", "packages", "preferences")}
    if module.check_mode:
        changed = before.get("asked") != asked or not os.path.exists(params["path"])
        module.exit_json(changed=changed, packages=before.get("packages", []), diff={"before": "", "after": ""})
    options = prepare(module)
    apt(module, options, ["update"])
    archives = os.path.join(params["cache"], "archives")
    specs = [f"{name}={version}" if version else name for name, version in sorted(params["packages"].items())]
    apt(module, options, ["install", "--download-only", *specs])
    # Only what is asked now goes in; what an earlier time fetched stays for apt to use again.
    wanted = simulated(module, options, specs)
    names = sorted(name for name in os.listdir(archives) if name.endswith(".deb") and key_of(name) in wanted)
    changed = before.get("packages") != names or not os.path.exists(params["path"])
    if changed:
        pack(params["path"], archives, names)
    with open(note, "w", encoding="utf-8") as stream:
        json.dump({"asked": asked, "packages": names}, stream, indent=2)
    module.exit_json(
        changed=changed,
        packages=names,
        diff={
            "before": "".join(f"{name}\n" for name in before.get("packages", [])),
            "after": "".join(f"{name}\n" for name in names),
        },
    )


def key_of(file: str) -> str:
    """Name and version in a package file's name, as apt writes it."""
    name, version = file.split("_")[:2]
    return f"{name} {version.replace('%3a', ':')}"


def simulated(module: Any, options: List[str], specs: List[str]) -> List[str]:
    """Name and version of all that would be installed on a host without any package."""
    argv = ["apt-get", "--quiet", "--yes", *options, "install", "--simulate", *specs]
    _code, out, _err = module.run_command(argv, environ_update={"LC_ALL": "C", "APT_CONFIG": ""})
    lines = [line.split() for line in out.splitlines() if line.startswith("Inst ")]
    return [f"{words[1].split(':')[0]} {words[2].lstrip('(')}" for words in lines]


if __name__ == "__main__":
    main()
