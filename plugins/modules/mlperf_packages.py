#!/usr/bin/python
# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Installs Debian packages at pinned versions and holds them."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mlperf_packages
short_description: Install Debian packages at pinned versions and hold them
description:
  - Looks at dpkg's own list, so that an unchanged host is not asked for more, and check mode is right also for packages
    of a repository that is not configured yet.
  - All packages are installed in one call of C(apt-get). Where that fails, the package lists are read anew and it is
    tried once more, for lists may be missing, or older than what the repository still has. What an interrupted dpkg has
    left behind is configured first.
options:
  packages:
    description: Names of the packages, each with the version it must have, which may hold V(*). Empty for any version.
    type: dict
    required: true
  state:
    description: Whether the packages are to be there. Removed packages lose their configuration files.
    type: str
    choices: [present, absent]
    default: present
  hold:
    description: Whether C(apt) must leave the packages at their version from then on.
    type: bool
    default: false
  lock_timeout_s:
    description: How long to wait while another process uses dpkg.
    type: int
    default: 300
author: The MLPerf distributed authors
attributes:
  check_mode:
    support: full
    description: Installs nothing, and says whether it would.
  diff_mode:
    support: full
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
  description: Installed versions of the packages, as they are now.
  returned: success
  type: dict
  sample: {"kubelet": "1.36.1-1.1"}
pending:
  description: Packages that were not as wanted.
  returned: success
  type: list
  elements: str
"""

import fnmatch
from typing import Any, Dict, List, Tuple

from ansible.module_utils.basic import AnsibleModule

VARIABLES = {"DEBIAN_FRONTEND": "noninteractive", "NEEDRESTART_MODE": "l", "LC_ALL": "C"}
FORMAT = "${Package}\t${Version}\t${db:Status-Want}\t${db:Status-Status}\n"
Found = Dict[str, Tuple[str, str]]


def look(module: Any, names: List[str]) -> Found:
    """Version and wish ("install" or "hold") of those packages that are there."""
    if not names:
        return {}
    _code, out, _err = module.run_command(["dpkg-query", "--show", f"--showformat={FORMAT}", *names])
    lines = [line.split("\t") for line in out.splitlines()]
    # Status "config-files" means removed; its version is that of the configuration left behind.
    return {name: (version, want) for name, version, want, status in lines if status == "installed"}


def fits(version: str, wanted: str) -> bool:
    """Whether an installed version is the one that is wanted."""
    return not wanted or fnmatch.fnmatchcase(version, wanted)


def lines(found: Found, names: List[str]) -> str:
    """The packages as text, for the diff."""
    held = {"hold": " (held)"}
    return "".join(f"{name} {found[name][0]}{held.get(found[name][1], '')}\n" for name in names if name in found)


def call(module: Any, arguments: List[str]) -> Tuple[int, str, str]:
    """Run apt-get without questions."""
    argv = ["apt-get", "--quiet", "--yes", f"-oDPkg::Lock::Timeout={module.params['lock_timeout_s']}"]
    argv += ["-oDpkg::Options::=--force-confdef", "-oDpkg::Options::=--force-confold", "--no-install-recommends"]
    code, out, err = module.run_command([*argv, *arguments], environ_update=VARIABLES)
    return code, out, err


def apt(module: Any, arguments: List[str], again: bool = False) -> None:
    """Call apt-get; `again`: once more with new package lists, for old ones name versions that are gone."""
    code, out, err = call(module, arguments)
    if code != 0 and "dpkg was interrupted" in out + err:
        mend = ["dpkg", "--force-confdef", "--force-confold", "--configure", "-a"]
        module.run_command(mend, environ_update=VARIABLES)
        code, out, err = call(module, arguments)
    if code != 0 and again:
        # It may fail for a repository that does not matter here: what counts is whether the second try succeeds.
        call(module, ["update"])
        code, out, err = call(module, arguments)
    if code != 0:
        errors = [line[3:] for line in (out + err).splitlines() if line.startswith("E: ")]
        module.fail_json(
            msg=f"apt-get {arguments[0]} {' '.join(a for a in arguments[1:] if a[0] != '-')}: "
            f"{'; '.join(errors) or err.strip()}. Look at `apt-cache policy` for these packages on this host: the "
            "version must be in a repository that is configured here",
            stdout=out,
            stderr=err,
        )


def hold(module: Any, names: List[str], wish: str) -> None:
    """Set what dpkg may do with the packages."""
    code, _out, err = module.run_command(
        ["dpkg", "--set-selections"], data="".join(f"{name} {wish}\n" for name in names)
    )
    if code != 0:
        module.fail_json(msg=f"dpkg --set-selections: {err.strip()}")


def install(module: Any, wrong: List[str], unheld: List[str], wanted: Dict[str, str]) -> None:
    """Install what is missing or has another version, then hold."""
    if wrong:
        specs = [f"{name}={wanted[name]}" if wanted[name] else name for name in wrong]
        apt(module, ["install", "--allow-change-held-packages", "--allow-downgrades", *specs], again=True)
    if unheld:
        hold(module, unheld, "hold" if module.params["hold"] else "install")


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "packages": {"type": "dict", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "hold": {"type": "bool", "default": False},
            "lock_timeout_s": {"type": "int", "default": 300},
        },
        supports_check_mode=True,
    )
    wanted = {name: str(version or "") for name, version in module.params["packages"].items()}
    names = sorted(wanted)
    found = look(module, names)
    if module.params["state"] == "absent":
        wrong, unheld = sorted(found), []
        after: Found = {}
        if wrong and not module.check_mode:
            apt(module, ["purge", "--allow-change-held-packages", *wrong])
    else:
        want = "hold" if module.params["hold"] else "install"
        wrong = [name for name in names if name not in found or not fits(found[name][0], wanted[name])]
        unheld = [name for name in names if name in wrong or found[name][1] != want]
        after = {**found, **{name: (wanted[name] or "any version", want) for name in wrong}}
        after.update({name: (after[name][0], want) for name in unheld})
        if not module.check_mode and unheld:
            install(module, wrong, unheld if module.params["hold"] or set(unheld) - set(wrong) else [], wanted)
            after = look(module, names)
    pending = sorted({*wrong, *unheld})
    module.exit_json(
        changed=bool(pending),
        pending=pending,
        versions={name: version for name, (version, _want) in (found if module.check_mode else after).items()},
        diff={"before": lines(found, names), "after": lines(after, names)},
    )


if __name__ == "__main__":
    main()
