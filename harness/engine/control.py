"""Starting, looking at and stopping engines. An engine outlives the command that starts it."""

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
from harness.engine.config import EngineConfig, refuse_other
from harness.engine.processes import ENGINE_MARK, ENGINE_VARIABLES, SUPERVISOR_MARK
from harness.engine.state import EngineState
from harness.errors import BadInput, NotReady, RunFailed, Stopped
from harness.node import probe

Report = Callable[[str], None]
REPEAT_S = 10.0
STOP_TIMEOUT_S = 40.0
STRAY_GRACE_S = 3.0
_LOCK_TIMEOUT_S = 90.0
_BIRTH_TIMEOUT_S = 30.0
_POLL_S = 0.1
_SERVED_S = 1.0
# Kept so that ended supervisors are reaped by whoever started them.
_children: list[subprocess.Popen[bytes]] = []


def up(
    root: Path,
    config: EngineConfig,
    *,
    wait: bool = True,
    on_progress: Report = lambda line: None,
    die_with_parent: bool = False,
) -> EngineState:
    """Have the engine `config` running under `root`; `changed` is false when it already was.

    With `wait` it returns a ready engine, and `on_progress` is given a line at every step and every 10 s. With
    `die_with_parent` a newly started engine ends when the calling process does. One that this call started is taken
    down again when the call is interrupted (Ctrl-C, or a signal under `linux.stoppable`).

    Raises:
        BadInput: a wrong setting, an incomplete model, or another configuration under a running name.
        NotReady: the engine's package, the port, the disk or the endpoint is not there.
        RunFailed: the engine did not become ready, or is not what was asked for.
    """
    directory = _directory(root, config.name)
    changed = False
    try:
        with _locked(directory):
            current = state.actual(directory)
            if current is not None and current.running:
                refuse_other(config, current.state, current.config)
            else:
                changed = True
                current = (
                    state.write(directory, _agreed(config))
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
    """Have the engine running for as long as this call lasts, as a container's only command does.

    `on_state` is given its state about once a second. Ends by `linux.Stopped`, which takes the engine down.

    Raises:
        BadInput, NotReady: as `up`.
        RunFailed: the engine did not become ready, died, or was taken down by another command.
    """
    try:
        current = up(root, config, wait=False, die_with_parent=True)
        while current.running:
            on_state(current)
            time.sleep(_SERVED_S)
            current = status(root, config.name)
    finally:
        down(root, config.name)
    on_state(current)
    raise RunFailed(f"engine {config.name} {current.state}: {current.reason}; log: {current.log}")


def check(root: Path, config: EngineConfig) -> bool:
    """Whether `up` would start or attach something; finds what would keep it from that, and touches nothing.

    Raises:
        BadInput: a wrong setting, an incomplete model, another configuration under a running name, or an endpoint that
            is not what was asked for.
        NotReady: the engine's package, the port, the disk or the endpoint is not there.
    """
    directory = _directory(root, config.name)
    current = state.actual(directory)
    if current is not None and current.running:
        refuse_other(config, current.state, current.config)
        return False
    if config.kind == "endpoint":
        _agreed(config)
    else:
        there = next(folder for folder in (directory, *directory.parents) if folder.exists())
        preflight.check(there, config, launch.build_for(config))
    return True


def status(root: Path, name: str) -> EngineState:
    """The engine's state now: a dead supervisor makes it failed, an endpoint is asked for its health.

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
            reason = f"nothing answers at {current.url}: {getattr(error, 'reason', error)}"
        if reason is not None:
            return dataclasses.replace(current, state="failed", reason=reason)
    return current


def observe(name: str, url: str, model: Path) -> EngineState:
    """What a server at `url` shows of itself; nothing is stored, started or refused.

    Raises:
        NotReady: nothing answers.
        BadInput: what answers is no OpenAI-compatible server.
    """
    return _seen(EngineConfig(name=name, kind="endpoint", url=url, model=model))


def names(root: Path) -> list[str]:
    """The engines ever started under `root`."""
    return sorted(path.parent.name for path in (root / "engines").glob("*/engine.json"))


def down(root: Path, name: str) -> EngineState:
    """End the engine with all its processes; `changed` is false when none was running.

    A failed engine keeps its state and reason. A name never started is a stopped engine.

    Raises:
        RunFailed: processes that cannot be ended are left.
    """
    directory = _directory(root, name)
    if not directory.exists():
        return _never_started(name)
    with _locked(directory):
        before = state.actual(directory)
        if before is None:
            return _never_started(name)
        found = _end_everything(directory)
        after = state.actual(directory) or before
        if after.running:
            after = dataclasses.replace(after, state="stopped", progress="stopped", reason="asked to stop")
            state.write(directory, dataclasses.replace(after, stopped_unix=time.time()))
        elif after != state.stored(directory):
            state.write(directory, after)
        return dataclasses.replace(after, changed=before.running or found)


def _never_started(name: str) -> EngineState:
    config = EngineConfig(name=name, kind="endpoint", model=Path("/"), url="http://localhost")
    never = state.first_state(config, log="")
    return dataclasses.replace(never, state="stopped", reason="was never started", config={}, url="", model="")


def _directory(root: Path, name: str) -> Path:
    if not name or "/" in name or name.startswith("."):
        raise BadInput(f"engine name {name!r} may not be empty, hold a slash or begin with a dot; choose another")
    return root.expanduser().absolute() / "engines" / name


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """One command at a time per engine; waits for the other one, but not for ever."""
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


def _agreed(config: EngineConfig) -> EngineState:
    """What the endpoint shows of itself, refused when it is not what was asked for."""
    seen = _seen(config)
    if wrong := verify.conflicts(config, seen.verified):
        raise BadInput(f"endpoint {config.name} at {config.base_url}: {'; '.join(wrong)}")
    return seen


def _seen(config: EngineConfig) -> EngineState:
    shown = verify.shown_by(config.base_url)
    return dataclasses.replace(
        state.first_state(config, log=""),
        state="ready",
        progress="ready",
        ready_unix=time.time(),
        version={"vllm": shown["vllm"]} if shown["vllm"] else {},
        verified=shown,
        unverified=verify.unverified(config, shown),
    )


def _start(directory: Path, config: EngineConfig, die_with_parent: bool) -> EngineState:
    _end_everything(directory)
    build = launch.build_for(config)
    preflight.check(directory, config, build)
    first = state.first_state(
        config,
        log=str(directory / "engine.log"),
        command=launch.command(config, build),
        environment=launch.environment(config, build, directory),
        version=build.document(),
        progress="starting the supervisor",
    )
    log = Path(first.log)
    if log.exists():
        log.replace(log.with_name("engine.previous.log"))
    (directory / "telemetry.csv").unlink(missing_ok=True)
    state.write(directory, first)
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
    return _await_birth(directory, first, supervisor)


def _await_birth(directory: Path, first: EngineState, supervisor: subprocess.Popen[bytes]) -> EngineState:
    """Wait until the supervisor has put its process id into engine.json."""
    deadline = time.monotonic() + _BIRTH_TIMEOUT_S
    while time.monotonic() < deadline:
        current = state.stored(directory)
        if current is not None and current.pid is not None:
            return current
        if supervisor.poll() is not None:
            break
        time.sleep(_POLL_S / 2)
    supervisor.kill()
    reason = f"the engine's supervisor did not start; its words are in {first.log}"
    state.write(directory, dataclasses.replace(first, state="failed", reason=reason))
    raise RunFailed(reason)


def _await_ready(directory: Path, config: EngineConfig, on_progress: Report) -> EngineState:
    began = told = time.monotonic()
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
        if current.progress != step or now - told >= REPEAT_S:
            step, told = current.progress, now
            on_progress(f"engine {config.name}: {step} ({now - began:.0f} s)")
        time.sleep(_POLL_S)


def _end_everything(directory: Path) -> bool:
    """End supervisor, guard and server, and whatever they left; returns whether there was anything.

    Raises:
        RunFailed: some cannot be ended.
    """
    marks = {SUPERVISOR_MARK: STOP_TIMEOUT_S, ENGINE_MARK: STRAY_GRACE_S}
    found = any(processes.marked(mark, directory) for mark in marks)
    left = set[int]()
    # The supervisors first: they end the rest in good order.
    for mark, grace_s in marks.items():
        left |= processes.end(functools.partial(processes.marked, mark, directory), grace_s, _reap)
    if left:
        raise RunFailed(f"processes of {directory} that cannot be ended: {sorted(left)}; end them by hand")
    return found


def _reap() -> None:
    _children[:] = [child for child in _children if child.poll() is None]
