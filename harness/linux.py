"""Linux processes: their ids, signals, and what happens when a parent dies. `state_file` reads a single one."""

import ctypes
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from harness.errors import NotReady, Stopped

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)


def pids() -> list[int]:
    """The ids of all processes."""
    return [int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit()]


def check_open_files(needed: int, purpose: str) -> None:
    """Raise NotReady when a process may not have `needed` files and connections open, which `purpose` needs."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < needed:
        raise NotReady(
            f"a process may have {most:,} files open here, and {purpose} needs {needed:,}; raise the limit "
            f"(`ulimit -n {needed}`, or LimitNOFILE={needed} of the unit that starts it), or lower max_in_flight"
        )


def describe_exit(code: int) -> str:
    """An exit code (negative: the signal) in words."""
    if code >= 0:
        return f"exited with status {code}"
    name = signal.Signals(-code).name
    hint = " (by hand, or by the kernel's OOM killer: see `dmesg | grep -i oom`)" if name == "SIGKILL" else ""
    return f"was killed by {name}{hint}"


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


class _Held:
    """A handler that keeps the first signal for `stoppable`; once that has raised it, later ones are ignored."""

    number: int | None = None
    raised = False

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        self.number = None if self.raised else number


@contextmanager
def stoppable() -> Iterator[None]:
    """Raise `Stopped` at the first SIGTERM, SIGINT or SIGHUP; later ones are ignored, so that cleanup can finish.

    A signal that the process already ignores (under `nohup`) stays ignored. One that `stops_held` has kept is raised at
    once. For the main thread only.
    """

    def stop(number: int, _frame: FrameType | None) -> None:
        for caught, handler in before.items():
            signal.signal(caught, signal.SIG_IGN)
            if isinstance(handler, _Held):
                handler.number, handler.raised = None, True
        raise Stopped(f"stopped by {signal.Signals(number).name}")

    before = _handlers()
    try:
        for number in before:
            signal.signal(number, stop)
        for handler in before.values():
            if isinstance(handler, _Held) and handler.number is not None:
                stop(handler.number, None)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def stops_held() -> Iterator[None]:
    """Keep SIGTERM, SIGINT and SIGHUP for `stoppable` inside, else until this ends. For the main thread only."""
    held, before = _Held(), _handlers()
    for number in before:
        signal.signal(number, held)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if held.number is not None:
            signal.raise_signal(held.number)


def _handlers() -> dict[int, Any]:
    """The handlers of the signals that ask a process to stop, but for those that it ignores."""
    handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    return {number: handler for number, handler in handlers.items() if handler is not signal.SIG_IGN}


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}, {value})")
