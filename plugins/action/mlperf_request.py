# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""The request of a benchmark: worked out, or recorded. See plugins/modules/mlperf_request.py for what users need."""

from __future__ import annotations

import json
from pathlib import Path

from ansible.plugins.loader import action_loader


class ActionModule(action_loader.get("mlperf_base", class_only=True)):
    """Works out the request, and writes it down when asked to."""

    def work(self, arguments):
        """The request, in the form of JSON."""
        from harness.benchmark import request

        asked = request.resolve(
            {name: value for name, value in arguments["given"].items() if value is not None},
            defaults=arguments["defaults"],
            nodes=arguments["nodes"],
            controllers=arguments["controllers"],
            forks=arguments["forks"],
            results=Path(arguments["results"]),
        )
        plain = asked.model_dump(mode="json")
        if not arguments["record"]:
            return {"changed": False, **plain}
        new = not asked.begun
        if new and not self.check_mode:
            asked.begin()
        content = json.dumps(asked.document(), indent=2) + "\n"
        diff = {"before": "" if new else content, "after": content}
        return {"changed": new, **plain, "diff": diff}
