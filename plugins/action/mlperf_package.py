# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Packs the harness of this checkout. See plugins/modules/mlperf_package.py for what users need."""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath

from ansible.plugins.loader import action_loader

NAME = "mlperf-distributed-harness"


class ActionModule(action_loader.get("mlperf_base", class_only=True)):
    """Writes the archive where it is missing."""

    def work(self, arguments):
        """The archive's path and hash, and how it is installed."""
        from harness.benchmark import install, source
        from harness.files import write_atomic

        content = source.archive(Path(arguments["source"]), NAME)
        sha256 = hashlib.sha256(content).hexdigest()
        file = Path(arguments["path"], f"{NAME}-{sha256[:12]}.tar.gz")
        changed = not file.exists()
        if changed and not self.check_mode:
            write_atomic(file, content)
        diff = {"before": "" if changed else f"{file}\n", "after": f"{file}\n"}
        result = {"changed": changed, "file": str(file), "sha256": sha256, "diff": diff}
        if environment := arguments["environment"]:
            path, staging = PurePosixPath(environment.pop("path")), PurePosixPath(environment.pop("staging"))
            requirements = Path(environment.pop("requirements"))
            result["files"] = install.files(environment["build"], deepspeed=environment["deepspeed"])
            result["steps"] = install.steps(path, staging, file.name, requirements, **environment)
        return result
