"""Journals and telemetry as tables: one row per sample, one row per second."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pandas as pd
from numpy.typing import NDArray

from harness.report.load_inputs import LoadGenRun

JOURNAL_COLUMNS = (
    "mode", "qsl_idx", "engine", "node", "loadgen", "issued_unix", "done_unix",
    "queue_ms", "ttft_ms", "tpot_ms", "e2e_ms", "n_tokens",
)  # fmt: skip
TELEMETRY_COLUMNS = (
    "unix_s", "cpu_percent", "memory_used_gib", "memory_total_gib", "gpu_index", "gpu_util_percent",
    "gpu_memory_used_gib", "gpu_power_w", "gpu_sm_clock_mhz", "gpu_temperature_c", "gpu_throttle", "engine",
    "running", "waiting", "kv_cache_percent",
)  # fmt: skip
TEXT_COLUMNS = ("gpu_throttle", "engine")


def journal(loadgens: Iterable[LoadGenRun]) -> pd.DataFrame:
    """Finished samples of all LoadGens, columns `JOURNAL_COLUMNS`; failed ones are left to the outcome.

    Performance lines come from the judged attempt's journal where there are attempts. Latencies are milliseconds from
    the moment LoadGen issued the sample; `done_unix` is seconds. A line that was cut while it was written is dropped.
    """
    rows = [row for loadgen in loadgens for row in _journal_rows(loadgen)]
    table = pd.DataFrame(rows, columns=list(JOURNAL_COLUMNS))
    return table.sort_values(["done_unix", "qsl_idx"], ignore_index=True)


def _journal_rows(loadgen: LoadGenRun) -> Iterable[tuple[object, ...]]:
    nodes = loadgen.nodes
    for entry in _entries(loadgen):
        issued, first, last, n = entry["issued_s"], entry["first_s"], entry["last_s"], entry["n_tokens"]
        yield (
            entry["mode"], entry["qsl_idx"], entry["engine"], nodes.get(entry["engine"], loadgen.host), loadgen.host,
            entry["issued_unix"], entry["issued_unix"] + last - issued,
            (entry["sent_s"] - issued) * 1e3, (first - issued) * 1e3,
            (last - first) * 1e3 / (n - 1) if n > 1 else None, (last - issued) * 1e3, n,
        )  # fmt: skip


def _entries(loadgen: LoadGenRun) -> Iterator[dict[str, Any]]:
    """The lines of finished samples in the run's journal and, where it is another one, the judged attempt's."""
    for folder in dict.fromkeys((loadgen.judged, loadgen.path)):
        path = folder / "journal.jsonl"
        if not path.exists():
            continue
        with path.open("rb") as lines:
            for line in lines:
                try:
                    entry = orjson.loads(line)
                except orjson.JSONDecodeError:
                    continue
                if "failed" not in entry:
                    yield entry


def telemetry(path: Path) -> pd.DataFrame:
    """One telemetry.csv, columns `TELEMETRY_COLUMNS`; empty fields are NaN, a missing file is an empty table."""
    if not path.exists() or path.stat().st_size == 0:
        return _no_readings()
    table = pd.read_csv(path, dtype=dict.fromkeys(TEXT_COLUMNS, str), on_bad_lines="skip")
    table = table.reindex(columns=list(TELEMETRY_COLUMNS))
    for name in TELEMETRY_COLUMNS:
        if name not in TEXT_COLUMNS:
            table[name] = pd.to_numeric(table[name], errors="coerce")
    return table.dropna(subset=["unix_s"]).sort_values("unix_s", ignore_index=True)


def _no_readings() -> pd.DataFrame:
    return pd.DataFrame({name: pd.Series(dtype=str if name in TEXT_COLUMNS else float) for name in TELEMETRY_COLUMNS})


def readings(paths: Iterable[Path], window: tuple[float, float] | None) -> pd.DataFrame:
    """The readings of several telemetry files that lie in `window` (unix seconds; None: all), in order of the files."""
    tables = [between(telemetry(path), window) for path in paths]
    return pd.concat(tables, ignore_index=True) if tables else _no_readings()


def between(table: pd.DataFrame, window: tuple[float, float] | None) -> pd.DataFrame:
    """The rows of `table` whose `unix_s` lies in `window` (unix seconds); all of them without a window."""
    if window is None:
        return table
    return table[(table["unix_s"] >= window[0]) & (table["unix_s"] <= window[1])]


def percentile(values: pd.Series, percent: float) -> float | None:
    """Nearest-rank percentile as LoadGen takes it (a value that was measured, never one between two)."""
    numbers = values.dropna().to_numpy(dtype=float)
    return float(np.percentile(numbers, percent, method="higher")) if numbers.size else None


def per_second(
    done_unix: pd.Series, window: tuple[float, float], width_s: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Samples/s in equal bins of at least `width_s` that fill the window; their edges in seconds since its start."""
    span = window[1] - window[0]
    edges = np.linspace(0.0, span, max(1, int(span / width_s)) + 1)
    counts, _ = np.histogram(done_unix.to_numpy(dtype=float) - window[0], bins=edges)
    return counts / np.diff(edges), edges
