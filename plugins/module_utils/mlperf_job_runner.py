# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Runs the commands of a job.json one after another and records in it how far they are. A program of its own.

It is copied into the job's directory together with mlperf_state_file.py and mlperf_pip_failure.py.
"""

from __future__ import annotations

import collections
import json
import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any, Deque, Dict, List, Optional

HEARTBEAT_S = 1.0
KEPT_LINES = 2000
"""How much output of a step is looked through for the cause of its failure."""


class Runner:
    """Runs the steps that are pending; its heartbeat rewrites the state file."""

    def __init__(self, path: str) -> None:
        import mlperf_pip_failure
        import mlperf_state_file

        self._explain = mlperf_pip_failure.explain
        self._output: Deque[str] = collections.deque(maxlen=KEPT_LINES)
        self._write, self._uptime_s = mlperf_state_file.write_json, mlperf_state_file.uptime_s
        self._path = path
        with open(path, encoding="utf-8") as stream:
            self._record: Dict[str, Any] = json.load(stream)
        self._record.update(pid=os.getpid(), pid_born=mlperf_state_file.start_tick(os.getpid()))
        self._lock = threading.Lock()

    def run(self) -> None:
        """Run what is pending, stop at the first failure."""
        self._update()
        threading.Thread(target=self._beat, daemon=True).start()
        for step in self._record["steps"][len(self._record["done"]) :]:
            self._output.clear()
            if not self._succeeds(step["run"]) and not (step["otherwise"] and self._succeeds(step["otherwise"])):
                cause = self._explain(list(self._output), _python(step["run"])) or self._record["progress"]
                return self._update(
                    state="failed", reason=f"{self._record['name']}: {cause}; see {self._record['log']}"
                )
            self._record["done"].append(step["digest"])
        return self._update(state="finished", progress="")

    def _succeeds(self, argv: List[str]) -> bool:
        print("$", *argv, flush=True)
        self._output.append(f"$ {' '.join(argv)}")
        try:
            process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace"
            )
        except OSError as error:
            print(error, flush=True)
            self._record["progress"] = str(error)
            return False
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                print(line, end="", flush=True)
                self._output.append(line.rstrip())
                self._record["progress"] = line.strip()[:200] or self._record["progress"]
        return process.wait() == 0

    def _beat(self) -> None:
        while self._record["state"] == "running":
            time.sleep(HEARTBEAT_S)
            self._update()

    def _update(self, **changes: Any) -> None:
        with self._lock:
            self._record.update(changes, updated_unix=time.time(), updated_uptime_s=self._uptime_s())
            self._write(self._path, self._record)


def _python(argv: List[str]) -> Optional[str]:
    """The Python in a command, which is the one that it installs for."""
    return next((word for word in argv if os.path.basename(word).startswith("python")), None)


if __name__ == "__main__":
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    Runner(sys.argv[1]).run()
