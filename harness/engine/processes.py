"""Find and terminate an engine's processes, also those whose parents have died."""

import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from harness import linux, state_file

ENGINE_MARK = "HARNESS_ENGINE_DIR"
# Passes the values of EngineConfig.env to the supervisor as JSON; no file has them, since they may be secrets.
ENGINE_VARIABLES = "HARNESS_ENGINE_VARIABLES"
SUPERVISOR_MARK = "HARNESS_SUPERVISOR_OF"
OWN_VARIABLES = (SUPERVISOR_MARK, ENGINE_VARIABLES)
"""Those that are for the supervisor and not for its server."""


def reap() -> list[tuple[int, int]]:
    """Reap every child that has ended, adopted orphans included; pairs of pid and exit code (negative: the signal)."""
    exits: list[tuple[int, int]] = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return exits
        if pid == 0:
            return exits
        exits.append((pid, os.waitstatus_to_exitcode(status)))


def catch_signals(handler: Callable[[int, FrameType | None], None]) -> socket.socket:
    """Call `handler` on SIGTERM, SIGINT and SIGHUP; returns a socket that becomes readable at each of them."""
    reader, writer = socket.socketpair()
    reader.setblocking(False)
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.detach(), warn_on_full_buffer=False)
    for number in linux.STOP_SIGNALS:
        signal.signal(number, handler)
    return reader


def has_mark(pid: int, mark: str, directory: Path) -> bool:
    """Whether a live process has the variable `mark` set to this directory; false for zombies."""
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
    return f"{mark}={directory}".encode() in variables


def marked(mark: str, directory: Path) -> set[int]:
    """The live processes that have `mark` set to this directory, without the calling one."""
    return {pid for pid in linux.pids() if has_mark(pid, mark, directory)} - {os.getpid()}


def engine_processes(directory: Path, *, session: int | None, ancestor: int) -> set[int]:
    """The engine's live processes: those with its mark, those of its `session`, and all descendants of `ancestor`.

    Session and descent also find processes that dropped their environment.
    """
    table = {pid: entry for pid in linux.pids() if (entry := state_file.read_process(pid)) is not None}
    members = {pid for pid, entry in table.items() if entry.session == session} if session is not None else set()
    family = {ancestor}
    while children := {pid for pid, entry in table.items() if entry.parent in family} - family:
        family |= children
    return (members | family | marked(ENGINE_MARK, directory)) - {ancestor, os.getpid()}


def terminate(find: Callable[[], set[int]], grace_s: float, reap: Callable[[], object]) -> set[int]:
    """Terminate every process that `find` reports, with SIGTERM, after `grace_s` with SIGKILL; returns the survivors.

    Python's resource trackers are killed last: they remove the shared memory that killed processes leave behind.
    """
    for number, wait_s, keep_trackers in (
        (signal.SIGTERM, grace_s, False),
        (signal.SIGKILL, 2.0, True),
        (signal.SIGKILL, 5.0, False),
    ):
        stop = time.monotonic() + wait_s
        signalled: set[int] = set()
        while alive := find():
            for pid in alive if number == signal.SIGKILL else alive - signalled:
                if not (keep_trackers and _is_tracker(pid)):
                    _send(pid, number)
            signalled |= alive
            if time.monotonic() >= stop:
                break
            time.sleep(0.05)
            reap()
        if not alive:
            return set()
    return alive


def _is_tracker(pid: int) -> bool:
    try:
        return b"resource_tracker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return
