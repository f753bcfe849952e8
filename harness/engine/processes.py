"""Finding and ending an engine's processes, whatever became of those who started them."""

import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from harness import linux

ENGINE_MARK = "HARNESS_ENGINE_DIR"
# Carries the values of EngineConfig.env to the supervisor as JSON: they may be secrets, so no file holds them.
ENGINE_VARIABLES = "HARNESS_ENGINE_VARIABLES"
SUPERVISOR_MARK = "HARNESS_SUPERVISOR_OF"


def reap() -> list[tuple[int, int]]:
    """Every child that has ended, orphans taken over included, with its exit code (negative: the signal)."""
    ended: list[tuple[int, int]] = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        ended.append((pid, os.waitstatus_to_exitcode(status)))


def ending(code: int) -> str:
    """An exit code (negative: the signal) in words."""
    if code >= 0:
        return f"ended by itself with exit status {code}"
    name = signal.Signals(-code).name
    hint = " (by hand, or because the machine ran out of memory)" if name == "SIGKILL" else ""
    return f"was killed by {name}{hint}"


def catch_signals(handler: Callable[[int, FrameType | None], None]) -> socket.socket:
    """Call `handler` on SIGTERM, SIGINT and SIGHUP; the socket returned becomes readable then."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    signal.set_wakeup_fd(theirs.detach(), warn_on_full_buffer=False)
    for number in linux.STOPPING:
        signal.signal(number, handler)
    return ours


def carries(pid: int, mark: str, directory: Path) -> bool:
    """Whether a live process has `mark` set to this directory in its environment; false for zombies."""
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
    return f"{mark}={directory}".encode() in variables


def marked(mark: str, directory: Path) -> set[int]:
    """The live processes that carry `mark` for this directory."""
    return {pid for pid in linux.pids() if carries(pid, mark, directory)} - {os.getpid()}


def of_engine(directory: Path, *, session: int | None, below: int) -> set[int]:
    """The engine's live processes, for those who watch it while they live.

    Beside the processes that carry its mark these are all in its `session` and all descendants `below` a process, which
    also finds those that dropped their environment.
    """
    table = {pid: entry for pid in linux.pids() if (entry := linux.process(pid)) is not None}
    found = {pid for pid, entry in table.items() if entry.session == session} if session is not None else set()
    family = {below}
    while grown := {pid for pid, entry in table.items() if entry.parent in family} - family:
        family |= grown
    return (found | family | marked(ENGINE_MARK, directory)) - {below, os.getpid()}


def end(find: Callable[[], set[int]], grace_s: float, reap: Callable[[], object]) -> set[int]:
    """End every process that `find` reports: asked first, then killed; returns those that are still there.

    Python's resource trackers are killed last, as they remove the shared memory that killed processes leave behind.
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
