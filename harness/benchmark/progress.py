"""Progress of engines, runs and jobs: as a line for a terminal or a CI log, and as lines of progress.jsonl."""

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.state_file import RUNNING

Record = dict[str, Any]

MESSAGE_WIDTH = 100
_TAIL_BYTES = 1 << 17


def duration(seconds: float) -> str:
    """Seconds as people say them: 45s, 10m12s, 3h05m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def line(kind: str, record: Record, now: float) -> str:
    """A state file in one line; what was not measured is left out.

    Args:
        kind: job, engine, calibration or run.
        record: the file's content.
        now: unix seconds by the clock of the file's node.
    """
    if kind == "job":
        message = (record.get("progress") or "")[:MESSAGE_WIDTH]
        end = [] if record["state"] == "running" else [record["state"], record.get("reason")]
        return _joined([record["name"], duration(now - record["started_unix"]), *end, message])
    if kind == "engine":
        return _engine(record, now)
    if record["state"] not in RUNNING:
        return _joined([record["state"], duration(record.get("elapsed_s") or 0.0), record.get("reason")])
    return _run(record)


def attempt(record: Record) -> str:
    """An attempt that has ended, of a run's state file, in one line."""
    reason = f": {record['reason']}" if record["reason"] else ""
    return f"attempt {record['number']} at {record['target_qps']:g} samples/s: {record['verdict']}{reason}"


def last_row(header: str, row: str) -> dict[str, float | None]:
    """The last line of a telemetry.csv by column; None where it holds no number."""
    return {
        name: _number(value) for name, value in zip(header.strip().split(","), row.strip().split(","), strict=False)
    }


def append(path: Path, host: str, kind: str, status: Record | None, lost: str | None) -> None:
    """Add a look at a host to progress.jsonl; `lost` says why there is no status."""
    path.parent.mkdir(parents=True, exist_ok=True)
    look = {"unix": time.time(), "host": host, "kind": kind, "status": status, "lost": lost}
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        # One write a line: the watchers of several hosts append to the same file.
        os.write(handle, (json.dumps(look) + "\n").encode())
    finally:
        os.close(handle)


def last_look(path: Path, host: str) -> Record | None:
    """The newest look at a host's run in progress.jsonl; None when there is none yet."""
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            tail = stream.read().decode(errors="replace").splitlines()
    except OSError:
        return None
    for text in reversed(tail):
        try:
            look: Record = json.loads(text)
        except ValueError:
            continue
        if look["host"] == host and look["kind"] == "run":
            return look
    return None


def _run(record: Record) -> str:
    done, total = record.get("samples_done") or 0, record.get("samples_total")
    attempts = record.get("attempt") and record["phase"] in ("draining", "performance")
    return _joined(
        [
            record["phase"],
            f"attempt {record['attempt']} of {record['attempts_most']}" if attempts else None,
            f"{done}/{total}" if total else str(done) if done else None,
            f"{100 * done / total:.1f}%" if total else None,
            _format(record, "samples_per_s", "{:.1f} samples/s"),
            _format(record, "ttft_ms_p99", "TTFT p99 {:.0f} ms"),
            _format(record, "tpot_ms_p99", "TPOT p99 {:.1f} ms"),
            f"{record['samples_failed']} failed" if record.get("samples_failed") else None,
            f"ETA {duration(record['eta_s'])}" if record.get("eta_s") is not None else None,
        ]
    )


def _engine(record: Record, now: float) -> str:
    if record["state"] == "starting":
        return _joined(["starting engine", duration(now - record["started_unix"]), record.get("progress")])
    queue = record.get("telemetry") or {}
    return _joined(
        [
            f"engine {record['name']} {record['state']}",
            _format(queue, "running", "{:.0f} running"),
            _format(queue, "waiting", "{:.0f} waiting"),
            _format(queue, "kv_cache_percent", "KV {:.0f}%"),
            record.get("reason"),
        ]
    )


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _format(record: Record, key: str, form: str) -> str | None:
    value = record.get(key)
    return None if value is None else form.format(value)


def _joined(parts: Sequence[str | None]) -> str:
    return "  ".join(part for part in parts if part)
