"""The lines of journal.jsonl: how one is sealed with a checksum, and the one reader that everybody uses."""

import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from harness.errors import BadInput

Line = dict[str, Any]

_SEAL = re.compile(rb',"crc32":"([0-9a-f]{8})"\}$')
_SEAL_BYTES = len(b',"crc32":"00000000"}')
_OF_ALL = frozenset({"mode", "qsl_idx", "engine"})
_TIMES = frozenset({"issued_s", "sent_s", "first_s", "last_s", "issued_unix"})
_OF_ANSWERS = _OF_ALL | _TIMES | {"n_tokens"}
_KINDS: dict[str, type | tuple[type, ...]] = {
    "mode": str, "qsl_idx": int, "engine": str, "n_tokens": int, **dict.fromkeys(_TIMES, (int, float))
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Contents:
    """What a journal holds.

    Attributes:
        lines: the whole lines, in order. A line has either `failed` or the times and the number of tokens of an answer.
        cut: whether the last line ends in the middle, as it does where its writer was killed.
        damaged: line numbers, from 1, of all other lines that are no journal line or whose checksum is wrong.
        rejected: the bytes of the cut and the damaged lines.
    """

    lines: tuple[Line, ...]
    cut: bool
    damaged: tuple[int, ...]
    rejected: tuple[bytes, ...]

    @property
    def answers(self) -> tuple[Line, ...]:
        """The lines of finished samples."""
        return tuple(line for line in self.lines if "failed" not in line)

    @property
    def problem(self) -> str | None:
        """What is wrong with the journal, in words; None for nothing."""
        parts = []
        if self.damaged:
            some = ", ".join(map(str, self.damaged[:5])) + (", …" if len(self.damaged) > 5 else "")
            parts.append(f"{len(self.damaged)} damaged lines, which were left out (line {some})")
        if self.cut:
            parts.append("a last line that is cut, as by a full disk or a killed process")
        return " and ".join(parts) or None


def seal(line: Mapping[str, Any]) -> bytes:
    """One line of a journal: compact JSON, of which the last key `crc32` is the CRC-32 of all bytes before that key."""
    content = orjson.dumps(line)[:-1]
    return b'%b,"crc32":"%08x"}\n' % (content, zlib.crc32(content))


def read(path: Path) -> Contents:
    """The whole lines of a journal, and what else is in it.

    Journals of earlier versions have no checksums: where no line has one, lines are taken as they are.

    Raises:
        BadInput: the file is missing or cannot be read.
    """
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        raise BadInput(f"journal {path} does not exist; fetch it again from its node") from None
    except OSError as error:
        raise BadInput(f"journal {path} cannot be read: {error.strerror}; check its permissions") from None
    *whole, rest = text.split(b"\n")
    sealed = any(_SEAL.search(line) for line in (*whole, rest))
    parsed = [_parsed(raw, sealed) for raw in whole]
    last = _parsed(rest, sealed)
    rejected = [raw for raw, line in zip((*whole, rest), (*parsed, last), strict=True) if raw and line is None]
    return Contents(
        lines=tuple(line for line in (*parsed, last) if line is not None),
        cut=bool(rest) and last is None,
        damaged=tuple(number for number, line in enumerate(parsed, 1) if line is None),
        rejected=tuple(rejected),
    )


def _parsed(raw: bytes, sealed: bool) -> Line | None:
    """The content of a line, without its checksum; None when it is damaged."""
    if sealed:
        seal_found = _SEAL.search(raw)
        if not seal_found or int(seal_found[1], 16) != zlib.crc32(raw[:-_SEAL_BYTES]):
            return None
    try:
        line = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(line, dict) or not line.keys() >= (_OF_ALL if "failed" in line else _OF_ANSWERS):
        return None
    if not sealed and not all(isinstance(line[name], kind) for name, kind in _KINDS.items() if name in line):
        return None
    line.pop("crc32", None)
    return line
