"""Sample the machine's and its engines' load once a second, and measure what the sampling costs."""

import csv
import itertools
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import psutil

from harness import clock
from harness.files import tail
from harness.node import probe
from harness.node.gpu import GIB, Gpus

COLUMNS = (
    "unix_s",
    "cpu_percent",
    "memory_used_gib",
    "memory_total_gib",
    "gpu_index",
    "gpu_util_percent",
    "gpu_memory_used_gib",
    "gpu_power_w",
    "gpu_sm_clock_mhz",
    "gpu_temperature_c",
    "gpu_energy_j",
    "gpu_throttle",
    "engine",
    "running",
    "waiting",
    "kv_cache_percent",
)
PERIOD_S = 1.0
_METRICS = {"running": "vllm:num_requests_running", "waiting": "vllm:num_requests_waiting"}
_KV_USAGE = "vllm:kv_cache_usage_perc"
_ENGINE_TIMEOUT_S = 0.9
_EMPTY: dict[str, Any] = {}


@dataclass(frozen=True, slots=True)
class TelemetryCost:
    """The overhead of sampling: CPU seconds of this process, samples written, duration in seconds."""

    cpu_s: float
    samples: int
    wall_s: float


class Sampler:
    """Appends to a CSV file once a second, in its own thread.

    Each second has as many lines as there are GPUs or engines, whichever is more: line i has GPU i and engine i,
    which need not belong together. An empty cell was not measured. Errors here never affect the run.
    `requests` is what all engines ran and queued in the last second, as far as they tell. `engines` are all of them as
    they were then: the columns from `engine` on, under its `name`, with `silent_s`, the seconds since it last answered.
    """

    def __init__(self, path: Path, engines: Mapping[str, str]) -> None:
        self._path = path
        self._engines = dict(engines)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="telemetry", daemon=True)
        self._cpu_s = 0.0
        self._samples = 0
        self.requests = 0
        self.engines: list[dict[str, Any]] = []
        self._began = time.monotonic()

    def start(self) -> None:
        """Start sampling."""
        self._began = time.monotonic()
        self._thread.start()

    def stop(self) -> TelemetryCost:
        """Stop sampling and return its overhead."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=3 * PERIOD_S)
        return TelemetryCost(round(self._cpu_s, 4), self._samples, round(time.monotonic() - self._began, 3))

    def _run(self) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            fresh = not _end_with_a_whole_line(self._path)
            with (
                self._path.open("a", newline="") as stream,
                Gpus() as gpus,
                ThreadPoolExecutor(max(1, min(16, len(self._engines))), "telemetry") as pool,
            ):
                if fresh:
                    csv.writer(stream).writerow(COLUMNS)
                self._sample_until_stopped(stream, gpus, pool)
        except OSError:
            return

    def _sample_until_stopped(self, stream: TextIO, gpus: Gpus, pool: ThreadPoolExecutor) -> None:
        writer = csv.DictWriter(stream, COLUMNS, restval="")
        psutil.cpu_percent()
        due = time.monotonic() + PERIOD_S
        pool_cpu_s = 0.0
        answered = dict.fromkeys(self._engines, time.monotonic())
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            results = list(pool.map(_sample_engine, self._engines, self._engines.values()))
            pool_cpu_s += sum(cpu_s for _, _, cpu_s in results)
            node = _sample_node()
            engines = [row for row, _, _ in results]
            now = time.monotonic()
            answered |= {row["engine"]: now for row, has_answered, _ in results if has_answered}
            self.engines = [
                {"name": row["engine"], "silent_s": round(now - answered[row["engine"]], 1)}
                | {column: row[column] for column in COLUMNS[-3:] if column in row}
                for row in engines
            ]
            self.requests = sum(row.get(column, 0) for row in engines for column in _METRICS)
            pairs = itertools.zip_longest(gpus.sample() or [_EMPTY], engines, fillvalue=_EMPTY)
            writer.writerows({**node, **gpu, **engine} for gpu, engine in pairs)
            stream.flush()
            self._samples += 1
            self._cpu_s = time.thread_time() + pool_cpu_s
            # Seconds that were missed are skipped, not made up for.
            due = due + PERIOD_S if due + PERIOD_S > time.monotonic() else time.monotonic() + PERIOD_S


def _end_with_a_whole_line(path: Path) -> bool:
    """Drop the line that a process that was killed did not finish; whether any line is left."""
    if not path.is_file():
        return False
    with path.open("r+b") as stream:
        whole = stream.read().rfind(b"\n") + 1
        stream.truncate(whole)
    return whole > 0


def queue(path: Path) -> dict[str, float]:
    """running, waiting and kv_cache_percent in the last line of a telemetry file, those that were measured."""
    row = dict(zip(COLUMNS, "".join(tail(path, 1)).split(","), strict=False))
    return {name: float(row[name]) for name in COLUMNS[-3:] if row.get(name, "").replace(".", "", 1).isdigit()}


def _sample_node() -> dict[str, Any]:
    memory = psutil.virtual_memory()
    return {
        "unix_s": round(clock.unix(), 3),
        "cpu_percent": psutil.cpu_percent(),
        "memory_used_gib": round((memory.total - memory.available) / GIB, 3),
        "memory_total_gib": round(memory.total / GIB, 3),
    }


def _sample_engine(name: str, url: str) -> tuple[dict[str, Any], bool, float]:
    """An engine's row, whether its server has answered, and the CPU seconds that reading it took."""
    started = time.thread_time()
    row: dict[str, Any] = {"engine": name}
    answered = False
    try:
        page = probe.get(url, "/metrics", _ENGINE_TIMEOUT_S).body
        answered = True
        metrics = probe.values(page, (*_METRICS.values(), _KV_USAGE))
        # A server may have several engine cores: the sum of their requests, the mean of their cache usage.
        row |= {column: int(sum(metrics[metric])) for column, metric in _METRICS.items() if metric in metrics}
        if usage := metrics.get(_KV_USAGE):
            row["kv_cache_percent"] = round(100 * sum(usage) / len(usage), 2)
    except (OSError, ValueError):
        pass
    return row, answered, time.thread_time() - started
