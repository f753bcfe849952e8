"""LoadGen's logs: `mlperf_log_detail.txt`, its settings, results and errors, and `mlperf_log_summary.txt`."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from harness.errors import BadInput

_PREFIX = ":::MLLOG "
_REPEATED = ("generic_message",)
_TOO_MUCH = 1 << 64
"""LoadGen's numbers have 64 bits."""


def read(path: Path, *, cut: bool = False) -> tuple[dict[str, Any], Counter[str]]:
    """The value of each key, and how often each error was logged. With `cut` the last line may be incomplete.

    Raises:
        BadInput: the file is missing, unreadable, empty or damaged, or a key that LoadGen writes once is there twice.
    """
    values: dict[str, Any] = {}
    errors: Counter[str] = Counter()
    lines = text(path).splitlines(keepends=True)
    for number, line in enumerate(lines[:-1] if cut and lines and not lines[-1].endswith("\n") else lines, 1):
        if not line.strip():
            continue
        try:
            if not line.startswith(_PREFIX):
                raise ValueError("no entry")
            entry = json.loads(line.removeprefix(_PREFIX))
            key, value, is_error = str(entry["key"]), entry["value"], entry["metadata"]["is_error"]
            if type(value) in (int, float) and abs(value) >= _TOO_MUCH:
                raise ValueError(key)
        except (ValueError, KeyError, TypeError, RecursionError):
            raise BadInput(
                f"{path} line {number} is cut short or damaged; fetch it again, or run again with room on the disk"
            ) from None
        if is_error:
            errors[str(value)] += 1
        elif key in values and key not in _REPEATED:
            raise BadInput(f"{path} line {number}: {key} is there twice, which LoadGen does not write; fetch it again")
        else:
            values[key] = value
    if not values:
        raise BadInput(f"{path} holds no LoadGen entries; LoadGen did not finish; run again")
    return values, errors


def summary(path: Path) -> dict[str, list[str]]:
    """The values of each label of a summary, in order.

    Raises:
        BadInput: it is missing or unreadable.
    """
    values: dict[str, list[str]] = {}
    for label, value in re.findall(r"^ *([^:\n]*?) *: (.*?) *$", text(path), re.MULTILINE):
        values.setdefault(label, []).append(value)
    return values


def text(path: Path) -> str:
    """One of LoadGen's text files.

    Raises:
        BadInput: it is missing, unreadable or not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BadInput(f"{path} does not exist; LoadGen did not run there or its files were not fetched") from None
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise BadInput(f"{path} is damaged: it is not UTF-8; fetch it again") from None
