# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Packs the harness of this checkout. See plugins/modules/mlperf_package.py for what users need."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ansible.plugins.loader import action_loader

NAME = "mlperf-distributed-harness"


class ActionModule(action_loader.get("mlperf_base", class_only=True)):
    """Writes the archive where it is missing."""

    def work(self, arguments):
        """The archive's path and hash."""
        from harness.benchmark import source
        from harness.files import write_atomic

        content = source.archive(Path(arguments["source"]), NAME)
        sha256 = hashlib.sha256(content).hexdigest()
        file = Path(arguments["path"], f"{NAME}-{sha256[:12]}.tar.gz")
        changed = not file.exists()
        if changed and not self.check_mode:
            write_atomic(file, content)
        diff = {"before": "" if changed else f"{file}\n", "after": f"{file}\n"}
        return {"changed": changed, "file": str(file), "sha256": sha256, "diff": diff}
