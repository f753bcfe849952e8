"""Runs on a small disk of their own, which only root can mount, and the faults that a disk has."""

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.faults.ending import Ending
from tests.faults.runs import OneRun, Run


@dataclass(frozen=True, kw_only=True)
class RunOnDisk(OneRun):
    """A run whose root is a file system of this size in memory."""

    size: str = "3g"
    afterwards: Callable[[Run], object] = lambda run: mend(run.root)

    def play(self, folder: Path) -> Ending:
        """As OneRun; the disk is gone afterwards."""
        (folder / "root").mkdir()
        with mounted(folder / "root", self.size):
            return super().play(folder)


@contextmanager
def mounted(place: Path, size: str) -> Iterator[None]:
    """A file system in memory at an empty folder."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def fill(place: Path) -> None:
    """Leave no byte on a file system in memory, which shrinks before, so that little memory is filled."""
    disk = os.statvfs(place)
    size = (disk.f_blocks - disk.f_bfree) * disk.f_frsize + (1 << 20)
    subprocess.run(["mount", "-o", f"remount,size={size}", place], check=True)
    with contextlib.suppress(OSError), (place / "filler").open("wb", buffering=0) as stream:
        while stream.write(bytes(4096)):
            pass


def make_read_only(place: Path) -> None:
    """Let nobody write to a file system."""
    subprocess.run(["mount", "-o", "remount,ro", place], check=True)


def mend(place: Path) -> None:
    """Make a file system in memory large and writable again."""
    subprocess.run(["mount", "-o", "remount,rw,size=3g", place], check=True)
    (place / "filler").unlink(missing_ok=True)
