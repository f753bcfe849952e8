"""LoadGen's logs of a run whose journal is known: LoadGen's own files, with the values that this journal must have."""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

from harness.early_stopping import forgiven
from harness.load.loadgen import Settings
from harness.spec import RunMode, Spec

LOGS = Path(__file__).parents[1] / "fixtures" / "loadgen"
TEMPLATES = {
    ("performance", "Server"): "server_50",
    ("performance", "Offline"): "offline_50",
    ("accuracy", "Server"): "server_50_accuracy",
    ("accuracy", "Offline"): "offline_full_accuracy",
}
PERCENTILES = (50, 90, 95, 97, 99, 99.9)
_MODES: dict[str, RunMode] = {"performance": "performance", "accuracy": "accuracy"}
_YES = {True: "Yes", False: "NO"}


def write(folder: Path, mode: str, lines: Sequence[Mapping[str, Any]], spec: Spec, target_qps: float = 10.0) -> None:
    """The files of one LoadGen run in `folder`: detail log, summary, accuracy log.

    Args:
        folder: `performance` or `accuracy` of a run.
        mode: one of these.
        lines: the journal's lines of this run, all answered.
        spec: of the run.
        target_qps: the rate that LoadGen was given.
    """
    scenario = "Offline" if spec.scenario.ttft_limit_ms is None else "Server"
    template = LOGS / TEMPLATES[mode, scenario]
    values = _settings(spec, len(lines), scenario, target_qps)
    errors = 0
    if mode == "performance":
        errors = sum(line["n_tokens"] == 1 for line in lines) if scenario == "Server" else 0
        values |= _results(lines, spec, scenario) | {"num_errors": errors}
    values |= _times(lines)
    folder.mkdir(parents=True, exist_ok=True)
    lines_of_log = (template / "mlperf_log_detail.txt").read_text().splitlines()
    detail = [_line(line, values) for line in lines_of_log if '"result_invalid_reason"' not in line]
    more = [_entry("error_runtime", "Number of tokens need to be greater than 1", is_error=True)] * errors
    if values.get("result_validity") == "INVALID":
        more.append(_entry("result_invalid_reason", values["why"]))
    detail[-1:-1] = more
    (folder / "mlperf_log_detail.txt").write_text("\n".join(detail) + "\n")
    (folder / "mlperf_log_summary.txt").write_text(_summary((template / "mlperf_log_summary.txt").read_text(), values))
    (folder / "user.conf").write_text(Settings.of(spec, _MODES[mode], target_qps).user_conf)
    answers = lines if mode == "accuracy" else ()
    (folder / "mlperf_log_accuracy.json").write_text(accuracy_log(answers, spec.window.start))


def resummarise(folder: Path) -> None:
    """Write a summary anew after the detail log beside it was changed."""
    entries = [json.loads(line.removeprefix(":::MLLOG ")) for line in (folder / "mlperf_log_detail.txt").open()]
    summary = folder / "mlperf_log_summary.txt"
    summary.write_text(_summary(summary.read_text(), {entry["key"]: entry["value"] for entry in entries}))


def accuracy_log(lines: Sequence[Mapping[str, Any]], first_index: int) -> str:
    """mlperf_log_accuracy.json of these answers."""
    entries = [
        f'{{ "seq_id" : {number}, "qsl_idx" : {line["qsl_idx"] - first_index}, "data" : "{_hex(line["token_ids"])}", '
        f'"token_data" : "", "token_count" : {line["n_tokens"]} }}'
        for number, line in enumerate(lines)
    ]
    return "[\n" + ",\n".join(entries) + "\n]\n"


def _hex(ids: Sequence[int]) -> str:
    return b"".join(item.to_bytes(4, "little") for item in ids).hex().upper()


def _settings(spec: Spec, queries: int, scenario: str, target_qps: float) -> dict[str, Any]:
    size = spec.window.stop - spec.window.start
    duration_ms = round(spec.min_duration_s * 1000)
    values: dict[str, Any] = {
        "sut_name": f"mlperf-distributed ({', '.join(engine.name for engine in spec.engines)})",
        "requested_scenario": scenario,
        "effective_scenario": scenario,
        "requested_min_query_count": size,
        "requested_min_duration_ms": duration_ms,
        "effective_min_duration_ms": duration_ms,
        "effective_target_duration_ms": duration_ms,
        "requested_performance_sample_count_override": size,
        "effective_performance_sample_count": size,
        "effective_accuracy_sample_count": size,
        "qsl_reported_total_count": size,
        "qsl_reported_performance_count": size,
        "effective_target_qps": target_qps,
        "requested_server_target_qps": target_qps,
        "requested_offline_expected_qps": target_qps,
        "generated_query_count": queries if scenario == "Server" else 1,
        "generated_samples_per_query": 1 if scenario == "Server" else queries,
        "effective_samples_per_query": 1 if scenario == "Server" else queries,
        "effective_min_query_count": size if scenario == "Server" else 1,
        "effective_min_sample_count": size if scenario == "Server" else queries,
    }
    if scenario == "Server":
        values["requested_server_ttft_latency"] = round((spec.scenario.ttft_limit_ms or 0) * 1e6)
        values["requested_server_tpot_latency"] = round((spec.scenario.tpot_limit_ms or 0) * 1e6)
    return values


def told(line: Mapping[str, Any]) -> tuple[float, float]:
    """When LoadGen was told of a line's first token and of its answer."""
    return line.get("first_logged_s", line["first_s"]), line.get("last_logged_s", line["last_s"])


def _times(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    begin = min(line["issued_unix"] for line in lines)
    end = max(line["issued_unix"] + line["last_s"] - line["issued_s"] for line in lines)
    stamps = [datetime.fromtimestamp(unix, UTC).strftime("%m-%d-%Y %H:%M:%S.%f")[:-3] for unix in (begin, end)]
    test = datetime.fromtimestamp(begin, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"test_datetime": test, "power_begin": stamps[0], "power_end": stamps[1]}


def _results(lines: Sequence[Mapping[str, Any]], spec: Spec, scenario: str) -> dict[str, Any]:
    """What LoadGen measures, worked out as it does."""
    ordered = sorted(lines, key=lambda line: line["issued_s"])
    start, last, number = ordered[0]["issued_s"], ordered[-1], len(lines)
    latency = sorted(round((told(line)[1] - line["issued_s"]) * 1e9) for line in lines)
    first = sorted(round((told(line)[0] - line["issued_s"]) * 1e9) for line in lines)
    per_token = sorted(round((told(line)[1] - told(line)[0]) * 1e9 / max(1, line["n_tokens"] - 1)) for line in lines)
    tokens = sum(line["n_tokens"] for line in lines)
    values: dict[str, Any] = {"result_query_count": number if scenario == "Server" else 1}
    values |= _spread("result_{}latency_ns", "result_{}_percentile_latency_ns", latency)
    if scenario == "Offline":
        seconds = latency[-1] / 1e9
        met = {"result_min_duration_met": seconds >= spec.min_duration_s, "early_stopping_met": True}
        values |= {"result_samples_per_second": number / seconds, "result_tokens_per_second": tokens / seconds}
    else:
        scheduled, done = last["issued_s"] - start, told(last)[1] - start
        limits = (spec.scenario.tpot_limit_ms or 0) * 1e6, (spec.scenario.ttft_limit_ms or 0) * 1e6
        over = [sum(time > limit for time in times) for times, limit in zip((per_token, first), limits, strict=True)]
        confirmed = [count <= forgiven(number) for count in over]
        met = {
            "result_perf_constraints_met": _at(per_token, 99) <= limits[0] and _at(first, 99) <= limits[1],
            "result_min_duration_met": scheduled >= spec.min_duration_s,
            "early_stopping_met": all(confirmed),
        }
        texts = [_early_stopping(held, number, many) for held, many in zip(confirmed, over, strict=True)]
        values |= {
            "generated_query_duration": round(scheduled * 1e9),
            "result_overlatency_query_count": number,
            "result_scheduled_samples_per_sec": (number - 1) / scheduled,
            "result_completed_samples_per_sec": (number - 1) / done,
            "result_completed_tokens_per_second": tokens / done,
            "early_stopping_tpot_result": texts[0],
            "early_stopping_ttft_result": texts[1] if confirmed[0] else "",
        }
        values |= _spread("result_first_token_{}latency_ns", "result_first_token_{}_percentile_latency_ns", first)
        values |= _spread("result_time_to_output_token_{}", "result_time_per_output_token_{}_percentile_ns", per_token)
    met["result_min_queries_met"] = number >= spec.window.stop - spec.window.start
    why = " ".join(name for name, held in met.items() if not held)
    return values | met | {"result_validity": "INVALID" if why else "VALID", "why": why}


def _spread(of_all: str, of_one: str, times: Sequence[int]) -> dict[str, int]:
    """Least, greatest, mean and percentiles of sorted times."""
    names = {"min": times[0], "max": times[-1], "mean": sum(times) // len(times)}
    separator = "_" if of_all.endswith("ns") else ""
    spread = {of_all.format(f"{name}{separator}"): value for name, value in names.items()}
    return spread | {of_one.format(f"{percent:.2f}"): _at(times, percent) for percent in PERCENTILES}


def _at(times: Sequence[int], percent: float) -> int:
    return times[int(len(times) * percent / 100)]


def _early_stopping(held: bool, queries: int, over: int) -> str:
    if held:
        return " * Run successful."
    needed = next(number for number in count(max(queries, over)) if forgiven(number) >= over)
    return (
        f" * Run unsuccessful.  * Processed {queries} queries.  * Would need to run at least {needed - queries} more "
        "queries,  with the run being successful if every additional  query were under latency."
    )


def _line(line: str, values: Mapping[str, Any]) -> str:
    entry = json.loads(line.removeprefix(":::MLLOG "))
    if entry["key"] in values:
        value = values[entry["key"]]
        entry["value"] = float(f"{value:.6g}") if isinstance(value, float) else value
    return ":::MLLOG " + json.dumps(entry)


def _entry(key: str, value: Any, *, is_error: bool = False) -> str:
    metadata = {"is_error": is_error, "is_warning": False, "file": "results.cc", "line_no": 1, "pid": 1, "tid": 1}
    entry = {"key": key, "value": value, "time_ms": 1.0, "namespace": "mlperf::logging"}
    return ":::MLLOG " + json.dumps(entry | {"event_type": "POINT_IN_TIME", "metadata": metadata})


def _summary(text: str, values: Mapping[str, Any]) -> str:
    """LoadGen's summary with other values; it prints rates with two digits in Server, with six in Offline."""
    shown: dict[str, Any] = {
        "SUT name": values["sut_name"],
        "Scenario": values["effective_scenario"],
        "Mode": values.get("effective_test_mode"),
        "target_qps": f"{values['effective_target_qps']:g}",
        "min_duration (ms)": values["effective_min_duration_ms"],
        "min_query_count": values["effective_min_query_count"],
        "samples_per_query": values["effective_samples_per_query"],
        "performance_sample_count": values["effective_performance_sample_count"],
        "accuracy_sample_count": values["effective_accuracy_sample_count"],
        "ttft_latency (ns)": values.get("requested_server_ttft_latency"),
        "tpot_latency (ns)": values.get("requested_server_tpot_latency"),
        "Result is": values.get("result_validity"),
        "Performance constraints satisfied": _YES.get(values.get("result_perf_constraints_met")),  # type: ignore[arg-type]
        "Min duration satisfied": _YES.get(values.get("result_min_duration_met")),  # type: ignore[arg-type]
        "Min queries satisfied": _YES.get(values.get("result_min_queries_met")),  # type: ignore[arg-type]
        "Early stopping satisfied": _YES.get(values.get("early_stopping_met")),  # type: ignore[arg-type]
    }
    for label, key, form in (
        ("Completed samples per second", "result_completed_samples_per_sec", ".2f"),
        ("Completed tokens per second", "result_completed_tokens_per_second", ".2f"),
        ("Scheduled samples per second", "result_scheduled_samples_per_sec", ".2f"),
        ("Samples per second", "result_samples_per_second", ".6g"),
        ("Tokens per second", "result_tokens_per_second", ".6g"),
    ):
        shown[label] = format(values[key], form) if key in values else None
    for name, label in (("min", "Min"), ("max", "Max"), ("mean", "Mean")):
        shown[f"{label} latency (ns)"] = values.get(f"result_{name}_latency_ns")
        shown[f"{label} First Token latency (ns)"] = values.get(f"result_first_token_{name}_latency_ns")
        shown[f"{label} Time per Output Token (ns)"] = values.get(f"result_time_to_output_token_{name}")
    for percent in PERCENTILES:
        of_all = "result_{}{:.2f}_percentile_{}ns"
        shown[f"{percent:.2f} percentile latency (ns)"] = values.get(of_all.format("", percent, "latency_"))
        shown[f"{percent:.2f} percentile first token latency (ns)"] = values.get(
            of_all.format("first_token_", percent, "latency_")
        )
        shown[f"{percent:.2f} percentile time to output token (ns)"] = values.get(
            of_all.format("time_per_output_token_", percent, "")
        )
    if errors := values.get("num_errors"):
        errors_line = f"{errors} ERROR{'S' if errors > 1 else ''} encountered. See detailed log."
        text = text.replace("No errors encountered during test.", errors_line)
    for label, value in shown.items():
        if value is not None:
            text = re.sub(rf"^(\s*{re.escape(label)}\s*: ).*$", rf"\g<1>{value}", text, flags=re.M)
    return text
