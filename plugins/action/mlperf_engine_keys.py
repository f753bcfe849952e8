# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Reads the API keys of a host's engines, for the run elsewhere that sends them requests."""

from __future__ import annotations

import tempfile
from pathlib import Path

from ansible.errors import AnsibleError
from ansible.plugins.loader import action_loader

MOST_BYTES = 1 << 16
"""Of a file with a key."""
OPTIONS = """
files:
  description: The file of each key by the engine's name, as mlperf_settings returns them.
  type: dict
  required: true
"""


class ActionModule(action_loader.get("mlperf_base", class_only=True)):
    """Fetches files, since Ansible prints what commands print; the result is never printed, and an error is.

    In check mode nothing is read.
    """

    options = OPTIONS

    def work(self, arguments):
        """The keys by the names of the engines."""
        from harness.errors import RunFailed
        from harness.servers import read_key

        keys = {}
        with tempfile.TemporaryDirectory() as folder, self.unlogged():
            for name, file in arguments["files"].items() if not self.check_mode else ():
                try:
                    with self.receiving(MOST_BYTES):
                        self._connection.fetch_file(file, f"{folder}/{name}")
                    keys[name] = read_key(Path(folder, name))
                except (AnsibleError, OSError, MemoryError) as error:
                    raise RunFailed(f"the API key of engine {name} cannot be read from {file}: {error}") from None
        return {"changed": False, "api_keys": keys, "_ansible_no_log": True}
