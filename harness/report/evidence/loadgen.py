"""LoadGen's logs fit the run, and their flags fit their numbers."""

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness import compliance, mllog
from harness.early_stopping import PERCENTILE, forgiven
from harness.errors import BadInput
from harness.files import read_json
from harness.report.load_inputs import Inputs, LoadGenRun
from harness.report.logs import LoadGenLog
from harness.report.record import Reason
from harness.report.rules import Rule
from harness.spec import OFFLINE_SLACK, Scenario, Spec

DIGITS = 2e-5
"""LoadGen logs numbers with six digits."""
ARRIVALS = 5.0
"""Standard deviations by which Server's random arrivals may be faster or slower than the target rate."""
_BUILT_IN = {
    "max_duration_ms": 0,
    "max_query_count": 0,
    "accuracy_log_rng_seed": 0,
    "accuracy_log_probability": 0,
    "accuracy_log_sampling_target": 0,
    "print_timestamps": False,
    "performance_issue_unique": False,
    "performance_issue_same": False,
    "performance_issue_same_index": 0,
    "sample_concatenate_permutation": True,
}
_BUILT_IN_SERVER = {
    "target_latency_ns": 0,
    "target_latency_percentile": PERCENTILE,
    "coalesce_queries": False,
    "max_async_queries": 0,
    "num_issue_query_threads": 0,
}
"""Settings that LoadGen carries for this benchmark, which nothing changes."""
_TESTS = {"performance": "PerformanceOnly", "accuracy": "AccuracyOnly", "compliance": "PerformanceOnly"}
PERCENTILES = ("50.00", "90.00", "95.00", "97.00", "99.00", "99.90")
LATENCY = "result_{}_percentile_latency_ns"
LATENCIES = {
    "TTFT": "result_first_token_{}_percentile_latency_ns",
    "TPOT": "result_time_per_output_token_{}_percentile_ns",
}


def reasons(inputs: Inputs, run: LoadGenRun) -> Iterator[Reason]:
    """Settings that are not the run's, and flags that contradict their numbers."""
    if run.spec is None:
        return
    for mode, folder, log in run.logs:
        if mode == "accuracy" and run.accuracy_resumed:
            continue  # its parts are LoadGen runs over other samples
        file = inputs.shown(folder / "mlperf_log_detail.txt")
        for key, value, rule in other_settings(run, run.spec, mode, log):
            yield Rule.LOG_OF_RUN.reason(file=file, what=key, value=value, rule=rule)
        try:
            for key, value, rule in _user_conf(folder, log, run.spec):
                name = inputs.shown(folder / "user.conf")
                yield Rule.LOG_OF_RUN.reason(file=name, what=key, value=value, rule=rule)
            answers = folder / "mlperf_log_accuracy.json"
            if mode == "performance" and read_json(answers, "accuracy log") != []:
                yield Rule.LOG_OF_RUN.reason(
                    file=inputs.shown(answers), what="its list of answers", value="filled", rule="empty"
                )
        except BadInput as error:
            yield Rule.FILES_WHOLE.reason(what=f"{run.host}: {error}")
        if mode == "performance":
            for what in _contradictions(log, run.spec):
                yield Rule.LOG_NUMBERS.reason(file=file, what=what)


def other_settings(run: LoadGenRun, spec: Spec, mode: str, log: LoadGenLog) -> Iterator[tuple[str, Any, Any]]:
    """Settings in the log that are not those of the run's specification and rate: key, value, the run's."""
    rules = _settings(spec, mode, log)
    if not run.unreadable("outcome.json"):
        rules |= dict.fromkeys(("effective_target_qps", _requested_qps(spec)), run.target_qps or 1.0)
    for key, rule in rules.items():
        value = log.values.get(key)
        if not _same(value, rule):
            yield key, value, rule


def _requested_qps(spec: Spec) -> str:
    return f"requested_{'offline_expected' if spec.scenario is Scenario.OFFLINE else 'server_target'}_qps"


def _settings(spec: Spec, mode: str, log: LoadGenLog) -> dict[str, Any]:
    """What the detail log must say, whatever was measured."""
    size, offline = spec.window.stop - spec.window.start, spec.scenario is Scenario.OFFLINE
    queries = log.samples or 0
    rules: dict[str, Any] = {
        "effective_test_mode": _TESTS[mode],
        "requested_test_mode": _TESTS[mode],
        "requested_scenario": "Offline" if offline else "Server",
        "requested_use_token_latencies": True,
        "requested_accuracy_sample_count_override": 0,
        "requested_performance_sample_count_override": size,
        "requested_min_query_count": size,
        "requested_min_duration_ms": round(spec.min_duration_s * 1000),
        "effective_min_duration_ms": round(spec.min_duration_s * 1000),
        "effective_min_query_count": 1 if offline else size,
        "effective_performance_sample_count": size,
        "effective_accuracy_sample_count": size,
        "effective_target_latency_ns": 0,
        "effective_target_latency_percentile": PERCENTILE,
        "effective_max_async_queries": 1 if offline else 0,
        "qsl_reported_total_count": size,
        "qsl_reported_performance_count": size,
        "sut_name": f"mlperf-distributed ({', '.join(engine.name for engine in spec.engines)})",
        "generated_samples_per_query": queries if offline else 1,
        "generated_query_count": 1 if offline else queries,
    }
    rules |= {f"{kind}_{key}": rule for kind in ("requested", "effective") for key, rule in _BUILT_IN.items()}
    if mode == "compliance":
        audited = {key.removeprefix("effective_"): rule for key, rule in compliance.EFFECTIVE.items()}
        rules |= {f"{kind}_{key}": rule for kind in ("requested", "effective") for key, rule in audited.items()}
        rules["requested_min_query_count"] = compliance.ANSWERS
        rules["effective_min_query_count"] = 1 if offline else compliance.ANSWERS
    return rules if offline else rules | {f"requested_server_{key}": rule for key, rule in _BUILT_IN_SERVER.items()}


def _same(value: Any, rule: Any) -> bool:
    if isinstance(rule, float):
        return type(value) in (int, float) and _near(value, rule)
    return type(value) is type(rule) and bool(value == rule)


def _user_conf(folder: Path, log: LoadGenLog, spec: Spec) -> Iterator[tuple[str, Any, Any]]:
    """What user.conf says otherwise than the log of the run that read it: key, value, the log's."""
    offline = spec.scenario is Scenario.OFFLINE
    section = f"{spec.scenario.model_name}.{'Offline' if offline else 'Server'}"
    keys = {
        "target_qps": _requested_qps(spec),
        "min_duration": "requested_min_duration_ms",
        "min_query_count": "requested_min_query_count",
        "performance_sample_count_override": "requested_performance_sample_count_override",
    }
    rules = {f"{section}.{name}": log.values.get(key) for name, key in keys.items()}
    lines = [line.partition("=") for line in mllog.text(folder / "user.conf").splitlines() if line.strip()]
    pairs = [(key.strip(), value.strip()) for key, _, value in lines]
    for key, count in Counter(key for key, _ in pairs).items():
        if count > 1:
            yield key, f"there {count} times", rules.get(key)
    values = dict(pairs)
    for key in rules | values:
        value, rule = values.get(key), rules.get(key)
        if value is None or not isinstance(rule, int | float) or not _near(_number(value), rule):
            yield key, value, rule


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _contradictions(log: LoadGenLog, spec: Spec) -> Iterator[str]:
    """Contradictions in a performance run's log, in words."""
    values = log.values
    if log.validity is None:
        yield "there is no result_validity; without one a run is not VALID"
    passes = (log.samples or 0) / (spec.window.stop - spec.window.start)
    if passes < 1 or passes != round(passes):
        yield f"{log.samples} samples are no whole number of passes over {spec.window.stop - spec.window.start}"
    if values.get("result_query_count") != log.query_count:
        yield f"result_query_count is {values.get('result_query_count')}, generated_query_count {log.query_count}"
    flags = {
        "result_perf_constraints_met": log.latency_limits_met if spec.scenario.ttft_limit_ms else True,
        "result_min_duration_met": log.min_duration_met,
        "result_min_queries_met": log.min_queries_met,
        "early_stopping_met": log.early_stopping_met,
    }
    if (log.validity == "VALID") != all(flag is True for flag in flags.values()):
        shown = ", ".join(f"{name} {flag}" for name, flag in flags.items())
        yield f"result_validity is {log.validity}, but {shown}"
    if log.validity == "VALID" and log.invalid_reason:
        yield f"result_validity is VALID, but result_invalid_reason is {log.invalid_reason!r}"
    yield from _offline(log, spec) if spec.scenario is Scenario.OFFLINE else _server(log, spec)


def _offline(log: LoadGenLog, spec: Spec) -> Iterator[str]:
    seconds = (log.longest_ms or 0) / 1e3
    if (seconds >= spec.min_duration_s) != log.min_duration_met:
        yield f"result_min_duration_met is {log.min_duration_met}, but the last answer came after {seconds:.3f} s"
    if not log.samples_per_s or not log.samples or not _near(log.samples_per_s, log.samples / max(seconds, 1e-9)):
        yield f"result_samples_per_second is {log.samples_per_s}, but {log.samples} were answered in {seconds:.3f} s"
    expected = OFFLINE_SLACK * (log.target_qps or 0) * spec.min_duration_s
    if (log.samples or 0) < math.floor(expected * (1 - DIGITS)):
        yield f"{log.samples} samples were issued, fewer than target and duration require ({expected:.0f})"


def _server(log: LoadGenLog, spec: Spec) -> Iterator[str]:
    number = log.samples or 0
    scheduled_s = (number - 1) / log.scheduled_samples_per_s if log.scheduled_samples_per_s else 0.0
    if (scheduled_s * (1 + DIGITS) >= spec.min_duration_s) != log.min_duration_met:
        yield (
            f"result_min_duration_met is {log.min_duration_met}, but the last of {number} queries was due after "
            f"{scheduled_s:.3f} s"
        )
    offered, chance = log.target_qps or 0, ARRIVALS / math.sqrt(max(number, 1))
    if not abs((log.scheduled_samples_per_s or 0) - offered) <= chance * offered:
        yield (
            f"{log.scheduled_samples_per_s} samples/s were scheduled at a target of {offered}, which chance does not "
            f"explain for {number} queries"
        )
    if (
        not log.samples_per_s
        or not log.tokens_per_s
        or log.samples_per_s > (log.scheduled_samples_per_s or 0) * (1 + DIGITS)
    ):
        yield f"{log.samples_per_s} samples/s completed of {log.scheduled_samples_per_s} scheduled cannot be"
    limits = {"TTFT": spec.scenario.ttft_limit_ms or 0, "TPOT": spec.scenario.tpot_limit_ms or 0}
    over = {name: percentiles_over(log, name, limit) for name, limit in limits.items()}
    missing = [name for name, bounds in over.items() if bounds is None]
    if missing:
        yield f"percentiles of {' and '.join(missing)} are missing"
        return
    broken = [name for name, key in LATENCIES.items() if log.values[key.format("99.00")] > limits[name] * 1e6]
    if bool(broken) == log.latency_limits_met:
        which = f"{' and '.join(broken)} over" if broken else "both within"
        yield f"result_perf_constraints_met is {log.latency_limits_met}, but the 99th percentiles are {which} the limit"
    allowed = forgiven(number)
    for name, bounds in over.items():
        if bounds and bounds[0] > allowed and log.early_stopping_met:
            yield (
                f"early_stopping_met is true, but at least {bounds[0]} of {number} queries were over the {name} limit "
                f"and {max(allowed, 0)} are forgiven"
            )
    if allowed < 0 and log.early_stopping_met:
        yield f"early_stopping_met is true, but {number} queries confirm nothing"


def percentiles_over(log: LoadGenLog, name: str, limit_ms: float) -> tuple[int, int] | None:
    """How many queries at least and at most were over a limit, by LoadGen's percentiles; None where one is missing.

    LoadGen's percentile p of n queries is the value at position ⌊n p⌋ of the sorted ones.
    """
    number, bounds = log.samples or 0, [0, log.samples or 0]
    before = -math.inf
    for percent in PERCENTILES:
        value = log.values.get(LATENCIES[name].format(percent))
        if not isinstance(value, int | float) or value < before:
            return None
        position, before = min(int(number * float(percent) / 100), number - 1), value
        if value > limit_ms * 1e6:
            bounds[0] = max(bounds[0], number - position)
        else:
            bounds[1] = number - position - 1
    return bounds[0], bounds[1]


def _near(value: float, rule: float) -> bool:
    return math.isclose(value, rule, rel_tol=DIGITS)
