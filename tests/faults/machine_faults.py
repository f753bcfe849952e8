"""Faults of the machine under a run: its memory, its limits."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.faults.ending import Ending, Fault
from tests.faults.run_faults import OOM, died, refused
from tests.faults.runs import OneRun, Run

_CGROUPS = Path("/sys/fs/cgroup")
_MEMORY = _CGROUPS / "memory" if (_CGROUPS / "memory").is_dir() else _CGROUPS
_LIMIT = "memory.limit_in_bytes" if _MEMORY.name == "memory" else "memory.max"


@dataclass(frozen=True, kw_only=True)
class RunInGroup(OneRun):
    """A run for which there is a control group that allows hardly any memory."""

    def play(self, folder: Path) -> Ending:
        """As OneRun; the group is gone afterwards."""
        with memory_group(folder):
            return super().play(folder)


def _group(folder: Path) -> Path:
    return _MEMORY / f"fault-{folder.name}-{os.getpid()}"


@contextmanager
def memory_group(folder: Path) -> Iterator[None]:
    """A control group with a page."""
    if _MEMORY == _CGROUPS:
        (_CGROUPS / "cgroup.subtree_control").write_text("+memory")
    group = _group(folder)
    group.mkdir()
    try:
        (group / _LIMIT).write_text("4096")
        yield
    finally:
        group.rmdir()


def _limit_memory(run: Run) -> None:
    """What the worker needs from now on is more than it may have."""
    (_group(run.folder) / "cgroup.procs").write_text(str(run.worker))


MACHINE_FAULTS = [
    Fault(
        "open_files",
        "a process may open fewer files than a run has requests in flight",
        "refuses to start and names the limit",
        OneRun(prefix=("prlimit", "--nofile=64:64")),
        refused(3, r"a process may have 64 files open here, .* \(`ulimit -n \d+`, or LimitNOFILE=\d+ of the unit"),
    ),
    Fault(
        "memory_limit",
        "the kernel kills the process that runs LoadGen, because memory is at its limit",
        "ends the run and names the signal",
        RunInGroup(inject=_limit_memory, after=20),
        died(OOM, within_s=10),
        root=True,
    ),
]
