"""The supervisor of an engine: starts the server, watches it, keeps engine.json current, and cleans up at the end.

`python -m harness.engine.supervisor DIRECTORY [PARENT_PID]` runs the engine that engine.json in DIRECTORY describes.
It consists of two processes, so that SIGKILL of either one still ends the engine: the supervisor, and its parent, a
guard that adopts the supervisor's orphans. The kernel signals the server when its supervisor dies.
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

from harness import clock, linux, spec
from harness.engine import keys, launch, preflight, processes, state, verify
from harness.engine.config import EngineConfig
from harness.engine.hang import HangWatch
from harness.engine.logs import StartLog, core_settings, root_cause
from harness.errors import BadInput, HarnessError
from harness.node import probe
from harness.node.machine import machine
from harness.node.telemetry import Sampler
from harness.state_file import start_tick

STOP_GRACE_S = 10.0
FAIL_GRACE_S = 3.0
_CHECK_INTERVAL_S = 0.5
_HEALTH_TIMEOUT_S = 2.0
_UNRESPONSIVE_S = 10.0


@dataclass(frozen=True, slots=True)
class _Termination:
    """The state in which an engine ended and the reason; with `cause_in_log` the cause found in its log is added."""

    state: str
    reason: str
    cause_in_log: bool = False


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
        self._key = keys.introduce(directory, stored)
        self._guard = os.getppid()
        self._parent = None if parent is None else os.pidfd_open(parent)
        self._exit: int | None = None
        self._stop_reason: str | None = None
        self._hang = HangWatch(stored.url, self._config.hang_timeout_s)
        self._machine: dict[str, Any] | None = None
        self._describing = threading.Thread(target=self._describe, name="describe", daemon=True)

    def run(self) -> None:
        """Start the server and watch it until it has ended."""
        wakeup = processes.catch_signals(self._on_signal)
        sampler = Sampler(self._directory / "telemetry.csv", {self._state.name: self._state.url})
        termination = _Termination("failed", "the supervisor crashed", cause_in_log=True)
        try:
            self._spawn()
            sampler.start()
            self._describing.start()
            termination = self._watch(wakeup)
            while self._may_start_again(termination):
                self._start_again(termination)
                termination = self._watch(wakeup)
        except OSError as error:
            termination = _Termination("failed", f"the engine could not be started or watched: {error}")
        finally:
            self._finish(termination, sampler)

    def _finish(self, termination: _Termination, sampler: Sampler) -> None:
        if termination.state == "failed":
            self._write(state="failed", progress="failed", reason=self._reason(termination))
        grace_s = FAIL_GRACE_S if termination.state == "failed" else STOP_GRACE_S
        survivors = processes.terminate(self._alive, grace_s, self._reap)
        keys.delete(self._directory)
        # Again, since the log may have grown while the processes ended.
        reason = self._reason(termination) + _describe_survivors(survivors)
        cost = sampler.stop()
        self._write(
            state=termination.state,
            progress=termination.state,
            reason=reason,
            stopped_unix=clock.unix(),
            telemetry_cost=dataclasses.asdict(cost) if cost.samples else None,
        )

    def _reason(self, termination: _Termination) -> str:
        cause = root_cause(self._log) if termination.cause_in_log else ""
        return f"{termination.reason}: {cause}" if cause else termination.reason

    def _spawn(self) -> None:
        self._write()
        with self._log.open("ab") as log:
            engine = subprocess.Popen(
                self._state.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._directory,
                env=self._environment(),
                start_new_session=True,
                # SIGTERM lets a server end its own children even if supervisor and guard die together.
                preexec_fn=lambda: linux.signal_on_parent_death(signal.SIGTERM),
            )
        self._write(engine_pid=engine.pid)

    def _environment(self) -> dict[str, str]:
        key = {launch.KEY_VARIABLE: self._key} if self._key else {}
        return launch.inherited(os.environ) | _configured_environment() | self._state.environment | key

    def _may_start_again(self, termination: _Termination) -> bool:
        """Whether the server failed after it was ready, and not too often."""
        return termination.state == "failed" and self._state.state == "ready" and self._has_restarts_left

    @property
    def _has_restarts_left(self) -> bool:
        return len(self._state.restarts) < self._config.restarts

    def _start_again(self, termination: _Termination) -> None:
        restart = {"unix": clock.unix(), "reason": self._reason(termination)}
        self._write(state="starting", progress="starting again", restarts=[*self._state.restarts, restart])
        if survivors := processes.terminate(self._alive, FAIL_GRACE_S, self._reap):
            raise OSError(f"the failed server could not be replaced{_describe_survivors(survivors)}")
        self._exit = None
        self._start_log.step()  # past what the failed server has written
        self._spawn()

    def _watch(self, wakeup: socket.socket) -> _Termination:
        """Check the server until it ends or is to be stopped."""
        poll = select.poll()
        poll.register(wakeup, select.POLLIN)
        if self._parent is not None:
            poll.register(self._parent, select.POLLIN)
        assert self._state.engine_pid is not None
        poll.register(os.pidfd_open(self._state.engine_pid), select.POLLIN)
        deadline = time.monotonic() + self._config.start_timeout_s
        while True:
            ready = {descriptor for descriptor, _ in poll.poll(_CHECK_INTERVAL_S * 1000)}
            self._reap()
            if reason := self._reason_to_stop(ready):
                return _Termination("stopped", reason)
            if failure := self._check(deadline):
                return failure

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._stop_reason = f"stopped by {signal.Signals(number).name}"

    def _reason_to_stop(self, ready: set[int]) -> str | None:
        if os.getppid() != self._guard:
            return f"its guard process (pid {self._guard}) was killed"
        if self._parent is not None and self._parent in ready:
            return "the process that started it has exited"
        return self._stop_reason

    def _check(self, deadline: float) -> _Termination | None:
        """Check the server once; returns how it failed, None while it has not."""
        if self._exit is not None:
            return _Termination("failed", f"the engine {linux.describe_exit(self._exit)}", cause_in_log=True)
        healthy = self._health()
        if healthy is False:
            return _Termination("failed", "the engine reported at /health that it has failed", cause_in_log=True)
        if self._state.state == "ready":
            return self._check_ready(healthy is not None)
        if healthy and not self._describing.is_alive():
            problem = self._verify()
            return _Termination("failed", problem) if problem else None
        if time.monotonic() > deadline:
            limit_s, last = self._config.start_timeout_s, self._state.progress
            return _Termination("failed", f"the engine was not ready after {limit_s:g} s; its last step was: {last}")
        if (step := self._start_log.step()) and step != self._state.progress:
            self._write(progress=step)
        return None

    def _health(self) -> bool | None:
        """The server's answer at /health; None without one."""
        try:
            status = probe.get(self._state.url, "/health", _HEALTH_TIMEOUT_S).status
        except (OSError, ValueError):
            return None
        return {200: True, 500: False, 503: False}.get(status)

    def _check_ready(self, answered: bool) -> _Termination | None:
        """A server that hangs has failed where it can be started again; else it is only shown, since it may go on."""
        problem = self._hang.look(answered)
        if problem and self._has_restarts_left:
            return _Termination("failed", f"the engine hangs: {problem}")
        unanswered_s = self._hang.unanswered_s
        if unanswered_s > _UNRESPONSIVE_S:
            self._write(progress=f"ready, but no answer to /health for {unanswered_s:.0f} s")
        elif answered and self._state.progress != "ready":
            self._write(progress="ready")
        return None

    def _verify(self) -> str | None:
        assert self._config.port is not None
        listeners = preflight.listeners(self._config.host, self._config.port)
        if others := listeners - self._alive():
            pids = ", ".join(map(str, sorted(others)))
            return f"another process listens on port {self._config.port} too (pid {pids}); choose another port"
        try:
            reported = verify.reported_settings(self._state.url)
            if self._config.kind == "deepspeed":
                reported |= verify.deepspeed_settings(self._state.url)
            else:
                settings = core_settings(self._log)
                reported |= {key: settings[key] for key in verify.LOGGED if key in settings}
            mismatches = verify.mismatches(self._config, reported)
        except Exception as error:
            return f"the running server could not be verified: {error}"
        unverified = spec.unverified(self._config.kind, self._config.dtype, reported)
        self._write(verified=reported, machine=self._machine, unverified=unverified)
        if mismatches:
            return "; ".join(mismatches)
        self._hang.reset()
        self._write(state="ready", progress="ready", ready_unix=clock.unix())
        return None

    def _describe(self) -> None:
        """Hash the weights and describe the hardware while the server starts; hashing may take as long as that."""
        try:
            self._machine = machine(self._config.model, self._directory.parents[1])
        except (HarnessError, OSError) as error:
            print(f"the hardware and weights could not be described: {error}", file=sys.stderr, flush=True)

    def _write(self, **changes: Any) -> None:
        self._state = dataclasses.replace(self._state, **changes)
        try:
            state.write(self._directory, self._state)
        except OSError as error:
            # A full disk must neither end a running engine nor stop the cleanup of a failed one.
            print(f"engine.json could not be written: {error}", file=sys.stderr, flush=True)

    def _alive(self) -> set[int]:
        return processes.engine_processes(self._directory, session=self._state.engine_pid, ancestor=os.getpid())

    def _reap(self) -> None:
        for pid, status in processes.reap():
            if pid == self._state.engine_pid:
                self._exit = status


def _configured_environment() -> dict[str, str]:
    variables: dict[str, str] = json.loads(os.environ.get(processes.ENGINE_VARIABLES, "{}"))
    return variables


def _describe_survivors(pids: set[int]) -> str:
    return f"; processes that could not be killed: {sorted(pids)}" if pids else ""


def _guard(directory: Path, supervisor: int) -> None:
    """Wait for the supervisor; when it died without cleaning up, terminate the engine and update engine.json."""
    for number in linux.STOP_SIGNALS:
        signal.signal(number, lambda received, _frame: os.kill(supervisor, received))
    os.waitid(os.P_PID, supervisor, os.WEXITED | os.WNOWAIT)
    for number in linux.STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    try:
        last = state.stored(directory)
    except BadInput:
        last = None
    exit_code = dict(processes.reap()).get(supervisor, 0)
    survivors = processes.terminate(
        lambda: processes.engine_processes(directory, session=last.engine_pid if last else None, ancestor=os.getpid()),
        FAIL_GRACE_S,
        processes.reap,
    )
    keys.delete(directory)
    if last is not None and last.running:
        reason = f"its supervisor {linux.describe_exit(exit_code)}, so the engine was stopped"
        reason += _describe_survivors(survivors)
        state.write(directory, dataclasses.replace(last, state="failed", reason=reason, stopped_unix=clock.unix()))


def main(arguments: list[str]) -> None:
    """Fork into guard and supervisor; returns when both are done."""
    directory = Path(arguments[0])
    linux.adopt_orphans()
    guard = os.getpid()
    supervisor = os.fork()
    if supervisor:
        _guard(directory, supervisor)
        return
    # A session of its own, so that a signal to one's process group does not reach the other.
    os.setsid()
    linux.adopt_orphans()
    linux.signal_on_parent_death(signal.SIGTERM)
    if os.getppid() == guard:
        Supervisor(directory, int(arguments[1]) if len(arguments) > 1 else None).run()


if __name__ == "__main__":
    main(sys.argv[1:])
