"""LoadGen's logs of one run as a frozen record: its settings, its measurements and its result."""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness import mllog
from harness.errors import BadInput

PERCENTILES = ("50", "90", "99")


@dataclass(frozen=True, slots=True)
class Percentiles:
    """50th, 90th and 99th percentile of a time in milliseconds."""

    p50_ms: float
    p90_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class LoadGenLog:
    """One LoadGen run. None means that LoadGen did not write the key in this scenario or mode.

    The latency limits are those LoadGen judged by; `queries_short` is how many more queries early stopping needs;
    `errors` are (message, count); times are milliseconds unless the name says seconds. `result_token_throughput`
    (wrong unit) and `result_overlatency_query_count` (judged by a target of 0) are left out on purpose.
    """

    mode: Literal["performance", "accuracy"]
    loadgen_version: str | None
    scenario: str | None
    sut_name: str | None
    seeds: tuple[int | None, int | None, int | None]
    target_qps: float | None
    min_duration_ms: float | None
    min_query_count: int | None
    ttft_limit_ms: float | None
    tpot_limit_ms: float | None
    query_count: int | None
    samples_per_query: int | None
    performance_sample_count: int | None
    accuracy_sample_count: int | None
    validity: Literal["VALID", "INVALID"] | None
    latency_limits_met: bool | None
    min_duration_met: bool | None
    min_queries_met: bool | None
    early_stopping_met: bool | None
    queries_short: int | None
    invalid_reason: str | None
    scheduled_samples_per_s: float | None
    samples_per_s: float | None
    tokens_per_s: float | None
    ttft: Percentiles | None
    tpot: Percentiles | None
    end_to_end: Percentiles | None
    num_errors: int
    errors: tuple[tuple[str, int], ...]
    power_begin: str | None
    power_end: str | None

    @property
    def samples(self) -> int | None:
        """Samples that LoadGen generated: queries times samples per query."""
        if self.query_count is None or self.samples_per_query is None:
            return None
        return self.query_count * self.samples_per_query


def read(directory: Path) -> LoadGenLog:
    """Read `mlperf_log_detail.txt` and `mlperf_log_summary.txt` of one LoadGen run.

    Raises:
        BadInput: a file is missing, cut short or contradicts the other.
    """
    detail = directory / "mlperf_log_detail.txt"
    values, errors = mllog.read(detail)
    accuracy = values.get("effective_test_mode") == "AccuracyOnly"
    closing = "power_end" if accuracy else "num_errors"
    if closing not in values:
        raise BadInput(f"{detail} is cut short: it has no {closing}, so LoadGen did not finish; run again")
    log = _record(values, errors, "accuracy" if accuracy else "performance")
    _check_summary(directory / "mlperf_log_summary.txt", log)
    return log


def _record(values: dict[str, Any], errors: Counter[str], mode: Literal["performance", "accuracy"]) -> LoadGenLog:
    get = values.get
    return LoadGenLog(
        mode=mode,
        loadgen_version=(get("loadgen_version") or "").split(" ")[0] or None,
        scenario=get("effective_scenario"),
        sut_name=get("sut_name"),
        seeds=(
            get("effective_qsl_rng_seed"),
            get("effective_sample_index_rng_seed"),
            get("effective_schedule_rng_seed"),
        ),
        target_qps=get("effective_target_qps"),
        min_duration_ms=get("effective_min_duration_ms"),
        min_query_count=get("effective_min_query_count"),
        ttft_limit_ms=_ms(get("requested_server_ttft_latency")),
        tpot_limit_ms=_ms(get("requested_server_tpot_latency")),
        query_count=get("generated_query_count"),
        samples_per_query=get("generated_samples_per_query"),
        performance_sample_count=get("effective_performance_sample_count"),
        accuracy_sample_count=get("effective_accuracy_sample_count"),
        validity=get("result_validity"),
        latency_limits_met=get("result_perf_constraints_met"),
        min_duration_met=get("result_min_duration_met"),
        min_queries_met=get("result_min_queries_met"),
        early_stopping_met=get("early_stopping_met"),
        queries_short=_queries_short(get("early_stopping_ttft_result"), get("early_stopping_tpot_result")),
        invalid_reason=_words(get("result_invalid_reason")),
        scheduled_samples_per_s=get("result_scheduled_samples_per_sec"),
        samples_per_s=_first(values, "result_completed_samples_per_sec", "result_samples_per_second"),
        tokens_per_s=_first(values, "result_completed_tokens_per_second", "result_tokens_per_second"),
        ttft=_percentiles(values, "result_first_token_{}.00_percentile_latency_ns"),
        tpot=_percentiles(values, "result_time_per_output_token_{}.00_percentile_ns"),
        end_to_end=_percentiles(values, "result_{}.00_percentile_latency_ns"),
        num_errors=get("num_errors", errors.total()),
        errors=tuple(errors.most_common()),
        power_begin=get("power_begin"),
        power_end=get("power_end"),
    )


def _first(values: dict[str, Any], *keys: str) -> float | None:
    return next((float(values[key]) for key in keys if key in values), None)


def _words(text: str | None) -> str | None:
    return " ".join((text or "").replace(" * ", " ").split()) or None


def _queries_short(*results: str | None) -> int | None:
    """How many more queries early stopping needs, from its sentences, one for each latency."""
    counts = [int(count) for text in results for count in re.findall(r"at least (\d+) more queries", text or "")]
    return max(counts, default=None)


def _ms(nanoseconds: float | None) -> float | None:
    return None if nanoseconds is None else nanoseconds / 1e6


def _percentiles(values: dict[str, Any], key: str) -> Percentiles | None:
    times = [_ms(values.get(key.format(percentile))) for percentile in PERCENTILES]
    if any(value is None for value in times):
        return None
    return Percentiles(*(value for value in times if value is not None))


def _check_summary(path: Path, log: LoadGenLog) -> None:
    """The summary's result, which submissions show, must be that of the detail log, which the record shows."""
    text = mllog.text(path)
    if log.mode == "accuracy":
        return  # an accuracy run's summary has no result
    result = re.search(r"^Result is : (\w+)", text, re.MULTILINE)
    if not result:
        raise BadInput(f"{path} is cut short: it has no 'Result is' line, so LoadGen did not finish; run again")
    if result[1] != log.validity:
        raise BadInput(
            f"{path} says {result[1]} but mlperf_log_detail.txt says {log.validity}; one of them is not this run's"
        )
