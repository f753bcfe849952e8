"""What the machine and its engines did, second by second. Measures itself too, and never disturbs a run."""

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
_NOTHING: dict[str, Any] = {}


@dataclass(frozen=True, slots=True)
class TelemetryCost:
    """What sampling itself took: CPU seconds of this process, samples written, seconds it lasted."""

    cpu_s: float
    samples: int
    wall_s: float


class Sampler:
    """Appends to a CSV file once a second, from a thread of its own.

    A second gets as many lines as there are GPUs or engines, whichever is more: line i carries GPU i and engine i,
    which need not belong together. An empty cell was not measured. Nothing that goes wrong here reaches the run.
    """

    def __init__(self, path: Path, engines: Mapping[str, str]) -> None:
        self._path = path
        self._engines = dict(engines)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="telemetry", daemon=True)
        self._cpu_s = 0.0
        self._samples = 0
        self._began = time.monotonic()

    def start(self) -> None:
        """Begin sampling."""
        self._began = time.monotonic()
        self._thread.start()

    def stop(self) -> TelemetryCost:
        """End sampling and tell what it cost."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=3 * PERIOD_S)
        return TelemetryCost(round(self._cpu_s, 4), self._samples, round(time.monotonic() - self._began, 3))

    def _run(self) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            fresh = not self._path.exists() or self._path.stat().st_size == 0
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
        spent_by_pool = 0.0
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            looks = list(pool.map(_look_at_engine, self._engines, self._engines.values()))
            spent_by_pool += sum(spent for _, spent in looks)
            node = _look_at_node()
            pairs = itertools.zip_longest(gpus.sample() or [_NOTHING], (row for row, _ in looks), fillvalue=_NOTHING)
            writer.writerows({**node, **gpu, **engine} for gpu, engine in pairs)
            stream.flush()
            self._samples += 1
            self._cpu_s = time.thread_time() + spent_by_pool
            # Late seconds are left out, not made up for.
            due = due + PERIOD_S if due + PERIOD_S > time.monotonic() else time.monotonic() + PERIOD_S


def queue(path: Path) -> dict[str, float]:
    """The engine's part of a telemetry file's last line: running, waiting, kv_cache_percent; what was measured."""
    row = dict(zip(COLUMNS, "".join(tail(path, 1)).split(","), strict=False))
    return {name: float(row[name]) for name in COLUMNS[-3:] if row.get(name, "").replace(".", "", 1).isdigit()}


def _look_at_node() -> dict[str, Any]:
    memory = psutil.virtual_memory()
    return {
        "unix_s": round(time.time(), 3),
        "cpu_percent": psutil.cpu_percent(),
        "memory_used_gib": round((memory.total - memory.available) / GIB, 3),
        "memory_total_gib": round(memory.total / GIB, 3),
    }


def _look_at_engine(name: str, url: str) -> tuple[dict[str, Any], float]:
    """An engine's row and the CPU seconds it took."""
    began = time.thread_time()
    row: dict[str, Any] = {"engine": name}
    try:
        page = probe.get(url, "/metrics", _ENGINE_TIMEOUT_S).body
        found = probe.values(page, (*_METRICS.values(), _KV_USAGE))
        # A server may be several engine cores: requests add up, of their cache usage the mean counts.
        row |= {column: int(sum(found[metric])) for column, metric in _METRICS.items() if metric in found}
        if usage := found.get(_KV_USAGE):
            row["kv_cache_percent"] = round(100 * sum(usage) / len(usage), 2)
    except (OSError, ValueError):
        pass
    return row, time.thread_time() - began
