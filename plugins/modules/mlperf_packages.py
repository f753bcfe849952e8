#!/usr/bin/python
# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Installs Debian packages at pinned versions and holds them."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mlperf_packages
short_description: Install Debian packages at pinned versions and hold them
description:
  - Compares with dpkg's own list, so that an unchanged host costs one query, and check mode is right even for packages
    of a repository that is not configured yet.
  - Installs all packages in one call of C(apt-get). Where that fails, updates the package lists and tries once more,
    for lists may be missing, or name versions that the repository no longer has. Completes an interrupted dpkg first.
  - Where another process has apt's or dpkg's locks, such as unattended-upgrades, the task shows which, and waits for
    its end, 15 minutes at most.
extends_documentation_fragment: [mlperf_module]
options:
  packages:
    description: Packages by name, each with its version, which may contain V(*). Empty for any version.
    type: dict
    required: true
  state:
    description: Whether the packages are installed. Packages are removed with their configuration files.
    type: str
    choices: [present, absent]
    default: present
  hold:
    description: Whether C(apt) keeps the packages at their version from then on.
    type: bool
    default: false
  update:
    description: Whether to read the package lists first, as after a change of apt's sources.
    type: bool
    default: false
attributes:
  diff_mode:
    description: Shows name, version and hold of each package before and after.
"""

EXAMPLES = r"""
- name: Install the kubelet
  mlperf_packages:
    packages:
      kubelet: "1.36.*"
    hold: true
"""

RETURN = r"""
versions:
  description: Versions of the packages that are installed when the module ends.
  returned: success
  type: dict
  sample: {"kubelet": "1.36.1-1.1"}
pending:
  description: Packages that lacked the version or the hold.
  returned: success
  type: list
  elements: str
"""

import fnmatch
from typing import Any, Dict, List, Tuple

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.mlperf_apt import LOCK_TIMEOUT_S, complaints, fail_if_locked
from ansible.module_utils.mlperf_host_facts import installed_packages

VARIABLES = {"DEBIAN_FRONTEND": "noninteractive", "NEEDRESTART_MODE": "l", "LC_ALL": "C"}
KEEP_CONFIGURATION = ["--force-confdef", "--force-confold"]
Installed = Dict[str, Dict[str, Any]]


def text(installed: Installed) -> str:
    """The packages as lines of the diff."""
    suffix = {True: " (held)", False: ""}
    return "".join(
        f"{name} {installed[name]['version']}{suffix[installed[name]['held']]}\n" for name in sorted(installed)
    )


def call(module: Any, arguments: List[str]) -> Tuple[int, str, str]:
    """Run apt-get without questions; where another process has its locks, the task fails with that one's name."""
    argv = ["apt-get", "--quiet", "--yes", f"-oDPkg::Lock::Timeout={LOCK_TIMEOUT_S}"]
    argv += [*(f"-oDPkg::Options::={option}" for option in KEEP_CONFIGURATION), "--no-install-recommends"]
    code, out, err = module.run_command([*argv, *arguments], environ_update=VARIABLES)
    if code != 0:
        fail_if_locked(module, out + err)
    return code, out, err


def apt(module: Any, verb: str, *arguments: str, retry: bool = False) -> None:
    """Call apt-get; with `retry` again after updating the package lists, which may name versions that are gone."""
    words = [verb, "--allow-change-held-packages", *arguments]
    code, out, err = call(module, words)
    if code != 0 and "dpkg was interrupted" in out + err:
        code, out, err = module.run_command(
            ["dpkg", *KEEP_CONFIGURATION, "--configure", "-a"], environ_update=VARIABLES
        )
        fail_if_locked(module, out + err if code else "")
        code, out, err = call(module, words)
    if code != 0 and retry:
        # The update may fail for an unrelated repository; only the second attempt counts.
        call(module, ["update"])
        code, out, err = call(module, words)
    if code != 0:
        packages = " ".join(word for word in arguments if word[0] != "-")
        module.fail_json(
            msg=f"apt-get {verb} {packages}: {complaints(out + err)}. Check `apt-cache policy` for these packages on "
            "this host: a repository that is configured there must have the version",
            stdout=out,
            stderr=err,
        )


def update(module: Any) -> None:
    """Read the package lists."""
    code, out, err = call(module, ["update"])
    if code != 0:
        module.fail_json(msg=f"apt-get update: {complaints(out + err)}; correct the sources of apt on this host")


def select(module: Any, names: List[str]) -> None:
    """Hold the packages, or release them."""
    wish = "hold" if module.params["hold"] else "install"
    lines = "".join(f"{name} {wish}\n" for name in names)
    code, _out, err = module.run_command(["dpkg", "--set-selections"], data=lines)
    if code != 0:
        fail_if_locked(module, err)
        module.fail_json(msg=f"dpkg --set-selections: {err.strip()}")


def present(module: Any, wanted: Dict[str, str], before: Installed) -> Tuple[List[str], Installed]:
    """Install and hold; returns (packages that lacked the version or the hold, packages after that)."""
    hold = module.params["hold"]
    wrong = [
        name
        for name, version in wanted.items()
        if name not in before or not fnmatch.fnmatchcase(before[name]["version"], version or "*")
    ]
    # A package that is installed anew is not held yet.
    unheld = [name for name in wanted if name not in wrong and before[name]["held"] is not hold]
    unheld += wrong if hold or unheld else []
    pending = sorted({*wrong, *unheld})
    if module.check_mode or not pending:
        versions = {name: wanted[name] or "any version" for name in wrong}
        after = {name: {"version": versions.get(name) or before[name]["version"], "held": hold} for name in wanted}
        return pending, after
    if wrong:
        specs = [f"{name}={wanted[name]}" if wanted[name] else name for name in wrong]
        apt(module, "install", "--allow-downgrades", *specs, retry=True)
    if unheld:
        select(module, sorted(unheld))
    return pending, installed_packages(list(wanted))


def absent(module: Any, before: Installed) -> Tuple[List[str], Installed]:
    """Remove the installed packages; returns (their names, no packages)."""
    if before and not module.check_mode:
        apt(module, "purge", *sorted(before))
    return sorted(before), {}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "packages": {"type": "dict", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "hold": {"type": "bool", "default": False},
            "update": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    wanted = {name: str(version or "") for name, version in sorted(module.params["packages"].items())}
    if module.params["update"] and not module.check_mode:
        update(module)
    before = installed_packages(list(wanted))
    state = module.params["state"]
    pending, after = present(module, wanted, before) if state == "present" else absent(module, before)
    installed = before if module.check_mode else after
    module.exit_json(
        changed=bool(pending),
        pending=pending,
        versions={name: package["version"] for name, package in installed.items()},
        diff={"before": text(before), "after": text(after)},
    )


if __name__ == "__main__":
    main()
