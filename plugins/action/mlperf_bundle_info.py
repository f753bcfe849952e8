# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Reads what an offline bundle holds."""

from __future__ import annotations

from pathlib import Path

from ansible.plugins.loader import action_loader

OPTIONS = """
path:
  description: Folder of the bundle.
  type: path
  required: true
packages:
  description: The archive of a system's packages, by its path in the bundle.
  type: str
  required: true
"""
WHEELS = "wheels/"


class ActionModule(action_loader.get("mlperf_base", class_only=True)):
    """Reads SHA256SUMS; the files themselves it does not look at."""

    options = OPTIONS

    def work(self, arguments):
        """`files`: SHA-256 by path; `packages` and `wheels`: a hash of each, empty when the bundle has none."""
        from harness import checksums
        from harness.errors import BadInput
        from harness.files import sha256_json

        path = Path(arguments["path"])
        sums = checksums.read(path)
        if not sums:
            raise BadInput(
                f"{path} has no SHA256SUMS: collect the bundle with playbooks/bundle.yml, or copy it completely"
            )
        wheels = {name: sums[name] for name in sums if name.startswith(WHEELS)}
        return {
            "changed": False,
            "files": sums,
            "packages": sums.get(arguments["packages"], ""),
            "wheels": sha256_json(wheels) if wheels else "",
        }
