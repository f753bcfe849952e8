# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""State files as one readable line for a terminal or a CI log. Standard library, Python 3.9."""

from __future__ import annotations

from typing import Any, Dict, List, Optional

Record = Dict[str, Any]

PROGRESS_WIDTH = 100


def duration(seconds: float) -> str:
    """Seconds as people say them: 45s, 10m12s, 3h05m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def line(kind: str, record: Record, now: float) -> str:
    """What a state file says. `now` is unix seconds by its node's clock; what was not measured is left out."""
    if kind == "job":
        progress = (record.get("progress") or "")[:PROGRESS_WIDTH]
        return _joined([record["name"], duration(now - record["started_unix"]), *_end(record), progress])
    if kind == "engine":
        return _engine(record, now)
    if record["state"] != "running":
        return _joined([record["state"], duration(record.get("elapsed_s") or 0.0), record.get("reason")])
    return _run(record)


def _run(record: Record) -> str:
    done, total = record.get("samples_done") or 0, record.get("samples_total")
    return _joined(
        [
            record["phase"],
            f"{done}/{total}" if total else str(done) if done else None,
            f"{100 * done / total:.1f}%" if total else None,
            _with(record, "samples_per_s", "{:.1f} samples/s"),
            _with(record, "ttft_ms_p99", "TTFT p99 {:.0f} ms"),
            _with(record, "tpot_ms_p99", "TPOT p99 {:.1f} ms"),
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
            _with(queue, "running", "{:.0f} running"),
            _with(queue, "waiting", "{:.0f} waiting"),
            _with(queue, "kv_cache_percent", "KV {:.0f}%"),
            record.get("reason"),
        ]
    )


def last_row(header: str, row: str) -> Dict[str, Optional[float]]:
    """The last line of a telemetry.csv by column; None where it holds no number."""
    return {name: _number(value) for name, value in zip(header.strip().split(","), row.strip().split(","))}


def _number(text: str) -> Optional[float]:
    try:
        return float(text)
    except ValueError:
        return None


def _end(record: Record) -> List[str]:
    if record["state"] == "running":
        return []
    return [record["state"], record.get("reason") or ""]


def _with(record: Record, key: str, form: str) -> Optional[str]:
    value = record.get(key)
    return None if value is None else form.format(value)


def _joined(parts: List[Optional[str]]) -> str:
    return "  ".join(part for part in parts if part)
