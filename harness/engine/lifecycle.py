"""Start, inspect and stop engines. An engine outlives the command that starts it."""

import contextlib
import dataclasses
import fcntl
import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from harness.engine import launch, preflight, processes, state, verify
from harness.engine.config import EngineConfig, reject_different_settings
from harness.engine.processes import ENGINE_MARK, ENGINE_VARIABLES, SUPERVISOR_MARK
from harness.engine.state import EngineState
from harness.errors import BadInput, NotReady, RunFailed, Stopped
from harness.node import probe

Report = Callable[[str], None]
PROGRESS_INTERVAL_S = 10.0
STOP_TIMEOUT_S = 40.0
ORPHAN_GRACE_S = 3.0
_LOCK_TIMEOUT_S = 90.0
_SUPERVISOR_TIMEOUT_S = 30.0
_POLL_S = 0.1
_SERVE_INTERVAL_S = 1.0
# Kept so that the process that started a supervisor reaps it.
_children: list[subprocess.Popen[bytes]] = []


def up(
    root: Path,
    config: EngineConfig,
    *,
    wait: bool = True,
    on_progress: Report = lambda line: None,
    die_with_parent: bool = False,
) -> EngineState:
    """Start the engine `config` under `root` unless it is running; `changed` is false when it was.

    With `wait` it returns once the engine is ready, and calls `on_progress` at every step and every 10 s. With
    `die_with_parent` a newly started engine ends with the calling process. An interrupted call (Ctrl-C, or a signal
    under `linux.stoppable`) stops the engine that it started.

    Raises:
        BadInput: an invalid setting, an incomplete model, or an engine of that name running with other settings.
        NotReady: the engine's package, the port, the disk or the endpoint is not available.
        RunFailed: the engine did not become ready, or its settings differ from the requested ones.
    """
    directory = _directory(root, config.name)
    changed = False
    try:
        with _locked(directory):
            current = state.actual(directory)
            if current is not None and current.running:
                reject_different_settings(config, current.state, current.config)
            else:
                changed = True
                current = (
                    state.write(directory, _verified_endpoint(config))
                    if config.kind == "endpoint"
                    else _start(directory, config, die_with_parent)
                )
        if wait and current.kind != "endpoint":
            current = _await_ready(directory, config, on_progress)
    except (KeyboardInterrupt, Stopped):
        if changed:
            down(root, config.name)
        raise
    return dataclasses.replace(current, changed=changed)


def serve(root: Path, config: EngineConfig, on_state: Callable[[EngineState], None]) -> None:
    """Run the engine until this call ends, as the main process of a container; `on_state` gets its state once a second.

    `Stopped`, raised by a signal under `linux.stoppable`, stops the engine.

    Raises:
        BadInput, NotReady: as `up`.
        RunFailed: the engine did not become ready, died, or was stopped by another command.
    """
    try:
        current = up(root, config, wait=False, die_with_parent=True)
        while current.running:
            on_state(current)
            time.sleep(_SERVE_INTERVAL_S)
            current = status(root, config.name)
    finally:
        down(root, config.name)
    on_state(current)
    raise RunFailed(f"engine {config.name} {current.state}: {current.reason}; log: {current.log}")


def check(root: Path, config: EngineConfig) -> bool:
    """Whether `up` would start or attach an engine; runs the same checks and changes nothing.

    Raises:
        BadInput: an invalid setting, an incomplete model, an engine of that name running with other settings, or an
            endpoint whose settings differ from the requested ones.
        NotReady: the engine's package, the port, the disk or the endpoint is not available.
    """
    directory = _directory(root, config.name)
    current = state.actual(directory)
    if current is not None and current.running:
        reject_different_settings(config, current.state, current.config)
        return False
    if config.kind == "endpoint":
        _verified_endpoint(config)
    else:
        existing = next(folder for folder in (directory, *directory.parents) if folder.exists())
        preflight.check(existing, config, launch.build_for(config))
    return True


def status(root: Path, name: str) -> EngineState:
    """The engine's current state: failed when its supervisor died or an endpoint fails its health check.

    Raises:
        BadInput: no engine of that name was ever started under `root`.
    """
    current = state.actual(_directory(root, name))
    if current is None:
        known = ", ".join(names(root)) or "none"
        raise BadInput(f"no engine {name!r} under {root}; known there: {known}")
    if current.kind == "endpoint" and current.running:
        try:
            reply = probe.get(current.url, "/health")
            reason = None if reply.status == 200 else f"{current.url}/health answered {reply.status}"
        except (OSError, ValueError) as error:
            reason = f"no server answers at {current.url}: {getattr(error, 'reason', error)}"
        if reason is not None:
            return dataclasses.replace(current, state="failed", reason=reason)
    return current


def observe(name: str, url: str, model: Path) -> EngineState:
    """The state of a server at `url`, from what it reports; stores, starts and rejects nothing.

    Raises:
        NotReady: no server answers.
        BadInput: the server is not OpenAI-compatible.
    """
    return _endpoint(EngineConfig(name=name, kind="endpoint", url=url, model=model))


def names(root: Path) -> list[str]:
    """The engines ever started under `root`."""
    return sorted(path.parent.name for path in (root / "engines").glob("*/engine.json"))


def down(root: Path, name: str) -> EngineState:
    """Stop the engine and all its processes; `changed` is false when none was running.

    A failed engine keeps its state and reason. An engine that was never started counts as stopped.

    Raises:
        RunFailed: some of its processes could not be killed.
    """
    directory = _directory(root, name)
    if not directory.exists():
        return _never_started(name)
    with _locked(directory):
        before = state.actual(directory)
        if before is None:
            return _never_started(name)
        had_processes = _terminate_processes(directory)
        after = state.actual(directory) or before
        if after.running:
            after = dataclasses.replace(after, state="stopped", progress="stopped", reason="stop requested")
            state.write(directory, dataclasses.replace(after, stopped_unix=time.time()))
        elif after != state.stored(directory):
            state.write(directory, after)
        return dataclasses.replace(after, changed=before.running or had_processes)


def _never_started(name: str) -> EngineState:
    config = EngineConfig(name=name, kind="endpoint", model=Path("/"), url="http://localhost")
    initial = state.initial_state(config, log="")
    return dataclasses.replace(initial, state="stopped", reason="was never started", config={}, url="", model="")


def _directory(root: Path, name: str) -> Path:
    if not name or "/" in name or name.startswith("."):
        raise BadInput(f"engine name {name!r} is empty, contains a slash or starts with a dot; choose another")
    return root.expanduser().absolute() / "engines" / name


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Hold the engine's lock, so that one command at a time changes it; waits up to 90 s for another one."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise NotReady(f"{directory} cannot be written: {error.strerror}; choose another root") from None
    try:
        deadline = time.monotonic() + _LOCK_TIMEOUT_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise NotReady(
                        f"another harness command has held the lock on {directory} for over {_LOCK_TIMEOUT_S:.0f} s; "
                        "stop it and retry"
                    ) from None
                time.sleep(_POLL_S)
        yield
    finally:
        os.close(lock)


def _verified_endpoint(config: EngineConfig) -> EngineState:
    """The state of an endpoint; BadInput when its settings differ from the requested ones."""
    endpoint = _endpoint(config)
    if mismatches := verify.mismatches(config, endpoint.verified):
        raise BadInput(f"endpoint {config.name} at {config.base_url}: {'; '.join(mismatches)}")
    return endpoint


def _endpoint(config: EngineConfig) -> EngineState:
    reported = verify.reported_settings(config.base_url)
    return dataclasses.replace(
        state.initial_state(config, log=""),
        state="ready",
        progress="ready",
        ready_unix=time.time(),
        version={"vllm": reported["vllm"]} if reported["vllm"] else {},
        verified=reported,
        unverified=verify.unverified(config, reported),
    )


def _start(directory: Path, config: EngineConfig, die_with_parent: bool) -> EngineState:
    _terminate_processes(directory)
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
        time.sleep(_POLL_S / 2)
    supervisor.kill()
    reason = f"the engine's supervisor did not start; see {initial.log}"
    state.write(directory, dataclasses.replace(initial, state="failed", reason=reason))
    raise RunFailed(reason)


def _await_ready(directory: Path, config: EngineConfig, on_progress: Report) -> EngineState:
    started = reported = time.monotonic()
    step = ""
    while True:
        current = state.actual(directory)
        if current is None:
            raise RunFailed(f"{directory} was removed while engine {config.name} was starting")
        if current.state == "ready":
            return current
        if not current.running:
            raise RunFailed(f"engine {config.name} did not start: {current.reason}; log: {current.log}")
        now = time.monotonic()
        if current.progress != step or now - reported >= PROGRESS_INTERVAL_S:
            step, reported = current.progress, now
            on_progress(f"engine {config.name}: {step} ({now - started:.0f} s)")
        time.sleep(_POLL_S)


def _terminate_processes(directory: Path) -> bool:
    """Terminate supervisor, guard, server and their orphans; returns whether there were any.

    Raises:
        RunFailed: some could not be killed.
    """
    marks = {SUPERVISOR_MARK: STOP_TIMEOUT_S, ENGINE_MARK: ORPHAN_GRACE_S}
    had_processes = any(processes.marked(mark, directory) for mark in marks)
    survivors = set[int]()
    # Supervisors first: they shut their servers down cleanly.
    for mark, grace_s in marks.items():
        survivors |= processes.terminate(functools.partial(processes.marked, mark, directory), grace_s, _reap)
    if survivors:
        raise RunFailed(f"processes of {directory} could not be killed: {sorted(survivors)}; kill them by hand")
    return had_processes


def _reap() -> None:
    _children[:] = [child for child in _children if child.poll() is None]
