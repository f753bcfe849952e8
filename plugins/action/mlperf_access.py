# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Works out the objects of a benchmark's namespace and of its rights."""

from __future__ import annotations

from ansible.plugins.loader import action_loader

OPTIONS = """
namespace:
  description: Name of the namespace.
  type: str
  required: true
runner:
  description: Service account of engines and runs.
  type: str
  required: true
operator:
  description: Service account that starts benchmarks.
  type: str
  required: true
collecting:
  description: Whether it may read results through the API.
  type: bool
  required: true
"""


class ActionModule(action_loader.get("mlperf_base", class_only=True)):
    """Gives what `harness manifests setup` prints of them; touches no host."""

    options = OPTIONS

    def work(self, arguments):
        """The `objects`."""
        from harness.cluster.rbac import access_objects

        return {"changed": False, "objects": access_objects(**arguments)}
