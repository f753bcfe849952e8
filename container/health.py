"""Health of a container of the node image, by what its first process is: an engine answers, a run's heart beats.

Other commands of `harness` are healthy while they run. Needs nothing but Python's own library.
"""

import json
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

# A run writes its status every second; a disk may hold it up for a while.
SILENCE_S = 60.0
_TIMEOUT_S = 5.0


def ill(words: list[str]) -> str | None:
    """What is wrong with the command `words`, None when nothing is."""
    if "serve" in words:
        config = _read(words, "--config")
        return _unanswered(f"http://127.0.0.1:{config.get('port') or 8000}/health")
    if "start" in words:
        spec = _read(words, "--spec")
        return _silent(Path(_option(words, "--root")) / "runs" / spec["run_id"] / "status.json")
    return None


def _option(words: list[str], name: str) -> str:
    return words[words.index(name) + 1]


def _read(words: list[str], name: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(Path(_option(words, name)).read_bytes())
    return values


def _unanswered(url: str) -> str | None:
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S):
            return None
    except OSError as error:
        return f"{url}: {error}"


def _silent(status: Path) -> str | None:
    if not status.exists():
        return f"{status} is not there yet"
    age_s = time.time() - status.stat().st_mtime
    return f"{status} was last written {age_s:.0f} s ago" if age_s > SILENCE_S else None


if __name__ == "__main__":
    reason = ill(Path("/proc/1/cmdline").read_text().split("\0"))
    print(reason or "well")
    sys.exit(reason is not None)
