"""journal.jsonl: one line per finished or failed sample, append-only."""

import errno
import threading
from pathlib import Path
from typing import Any

import orjson

from harness.errors import RunFailed
from harness.load.answer import Answer


class Journal:
    """Collects lines in the thread that receives answers; `flush` writes them, about once a second in another thread.

    Args:
        path: the file, appended to.
        mode: "performance" or "accuracy".
        first_index: global index of the share's first sample.
        start_s, start_unix: start of the run by `perf_counter` and by the wall clock, in seconds.
    """

    def __init__(self, path: Path, mode: str, first_index: int, start_s: float, start_unix: float) -> None:
        self._path, self._mode, self._first_index = path, mode, first_index
        self._start_s, self._start_unix = start_s, start_unix
        self._lines: list[bytes] = []
        self._lock = threading.Lock()
        self._file = _checked(path, lambda: path.open("ab"))

    def done(self, sample: int, engine: str, issued_s: float, answer: Answer) -> None:
        """Record a finished sample; `issued_s` is a `perf_counter` timestamp like those of the answer."""
        start = self._start_s
        self._record(
            {
                "mode": self._mode,
                "qsl_idx": self._first_index + sample,
                "engine": engine,
                "issued_s": round(issued_s - start, 6),
                "sent_s": round(answer.sent_s - start, 6),
                "first_s": round(answer.first_s - start, 6),
                "last_s": round(answer.last_s - start, 6),
                "issued_unix": round(self._start_unix + issued_s - start, 6),
                "n_tokens": len(answer.token_ids),
                "token_ids": answer.token_ids,
            }
        )

    def failed(self, sample: int, engine: str, reason: str) -> None:
        """Record a failed sample."""
        self._record({"mode": self._mode, "qsl_idx": self._first_index + sample, "engine": engine, "failed": reason})

    def _record(self, line: dict[str, Any]) -> None:
        self._lines.append(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))

    def flush(self) -> None:
        """Write the lines recorded since the last call; RunFailed when the file cannot be written."""
        with self._lock:
            count = len(self._lines)  # the other thread only ever appends
            text = b"".join(self._lines[:count])
            del self._lines[:count]
            _checked(self._path, lambda: (self._file.write(text), self._file.flush()))

    def close(self) -> None:
        """Write the remaining lines and close the file."""
        self.flush()
        _checked(self._path, self._file.close)


def _checked(path: Path, action: Any) -> Any:
    try:
        return action()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            advice = "the disk is full; free space there and run again"
        else:
            advice = f"{error.strerror}; make it writable and run again"
        raise RunFailed(f"cannot write {path}: {advice}") from None
