"""From samples and seconds to figures: speed, latency, accuracy, projected hours, use of the machine."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from harness.report import logs, tables
from harness.report.input_models import Part
from harness.report.load_inputs import LoadGenRun
from harness.report.machines import Telemetry, Usage
from harness.report.record import Figures, Latency, Pair, Rouge
from harness.scoring.scores import METRICS, Score
from harness.spec import FULL_SAMPLES, OFFLINE_MARGIN, OFFLINE_SLACK, RULE_MIN_DURATION_S

Measured = Literal["performance", "accuracy"]
MODES: tuple[Measured, Measured] = ("performance", "accuracy")
NO_THROTTLE = {"", "none", "0", "idle", "gpu_idle", "not active"}


@dataclass(frozen=True, slots=True)
class _Speed:
    samples: int | None = None
    tokens: int | None = None
    seconds: float | None = None
    samples_per_s: float | None = None
    tokens_per_s: float | None = None
    source: Literal["LoadGen", "journal"] | None = None


def measured(loadgens: Sequence[LoadGenRun], journal: pd.DataFrame) -> Measured:
    """The mode that speed and latency are taken from: performance, or accuracy where there was no other run."""
    if any(loadgen.performance for loadgen in loadgens) or (journal["mode"] == "performance").any():
        return "performance"
    return "accuracy"


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


def _spans(loadgens: Sequence[LoadGenRun], rows: pd.DataFrame, mode: Measured) -> pd.DataFrame | None:
    """`start` and `stop` of each LoadGen in unix seconds: first issue and last answer in its journal; None when one of
    them did not finish. `finished_unix` in the outcome would count the time in which LoadGen writes its logs."""
    spans = rows.groupby("loadgen").agg(start=("issued_unix", "min"), stop=("done_unix", "max"))
    whole = all(part_of(loadgen, mode) and loadgen.host in spans.index for loadgen in loadgens)
    return spans if whole and len(spans) else None


def all_running(loadgens: Sequence[LoadGenRun], rows: pd.DataFrame, mode: Measured) -> tuple[float, float] | None:
    """Unix seconds in which every LoadGen was running; None when one did not finish or they never overlapped."""
    spans = _spans(loadgens, rows, mode)
    if spans is None or spans["stop"].min() <= spans["start"].max():
        return None
    return float(spans["start"].max()), float(spans["stop"].min())


def pair(loadgens: Sequence[LoadGenRun], rows: pd.DataFrame, mode: Measured) -> Pair | None:
    """How several LoadGens ran side by side; None for one LoadGen or when one of them did not finish."""
    spans, together = _spans(loadgens, rows, mode), all_running(loadgens, rows, mode)
    if len(loadgens) < 2 or spans is None or together is None:
        return None
    makespan = float(spans["stop"].max() - spans["start"].min())
    return Pair(
        all_running_s=together[1] - together[0],
        makespan_s=makespan,
        makespan_samples_per_s=len(rows) / makespan,
        finished_apart_s=float(spans["stop"].max() - spans["stop"].min()),
    )


def of(
    rows: pd.DataFrame,
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


def _logged_speed(rows: pd.DataFrame, log: logs.LoadGenLog) -> _Speed:
    seconds = float(rows["done_unix"].max() - rows["issued_unix"].min()) if len(rows) else None
    tokens = int(rows["n_tokens"].sum()) if len(rows) else None
    return _Speed(log.samples, tokens, seconds, log.samples_per_s, log.tokens_per_s, "LoadGen")


def _journal_speed(rows: pd.DataFrame, span: tuple[float, float] | None) -> _Speed:
    if rows.empty:
        return _Speed()
    start, stop = span or (float(rows["issued_unix"].min()), float(rows["done_unix"].max()))
    inside = rows[(rows["done_unix"] >= start) & (rows["done_unix"] <= stop)]
    seconds, tokens = stop - start, int(inside["n_tokens"].sum())
    if seconds <= 0:
        return _Speed(len(inside), tokens)
    return _Speed(len(inside), tokens, seconds, len(inside) / seconds, tokens / seconds, "journal")


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


def _latency(logged: logs.Percentiles | None, values: pd.Series) -> Latency | None:
    if logged:
        return Latency(p50_ms=logged.p50_ms, p90_ms=logged.p90_ms, p99_ms=logged.p99_ms, source="LoadGen")
    p50, p90, p99 = (tables.percentile(values, percent) for percent in (50, 90, 99))
    if p50 is None or p90 is None or p99 is None:
        return None
    return Latency(p50_ms=p50, p90_ms=p90, p99_ms=p99, source="journal")


def scores(loadgens: Sequence[LoadGenRun]) -> pd.DataFrame:
    """Per-sample scores of all shares: `qsl_idx`, the four metrics (0 to 1), `gen_len`, `n_tokens`."""
    files = [loadgen.path / "accuracy" / "scores.csv" for loadgen in loadgens]
    tables = [pd.read_csv(file) for file in files if file.exists()]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=["qsl_idx", *METRICS, "gen_len"])


def merged(score: Score | None) -> Rouge | None:
    """Accuracy of all shares as the reference prints it."""
    if score is None:
        return None
    values = {metric: getattr(score, metric) for metric in METRICS}
    return Rouge(**values, gen_len_characters=score.gen_len, gen_num=score.gen_num)


def partial(table: pd.DataFrame, qsl_indexes: pd.Series) -> Rouge | None:
    """Accuracy of the samples that one node answered."""
    own = table[table["qsl_idx"].isin(set(qsl_indexes))]
    if own.empty:
        return None
    values = {
        metric: round(float(own[metric].mean()) * 100, 4) if own[metric].notna().all() else None for metric in METRICS
    }
    characters = int(own["gen_len"].sum()) if own["gen_len"].notna().all() else None
    return Rouge.model_validate({**values, "gen_len_characters": characters, "gen_num": len(own)})


def telemetry(
    paths: Sequence[Path], engines: set[str] | None, span: tuple[float, float] | None, cost: float | None
) -> Telemetry:
    """A node's telemetry in `span` (unix seconds), from its telemetry files; `engines` None takes all in them."""
    table = tables.readings(paths, span)
    machine = tables.readings(paths[:1], span)
    machine = machine.groupby(machine["unix_s"].round(), as_index=False).first()
    gpus = table.dropna(subset=["gpu_util_percent"]).drop_duplicates(["unix_s", "gpu_index"])
    own = table if engines is None else table[table["engine"].isin(engines)]
    throttled, why = _throttling(gpus)
    total = machine["memory_total_gib"].dropna()
    return Telemetry(
        cpu_percent=_usage(machine["cpu_percent"]),
        memory_used_gib=_usage(machine["memory_used_gib"]),
        memory_total_gib=float(total.iloc[0]) if len(total) else None,
        gpu_util_percent=_usage(gpus["gpu_util_percent"]),
        gpu_memory_used_gib=_usage(gpus["gpu_memory_used_gib"]),
        gpu_power_w=_usage(gpus["gpu_power_w"]),
        gpu_sm_clock_mhz=_usage(gpus["gpu_sm_clock_mhz"]),
        gpu_temperature_c=_usage(gpus["gpu_temperature_c"]),
        throttled_percent=throttled,
        throttle_reasons=why,
        running=_usage(own["running"]),
        waiting=_usage(own["waiting"]),
        kv_cache_percent=_usage(own["kv_cache_percent"]),
        gap_s=_gap(machine["unix_s"], span) if any(path.exists() for path in paths) else None,
        own_cost_cpu_percent=cost,
    )


def _usage(values: pd.Series) -> Usage | None:
    values = values.dropna()
    return Usage(mean=float(values.mean()), peak=float(values.max()), seconds=len(values)) if len(values) else None


def _gap(seconds: pd.Series, span: tuple[float, float] | None) -> float | None:
    """Longest time without a reading, the edges of the span included."""
    stamps = seconds.to_numpy(dtype=float)
    edges = np.concatenate(([span[0]], stamps, [span[1]])) if span else stamps
    return float(np.diff(edges).max()) if len(edges) > 1 else None


def _throttling(gpus: pd.DataFrame) -> tuple[float | None, tuple[str, ...]]:
    if gpus.empty:
        return None, ()
    reasons = gpus["gpu_throttle"].fillna("").astype(str).str.strip()
    throttled = reasons[~reasons.str.lower().isin(NO_THROTTLE)]
    return 100 * len(throttled) / len(reasons), tuple(sorted(set(throttled)))
