"""Samples and telemetry as tables: one row per sample, one row per reading."""

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness import accuracy_parts
from harness.errors import BadInput
from harness.report.journals import Table
from harness.report.load_inputs import LoadGenRun

Floats = NDArray[np.float64]

JOURNAL = np.dtype(
    [
        ("mode", "O"), ("part", "i8"), ("qsl_idx", "i8"), ("engine", "O"), ("node", "O"), ("loadgen", "O"),
        ("issued_unix", "f8"), ("done_unix", "f8"), ("queue_ms", "f8"), ("ttft_ms", "f8"), ("tpot_ms", "f8"),
        ("e2e_ms", "f8"), ("n_input", "i8"), ("n_tokens", "i8"),
    ]
)  # fmt: skip
TELEMETRY_NUMBERS = (
    "unix_s", "cpu_percent", "memory_used_gib", "memory_total_gib", "gpu_index", "gpu_util_percent",
    "gpu_memory_used_gib", "gpu_power_w", "gpu_sm_clock_mhz", "gpu_temperature_c", "gpu_energy_j",
    "running", "waiting", "kv_cache_percent",
)  # fmt: skip
TELEMETRY_TEXTS = ("gpu_throttle", "engine")
TELEMETRY = np.dtype([*((name, "f8") for name in TELEMETRY_NUMBERS), *((name, "O") for name in TELEMETRY_TEXTS)])


def journal(loadgens: Iterable[LoadGenRun]) -> Table:
    """Finished samples of all LoadGens, columns `JOURNAL`, in the order of their ends; failed ones are left out.

    Latencies are milliseconds from the moment LoadGen issued the sample, TPOT is NaN for an answer of one token;
    `done_unix` is seconds. `part` is the position of the part of an accuracy run, from 0.
    """
    parts = [_samples(loadgen) for loadgen in loadgens]
    table = np.concatenate([np.empty(0, JOURNAL), *parts])
    ordered: Table = table[np.lexsort((table["qsl_idx"], table["done_unix"]))]
    return ordered


def _samples(loadgen: LoadGenRun) -> Table:
    lines, nodes = loadgen.journal.rows, loadgen.nodes
    table = np.zeros(len(lines), JOURNAL)
    for name in ("mode", "qsl_idx", "engine", "issued_unix", "n_input", "n_tokens"):
        table[name] = lines[name]
    table["node"] = [nodes.get(engine, loadgen.host) for engine in lines["engine"]]
    table["loadgen"], part_of = loadgen.host, _parts(loadgen)
    if part_of:
        of_accuracy = lines["mode"] == "accuracy"
        own = [part_of.get(index, 0) for index in lines["qsl_idx"].tolist()]
        table["part"] = np.where(of_accuracy, own, 0)
    issued, first, last = lines["issued_s"], lines["first_s"], lines["last_s"]
    table["done_unix"] = done_unix(lines)
    table["queue_ms"], table["ttft_ms"] = (lines["sent_s"] - issued) * 1e3, (first - issued) * 1e3
    table["e2e_ms"] = (last - issued) * 1e3
    more = lines["n_tokens"] - 1
    table["tpot_ms"] = np.where(more > 0, (last - first) * 1e3 / np.maximum(more, 1), np.nan)
    return table


def done_unix(lines: Table) -> Floats:
    """When the answers of a journal's lines were complete, in unix seconds."""
    done: Floats = lines["issued_unix"] + lines["last_s"] - lines["issued_s"]
    return done


def _parts(loadgen: LoadGenRun) -> dict[int, int]:
    """The position of the accuracy run's part that answered each sample."""
    if loadgen.spec is None or not loadgen.outcome.resumed:
        return {}
    try:
        parts = accuracy_parts.parts(loadgen.path, loadgen.spec.window)
    except BadInput:
        return {}  # the verdict names it
    return {index: number for number, own in enumerate(accuracy_parts.answered_in(parts)) for index in own}


def telemetry(path: Path) -> Table:
    """One telemetry.csv, columns `TELEMETRY`, in order of time; a field that holds no number is NaN, and a line without
    its time is left out. A missing file is an empty table."""
    if not path.is_file():
        return np.empty(0, TELEMETRY)
    with path.open(newline="", encoding="utf-8", errors="replace") as stream:
        rows = [
            (*(_number(line.get(name)) for name in TELEMETRY_NUMBERS), *(line.get(name) for name in TELEMETRY_TEXTS))
            for line in _csv_lines(stream)
        ]
    table = np.array(rows, TELEMETRY)
    table = table[~np.isnan(table["unix_s"])]
    ordered: Table = table[np.argsort(table["unix_s"], kind="stable")]
    return ordered


def _csv_lines(stream: Iterable[str]) -> Iterator[dict[str, str]]:
    reader = csv.DictReader(line.replace("\0", "") for line in stream)
    while True:
        try:
            yield next(reader)
        except csv.Error:
            continue  # a damaged line costs its own reading only
        except StopIteration:
            return


def _number(text: object) -> float:
    try:
        value = float(str(text))
    except ValueError:
        return np.nan
    return value if np.isfinite(value) else np.nan


def readings(
    paths: Iterable[Path], window: tuple[float, float] | None, gpus: Mapping[Path, Sequence[int]] | None = None
) -> Table:
    """The readings of several telemetry files that lie in `window` (unix seconds; None: all), in order of the files.

    Where `gpus` has a file, its GPUs 0, 1, … get these numbers: in pods, each has a GPU 0 of its own.
    """
    parts = [np.empty(0, TELEMETRY)]
    for path in paths:
        table = between(telemetry(path), window)
        own = dict(enumerate((gpus or {}).get(path, ())))
        table["gpu_index"] = [own.get(index, index) for index in table["gpu_index"].tolist()]
        parts.append(table)
    return np.concatenate(parts)


def between(table: Table, window: tuple[float, float] | None) -> Table:
    """The rows of `table` whose `unix_s` lies in `window` (unix seconds); all of them without a window."""
    if window is None:
        return table
    return table[(table["unix_s"] >= window[0]) & (table["unix_s"] <= window[1])]


def by_second(table: Table, column: str) -> tuple[Floats, Floats]:
    """The seconds with a reading of a column, and the highest reading in each."""
    measured = table[~np.isnan(table[column])]
    seconds, place = np.unique(np.round(measured["unix_s"]), return_inverse=True)
    highest = np.full(len(seconds), -np.inf)
    np.maximum.at(highest, place, measured[column])
    return seconds, highest


class Queues(NamedTuple):
    """What a node's engines ran together, a value per second: requests running and waiting, use of the KV cache of the
    fullest engine in percent (NaN: not measured)."""

    seconds: Floats
    running: Floats
    waiting: Floats
    kv_cache_percent: Floats


def queues(table: Table, engines: Iterable[str]) -> Queues:
    """The queues of several engines, of the seconds in which all those that were ever read were read."""
    tables = [table[table["engine"] == name] for name in engines]
    tables = [own for own in tables if not np.isnan(own["running"]).all()]
    columns = {name: [dict(zip(*by_second(own, name), strict=True)) for own in tables] for name in Queues._fields[1:]}
    common = set.intersection(*(set(own) for own in columns["running"])) if tables else set()
    seconds = np.array(sorted(common), dtype=float)

    def combined(name: str) -> Floats:
        return np.array([[own.get(second, np.nan) for second in seconds] for own in columns[name]]).reshape(
            len(tables), len(seconds)
        )

    if not tables:
        return Queues(seconds, seconds, seconds, seconds)
    return Queues(
        seconds,
        combined("running").sum(axis=0),
        combined("waiting").sum(axis=0),
        np.fmax.reduce(combined("kv_cache_percent"), axis=0),
    )


def per_second(done_unix: Floats, window: tuple[float, float], width_s: float) -> tuple[Floats, Floats]:
    """Samples/s in equal bins of at least `width_s` that fill the window; their edges in seconds since its start."""
    span = window[1] - window[0]
    edges = np.linspace(0.0, span, max(1, int(span / width_s)) + 1)
    counts, _ = np.histogram(np.asarray(done_unix, dtype=float) - window[0], bins=edges)
    return counts / np.diff(edges), edges


def names(values: Sequence[str] | NDArray[np.object_]) -> list[str]:
    """The different values of a column of texts, in order."""
    return sorted({str(value) for value in values})
