"""What Linux tells about processes, and what it does when one dies or is told to end."""

import ctypes
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from harness.errors import Stopped

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Process:
    """A live process: its parent and its session."""

    parent: int
    session: int


def process(pid: int) -> Process | None:
    """The live process of this number; None when there is none (a zombie is none)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return Process(int(fields[1]), int(fields[3])) if fields and fields[0] not in b"ZX" else None


def pids() -> list[int]:
    """The number of every process."""
    return [int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit()]


def adopt_orphans() -> None:
    """Make this process the new parent of every descendant whose own parent dies."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def signal_on_parent_death(number: signal.Signals) -> None:
    """Have the kernel send `number` to this process when its parent dies; kept over exec, not over fork."""
    _prctl(_PR_SET_PDEATHSIG, number)


def die_with_parent(parent: int) -> None:
    """End this process as soon as `parent`, which started it, is gone: at once if it is gone already."""
    signal_on_parent_death(signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


@contextmanager
def stoppable() -> Iterator[None]:
    """Turn the first SIGTERM, SIGINT or SIGHUP into `Stopped`; what tidies up after it is not disturbed by another.

    A signal that the process was told to ignore (as `nohup` does) stays ignored. For the main thread.
    """

    def stop(number: int, _frame: FrameType | None) -> None:
        for caught in before:
            signal.signal(caught, signal.SIG_IGN)
        raise Stopped(f"stopped by {signal.Signals(number).name}")

    before = {number: signal.getsignal(number) for number in STOPPING}
    before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}, {value})")
