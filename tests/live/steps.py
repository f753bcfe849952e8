"""Steps one after another, each of which may fail without ending the others."""

import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import click

from harness.errors import BadInput, HarnessError, NotReady, Stopped
from harness.files import read_json, write_json

GOOD, FAILED, LEFT_OUT = "good", "failed", "left out"


class TimeUp(BaseException):
    """The time of a step has passed. No plain exception, so that nothing that the step calls takes it for its own."""


class Steps:
    """What became of each step, in `file`: a later start repeats only steps that are not good.

    `options` are what the figures depend on: a folder that was begun with others is refused. `hours` bounds all steps
    of this start together; None does not.

    Raises:
        BadInput: `file` cannot be read, or holds steps of other options.
    """

    def __init__(self, file: Path, options: dict[str, Any], hours: float | None) -> None:
        self._file = file
        self._end = time.monotonic() + hours * 3600 if hours else math.inf
        record = read_json(file, "record of steps") if file.exists() else {"options": options, "steps": {}}
        if record["options"] != options:
            changed = ", ".join(f"{name} = {value}" for name, value in record["options"].items())
            raise BadInput(f"{file.parent} was begun with {changed}: give the same options, or another --folder")
        self._options = options
        self.records: dict[str, dict[str, Any]] = record["steps"]
        self._write()

    @property
    def left_s(self) -> float:
        """Seconds that are left of `hours`; infinite without a limit."""
        return self._end - time.monotonic()

    def run(self, name: str, work: Callable[[], str], *, needs: Sequence[str] = (), share: float = 1.0) -> None:
        """Do one step: `work` returns a sentence about what it did, and raises a HarnessError where it fails.

        It is left out where a step that it `needs` is not good, and ended after `share` of the time that is left.
        """
        limit_s = self.left_s * share
        missing = [need for need in needs if not self._is_good(need)]
        if self._is_good(name):
            click.echo(f"== {name}: done before")
        elif missing:
            self._note(name, LEFT_OUT, f"it needs {' and '.join(missing)}", 0.0)
        elif limit_s <= 0:
            self._note(name, LEFT_OUT, "the hours were used up; the same command goes on", 0.0)
        else:
            self._do(name, work, limit_s)

    def _do(self, name: str, work: Callable[[], str], limit_s: float) -> None:
        click.echo(f"== {name}")
        started = time.monotonic()
        try:
            with _within(limit_s):
                state, sentence = GOOD, work()
        except TimeUp:
            state, sentence = FAILED, f"it was ended after {limit_s:.0f} s, its part of --hours"
        except Stopped as error:
            self._note(name, FAILED, str(error), time.monotonic() - started)
            raise
        except (HarnessError, OSError) as error:
            state, sentence = FAILED, str(error)
        self._note(name, state, sentence, time.monotonic() - started)

    def _is_good(self, name: str) -> bool:
        return self.records.get(name, {}).get("state") == GOOD

    def _note(self, name: str, state: str, sentence: str, seconds: float) -> None:
        record = {"state": state, "sentence": sentence, "seconds": round(seconds, 1), "unix": time.time()}
        self.records[name] = record
        self._write()
        click.echo(f"== {name}: {state.upper()}: {sentence}")

    def _write(self) -> None:
        try:
            write_json(self._file, {"options": self._options, "steps": self.records})
        except OSError as error:
            raise NotReady(f"{self._file} cannot be written: {error.strerror}; choose another --folder") from None


@contextmanager
def _within(seconds: float) -> Iterator[None]:
    """Raise TimeUp in the main thread after `seconds`; infinitely many are no limit."""

    def up(number: int, frame: FrameType | None) -> None:
        raise TimeUp

    before = signal.signal(signal.SIGALRM, up)
    signal.setitimer(signal.ITIMER_REAL, 0 if math.isinf(seconds) else seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
