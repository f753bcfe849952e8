"""LoadGen's detail log, `mlperf_log_detail.txt`: what it was told, what it did and what went wrong."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from harness.errors import BadInput

_PREFIX = ":::MLLOG "


def read(path: Path) -> tuple[dict[str, Any], Counter[str]]:
    """The last value of each key, and how often each error was logged.

    Raises:
        BadInput: the file is missing, unreadable, empty or damaged.
    """
    values: dict[str, Any] = {}
    errors: Counter[str] = Counter()
    for number, line in enumerate(text(path).splitlines(), 1):
        if not line.startswith(_PREFIX):
            continue
        try:
            entry = json.loads(line.removeprefix(_PREFIX))
            key, value, is_error = entry["key"], entry["value"], entry["metadata"]["is_error"]
        except (ValueError, KeyError, TypeError):
            raise BadInput(
                f"{path} line {number} is cut short or damaged; fetch it again, or run again with room on the disk"
            ) from None
        if is_error:
            errors[str(value)] += 1
        else:
            values[key] = value
    if not values:
        raise BadInput(f"{path} holds no LoadGen entries; LoadGen did not finish; run again")
    return values, errors


def text(path: Path) -> str:
    """One of LoadGen's text files.

    Raises:
        BadInput: it is missing or unreadable.
    """
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        raise BadInput(f"{path} does not exist; LoadGen did not run there or its files were not fetched") from None
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from None
