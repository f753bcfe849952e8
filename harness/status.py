"""status.json: written every second by a run as its heartbeat, and read by everyone else."""

import contextlib
import os
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness import state_file
from harness.files import read_json, write_json
from harness.load.progress import Progress

_RESERVE_BYTES = 64 * 1024
_NO_PROGRESS = Progress(0, None, 0, 0, None, None, None, None, None, None, 0.0)


class Heartbeat:
    """Writes `run_dir`/status.json once a second in its own thread until `finish`.

    A small reserve file is deleted at the end, so that the last status fits on a full disk.
    """

    def __init__(self, run_dir: Path, run_id: str, log: Path) -> None:
        self._path = run_dir / "status.json"
        self._reserve = run_dir / ".reserve"
        self._reserve.write_bytes(b"\0" * _RESERVE_BYTES)
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._started = time.monotonic()
        self._phase_started = self._started
        self._content: dict[str, Any] = {
            "schema": 1,
            "run_id": run_id,
            "state": "running",
            "phase": "preparing",
            "reason": None,
            "log": str(log),
            "pid": os.getpid(),
            "pid_born": state_file.start_tick(os.getpid()),
            "boot_id": state_file.boot_id(),
            "started_unix": time.time(),
            "phases": [],
            "calibration": None,
            "attempt": None,
            "attempts_most": None,
            "attempts": [],
            **_fields(_NO_PROGRESS),
        }
        self.phase("preparing")
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._thread.start()

    def phase(self, name: str) -> None:
        """Start a phase; the previous one ends."""
        with self._lock:
            self._end_phase()
            self._phase_started = time.monotonic()
            self._content.update(_fields(_NO_PROGRESS), state="running", phase=name)
            self._content["phases"].append({"phase": name, "started_unix": time.time(), "finished_unix": None})
        self._write()

    def calibrated(self, calibration: dict[str, Any]) -> None:
        """Record the result of the calibration."""
        with self._lock:
            self._content["calibration"] = calibration

    def attempt(self, number: int, most: int) -> None:
        """Record that attempt `number` of at most `most` starts."""
        with self._lock:
            self._content.update(attempt=number, attempts_most=most)

    def wait_for_others(self) -> None:
        """Enter state `waiting`: the run continues once it is told whether all LoadGens repeat their attempts."""
        self.phase("waiting for the other nodes")
        with self._lock:
            self._content["state"] = state_file.WAITING
        self._write()

    def attempted(self, attempt: dict[str, Any]) -> None:
        """Record a finished attempt."""
        with self._lock:
            self._content["attempts"] = [*self._content["attempts"], attempt]

    def progress(self, progress: Progress) -> None:
        """Record the phase's progress; written with the next heartbeat."""
        with self._lock:
            self._content.update(_fields(progress))

    def snapshot(self) -> dict[str, Any]:
        """The current content of status.json."""
        with self._lock:
            return {
                **self._content,
                "phases": [dict(phase) for phase in self._content["phases"]],
                "updated_unix": time.time(),
                "elapsed_s": time.monotonic() - self._started,
                "phase_elapsed_s": time.monotonic() - self._phase_started,
            }

    def finish(self, state: str, reason: str | None = None) -> None:
        """Write the last status: `state` is finished, failed or stopped."""
        self._closed.set()
        self._thread.join()
        with self._lock:
            self._end_phase()
            self._content.update(state=state, reason=reason)
            if state == "finished":
                self._content.update(phase="finished", eta_s=0.0)
            elif state == "failed":
                self._content.update(phase="failed", eta_s=None)
        self._reserve.unlink(missing_ok=True)
        self._write()

    def _end_phase(self) -> None:
        if self._content["phases"]:
            self._content["phases"][-1]["finished_unix"] = time.time()

    def _beat(self) -> None:
        while not self._closed.wait(1.0):
            self._write()

    def _write(self) -> None:
        # A full disk does not end the run here: the journal fails and reports it.
        with contextlib.suppress(OSError):
            write_json(self._path, self.snapshot())


def _fields(progress: Progress) -> dict[str, Any]:
    fields = {
        f"samples_{key}" if key in ("done", "total", "failed") else key: value
        for key, value in asdict(progress).items()
        if key not in ("elapsed_s", "ttft", "tpot")
    }
    left = progress.total - progress.done if progress.total else None
    rate = progress.samples_per_s
    return {**fields, "eta_s": left / rate if left is not None and rate else None}


def alive(status: dict[str, Any]) -> bool:
    """Whether the process that wrote this status is still running."""
    return state_file.is_alive(status, state_file.boot_id(), state_file.start_tick(status["pid"]))


def look(run_dir: Path) -> dict[str, Any]:
    """Read a run's status; without a recent heartbeat or a live process it is failed. Writes nothing.

    Raises:
        BadInput: there is no such run.
    """
    status: dict[str, Any] = read_json(run_dir / "status.json", "run status")
    judged = state_file.judge_here(status)
    return judged if judged == status else {**judged, "reason": f"{judged['reason']}; see {status['log']}"}
