"""Start, inspect and stop engines. An engine outlives the command that starts it."""

import contextlib
import dataclasses
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from harness import clock
from harness.engine import endpoint, keys, launch, preflight, spawn, state
from harness.engine.config import EngineConfig, reject_different_settings
from harness.engine.state import EngineState
from harness.errors import BadInput, NotReady, RunFailed, Stopped

Report = Callable[[str], None]
PROGRESS_INTERVAL_S = 10.0
_LOCK_TIMEOUT_S = 90.0
_POLL_S = 0.1
_SERVE_INTERVAL_S = 1.0


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
            current = _current(directory)
            if current is not None and current.running:
                reject_different_settings(config, current.state, current.config or {})
            else:
                changed = True
                current = _begin(directory, config, die_with_parent)
        if wait and current.kind != "endpoint":
            current = _await_ready(directory, config, on_progress)
    except (KeyboardInterrupt, Stopped):
        if changed:
            down(root, config.name)
        raise
    return dataclasses.replace(current, changed=changed)


def _begin(directory: Path, config: EngineConfig, die_with_parent: bool) -> EngineState:
    """Start or attach an engine; its key is gone again where that fails."""
    spawn.terminate(directory)
    keys.make(directory, config)
    try:
        if config.kind == "endpoint":
            return state.write(directory, endpoint.attach(config))
        return spawn.start(directory, config, die_with_parent)
    except BaseException:
        keys.delete(directory)
        raise


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
    current = _current(directory)
    if current is not None and current.running:
        reject_different_settings(config, current.state, current.config or {})
        return False
    if config.kind == "endpoint":
        endpoint.attach(config)
    else:
        config.key()
        existing = next(folder for folder in (directory, *directory.parents) if folder.exists())
        preflight.check(existing, config, launch.build_for(config))
    return True


def status(root: Path, name: str) -> EngineState:
    """The engine's current state: failed when its supervisor died or an endpoint fails its health check.

    Raises:
        BadInput: no engine of that name was ever started under `root`, or its state cannot be read.
    """
    current = state.actual(_directory(root, name))
    if current is None:
        known = ", ".join(names(root)) or "none"
        raise BadInput(f"no engine {name!r} under {root}; known there: {known}")
    if current.kind == "endpoint" and current.running:
        keys.introduce(_directory(root, name), current)
        reason = endpoint.why_failed(current)
        if reason is not None:
            return dataclasses.replace(current, state="failed", reason=reason)
    return current


def _current(directory: Path) -> EngineState | None:
    """The actual state, None where there is none or it cannot be read.

    Raises:
        NotReady: it cannot be read, and processes of the engine run.
    """
    try:
        return state.actual(directory)
    except BadInput as error:
        if spawn.is_running(directory):
            advice = f"the engine runs: stop it with `harness engine down {directory.name}`"
            raise NotReady(f"{error}; {advice}") from None
        return None


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
    with _locked(directory), keys.deleted(directory):
        try:
            before = state.actual(directory)
        except BadInput:
            before = dataclasses.replace(_never_started(name), reason="its engine.json could not be read")
            had_processes = spawn.terminate(directory)
            state.write(directory, before)
            return dataclasses.replace(before, changed=had_processes)
        if before is None:
            return _never_started(name)
        had_processes = spawn.terminate(directory)
        after = state.actual(directory) or before
        if after.running:
            after = dataclasses.replace(after, state="stopped", progress="stopped", reason="stop requested")
            state.write(directory, dataclasses.replace(after, stopped_unix=clock.unix()))
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
