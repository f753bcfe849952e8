"""The heartbeat of a run: status.json, rewritten every second, and how a reader judges it."""

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
_NOTHING_YET = Progress(0, None, 0, 0, None, None, None, None, None, None, 0.0)


class Heartbeat:
    """Writes `run_dir`/status.json once a second from its own thread until `finish`.

    A small reserve file is given up when the disk is full, so that the last word still fits.
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
            **_shown(_NOTHING_YET),
        }
        self.phase("preparing")
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._thread.start()

    def phase(self, name: str) -> None:
        """Enter a phase; the one before it ends now."""
        with self._lock:
            self._end_phase()
            self._phase_started = time.monotonic()
            self._content.update(_shown(_NOTHING_YET), state="running", phase=name)
            self._content["phases"].append({"phase": name, "started_unix": time.time(), "finished_unix": None})
        self._write()

    def calibrated(self, found: dict[str, Any]) -> None:
        """Take note of what calibrating found."""
        with self._lock:
            self._content["calibration"] = found

    def attempt(self, number: int, most: int) -> None:
        """The performance run begins that is attempt `number` of `most` at a rate that holds."""
        with self._lock:
            self._content.update(attempt=number, attempts_most=most)

    def wait_for_others(self) -> None:
        """The run goes on when it is known whether all LoadGens repeat their attempts."""
        self.phase("waiting for the other nodes")
        with self._lock:
            self._content["state"] = state_file.WAITING
        self._write()

    def attempted(self, made: dict[str, Any]) -> None:
        """Take note of how an attempt ended."""
        with self._lock:
            self._content["attempts"] = [*self._content["attempts"], made]

    def progress(self, progress: Progress) -> None:
        """Take note of how far the phase is; written with the next beat."""
        with self._lock:
            self._content.update(_shown(progress))

    def snapshot(self) -> dict[str, Any]:
        """The content of status.json as of now."""
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
        # A full disk must not end the run from here; the journal notices it and says so.
        with contextlib.suppress(OSError):
            write_json(self._path, self.snapshot())


def _shown(progress: Progress) -> dict[str, Any]:
    shown = {
        f"samples_{key}" if key in ("done", "total", "failed") else key: value
        for key, value in asdict(progress).items()
        if key not in ("elapsed_s", "ttft", "tpot")
    }
    left = progress.total - progress.done if progress.total else None
    rate = progress.samples_per_s
    return {**shown, "eta_s": left / rate if left is not None and rate else None}


def alive(status: dict[str, Any]) -> bool:
    """Whether the very process that wrote this status still runs."""
    return state_file.is_alive(status, state_file.boot_id(), state_file.start_tick(status["pid"]))


def look(run_dir: Path) -> dict[str, Any]:
    """Read a run's status; one that stopped beating counts as failed ("harness died"). Writes nothing.

    Raises:
        BadInput: there is no such run.
    """
    status: dict[str, Any] = read_json(run_dir / "status.json", "run status")
    judged = state_file.judge_here(status)
    return judged if judged == status else {**judged, "reason": f"{judged['reason']}; see {status['log']}"}
