"""The processes of an engine: start its supervisor, which starts the server, and terminate all of them."""

import dataclasses
import functools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from harness.engine import launch, preflight, processes, state
from harness.engine.config import EngineConfig
from harness.engine.processes import ENGINE_MARK, ENGINE_VARIABLES, SUPERVISOR_MARK
from harness.engine.state import EngineState
from harness.errors import RunFailed

_STOP_TIMEOUT_S = 40.0
_ORPHAN_GRACE_S = 3.0
_SUPERVISOR_TIMEOUT_S = 30.0
_POLL_S = 0.05
# Kept so that the process that started a supervisor reaps it.
_children: list[subprocess.Popen[bytes]] = []


def start(directory: Path, config: EngineConfig, die_with_parent: bool) -> EngineState:
    """Check the machine and start the engine; returns its first state, in which the supervisor's process is known.

    Raises:
        BadInput, NotReady: as `preflight.check`.
        RunFailed: the supervisor did not start.
    """
    build = launch.build_for(config)
    preflight.check(directory, config, build)
    initial = state.initial_state(
        config,
        log=str(directory / "engine.log"),
        command=launch.command(config, build),
        environment=launch.environment(config, build, directory),
        version=build.document(),
        progress="starting the supervisor",
    )
    log = Path(initial.log)
    if log.exists():
        log.replace(log.with_name("engine.previous.log"))
    (directory / "telemetry.csv").unlink(missing_ok=True)
    state.write(directory, initial)
    parent = [str(os.getpid())] if die_with_parent else []
    with log.open("wb") as stream:
        supervisor = subprocess.Popen(
            [sys.executable, "-m", "harness.engine.supervisor", str(directory), *parent],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            env={**os.environ, SUPERVISOR_MARK: str(directory), ENGINE_VARIABLES: json.dumps(config.env)},
            start_new_session=True,
        )
    _children.append(supervisor)
    return _await_supervisor(directory, initial, supervisor)


def _await_supervisor(directory: Path, initial: EngineState, supervisor: subprocess.Popen[bytes]) -> EngineState:
    """Wait until the supervisor has written its process id to engine.json."""
    deadline = time.monotonic() + _SUPERVISOR_TIMEOUT_S
    while time.monotonic() < deadline:
        current = state.stored(directory)
        if current is not None and current.pid is not None:
            return current
        if supervisor.poll() is not None:
            break
        time.sleep(_POLL_S)
    supervisor.kill()
    reason = f"the engine's supervisor did not start; see {initial.log}"
    state.write(directory, dataclasses.replace(initial, state="failed", reason=reason))
    raise RunFailed(reason)


def is_running(directory: Path) -> bool:
    """Whether any process of the engine is alive, whatever its state file says."""
    return any(processes.marked(mark, directory) for mark in (SUPERVISOR_MARK, ENGINE_MARK))


def terminate(directory: Path) -> bool:
    """Terminate supervisor, guard, server and their orphans; returns whether there were any.

    Raises:
        RunFailed: some could not be killed.
    """
    marks = {SUPERVISOR_MARK: _STOP_TIMEOUT_S, ENGINE_MARK: _ORPHAN_GRACE_S}
    had_processes = is_running(directory)
    survivors = set[int]()
    # Supervisors first: they shut their servers down cleanly.
    for mark, grace_s in marks.items():
        survivors |= processes.terminate(functools.partial(processes.marked, mark, directory), grace_s, _reap)
    if survivors:
        raise RunFailed(f"processes of {directory} could not be killed: {sorted(survivors)}; kill them by hand")
    return had_processes


def _reap() -> None:
    _children[:] = [child for child in _children if child.poll() is None]
