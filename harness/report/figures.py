"""From samples and seconds to figures: speed, latency, accuracy, projected hours, use of the machine."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from harness.percentiles import percentile
from harness.report import logs, tables
from harness.report.input_models import Part
from harness.report.journals import Table
from harness.report.load_inputs import LoadGenRun
from harness.report.machines import FullBatch, FullestCache, Telemetry, Usage
from harness.report.record import Figures, Latency, Pair, Rouge
from harness.scoring.scores import METRICS, Row, Score
from harness.scoring.scores import figures as row_figures
from harness.spec import FULL_SAMPLES, OFFLINE_MARGIN, OFFLINE_SLACK, RULE_MIN_DURATION_S

Measured = Literal["performance", "accuracy"]
MODES: tuple[Measured, Measured] = ("performance", "accuracy")
NO_THROTTLE = {"", "none", "0", "idle", "gpu_idle", "not active"}


@dataclass(frozen=True, slots=True)
class _Speed:
    samples: int | None = None
    tokens: int | None = None
    seconds: float | None = None
    samples_in_rate: int | None = None
    samples_per_s: float | None = None
    tokens_per_s: float | None = None
    source: Literal["LoadGen", "journal"] | None = None


def measured(loadgens: Sequence[LoadGenRun], journal: Table) -> Measured:
    """The mode that speed and latency are taken from: performance, or accuracy where there was no other run."""
    if any(loadgen.performance for loadgen in loadgens) or (journal["mode"] == "performance").any():
        return "performance"
    return "accuracy"


def timed(journal: Table, mode: Measured) -> Table:
    """The journal's rows of a mode that speed may be taken from: of an accuracy run that was resumed, those of each
    LoadGen's largest part, since time passed between two parts."""
    rows = journal[journal["mode"] == mode]
    kept = np.zeros(len(rows), dtype=bool)
    for host in tables.names(rows["loadgen"]):
        own = rows["loadgen"] == host
        parts, counts = np.unique(rows["part"][own], return_counts=True)
        kept |= own & (rows["part"] == parts[counts.argmax()])
    timed_rows: Table = rows[kept]
    return timed_rows


def part_of(loadgen: LoadGenRun, mode: Measured) -> Part | None:
    """The harness's own record of one LoadGen run; None when it did not finish."""
    return loadgen.outcome.performance if mode == "performance" else loadgen.outcome.accuracy


def window(loadgens: Sequence[LoadGenRun], mode: Measured) -> tuple[float, float] | None:
    """Unix seconds from the first start to the last end of the runs, of the judged attempts where there are any.

    None when none finished.
    """
    attempts = [loadgen.last_attempt if mode == "performance" else None for loadgen in loadgens]
    parts = [attempt or part_of(loadgen, mode) for loadgen, attempt in zip(loadgens, attempts, strict=True)]
    runs = [part for part in parts if part]
    return (min(run.started_unix for run in runs), max(run.finished_unix for run in runs)) if runs else None


def _spans(loadgens: Sequence[LoadGenRun], rows: Table, mode: Measured) -> list[tuple[float, float]] | None:
    """First issue and last answer in each LoadGen's journal, unix seconds; None when one of them did not finish.
    `finished_unix` in the outcome would count the time in which LoadGen writes its logs."""
    own = [rows[rows["loadgen"] == loadgen.host] for loadgen in loadgens]
    if not own or not all(part_of(loadgen, mode) and len(part) for loadgen, part in zip(loadgens, own, strict=True)):
        return None
    return [(float(part["issued_unix"].min()), float(part["done_unix"].max())) for part in own]


def all_running(loadgens: Sequence[LoadGenRun], rows: Table, mode: Measured) -> tuple[float, float] | None:
    """Unix seconds in which every LoadGen was running; None when one did not finish or they never overlapped."""
    spans = _spans(loadgens, rows, mode)
    if spans is None:
        return None
    start, stop = max(start for start, _ in spans), min(stop for _, stop in spans)
    return (start, stop) if stop > start else None


def pair(loadgens: Sequence[LoadGenRun], rows: Table, mode: Measured) -> Pair | None:
    """How several LoadGens ran side by side; None for one LoadGen or when one of them did not finish."""
    spans, together = _spans(loadgens, rows, mode), all_running(loadgens, rows, mode)
    if len(loadgens) < 2 or spans is None or together is None:
        return None
    stops = [stop for _, stop in spans]
    makespan = max(stops) - min(start for start, _ in spans)
    return Pair(
        all_running_s=together[1] - together[0],
        makespan_s=makespan,
        makespan_samples_per_s=len(rows) / makespan,
        finished_apart_s=max(stops) - min(stops),
    )


def of(
    rows: Table,
    log: logs.LoadGenLog | None,
    rouge: Rouge | None,
    span: tuple[float, float] | None = None,
    *,
    offline: bool = False,
) -> Figures:
    """Figures of the journal's `rows`.

    Args:
        rows: samples of the mode that speed is taken from.
        log: LoadGen's own record where it measured exactly these rows; its figures come first.
        rouge: their accuracy.
        span: unix seconds that the speed is taken over; without it, from the first issue to the last answer.
        offline: whether the scenario is Offline, whose full run has more passes.
    """
    speed = _logged_speed(rows, log) if log and log.samples_per_s is not None else _journal_speed(rows, span)
    performance, accuracy = projected_hours(speed.samples_per_s, offline)
    return Figures(
        samples=speed.samples,
        tokens=speed.tokens,
        seconds=speed.seconds,
        samples_in_rate=speed.samples_in_rate,
        samples_per_s=speed.samples_per_s,
        tokens_per_s=speed.tokens_per_s,
        source=speed.source,
        scheduled_samples_per_s=log.scheduled_samples_per_s if log else None,
        ttft=_latency(log.ttft if log else None, rows["ttft_ms"]),
        tpot=_latency(log.tpot if log else None, rows["tpot_ms"]),
        end_to_end=_latency(log.end_to_end if log else None, rows["e2e_ms"]),
        rouge=rouge,
        full_performance_hours=performance,
        full_accuracy_hours=accuracy,
    )


def _logged_speed(rows: Table, log: logs.LoadGenLog) -> _Speed:
    """LoadGen's rates with the seconds and samples that it divided (see docs/results.md)."""
    counted = log.samples
    if counted is not None and log.scenario == "Server":
        counted -= 1
    seconds = counted / log.samples_per_s if counted is not None and log.samples_per_s else None
    tokens = int(rows["n_tokens"].sum()) if len(rows) else None
    return _Speed(log.samples, tokens, seconds, counted, log.samples_per_s, log.tokens_per_s, "LoadGen")


def _journal_speed(rows: Table, span: tuple[float, float] | None) -> _Speed:
    if not len(rows):
        return _Speed()
    start, stop = span or (float(rows["issued_unix"].min()), float(rows["done_unix"].max()))
    inside = rows[(rows["done_unix"] >= start) & (rows["done_unix"] <= stop)]
    seconds, tokens, count = stop - start, int(inside["n_tokens"].sum()), len(inside)
    if seconds <= 0:
        return _Speed(count, tokens)
    return _Speed(count, tokens, seconds, count, count / seconds, tokens / seconds, "journal")


def projected_hours(samples_per_s: float | None, offline: bool) -> tuple[float | None, float | None]:
    """Hours of a performance run (whole passes of 13,368 samples, 600 s at least) and of an accuracy run.

    Offline issues at once what LoadGen expects to need: 1.1 x 600 s at a target of 1.05 x the measured rate.
    """
    if not samples_per_s:
        return None, None
    one_pass_s = FULL_SAMPLES / samples_per_s
    needed_s = (OFFLINE_SLACK * OFFLINE_MARGIN if offline else 1.0) * RULE_MIN_DURATION_S
    passes = max(1, math.ceil(needed_s / one_pass_s))
    return passes * one_pass_s / 3600, one_pass_s / 3600


def _latency(logged: logs.Percentiles | None, values: tables.Floats) -> Latency | None:
    if logged:
        return Latency(p50_ms=logged.p50_ms, p90_ms=logged.p90_ms, p99_ms=logged.p99_ms, source="LoadGen")
    p50, p90, p99 = (percentile(values, percent) for percent in (50, 90, 99))
    if p50 is None or p90 is None or p99 is None:
        return None
    return Latency(p50_ms=p50, p90_ms=p90, p99_ms=p99, source="journal")


def scores(loadgens: Sequence[LoadGenRun]) -> list[Row]:
    """Per-sample scores of all shares."""
    return [row for loadgen in loadgens for row in loadgen.score_rows]


def merged(score: Score | None) -> Rouge | None:
    """Accuracy of all shares as the reference prints it."""
    if score is None:
        return None
    values = {metric: getattr(score, metric) for metric in METRICS}
    return Rouge(**values, gen_len_characters=score.gen_len, gen_num=score.gen_num)


def partial(rows: Sequence[Row], qsl_indexes: Iterable[int]) -> Rouge | None:
    """Accuracy of the samples that one node answered."""
    answered = set(qsl_indexes)
    own = [row for row in rows if row.qsl_idx in answered]
    if not own:
        return None
    values = row_figures(own)
    characters = values.pop("gen_len")
    return Rouge(**values, gen_len_characters=characters)


def telemetry(
    paths: Sequence[Path],
    engines: Collection[str] | None,
    span: tuple[float, float] | None,
    cost: float | None,
    slots: int | None,
    numbers: Mapping[Path, Sequence[int]] | None = None,
) -> Telemetry:
    """A node's telemetry in `span` (unix seconds). Of several readings in one second the highest counts.

    Args:
        paths: its telemetry files; the first one's readings of the machine are taken.
        engines: the node's engines, whose queues are added up; None takes all in the files.
        span: unix seconds; None takes all.
        cost: percent of a core that the samplers used.
        numbers: the numbers of the GPUs in each file, where they are not the node's.
        slots: how many sequences the node's engines can run at once; None where that is not known.
    """
    table, machine = tables.readings(paths, span, numbers), tables.readings(paths[:1], span)
    gpus = table[~np.isnan(table["gpu_util_percent"])]
    engines = tables.names(table["engine"]) if engines is None else engines
    queues = tables.queues(table, engines)
    throttled, why = throttling(gpus)
    totals = machine["memory_total_gib"][~np.isnan(machine["memory_total_gib"])]
    return Telemetry(
        cpu_percent=usage(tables.by_second(machine, "cpu_percent")[1]),
        memory_used_gib=usage(tables.by_second(machine, "memory_used_gib")[1]),
        memory_total_gib=float(totals[0]) if len(totals) else None,
        gpu_util_percent=_gpu_usage(gpus, "gpu_util_percent"),
        gpu_memory_used_gib=_gpu_usage(gpus, "gpu_memory_used_gib"),
        gpu_power_w=_gpu_usage(gpus, "gpu_power_w"),
        gpu_sm_clock_mhz=_gpu_usage(gpus, "gpu_sm_clock_mhz"),
        gpu_temperature_c=_gpu_usage(gpus, "gpu_temperature_c"),
        throttled_percent=throttled,
        throttle_reasons=why,
        running=usage(queues.running),
        waiting=usage(queues.waiting),
        kv_cache_percent=usage(queues.kv_cache_percent),
        full=_full(queues, slots),
        fullest_cache=_fullest_cache(table, engines),
        gap_s=_gap(np.sort(machine["unix_s"]), span) if any(path.exists() for path in paths) else None,
        own_cost_cpu_percent=cost,
    )


def _full(queues: tables.Queues, slots: int | None) -> FullBatch | None:
    """What was seen in the seconds in which all sequences ran."""
    full = queues.running >= (slots or np.inf)
    if not full.any():
        return None
    waiting = usage(queues.waiting[full])
    kv = usage(queues.kv_cache_percent[full])
    return FullBatch(
        seconds=int(full.sum()),
        waiting_mean=waiting.mean if waiting else None,
        kv_cache_percent_peak=kv.peak if kv else None,
    )


def _fullest_cache(table: Table, engines: Iterable[str]) -> FullestCache | None:
    fullest = None
    for name in engines:
        own = table[table["engine"] == name]
        cache, running = (usage(tables.by_second(own, column)[1]) for column in ("kv_cache_percent", "running"))
        if cache and running and (fullest is None or cache.peak > fullest.percent_peak):
            fullest = FullestCache(engine=name, percent_peak=cache.peak, running_mean=running.mean)
    return fullest


def usage(values: tables.Floats) -> Usage | None:
    """Mean and peak of the values that were measured."""
    values = values[~np.isnan(values)]
    return Usage(mean=float(values.mean()), peak=float(values.max()), seconds=len(values)) if len(values) else None


def _gpu_usage(gpus: Table, column: str) -> Usage | None:
    """Of each GPU and second the highest reading: every engine of a node reads all of its GPUs."""
    each = [gpus[gpus["gpu_index"] == index] for index in np.unique(gpus["gpu_index"])]
    return usage(np.concatenate([np.empty(0), *(tables.by_second(own, column)[1] for own in each)]))


def _gap(stamps: tables.Floats, span: tuple[float, float] | None) -> float | None:
    """Longest time without a reading, the edges of the span included."""
    edges = np.concatenate(([span[0]], stamps, [span[1]])) if span else stamps
    return float(np.diff(edges).max()) if len(edges) > 1 else None


def throttling(gpus: Table) -> tuple[float | None, tuple[str, ...]]:
    """In which percentage of readings of GPUs they were throttled, and why."""
    if not len(gpus):
        return None, ()
    reasons = [str(reason or "").strip() for reason in gpus["gpu_throttle"]]
    throttled = [reason for reason in reasons if reason.lower() not in NO_THROTTLE]
    return 100 * len(throttled) / len(reasons), tuple(sorted(set(throttled)))
