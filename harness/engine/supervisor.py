"""The process behind an engine: starts the server, watches it, writes down what happens, leaves nothing behind.

`python -m harness.engine.supervisor DIRECTORY [PARENT_PID]` runs what engine.json in DIRECTORY says. It is two
processes, so that SIGKILL of either one still ends the engine: the supervisor, and above it a guard that adopts
whatever the supervisor leaves. The server itself is told by the kernel when its supervisor dies.
"""

import dataclasses
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from harness import linux
from harness.engine import preflight, processes, state, verify
from harness.engine.config import EngineConfig
from harness.engine.logs import StartLog, core_settings, root_cause
from harness.errors import HarnessError
from harness.node import probe
from harness.node.machine import machine
from harness.node.telemetry import Sampler
from harness.state_file import start_tick

STOP_GRACE_S = 10.0
FAIL_GRACE_S = 3.0
_LOOK_S = 0.5
_HEALTH_TIMEOUT_S = 2.0
_SILENCE_S = 10.0


@dataclass(frozen=True, slots=True)
class _Ending:
    """The state an engine ends in and why; where the log tells more, its words are added."""

    state: str
    reason: str
    log_tells: bool = False


class Supervisor:
    """Watches one server from its start to its end."""

    def __init__(self, directory: Path, parent: int | None) -> None:
        self._directory = directory
        stored = state.stored(directory)
        assert stored is not None
        pid = os.getpid()
        self._state = dataclasses.replace(stored, pid=pid, pid_born=start_tick(pid), progress="starting the server")
        self._config = EngineConfig.model_validate(stored.config)
        self._log = Path(stored.log)
        self._start_log = StartLog(self._log)
        self._guard = os.getppid()
        self._parent = None if parent is None else os.pidfd_open(parent)
        self._exit: int | None = None
        self._stop_reason: str | None = None
        self._silent_since: float | None = None
        self._machine: dict[str, Any] | None = None
        self._describing = threading.Thread(target=self._describe, name="describe", daemon=True)

    def run(self) -> None:
        """Start the server and stay until it has ended."""
        wakeup = processes.catch_signals(self._on_signal)
        sampler = Sampler(self._directory / "telemetry.csv", {self._state.name: self._state.url})
        ending = _Ending("failed", "the supervisor broke", log_tells=True)
        try:
            self._spawn()
            sampler.start()
            self._describing.start()
            ending = self._watch(wakeup)
        except OSError as error:
            ending = _Ending("failed", f"the engine could not be started or watched: {error}")
        finally:
            self._finish(ending, sampler)

    def _finish(self, ending: _Ending, sampler: Sampler) -> None:
        if ending.state == "failed":
            self._write(state="failed", progress="failed", reason=self._reason(ending))
        grace_s = FAIL_GRACE_S if ending.state == "failed" else STOP_GRACE_S
        left = processes.end(self._alive, grace_s, self._reap)
        # Once more: what the processes said last is in the log by now.
        reason = self._reason(ending) + (f"; processes that cannot be ended: {sorted(left)}" if left else "")
        cost = sampler.stop()
        self._write(
            state=ending.state,
            progress=ending.state,
            reason=reason,
            stopped_unix=time.time(),
            telemetry_cost=dataclasses.asdict(cost) if cost.samples else None,
        )

    def _reason(self, ending: _Ending) -> str:
        cause = root_cause(self._log) if ending.log_tells else ""
        return f"{ending.reason}: {cause}" if cause else ending.reason

    def _spawn(self) -> None:
        self._write()
        with self._log.open("ab") as log:
            engine = subprocess.Popen(
                self._state.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._directory,
                env=_inherited() | _given() | self._state.environment,
                start_new_session=True,
                # SIGTERM lets a server end its own children even if supervisor and guard die at once.
                preexec_fn=lambda: linux.signal_on_parent_death(signal.SIGTERM),
            )
        self._write(engine_pid=engine.pid)

    def _watch(self, wakeup: socket.socket) -> _Ending:
        """Look at the server until it ends or shall end."""
        poll = select.poll()
        poll.register(wakeup, select.POLLIN)
        if self._parent is not None:
            poll.register(self._parent, select.POLLIN)
        assert self._state.engine_pid is not None
        poll.register(os.pidfd_open(self._state.engine_pid), select.POLLIN)
        deadline = time.monotonic() + self._config.start_timeout_s
        while True:
            woken = {number for number, _ in poll.poll(_LOOK_S * 1000)}
            self._reap()
            if reason := self._reason_to_stop(woken):
                return _Ending("stopped", reason)
            if failure := self._look(deadline):
                return failure

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._stop_reason = f"asked to stop ({signal.Signals(number).name})"

    def _reason_to_stop(self, woken: set[int]) -> str | None:
        if os.getppid() != self._guard:
            return f"its guard (pid {self._guard}) was killed"
        if self._parent is not None and self._parent in woken:
            return "the program it was started for has ended"
        return self._stop_reason

    def _look(self, deadline: float) -> _Ending | None:
        """One look at the server; returns how it failed, None while all is well."""
        if self._exit is not None:
            return _Ending("failed", f"the engine {processes.ending(self._exit)}", log_tells=True)
        healthy = self._health()
        if healthy is False:
            return _Ending("failed", "the engine says that it is dead", log_tells=True)
        if self._state.state == "ready":
            self._note_silence(healthy)
        elif healthy and not self._describing.is_alive():
            wrong = self._verify()
            return _Ending("failed", wrong) if wrong else None
        elif time.monotonic() > deadline:
            limit_s, last = self._config.start_timeout_s, self._state.progress
            return _Ending("failed", f"the engine was not ready after {limit_s:g} s; its last step was: {last}")
        elif (step := self._start_log.step()) and step != self._state.progress:
            self._write(progress=step)
        return None

    def _health(self) -> bool | None:
        """True and False as the server says; None while it says nothing."""
        try:
            status = probe.get(self._state.url, "/health", _HEALTH_TIMEOUT_S).status
        except (OSError, ValueError):
            return None
        return {200: True, 500: False, 503: False}.get(status)

    def _note_silence(self, healthy: bool | None) -> None:
        """A busy server may be slow to answer, so silence is noted and ends nothing."""
        if healthy:
            if self._silent_since is not None and self._state.progress != "ready":
                self._write(progress="ready")
            self._silent_since = None
            return
        self._silent_since = self._silent_since or time.monotonic()
        silent_s = time.monotonic() - self._silent_since
        if silent_s > _SILENCE_S:
            self._write(progress=f"ready, but no answer to /health for {silent_s:.0f} s")

    def _verify(self) -> str | None:
        assert self._config.port is not None
        listeners = preflight.listeners(self._config.host, self._config.port)
        if strangers := listeners - self._alive():
            told = ", ".join(map(str, sorted(strangers)))
            return f"port {self._config.port} is served by somebody else too (pid {told}); choose another port"
        try:
            shown = verify.shown_by(self._state.url)
            if self._config.kind == "deepspeed":
                shown |= verify.settings_of(self._state.url)
            else:
                settings = core_settings(self._log)
                shown |= {key: settings[key] for key in ("dtype", "quantization") if key in settings}
            wrong = verify.conflicts(self._config, shown)
        except Exception as error:
            return f"the running server could not be verified: {error}"
        self._write(verified=shown, machine=self._machine, unverified=verify.unverified(self._config, shown))
        if wrong:
            return "; ".join(wrong)
        self._write(state="ready", progress="ready", ready_unix=time.time())
        return None

    def _describe(self) -> None:
        """Hash the weights and look at the hardware while the server starts; gigabytes may take as long as that."""
        try:
            self._machine = machine(self._config.model, self._directory.parents[1])
        except (HarnessError, OSError) as error:
            print(f"the machine could not be described: {error}", file=sys.stderr, flush=True)

    def _write(self, **changes: Any) -> None:
        self._state = dataclasses.replace(self._state, **changes)
        try:
            state.write(self._directory, self._state)
        except OSError as error:
            # A full disk must not end a running engine, nor keep a dying one's processes alive.
            print(f"engine.json could not be written: {error}", file=sys.stderr, flush=True)

    def _alive(self) -> set[int]:
        return processes.of_engine(self._directory, session=self._state.engine_pid, below=os.getpid())

    def _reap(self) -> None:
        for pid, status in processes.reap():
            if pid == self._state.engine_pid:
                self._exit = status


def _inherited() -> dict[str, str]:
    ours = (processes.SUPERVISOR_MARK, processes.ENGINE_VARIABLES)
    return {name: value for name, value in os.environ.items() if name not in ours}


def _given() -> dict[str, str]:
    given: dict[str, str] = json.loads(os.environ.get(processes.ENGINE_VARIABLES, "{}"))
    return given


def _guard(directory: Path, supervisor: int) -> None:
    """Wait for the supervisor; if it did not tidy up itself, do it and say so in engine.json."""
    for number in linux.STOPPING:
        signal.signal(number, lambda received, _frame: os.kill(supervisor, received))
    os.waitid(os.P_PID, supervisor, os.WEXITED | os.WNOWAIT)
    for number in linux.STOPPING:
        signal.signal(number, signal.SIG_IGN)
    last = state.stored(directory)
    ended = dict(processes.reap()).get(supervisor, 0)
    left = processes.end(
        lambda: processes.of_engine(directory, session=last.engine_pid if last else None, below=os.getpid()),
        FAIL_GRACE_S,
        processes.reap,
    )
    if last is not None and last.running:
        reason = f"its supervisor {processes.ending(ended)}, so the engine was ended too"
        if left:
            reason += f"; processes that cannot be ended: {sorted(left)}"
        state.write(directory, dataclasses.replace(last, state="failed", reason=reason, stopped_unix=time.time()))


def main(arguments: list[str]) -> None:
    """Split into guard and supervisor; returns when both are done."""
    directory = Path(arguments[0])
    linux.adopt_orphans()
    guard = os.getpid()
    supervisor = os.fork()
    if supervisor:
        _guard(directory, supervisor)
        return
    # A session of its own: a signal to a whole process group hits only one of the two.
    os.setsid()
    linux.adopt_orphans()
    linux.signal_on_parent_death(signal.SIGTERM)
    if os.getppid() == guard:
        Supervisor(directory, int(arguments[1]) if len(arguments) > 1 else None).run()


if __name__ == "__main__":
    main(sys.argv[1:])
