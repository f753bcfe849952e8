"""LoadGen's summary, which submissions show, against its detail log, which the record shows: the same run's values."""

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness import mllog
from harness.errors import BadInput

_FLAGS = {"Yes": True, "NO": False}
_SKIPPED = "Skipped"
_LABELS = {
    "Result is": "result_validity",
    "SUT name": "sut_name",
    "Scenario": "effective_scenario",
    "Mode": "effective_test_mode",
    "Completed samples per second": "result_completed_samples_per_sec",
    "Completed tokens per second": "result_completed_tokens_per_second",
    "Scheduled samples per second": "result_scheduled_samples_per_sec",
    "Samples per second": "result_samples_per_second",
    "Tokens per second": "result_tokens_per_second",
    "Performance constraints satisfied": "result_perf_constraints_met",
    "Min duration satisfied": "result_min_duration_met",
    "Min queries satisfied": "result_min_queries_met",
    "Early stopping satisfied": "early_stopping_met",
    "target_qps": "effective_target_qps",
    "ttft_latency (ns)": "requested_server_ttft_latency",
    "tpot_latency (ns)": "requested_server_tpot_latency",
    "min_duration (ms)": "effective_min_duration_ms",
    "min_query_count": "effective_min_query_count",
    "qsl_rng_seed": "effective_qsl_rng_seed",
    "sample_index_rng_seed": "effective_sample_index_rng_seed",
    "schedule_rng_seed": "effective_schedule_rng_seed",
    "performance_sample_count": "effective_performance_sample_count",
    "accuracy_sample_count": "effective_accuracy_sample_count",
}
_TIMES = {
    "latency (ns)": "result_{}latency_ns",
    "First Token latency (ns)": "result_first_token_{}latency_ns",
    "Time per Output Token (ns)": "result_time_to_output_token_{}",
}
_PERCENTILES = {
    "latency (ns)": "result_{}_percentile_latency_ns",
    "first token latency (ns)": "result_first_token_{}_percentile_latency_ns",
    "time to output token (ns)": "result_time_per_output_token_{}_percentile_ns",
}


def compare(path: Path, mode: str, values: Mapping[str, Any]) -> None:
    """Compare a summary with the detail log's `values`.

    Raises:
        BadInput: it is missing or cut short, contradicts a value, or has a result twice. An accuracy run's summary has
            no result.
    """
    summary = mllog.summary(path)
    if mode == "accuracy" and "Result is" in summary:
        raise BadInput(f"{path} has a result, which LoadGen does not write of an accuracy run; fetch it again")
    for label in () if mode == "accuracy" else ("Result is", "Scenario", "Mode"):
        if label not in summary:
            raise BadInput(f"{path} is cut short: it has no '{label}' line, so LoadGen did not finish; run again")
    errors = re.findall(r"^(No|\d+) (?:errors|ERRORS?) encountered", mllog.text(path), re.MULTILINE)
    if len(errors) != 1:
        fault = "says several times" if errors else "is cut short: it does not say"
        raise BadInput(f"{path} {fault} how many errors there were; fetch it again, or run again")
    count = values.get("num_errors", 0)
    if errors[0] != ("No" if count == 0 else str(count)):
        raise BadInput(
            f"{path} says {errors[0]} errors, but mlperf_log_detail.txt says {count}; one of them is not this run's"
        )
    if len(summary.get("Result is", ())) > 1:
        raise BadInput(f"{path} has {len(summary['Result is'])} results, which LoadGen does not write; fetch it again")
    for label, key in _pairs():
        for shown in summary.get(label, ()):
            if key in values and not _same(shown, values[key]):
                raise BadInput(
                    f"{path} says {label} {shown} but mlperf_log_detail.txt says {values[key]} ({key}); one of them is "
                    "not this run's"
                )


def _pairs() -> Iterator[tuple[str, str]]:
    """Labels of the summary with their keys in the detail log."""
    yield from _LABELS.items()
    for label, key in _TIMES.items():
        for name in ("Min", "Max", "Mean"):
            yield f"{name} {label}", key.format(f"{name.lower()}_" if key.endswith("ns") else name.lower())
    for label, key in _PERCENTILES.items():
        for percent in ("50.00", "90.00", "95.00", "97.00", "99.00", "99.90"):
            yield f"{percent} percentile {label}", key.format(percent)


def _same(shown: str, value: Any) -> bool:
    """Whether the summary's text stands for the value; it has two digits after the point at least."""
    if isinstance(value, bool):
        return _FLAGS.get(shown) == value
    if not isinstance(value, int | float):
        return shown == str(value)
    try:
        number = float(shown)
    except ValueError:
        return False
    whole = isinstance(value, int) and "." not in shown and "e" not in shown
    return shown == str(value) if whole else math.isclose(number, value, rel_tol=1e-5, abs_tol=0.0051)
