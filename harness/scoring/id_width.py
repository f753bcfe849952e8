"""How wide the token ids of an accuracy log are: this project writes int32, some implementations int64."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import BadInput

NARROW, WIDE = "<i4", "<i8"
_SURE = 8
"""So many ids with an empty upper half are no chance."""


def id_type(log: Path, entries: Sequence[Any]) -> str:
    """NARROW or WIDE for the ids in the hex text `data` of a log's entries; broken entries say nothing.

    LoadGen's token_count decides where it agrees with the length of every answer, else the pattern: an int64 id below
    2**31 is an int32 word and a word of zeros.

    Raises:
        BadInput: the entries are of both kinds, or too few to tell.
    """
    answers = [(raw, entry.get("token_count")) for entry in entries if (raw := _raw(entry))]
    for kind in (NARROW, WIDE):
        if answers and all(
            type(count) is int and len(raw) == np.dtype(kind).itemsize * count for raw, count in answers
        ):
            return kind
    wide = [_looks_wide(raw) for raw, _count in answers]
    if not any(wide) or sum(wide) < len(wide) / 2:
        return NARROW
    if not all(wide):
        raise BadInput(
            f"accuracy log {log}: {sum(wide)} of {len(wide)} answers look like int64 token ids, the others do not; "
            "write all of them as int32 (LoadGen's sample response of a numpy array of dtype int32), and run it again"
        )
    if sum(len(raw) for raw, _count in answers) < _SURE * 8:
        raise BadInput(
            f"accuracy log {log} is too short to tell whether its token ids are int32 or int64; give a log with "
            "token_count in each entry, as LoadGen writes it when a response names its number of tokens"
        )
    return WIDE


def _raw(entry: Any) -> bytes:
    try:
        return bytes.fromhex(entry["data"])
    except (KeyError, TypeError, ValueError):
        return b""


def _looks_wide(raw: bytes) -> bool:
    if len(raw) % 8:
        return False
    words = np.frombuffer(raw, NARROW)
    # An engine that answers id 0 only, as broken ones do, writes zeros alone.
    return bool(words[::2].any()) and not words[1::2].any()
