"""One LoadGen's journals as a table, a row per finished sample."""

import math
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness import journal
from harness.errors import BadInput

Table = NDArray[np.void]
"""A table is a structured array: a column by its name, rows by a mask or an order."""

LINES = np.dtype(
    [
        ("mode", "O"), ("qsl_idx", "i8"), ("engine", "O"), ("issued_s", "f8"), ("sent_s", "f8"), ("first_s", "f8"),
        ("last_s", "f8"), ("issued_unix", "f8"), ("first_logged_s", "f8"), ("last_logged_s", "f8"), ("n_input", "i8"),
        ("n_tokens", "i8"), ("ids", "O"), ("moved", "i8"),
    ]
)  # fmt: skip
MODES: tuple[Literal["performance", "accuracy"], ...] = ("performance", "accuracy")
_KNOWN = (*MODES, "compliance")
_STAMPS = ("issued_s", "sent_s", "first_s", "last_s", "issued_unix")
_MOST = 1 << 31


class FailedLine(NamedTuple):
    """A sample that failed for good."""

    mode: str
    qsl_idx: int
    reason: str


@dataclass(frozen=True, slots=True)
class Journal:
    """The lines of the judged performance run and of the accuracy run.

    `rows` has the columns `LINES`, in the order of the files: seconds since the start of the run's part, `issued_unix`
    in unix seconds, `first_logged_s` and `last_logged_s` when LoadGen was told of the first token and of the answer
    (the times of these themselves where they are not recorded), `n_input` tokens of the prompt (0: not recorded), `ids`
    an answer's token ids as little-endian int32, `moved` how many engines were lost meanwhile.
    """

    rows: Table
    failed: tuple[FailedLine, ...] = ()

    def of(self, mode: str) -> Table:
        """The rows of one mode."""
        rows: Table = self.rows[self.rows["mode"] == mode]
        return rows


def read(files: Iterable[Path]) -> tuple[Journal, tuple[str, ...]]:
    """The journals of a run that exist, one after the other, and what is wrong with them."""
    rows: list[tuple[Any, ...]] = []
    failed: list[FailedLine] = []
    problems: list[str] = []
    for path in files:
        if not path.exists():
            continue
        try:
            contents = journal.read(path)
        except BadInput as error:
            problems.append(str(error))
            continue
        if contents.problem:
            problems.append(f"{path} has {contents.problem}")
        odd = 0
        for content in contents.lines:
            line = _line(content)
            if line is None:
                odd += 1
            elif isinstance(line, FailedLine):
                failed.append(line)
            else:
                rows.append(line)
        if odd:
            problems.append(f"{path} has {odd} lines that are not those of a sample; fetch it again from its node")
    return Journal(np.array(rows, LINES), tuple(failed)), tuple(problems)


def _line(entry: Any) -> tuple[Any, ...] | FailedLine | None:
    """A line's columns; None where one is missing or of another kind."""
    try:
        mode, index, engine = entry["mode"], entry["qsl_idx"], entry["engine"]
        if mode not in _KNOWN or not _is_count(index) or type(engine) is not str:
            return None
        if "failed" in entry:
            return FailedLine(mode, index, str(entry["failed"]))
        stamps = [entry[name] for name in _STAMPS]
        stamps += [entry.get("first_logged_s", entry["first_s"]), entry.get("last_logged_s", entry["last_s"])]
        ids = array("i", entry["token_ids"])
        counts = entry["n_tokens"], entry.get("moved", 0), entry.get("n_input", 0)
        if not all(map(_is_count, counts)) or not all(map(_is_finite, stamps)):
            return None
        return mode, index, engine, *stamps, counts[2], counts[0], ids.tobytes(), counts[1]
    except (KeyError, TypeError, OverflowError):
        return None


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < _MOST


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
