"""Writes journal.jsonl: one line per finished or failed sample, append-only. `harness.journal` reads it."""

import errno
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from harness.errors import RunFailed
from harness.journal import seal
from harness.load.answer import Answer


class Journal:
    """Collects lines in the thread that receives answers; `flush` writes them, about once a second in another thread.

    Args:
        path: the file, appended to.
        mode: "performance" or "accuracy".
        qsl_idx: global index of each sample, by its position among those that LoadGen was given.
        start_s, start_unix: start of the run by `perf_counter` and by the wall clock, in seconds.
        n_input: tokens of each sample's prompt, by its position; empty where they are not known.
    """

    def __init__(
        self,
        path: Path,
        mode: str,
        qsl_idx: Sequence[int],
        start_s: float,
        start_unix: float,
        n_input: Sequence[int] = (),
    ) -> None:
        self._path, self._mode, self._qsl_idx, self._n_input = path, mode, qsl_idx, n_input
        self._start_s, self._start_unix = start_s, start_unix
        self._lines: list[bytes] = []
        self._lock = threading.Lock()
        self._file = _checked(path, self._opened)

    def _opened(self) -> BinaryIO:
        file = self._path.open("a+b")
        if (size := file.tell()) and os.pread(file.fileno(), 1, size - 1) != b"\n":
            file.write(b"\n")  # the process that wrote the last line was killed just before its end
        return file

    def done(
        self,
        sample: int,
        engine: str,
        issued_s: float,
        answer: Answer,
        first_logged_s: float | None = None,
        last_logged_s: float | None = None,
    ) -> None:
        """Record a finished sample.

        Args:
            sample: its position among those that LoadGen was given.
            engine: name of the engine that answered.
            issued_s: when LoadGen issued it, a `perf_counter` timestamp like those of the answer.
            answer: what the engine answered.
            first_logged_s, last_logged_s: when LoadGen was told of the first token and of the answer; None where it was
                not told or nobody will compare.
        """
        start = self._start_s
        logged = {"first_logged_s": first_logged_s, "last_logged_s": last_logged_s}
        self._record(
            {
                "mode": self._mode,
                "qsl_idx": self._qsl_idx[sample],
                "engine": engine,
                "issued_s": round(issued_s - start, 6),
                "sent_s": round(answer.sent_s - start, 6),
                "first_s": round(answer.first_s - start, 6),
                "last_s": round(answer.last_s - start, 6),
                **{name: round(moment - start, 6) for name, moment in logged.items() if moment is not None},
                "issued_unix": round(self._start_unix + issued_s - start, 6),
                **({"n_input": self._n_input[sample]} if self._n_input else {}),
                "n_tokens": len(answer.token_ids),
                "token_ids": answer.token_ids,
                **({"moved": answer.moved} if answer.moved else {}),
            }
        )

    def failed(self, sample: int, engine: str, reason: str) -> None:
        """Record a failed sample."""
        self._record({"mode": self._mode, "qsl_idx": self._qsl_idx[sample], "engine": engine, "failed": reason})

    def _record(self, line: dict[str, Any]) -> None:
        self._lines.append(seal(line))

    def flush(self) -> None:
        """Write the lines recorded since the last call to the disk; RunFailed when that is impossible."""
        with self._lock:
            count = len(self._lines)  # the other thread only ever appends
            text = b"".join(self._lines[:count])
            del self._lines[:count]
            if text:
                _checked(self._path, lambda: self._write(text))

    def _write(self, text: bytes) -> None:
        self._file.write(text)
        self._file.flush()
        os.fdatasync(self._file.fileno())  # what a machine had answered before it lost power is kept

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
