"""What comes of a fault: what must, what did, and the comparison of the two."""

import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from harness.engine import processes
from tests.engines import until

MARK = "FAULT_FOLDER"
"""Environment variable of everything that a scene starts, except its fake engines."""
BUSY_S = 30.0
"""What a busy machine is given on top of each bound."""


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What must come of a fault.

    `exit_code` is that of the command or playbook in which a person sees the fault. `words` are regular expressions of
    what is printed or recorded. `level` is the verdict's (None where nothing is judged), `broken` the rules that make
    it INVALID; no other may where it is not. `within_s` bounds the time until it is noticed, None where there is
    nothing to notice before the verdict. `complete`: every sample was answered. `lost` says in words what is lost.
    """

    exit_code: int
    words: tuple[str, ...] = ()
    level: str | None = None
    broken: tuple[str, ...] = ()
    within_s: float | None = None
    complete: bool = False
    lost: str = "nothing"


@dataclass(frozen=True, kw_only=True)
class Ending:
    """What came of it. `noticed_s` is how long it took to notice the fault, None where that was never seen; `problems`
    are samples that were lost, invented or differ between journal and LoadGen's log; `left` the processes that still
    run; `next_exit_code` that of the next run in the same place."""

    exit_code: int
    output: str
    noticed_s: float | None
    level: str | None = None
    broken: frozenset[str] = frozenset()
    complete: bool = False
    problems: Sequence[str] = ()
    left: frozenset[int] = frozenset()
    next_exit_code: int = 0

    def check(self, expected: Expected) -> None:
        """Fail unless this is what was expected."""
        shown = self.output[-4000:]
        assert self.exit_code == expected.exit_code, shown
        printed = " ".join(self.output.split())
        for words in expected.words:
            assert re.search(words, printed), f"{words!r} is not in: {shown}"
        assert "Traceback" not in self.output, shown
        assert self.level == expected.level, (self.broken, shown)
        assert self.broken >= set(expected.broken)
        assert expected.level == "INVALID" or not self.broken, self.broken
        assert self.complete or not expected.complete
        assert not self.problems, self.problems
        assert self.left == frozenset()
        if expected.within_s is not None:
            assert self.noticed_s is not None, "the fault was never noticed"
            assert self.noticed_s < expected.within_s + BUSY_S, self.noticed_s
        assert self.next_exit_code == 0


class Notice:
    """How long a fault takes to be noticed, where its injection waits for that: `seen_s`, else None."""

    seen_s: float | None = None

    @contextmanager
    def until_noticed(self) -> Iterator[None]:
        """A block that begins with the fault, or with the command that must see it, and ends when it is noticed."""
        began_s = time.monotonic()
        yield
        self.seen_s = time.monotonic() - began_s


class Scene(Protocol):
    """Where a fault happens: it starts something, makes the fault happen, and says what came of it."""

    def play(self, folder: Path) -> Ending:
        """Do all that below an empty folder; nothing is left running."""
        ...


@dataclass(frozen=True)
class Fault:
    """A row of the table and a test: the fault, what the product does about it, where it happens, what must come of it.

    `long`: not in `make test`. `root`: only root can make it happen.
    """

    name: str
    what: str
    response: str
    scene: Scene
    expected: Expected
    long: bool = False
    root: bool = field(default=False)


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Environment of a scene's processes, by which they are found again."""
    return {**os.environ, MARK: str(folder), **more}


def left_running(folder: Path) -> frozenset[int]:
    """The scene's processes that have not ended after a while."""
    until(lambda: not processes.marked(MARK, folder), BUSY_S)
    return frozenset(processes.marked(MARK, folder))
