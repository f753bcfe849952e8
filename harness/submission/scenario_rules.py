"""The rules of a submission about one scenario: its files, LoadGen's logs, accuracy and TEST06."""

import re
from collections.abc import Callable, Iterator
from typing import Any, TypeGuard

from harness import compliance
from harness.files import read_json
from harness.report import GATE, REFERENCE_CHARACTERS, REFERENCE_ROUGE
from harness.spec import EFFECTIVE_SEEDS, FULL_SAMPLES, LOADGEN_VERSION
from harness.submission.part import ACCURACY, DETAIL, PERFORMANCE, SUMMARY, Part
from harness.submission.rules import (
    LATENCY_LIMIT_NS,
    LEAST_SAMPLES,
    MEASUREMENT_KEYS,
    MIN_DURATION_MS,
    MOST_LOG_BYTES,
)

_FILES = (
    "measurements.json",
    "user.conf",
    "README.md",
    f"{PERFORMANCE}/{SUMMARY}",
    f"{PERFORMANCE}/{DETAIL}",
    f"{ACCURACY}/{SUMMARY}",
    f"{ACCURACY}/{DETAIL}",
    f"{ACCURACY}/accuracy.txt",
    f"{ACCURACY}/mlperf_log_accuracy.json",
)
_TEST_FILES = (f"{compliance.TEST}/{compliance.VERIFIED}", f"{compliance.TEST}/accuracy/{compliance.LOG}")
Rule = Callable[[Part], Iterator[str]]
"""The problems that a scenario has with one rule."""


def _files(part: Part) -> Iterator[str]:
    for name in (*_FILES, *(_TEST_FILES if part.closed else ())):
        path = part.path / name
        if not path.is_file():
            yield f"{name} is missing"
        elif not path.stat().st_size:
            yield f"{name} is empty"


def _measurements(part: Part) -> Iterator[str]:
    content = read_json(part.path / "measurements.json", "measurements")
    empty = [key for key in MEASUREMENT_KEYS if not (isinstance(content, dict) and content.get(key))]
    if empty:
        yield f"{', '.join(empty)} are missing or empty"


def _errors(part: Part) -> Iterator[str]:
    for mode, log in part.logs.items():
        if log.errors:
            yield f"{len(log.errors)} in {mode}, the first: {log.errors[0]}"


def _once(part: Part) -> Iterator[str]:
    for mode, log in part.logs.items():
        if log.repeated:
            yield f"{', '.join(log.repeated)} in {mode}"


def _version(part: Part) -> Iterator[str]:
    yield from _wrong(part, "loadgen_version", lambda value: str(value).split(" ")[0] == LOADGEN_VERSION)


def _seeds(part: Part) -> Iterator[str]:
    for key, seed in EFFECTIVE_SEEDS.items():
        yield from _wrong(part, key, lambda value, seed=seed: value == seed)  # type: ignore[misc]


def _modes(part: Part) -> Iterator[str]:
    for mode, log in part.logs.items():
        rule = {"performance": "PerformanceOnly", "accuracy": "AccuracyOnly"}[mode]
        if (value := log.values.get("effective_test_mode")) != rule:
            yield f"{mode} ran in {value}"


def _scenario(part: Part) -> Iterator[str]:
    yield from _wrong(part, "effective_scenario", lambda value: value == ("Offline" if part.offline else "Server"))


def _tokens(part: Part) -> Iterator[str]:
    yield from _wrong(part, "requested_use_token_latencies", lambda value: value is True)


def _sample_count(part: Part) -> Iterator[str]:
    value = part.performance.values.get("effective_performance_sample_count")
    if not _is_number(value) or value < FULL_SAMPLES:
        yield f"effective_performance_sample_count is {value}"


def _accuracy_count(part: Part) -> Iterator[str]:
    value = part.accuracy.values.get("effective_accuracy_sample_count")
    if value != FULL_SAMPLES:
        yield f"effective_accuracy_sample_count is {value}"


def _duration(part: Part) -> Iterator[str]:
    values = part.performance.values
    if not _is_number(least := values.get("effective_min_duration_ms")) or least < MIN_DURATION_MS:
        yield f"effective_min_duration_ms is {least}"
    if (met := values.get("result_min_duration_met")) is not True:
        yield f"result_min_duration_met is {met}"


def _queries(part: Part) -> Iterator[str]:
    values = part.performance.values
    if not _is_number(least := values.get("effective_min_query_count")) or least < 1:
        yield f"effective_min_query_count is {least}"
    size = values.get("effective_samples_per_query")
    if part.offline and part.closed and (not _is_number(size) or size < LEAST_SAMPLES):
        yield f"effective_samples_per_query is {size}"
    if (met := values.get("result_min_queries_met")) is not True:
        yield f"result_min_queries_met is {met}"


def _early_stopping(part: Part) -> Iterator[str]:
    values = part.performance.values
    if part.offline:
        return
    if (met := values.get("early_stopping_met")) is not True:
        yield f"early_stopping_met is {met}"
    if not _is_number(target := values.get("effective_target_latency_ns")) or target > LATENCY_LIMIT_NS:
        yield f"effective_target_latency_ns is {target}"


def _latency(part: Part) -> Iterator[str]:
    # The official checker wants less than the limit. LoadGen, and so the verdict, lets one that equals it pass.
    limits = {
        "result_first_token_99.00_percentile_latency_ns": part.scenario.ttft_limit_ms,
        "result_time_per_output_token_99.00_percentile_ns": part.scenario.tpot_limit_ms,
    }
    for key, limit in limits.items():
        value = part.performance.values.get(key)
        if limit is not None and (not _is_number(value) or value >= limit * 1e6):
            yield f"{key} is {value}, the limit is {limit * 1e6:.0f}"


def _result(part: Part) -> Iterator[str]:
    values = part.performance.values
    if (validity := values.get("result_validity")) != "VALID":
        yield f"result_validity is {validity}"
    keys = ("result_samples_per_second", "result_tokens_per_second")
    if not part.offline:
        keys = ("result_completed_samples_per_sec", "result_completed_tokens_per_second")
    for key in keys:
        if not _is_number(rate := values.get(key)) or rate <= 0:
            yield f"{key} is {rate}"
    results = re.findall(r"^Result is : (\w+)", (part.path / PERFORMANCE / SUMMARY).read_text(), re.MULTILINE)
    if results != ["VALID"]:
        yield f"the summary says {', '.join(results) or 'no result'}"


def _equal_issue(part: Part) -> Iterator[str]:
    if (value := part.performance.values.get("effective_sample_concatenate_permutation")) is not True:
        yield f"effective_sample_concatenate_permutation is {value}"


def _accuracy(part: Part) -> Iterator[str]:
    text = (part.path / ACCURACY / "accuracy.txt").read_text()
    for metric, reference in REFERENCE_ROUGE.items():
        values = re.findall(rf"'{metric}':\s+'?([\d.]+)'?", text)
        if not values or any(float(value) < GATE * reference for value in values):
            yield f"{metric} is {', '.join(values) or 'missing'}, the gate is {GATE * reference:.4f}"
    values = re.findall(r"'gen_len':\s([\d.]+)", text)
    low, high = 0.9 * REFERENCE_CHARACTERS, 1.1 * REFERENCE_CHARACTERS
    if not values or any(not low <= float(value) <= high for value in values):
        yield f"gen_len is {', '.join(values) or 'missing'}, the gate is {low:.0f} to {high:.0f}"


def _hash(part: Part) -> Iterator[str]:
    text = (part.path / ACCURACY / "accuracy.txt").read_text()
    if len(re.findall(r"^hash=[0-9a-f]{64}$", text, re.MULTILINE)) != 1:
        yield "accuracy.txt has not one line hash=SHA256"


def _truncated(part: Part) -> Iterator[str]:
    size = (part.path / ACCURACY / "mlperf_log_accuracy.json").stat().st_size
    if size > MOST_LOG_BYTES:
        yield f"it has {size} bytes, {MOST_LOG_BYTES} are allowed"


def _verified(part: Part) -> Iterator[str]:
    lines = (part.path / compliance.TEST / compliance.VERIFIED).read_text().splitlines()
    for line in ("EOS check pass: True", "Sample length check pass: True", f"{compliance.TEST} verification complete"):
        if line not in lines:
            yield f"{line!r} is missing"
    first = f"First token check pass: {'Skipped' if part.offline else 'True'}"
    if first not in lines:
        yield f"{first!r} is missing"


def _recomputed(part: Part) -> Iterator[str]:
    folder = part.path / compliance.TEST / "accuracy"
    result = compliance.check(folder, not part.offline, compliance.LLAMA_END_TOKENS)
    yield from result.failures()
    if result.answers != compliance.ANSWERS:
        yield f"{result.answers} answers are logged, {compliance.ANSWERS} are required"


def _wrong(part: Part, key: str, right: Callable[[Any], bool]) -> Iterator[str]:
    for mode, log in part.logs.items():
        if not right(log.values.get(key)):
            yield f"{key} is {log.values.get(key)} in {mode}"


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


_RULES: dict[str, Rule] = {
    "all files are there and not empty": _files,
    "measurements.json has all keys": _measurements,
    "LoadGen logged no errors": _errors,
    "LoadGen logged no key twice with different values": _once,
    f"LoadGen is {LOADGEN_VERSION}": _version,
    "the seeds are the round's": _seeds,
    "each log is of its mode": _modes,
    "the scenario is the folder's": _scenario,
    "token latencies were measured": _tokens,
    f"performance drew from {FULL_SAMPLES} samples": _sample_count,
    f"accuracy covers {FULL_SAMPLES} samples": _accuracy_count,
    "performance lasted 600 s": _duration,
    "there were enough queries": _queries,
    "early stopping was met": _early_stopping,
    "TTFT and TPOT hold their limits": _latency,
    "the result is VALID": _result,
    "every sample was issued equally often": _equal_issue,
    "accuracy.txt has the log's hash": _hash,
    "the accuracy log is truncated": _truncated,
}
_CLOSED_RULES: dict[str, Rule] = {
    "accuracy.txt meets the gates": _accuracy,
    f"{compliance.VERIFIED} says that {compliance.TEST} passed": _verified,
    f"{compliance.TEST} follows from its log": _recomputed,
}


def rules(part: Part) -> dict[str, Rule]:
    """The rules that apply to a scenario: Closed has some that Open has not."""
    return {**_RULES, **_CLOSED_RULES} if part.closed else _RULES
