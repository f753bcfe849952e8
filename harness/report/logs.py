"""LoadGen's logs of one run as a frozen record: its settings, its measurements and its result."""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness import mllog
from harness.errors import BadInput
from harness.report.log_summary import compare

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
    (wrong unit) and `result_overlatency_query_count` (judged by a target of 0) are left out on purpose; all keys are in
    `values`.
    """

    mode: Literal["performance", "accuracy"]
    values: Mapping[str, Any]
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
    longest_ms: float | None
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


def read(directory: Path, *, cut: bool = False) -> LoadGenLog:
    """Read `mlperf_log_detail.txt` and `mlperf_log_summary.txt` of one LoadGen run.

    With `cut` it is one that was interrupted, which has no result.

    Raises:
        BadInput: a file is missing, cut short, damaged or contradicts the other.
    """
    detail = directory / "mlperf_log_detail.txt"
    values, errors = mllog.read(detail, cut=cut)
    accuracy = values.get("effective_test_mode") == "AccuracyOnly"
    closing = "power_end" if accuracy else "num_errors"
    if cut:
        return _record(_Values(detail, values), errors, "accuracy" if accuracy else "performance")
    if closing not in values:
        raise BadInput(f"{detail} is cut short: it has no {closing}, so LoadGen did not finish; run again")
    log = _record(_Values(detail, values), errors, "accuracy" if accuracy else "performance")
    compare(directory / "mlperf_log_summary.txt", log.mode, values)
    return log


class _Values:
    """The values of a detail log, each of its kind or absent."""

    def __init__(self, path: Path, values: Mapping[str, Any]) -> None:
        self._path, self.all = path, values

    def number(self, key: str) -> float | None:
        """A finite number."""
        value: float | None = self._of_kind(key, (int, float), "a finite number")
        return value

    def whole(self, key: str) -> int | None:
        """A whole number."""
        value: int | None = self._of_kind(key, (int,), "a whole number")
        return value

    def flag(self, key: str) -> bool | None:
        """True or false."""
        value: bool | None = self._of_kind(key, (bool,), "true or false")
        return value

    def text(self, key: str) -> str | None:
        """Text."""
        value: str | None = self._of_kind(key, (str,), "text")
        return value

    def _of_kind(self, key: str, kinds: tuple[type, ...], what: str) -> Any:
        value = self.all.get(key)
        if value is not None and (type(value) not in kinds or value != value or value in (math.inf, -math.inf)):
            raise BadInput(f"{self._path}: {key} is {value!r}, not {what}; fetch it again, or run again")
        return value


def _record(values: _Values, errors: Counter[str], mode: Literal["performance", "accuracy"]) -> LoadGenLog:
    number, whole, flag, text = values.number, values.whole, values.flag, values.text
    validity = text("result_validity")
    return LoadGenLog(
        mode=mode,
        values=values.all,
        loadgen_version=(text("loadgen_version") or "").split(" ")[0] or None,
        scenario=text("effective_scenario"),
        sut_name=text("sut_name"),
        seeds=(
            whole("effective_qsl_rng_seed"),
            whole("effective_sample_index_rng_seed"),
            whole("effective_schedule_rng_seed"),
        ),
        target_qps=number("effective_target_qps"),
        min_duration_ms=number("effective_min_duration_ms"),
        min_query_count=whole("effective_min_query_count"),
        ttft_limit_ms=_ms(number("requested_server_ttft_latency")),
        tpot_limit_ms=_ms(number("requested_server_tpot_latency")),
        query_count=whole("generated_query_count"),
        samples_per_query=whole("generated_samples_per_query"),
        performance_sample_count=whole("effective_performance_sample_count"),
        accuracy_sample_count=whole("effective_accuracy_sample_count"),
        validity="VALID" if validity == "VALID" else "INVALID" if validity else None,
        latency_limits_met=flag("result_perf_constraints_met"),
        min_duration_met=flag("result_min_duration_met"),
        min_queries_met=flag("result_min_queries_met"),
        early_stopping_met=flag("early_stopping_met"),
        queries_short=_queries_short(text("early_stopping_ttft_result"), text("early_stopping_tpot_result")),
        invalid_reason=_words(text("result_invalid_reason")),
        scheduled_samples_per_s=number("result_scheduled_samples_per_sec"),
        samples_per_s=_first(number, "result_completed_samples_per_sec", "result_samples_per_second"),
        tokens_per_s=_first(number, "result_completed_tokens_per_second", "result_tokens_per_second"),
        ttft=_percentiles(number, "result_first_token_{}.00_percentile_latency_ns"),
        tpot=_percentiles(number, "result_time_per_output_token_{}.00_percentile_ns"),
        end_to_end=_percentiles(number, "result_{}.00_percentile_latency_ns"),
        longest_ms=_ms(number("result_max_latency_ns")),
        num_errors=max(whole("num_errors") or 0, errors.total()),
        errors=tuple(errors.most_common()),
        power_begin=text("power_begin"),
        power_end=text("power_end"),
    )


_Number = Callable[[str], float | None]


def _first(number: _Number, *keys: str) -> float | None:
    return next((value for key in keys if (value := number(key)) is not None), None)


def _words(text: str | None) -> str | None:
    return " ".join((text or "").replace(" * ", " ").split()) or None


def _queries_short(*results: str | None) -> int | None:
    """How many more queries early stopping needs, from its sentences, one for each latency."""
    counts = [int(count) for text in results for count in re.findall(r"at least (\d+) more queries", text or "")]
    return max(counts, default=None)


def _ms(nanoseconds: float | None) -> float | None:
    return None if nanoseconds is None else nanoseconds / 1e6


def _percentiles(number: _Number, key: str) -> Percentiles | None:
    times = [_ms(number(key.format(percentile))) for percentile in PERCENTILES]
    if any(value is None for value in times):
        return None
    return Percentiles(*(value for value in times if value is not None))
