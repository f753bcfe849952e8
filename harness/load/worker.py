"""Run a job in a process of its own and watch it: LoadGen runs only once per process and may hang in C code.

The parent calls `run_job`; the child is `python -m harness.load.worker JOB PIPE PARENT`, reads its payload from
standard input and writes one JSON object a line to the pipe: `progress`, `failed`, then `result` or `error`.
"""

import contextlib
import dataclasses
import importlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import orjson

import harness
from harness import clock, servers
from harness.errors import BadInput, HarnessError, NotReady, RunFailed
from harness.files import tail
from harness.linux import describe_exit, die_with_parent
from harness.load.progress import Progress

MAX_FAILURES = 10
_GATHER_S = 2.0
_INTERVAL_S = 1.0  # between two progress messages of a worker
_START_S = 60.0  # longer than importing and reading the prompts takes
_END_S = 2.0  # for a worker that is asked to end: it writes what it holds
_JOBS = {  # imported only by the process that runs the job
    "loadgen": ("harness.load.loadgen_worker", "run"),
    "rehearse": ("harness.load.loadgen_worker", "rehearse"),
    "calibrate": ("harness.load.calibrate_worker", "calibrate"),
    "warm_up": ("harness.load.calibrate_worker", "warm_up"),
}

Report = Callable[[dict[str, Any]], None]


@dataclasses.dataclass(frozen=True)
class Failure:
    """A failed sample: its global index, its engine, and the reason."""

    qsl_idx: int
    engine: str
    reason: str


class SamplesFailed(RunFailed):
    """Samples failed; `failures` has the first few."""

    def __init__(self, message: str, failures: tuple[Failure, ...]) -> None:
        super().__init__(message)
        self.failures = failures


def run_job(
    job: str, payload: dict[str, Any], log: Path, on_progress: Callable[[Progress], None], stall_timeout_s: float
) -> dict[str, Any]:
    """Run a job in a new process and return its result; leaves no process behind.

    Args:
        job: one of `_JOBS`.
        payload: JSON-ready input.
        log: file to which its output is appended.
        on_progress: called about once a second.
        stall_timeout_s: longest time without a finished sample while some are pending.

    Raises:
        HarnessError: the error that the job raised, of the same class.
        RunFailed: the process died or stalled, or samples failed (raised within 5 s of the first).
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    reading, writing = os.pipe()
    # A file in memory instead of a pipe: the payload has all prompts, and a worker that never reads must not block.
    with (
        log.open("ab") as output,
        os.fdopen(reading, "rb", buffering=0) as pipe,
        os.fdopen(os.memfd_create("payload"), "w+b") as payload_file,
    ):
        handed = servers.hand_down(engine["url"] for engine in payload["spec"]["engines"]) if "spec" in payload else []
        payload_file.write(orjson.dumps({**payload, "servers": handed, "clock": clock.hand_down()}))
        payload_file.seek(0)
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", "harness.load.worker", job, str(writing), str(os.getpid())],
                stdin=payload_file,
                stdout=output,
                stderr=output,
                pass_fds=[writing],
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": _python_path()},
            )
        finally:
            os.close(writing)
        try:
            return _Watch(process, pipe.fileno(), log, on_progress, stall_timeout_s).result()
        finally:
            _end(process)


def _python_path() -> str:
    package = str(Path(harness.__file__).parents[1])
    return os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the worker: ask it first, then kill it."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_END_S)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _last_lines(log: Path) -> str:
    lines = [line for line in tail(log, 5) if line.strip()]
    return f"{log} ends: {' | '.join(lines)}" if lines else f"{log} is empty"


def _grouped(failures: Sequence[Failure]) -> str:
    """Failed samples in words, those that failed for one reason together."""
    groups: dict[str, list[Failure]] = {}
    for failure in failures:
        groups.setdefault(failure.reason, []).append(failure)
    return "; ".join(f"{_named(group)}: {reason}" for reason, group in groups.items())


def _named(failures: Sequence[Failure]) -> str:
    samples = ", ".join(str(failure.qsl_idx) for failure in failures)
    engines = ", ".join(dict.fromkeys(failure.engine for failure in failures))
    return (
        f"sample {samples} on {engines}" if len(failures) == 1 else f"{len(failures)} samples ({samples}) on {engines}"
    )


class _Watch:
    """Reads a worker's messages and detects its failure."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        pipe: int,
        log: Path,
        on_progress: Callable[[Progress], None],
        stall_timeout_s: float,
    ) -> None:
        self._process, self._pipe, self._log = process, pipe, log
        self._on_progress, self._stall_timeout_s = on_progress, stall_timeout_s
        self._failures: list[Failure] = []
        self._failed_at = 0.0
        self._failed = 0
        self._done, self._advanced_at, self._patience_s = -1, time.monotonic(), stall_timeout_s + _START_S
        self._result: dict[str, Any] | None = None
        self._partial_line = b""

    def result(self) -> dict[str, Any]:
        """Wait for the job's end; returns its result or raises."""
        while self._result is None:
            ready, _, _ = select.select([self._pipe], [], [], 0.25)
            if ready:
                data = os.read(self._pipe, 1 << 16)
                if not data:
                    self._raise_death()
                self._read(data)
            if self._failures and time.monotonic() - self._failed_at > _GATHER_S:
                self._raise_failures()
            if time.monotonic() - self._advanced_at > self._patience_s:
                self._raise_stall()
        if self._failures:
            self._raise_failures()
        return self._result

    def _read(self, data: bytes) -> None:
        *lines, self._partial_line = (self._partial_line + data).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "progress" in message:
                self._record(Progress.parse(message["progress"]), message["owed"], message["idle_s"])
            elif "failed" in message:
                self._failed_at = self._failed_at or time.monotonic()
                self._failures.append(Failure(**message["failed"]))
            elif "error" in message:
                self._raise_error(message["kind"], message["error"])
            else:
                self._result = message["result"]

    def _record(self, progress: Progress, owed: bool, idle_s: float) -> None:
        """Reset the stall timer when a sample has finished. While none is pending, LoadGen may idle `idle_s` longer."""
        if progress.done != self._done:
            self._done, self._advanced_at = progress.done, time.monotonic()
        self._patience_s = self._stall_timeout_s + _INTERVAL_S + (0.0 if owed else idle_s)
        self._failed = progress.failed
        self._on_progress(progress)

    def _raise_failures(self) -> None:
        shown = self._failures[:MAX_FAILURES]
        count = max(self._failed, len(self._failures))
        more = f" (first {len(shown)})" if count > len(shown) else ""
        plural = "sample" if count == 1 else "samples"
        message = f"{count} {plural} failed{more}: {_grouped(shown)}; see the engine's log, then run again"
        raise SamplesFailed(message, tuple(shown))

    def _raise_stall(self) -> None:
        done = max(self._done, 0)
        raise RunFailed(
            f"no sample finished for {self._patience_s:g} s after {done} samples, so the run was stopped "
            f"(limits.stall_timeout_s = {self._stall_timeout_s:g}); check the engines, or raise the limit; "
            f"{_last_lines(self._log)}"
        )

    def _raise_death(self) -> None:
        code = self._process.wait()
        raise RunFailed(f"the process that issues samples {describe_exit(code)}; {_last_lines(self._log)}")

    def _raise_error(self, kind: str, text: str) -> None:
        kinds = {one.__name__: one for one in (BadInput, NotReady)}
        raise kinds.get(kind, RunFailed)(text)


def _job(name: str) -> Callable[[dict[str, Any], Report], dict[str, Any]]:
    module, function = _JOBS[name]
    job: Callable[[dict[str, Any], Report], dict[str, Any]] = getattr(importlib.import_module(module), function)
    return job


def _main(job: str, pipe: int, parent: int) -> None:
    """Entry point of the child: run the job and report how it ended."""
    die_with_parent(parent)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a connection per request in flight
    lock = threading.Lock()

    def report(message: dict[str, Any]) -> None:
        with lock:
            os.write(pipe, json.dumps(message).encode() + b"\n")

    try:
        payload = orjson.loads(sys.stdin.buffer.read())
        servers.take_over(payload.pop("servers"))
        clock.take_over(payload.pop("clock"))
        report({"result": _job(job)(payload, report)})
    except HarnessError as error:
        report({"error": str(error), "kind": type(error).__name__})
    except Exception as error:
        traceback.print_exc()
        report({"error": f"{job}: {type(error).__name__}: {error}", "kind": "RunFailed"})
    # Threads of LoadGen and the dispatcher may still be running; everything worth keeping is written.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
