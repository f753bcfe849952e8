#!/usr/bin/python
# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Collects Debian packages and all their dependencies into an apt repository."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mlperf_bundle_apt
short_description: Collect Debian packages and all their dependencies into an apt repository
description:
  - Resolves the dependencies for another system, as if no package were installed there, so that the freshest host finds
    all it needs. The packages of this machine are neither considered nor changed.
  - Writes a tar archive of a flat repository, and its inputs and contents to a JSON file beside it. Needs C(apt-get),
    C(dpkg-scanpackages) (package dpkg-dev) and C(tar) on this machine.
extends_documentation_fragment: [mlperf_module]
options:
  path:
    description: The archive.
    type: path
    required: true
  cache:
    description: Folder for downloads, kept for the next collection.
    type: path
    required: true
  architecture:
    description: The hosts' architecture, by Debian's name.
    type: str
    default: amd64
  sources:
    description: Repositories of the packages.
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
        description: Address or file of the key that signs the repository.
        type: str
        default: ""
      trusted:
        description: Whether to use the repository without a signature.
        type: bool
        default: false
  packages:
    description: Packages by name, each with its version, which may contain V(*); V("") for any version.
    type: dict
    required: true
  preferences:
    description: Preferences as in apt_preferences(5), where several repositories or versions have the same package.
    type: str
    default: ""
attributes:
  check_mode:
    description: Downloads nothing; reports a change where the options differ from those of the last collection.
  diff_mode:
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
  description: Names of the package files in the archive.
  returned: success
  type: list
  elements: str
"""

import json
import os
import re
from typing import Any, Dict, List

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.mlperf_apt import SOURCE, complaints, read_key, stanza

FLAGS = ["--quiet", "--yes"]


def run(module: Any, argv: List[str], advice: str, **more: Any) -> str:
    """The output of a command that must succeed."""
    code, out, err = module.run_command(argv, environ_update={"LC_ALL": "C", "APT_CONFIG": ""}, **more)
    if code != 0:
        command = " ".join(word for word in argv[:1] + argv[-2:] if not word.startswith("-"))
        module.fail_json(msg=f"{command}: {complaints(out + err)}. {advice}", stdout=out[-4000:])
    return str(out)


def write_key(module: Any, location: str, path: str) -> str:
    """Copy a repository's key to a file; returns the file."""
    try:
        with open(path, "wb") as stream:
            stream.write(read_key(location))
    except Exception as error:
        module.fail_json(msg=f"key {location} cannot be read: {error}; correct bundle_systems or bundle_repositories")
    return path


def configure(module: Any) -> List[str]:
    """Write the configuration of a private apt into the cache folder; returns the options that make apt-get use it."""
    params = module.params
    cache = params["cache"]
    for name in ("lists/partial", "archives/partial", "etc/empty", "log"):
        os.makedirs(os.path.join(cache, name), exist_ok=True)
    stanzas = []
    for index, source in enumerate(params["sources"]):
        # apt reads packages of file: in place; with copy: it downloads them like all others.
        uri = re.sub("^file:", "copy:", source["uri"])
        signed = source["key"] and not source["trusted"]
        keyring = write_key(module, source["key"], f"{cache}/etc/key-{index}.asc") if signed else ""
        stanzas.append(stanza(uri, source, keyring))
    # An empty status file: no package is installed, so that every dependency is downloaded.
    texts = {"etc/all.sources": "\n".join(stanzas), "etc/preferences": params["preferences"], "status": ""}
    for name, text in texts.items():
        with open(os.path.join(cache, name), "w", encoding="utf-8") as stream:
            stream.write(text)
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


def download(module: Any) -> List[str]:
    """Download the packages and their dependencies; returns the names of their files."""
    advice = "Check that every repository can be reached from this machine and has these packages for that system"
    packages = module.params["packages"].items()
    install = ["install", *sorted(f"{name}={version}" if version else name for name, version in packages)]
    apt = ["apt-get", *FLAGS, *configure(module)]
    run(module, [*apt, "update"], advice)
    run(module, [*apt, "--download-only", *install], advice)
    simulation = run(module, [*apt, "--simulate", *install], advice)
    # "Inst NAME (VERSION ORIGIN [ARCHITECTURE])"; in a file's name apt writes : as %3a.
    chosen = re.findall(r"^Inst ([^ :]+)\S* \((\S+)", simulation, re.MULTILINE)
    prefixes = tuple(f"{name}_{version.replace(':', '%3a')}_" for name, version in chosen)
    return sorted(name for name in os.listdir(f"{module.params['cache']}/archives") if name.startswith(prefixes))


def pack(module: Any, names: List[str]) -> None:
    """Write the repository as a tar archive, in one step."""
    cache, path = module.params["cache"], module.params["path"]
    advice = "Is there room in the bundle's folder?"
    scan = ["dpkg-scanpackages", "--multiversion", "--arch", module.params["architecture"], "."]
    paragraphs = run(module, scan, advice, cwd=f"{cache}/archives").split("\n\n")
    wanted = {f"Filename: ./{name}" for name in names}
    with open(f"{cache}/Packages", "w", encoding="utf-8") as stream:
        stream.write("".join(f"{text}\n\n" for text in paragraphs if wanted.intersection(text.splitlines())))
    os.makedirs(os.path.dirname(path), exist_ok=True)
    tar = ["tar", "--create", "--owner=root:0", "--group=root:0", "--mode=0644", "--mtime=@0", f"--file={path}.part"]
    run(module, [*tar, f"--directory={cache}", "Packages", f"--directory={cache}/archives", *names], advice)
    os.replace(f"{path}.part", path)


def read_record(path: str) -> Dict[str, Any]:
    """Inputs and contents of the archive, from the file beside it; empty where there is none."""
    try:
        with open(path, encoding="utf-8") as stream:
            record: Dict[str, Any] = json.load(stream)
    except (OSError, ValueError):
        return {}
    return record


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "cache": {"type": "path", "required": True},
            "architecture": {"type": "str", "default": "amd64"},
            "sources": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {"uri": {"type": "str", "required": True}, **SOURCE},
            },
            "packages": {"type": "dict", "required": True},
            "preferences": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    path = module.params["path"]
    before = read_record(f"{path}.json")
    inputs = {name: module.params[name] for name in ("architecture", "sources", "packages", "preferences")}
    if module.check_mode:
        changed = before.get("inputs") != inputs or not os.path.exists(path)
        module.exit_json(changed=changed, packages=before.get("packages", []), diff={"before": "", "after": ""})
    for command in ("apt-get", "dpkg-scanpackages"):
        if not module.get_bin_path(command):
            module.fail_json(
                msg=f"{command} is not on this machine: collect on Debian or Ubuntu, with package dpkg-dev"
            )
    names = download(module)
    changed = before.get("packages") != names or not os.path.exists(path)
    if changed:
        pack(module, names)
    with open(f"{path}.json", "w", encoding="utf-8") as stream:
        json.dump({"inputs": inputs, "packages": names}, stream, indent=2)
    lists = ("".join(f"{name}\n" for name in packages) for packages in (before.get("packages", []), names))
    module.exit_json(changed=changed, packages=names, diff=dict(zip(("before", "after"), lists)))


if __name__ == "__main__":
    main()
