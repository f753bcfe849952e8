"""Linux processes: what /proc says about them, signals, and what happens when a parent dies."""

import ctypes
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from harness.errors import Stopped

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Process:
    """A live process: the ids of its parent and its session."""

    parent: int
    session: int


def process(pid: int) -> Process | None:
    """The live process with this id; None when there is none. Zombies do not count."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return Process(int(fields[1]), int(fields[3])) if fields and fields[0] not in b"ZX" else None


def pids() -> list[int]:
    """The ids of all processes."""
    return [int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit()]


def adopt_orphans() -> None:
    """Make this process the parent of every descendant whose own parent dies (subreaper)."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def signal_on_parent_death(number: signal.Signals) -> None:
    """Have the kernel send signal `number` to this process when its parent dies; survives exec, not fork."""
    _prctl(_PR_SET_PDEATHSIG, number)


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when `parent`, which started it, dies; exit now if it is already dead."""
    signal_on_parent_death(signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


@contextmanager
def stoppable() -> Iterator[None]:
    """Raise `Stopped` at the first SIGTERM, SIGINT or SIGHUP; later ones are ignored, so that cleanup can finish.

    A signal that the process already ignores (under `nohup`) stays ignored. For the main thread only.
    """

    def stop(number: int, _frame: FrameType | None) -> None:
        for caught in before:
            signal.signal(caught, signal.SIG_IGN)
        raise Stopped(f"stopped by {signal.Signals(number).name}")

    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
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
