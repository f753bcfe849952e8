# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Runs the commands of a job.json one after another and says in it how far they are. A program of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any, Dict, List

BEAT_S = 1.0


def write(path: str, record: Dict[str, Any]) -> None:
    """Write a state file so that a reader sees the old one or the whole new one."""
    temporary = f"{path}.{os.getpid()}"
    with open(temporary, "w", encoding="utf-8") as stream:
        json.dump(record, stream, indent=2)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)


class Runner:
    """One walk through the steps that are left."""

    def __init__(self, path: str) -> None:
        self._path = path
        with open(path, encoding="utf-8") as stream:
            self._record: Dict[str, Any] = json.load(stream)
        self._record["pid"] = os.getpid()
        self._lock = threading.Lock()

    def run(self) -> None:
        """Carry out what is left, stop at the first failure."""
        self._tell()
        threading.Thread(target=self._beat, daemon=True).start()
        for step in self._record["steps"][len(self._record["done"]) :]:
            if not self._succeeds(step["run"]) and not (step["otherwise"] and self._succeeds(step["otherwise"])):
                return self._tell(
                    state="failed",
                    reason=f"{self._record['name']}: {self._record['progress']}; see {self._record['log']}",
                )
            self._record["done"].append(step["digest"])
        return self._tell(state="finished", progress="")

    def _succeeds(self, argv: List[str]) -> bool:
        print("$", *argv, flush=True)
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
                self._record["progress"] = line.strip()[:200] or self._record["progress"]
        return process.wait() == 0

    def _beat(self) -> None:
        while self._record["state"] == "running":
            time.sleep(BEAT_S)
            self._tell()

    def _tell(self, **more: Any) -> None:
        with self._lock:
            self._record.update(more, updated_unix=time.time())
            write(self._path, self._record)


if __name__ == "__main__":
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    Runner(sys.argv[1]).run()
