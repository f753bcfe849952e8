"""status.json: written every second by a run as its heartbeat, and read by everyone else."""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness import clock, state_file
from harness.errors import BadInput
from harness.files import Reserve, write_json
from harness.load.progress import Progress

_NO_PROGRESS = Progress(0, None, 0, 0, None, None, None, None, None, None, 0.0)


class Heartbeat:
    """Writes `run_dir`/status.json once a second in its own thread until `finish`.

    The last status is written on a full disk, too. `identity` is that of the run's specification. `engines` returns
    what telemetry last saw of each engine, so that whoever reads a run's status need not ask the engines' nodes; with
    it go the requests that are over.
    """

    def __init__(
        self,
        run_dir: Path,
        identity: Mapping[str, str],
        log: Path,
        engines: Callable[[], list[dict[str, Any]]] = list,
    ) -> None:
        self._engines = engines
        self._over: dict[str, int] = {}
        self._path = run_dir / "status.json"
        self._reserve = Reserve(run_dir / ".reserve")
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._started = self._phase_started = time.monotonic()
        self._content: dict[str, Any] = {
            "schema": 1,
            **identity,
            "state": "running",
            "phase": "preparing",
            "reason": None,
            "log": str(log),
            "pid": os.getpid(),
            "pid_born": state_file.start_tick(os.getpid()),
            "boot_id": state_file.boot_id(),
            "started_unix": clock.unix(),
            "phases": [],
            "warnings": [],
            "calibration": None,
            "attempt": None,
            "attempts_most": None,
            "attempts": [],
            "probes": [],
            "engine_losses": [],
            **_fields(_NO_PROGRESS),
        }
        self.phase("preparing")
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._thread.start()

    def phase(self, name: str) -> None:
        """Start a phase; the previous one ends."""
        with self._lock:
            self._end_phase()
            self._phase_started, self._over = time.monotonic(), {}
            self._content.update(_fields(_NO_PROGRESS), state="running", phase=name)
            self._content["phases"].append({"phase": name, "started_unix": clock.unix(), "finished_unix": None})
        self._write()

    def calibrated(self, calibration: dict[str, Any]) -> None:
        """Record the result of the calibration."""
        with self._lock:
            self._content["calibration"] = calibration

    def attempt(self, number: int, most: int | None) -> None:
        """Record that attempt `number` of at most `most` starts; None where no number of attempts was asked for."""
        with self._lock:
            self._content.update(attempt=number, attempts_most=most)

    def wait_for_others(self) -> None:
        """Enter state `waiting`: the run continues once it is told whether all LoadGens repeat their attempts."""
        self.phase("waiting for the other nodes")
        with self._lock:
            self._content["state"] = state_file.WAITING
        self._write()

    def warn(self, sentence: str) -> None:
        """Record what does not end the run and should be known."""
        with self._lock:
            self._content["warnings"] = [*self._content["warnings"], sentence]

    def attempted(self, attempt: dict[str, Any]) -> None:
        """Record a finished attempt."""
        with self._lock:
            self._content["attempts"] = [*self._content["attempts"], attempt]

    def probed(self, sentence: str) -> None:
        """Record how a probe of a search ended."""
        with self._lock:
            self._content["probes"] = [*self._content["probes"], sentence]

    def lost(self, losses: list[dict[str, Any]]) -> None:
        """Record the engines that were lost so far, as outcome.json will list them."""
        with self._lock:
            self._content["engine_losses"] = losses

    def progress(self, progress: Progress) -> None:
        """Record the phase's progress; written with the next heartbeat."""
        with self._lock:
            self._over = progress.over
            self._content.update(_fields(progress))

    def snapshot(self) -> dict[str, Any]:
        """The current content of status.json."""
        with self._lock:
            return {
                **self._content,
                "phases": [dict(phase) for phase in self._content["phases"]],
                "engines": [{**engine, "over": self._over.get(engine["name"])} for engine in self._engines()],
                "updated_unix": clock.unix(),
                "updated_uptime_s": state_file.uptime_s(),
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
        with contextlib.suppress(OSError):
            self._reserve.write_json(self._path, self.snapshot())

    def _end_phase(self) -> None:
        if self._content["phases"]:
            self._content["phases"][-1]["finished_unix"] = clock.unix()

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
        if key not in ("elapsed_s", "ttft", "tpot", "engine_losses", "resent", "over")
    }
    left = progress.total - progress.done if progress.total else None
    rate = progress.samples_per_s
    return {**fields, "eta_s": left / rate if left is not None and rate else None}


def alive(status: dict[str, Any]) -> bool:
    """Whether the process that wrote this status is still running."""
    return state_file.is_alive(status, state_file.boot_id(), state_file.start_tick(status.get("pid") or 0))


def ends_within(status: dict[str, Any], timeout_s: float) -> bool:
    """Wait until the process that wrote this status has ended, for at most so long; whether it has."""
    deadline = time.monotonic() + timeout_s
    while alive(status):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def look(run_dir: Path) -> dict[str, Any]:
    """A run's status as it is now: failed without a live process, silent without a recent heartbeat. Writes nothing.

    Raises:
        BadInput: there is no such run, or its status cannot be read.
    """
    path = run_dir / "status.json"
    try:
        status = state_file.read(str(path))
    except (OSError, ValueError) as error:
        raise BadInput(f"{error}; look into {run_dir}, and give a new run another run_id") from None
    if status is None:
        raise BadInput(f"run status {path} does not exist; check the path")
    judged = state_file.judge_here(status)
    return judged if judged == status else {**judged, "reason": f"{judged['reason']}; see {status.get('log')}"}
