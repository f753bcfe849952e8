"""Findings: each is found where its figures say so, and not where they do not."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.report.build import build
from harness.report.findings import Advice
from harness.report.record import Finding
from tests.unit.results_tree import START, benchmark, edit

COLUMNS = (
    "unix_s", "cpu_percent", "memory_used_gib", "memory_total_gib", "gpu_index", "gpu_util_percent",
    "gpu_memory_used_gib", "gpu_power_w", "gpu_sm_clock_mhz", "gpu_temperature_c", "gpu_throttle", "engine",
    "running", "waiting", "kv_cache_percent",
)  # fmt: skip
USUAL = {
    "cpu_percent": 60,
    "memory_used_gib": 5,
    "memory_total_gib": 24,
    "running": 6,
    "waiting": 0,
    "kv_cache_percent": 30,
}
GPU = {
    "gpu_index": 0,
    "gpu_util_percent": 95,
    "gpu_memory_used_gib": 20,
    "gpu_power_w": 120,
    "gpu_sm_clock_mhz": 1400,
    "gpu_temperature_c": 60,
    "gpu_throttle": "none",
}
CARD = {"index": 0, "name": "A30", "memory_gib": 24.0, "power_limit_w": 165.0, "sm_clock_max_mhz": 1440.0}


def telemetry(folder: Path, node: str, seconds: int = 30, **values: object) -> None:
    """The same reading every second of the run and beyond."""
    reading = {**USUAL, **values, "engine": f"{node}-0"}
    lines = [",".join(COLUMNS)]
    for second in range(-2, seconds):
        row: dict[str, Any] = {"unix_s": START + second, **reading}
        lines.append(",".join(str(row.get(column, "")) for column in COLUMNS))
    (folder / f"nodes/{node}/engines/{node}-0/telemetry.csv").write_text("\n".join(lines) + "\n")


def fleet(tmp_path: Path, **asked: Any) -> Path:
    folder = benchmark(tmp_path / "run", **asked)
    for node in ("alpha", "beta"):
        telemetry(folder, node)
    return folder


def found(folder: Path) -> dict[tuple[str, str | None], Finding]:
    return {(finding.code, finding.node): finding for finding in build(folder)[0].findings}


def outcome(**values: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "nodes/alpha/outcome.json", lambda o: o["performance"].update(values))


def card(folder: Path) -> None:
    edit(folder / "nodes/alpha/engines/alpha-0/engine.json", lambda e: e["machine"].update(gpus=[CARD]))


def seen(**values: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        card(folder)
        telemetry(folder, "alpha", **values)

    return change


def shared(folder: Path) -> None:
    edit(folder / "plan.json", lambda plan: plan.update(shared_machine=True))


def deepspeed(folder: Path) -> None:
    version = {"deepspeed": "0.19.8", "torch": "2.13.0", "package": "deepspeed"}
    path = folder / "nodes/alpha/engines/alpha-0/engine.json"
    edit(path, lambda engine: engine.update(kind="deepspeed", version=version))


def queued(folder: Path) -> None:
    path = folder / "nodes/alpha/journal.jsonl"
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    moved = [e | {"sent_s": e["issued_s"] + 0.05, "first_s": e["issued_s"] + 0.07} for e in entries]
    path.write_text("".join(json.dumps(e) + "\n" for e in moved))


def test_a_usual_run_has_nothing_to_say(tmp_path: Path) -> None:
    assert found(fleet(tmp_path)) == {}


CASES: dict[str, tuple[Callable[[Path], None], str, str | None, str]] = {
    "shared": (shared, "SHARED_MACHINE", None, "share one machine"),
    "batch": (seen(running=8, waiting=12), "BATCH_LIMITED", "alpha", "12 requests waited on average while all 8"),
    "kv": (seen(running=8, waiting=2, kv_cache_percent=97), "KV_FULL", "alpha", "reached 97 %"),
    "memory": (seen(memory_used_gib=23), "MEMORY_SHORT", "alpha", "23.0 of 24.0 GiB"),
    "cpu": (seen(cpu_percent=98), "CPU_BOUND", "alpha", "98 % busy"),
    "throttle": (seen(**(GPU | {"gpu_throttle": "thermal"})), "GPU_THROTTLED", "alpha", "100 % of readings (thermal)"),
    "clock": (seen(**(GPU | {"gpu_sm_clock_mhz": 1000})), "GPU_CLOCK_LOW", "alpha", "1000 MHz on average of 1440"),
    "power": (seen(**(GPU | {"gpu_power_w": 164})), "GPU_POWER_LIMITED", "alpha", "164 W on average of 165 W"),
    "idle GPU": (seen(**(GPU | {"gpu_util_percent": 40})), "GPU_IDLE", "alpha", "40 % busy"),
    "client": (outcome(client_cpu_s=4.9), "CLIENT_BUSY", "alpha", "0.96 processor cores"),
    "gap": (lambda folder: telemetry(folder, "alpha", seconds=0), "TELEMETRY_GAPS", "alpha", "gap of 5 s"),
    "cost": (
        lambda folder: edit(folder / "nodes/alpha/outcome.json", lambda o: o["telemetry_cost"].update(cpu_s=2.0)),
        "TELEMETRY_COST", "alpha", "10.0 % of one core",
    ),
    "deepspeed": (deepspeed, "NOT_TUNED", "alpha", "alpha-0 is DeepSpeed behind a plain adapter and is not tuned"),
    "queue": (queued, "ENGINES_FULL", "alpha", "up to 50 ms (p99) in the client"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_one_thing_seen_gives_one_finding(tmp_path: Path, name: str) -> None:
    change, code, node, words = CASES[name]
    folder = fleet(tmp_path)
    change(folder)
    findings = found(folder)
    expected = {(code, node)} | ({(code, "beta")} if name == "queue" else set())
    assert set(findings) == expected
    assert words in findings[code, node].sentence


def test_a_well_used_gpu_is_no_finding(tmp_path: Path) -> None:
    folder = fleet(tmp_path)
    seen(**GPU)(folder)
    assert found(folder) == {}


def test_uneven_nodes_are_named_with_their_ratio(tmp_path: Path) -> None:
    findings = found(fleet(tmp_path, speeds={"alpha": 4, "beta": 1}))
    assert set(findings) == {("UNEVEN_NODES", None)}
    assert "alpha was 3.76 times as fast as beta" in findings["UNEVEN_NODES", None].sentence


def test_uneven_nodes_of_one_machine_mean_nothing(tmp_path: Path) -> None:
    folder = fleet(tmp_path, speeds={"alpha": 4, "beta": 1})
    shared(folder)
    assert set(found(folder)) == {("SHARED_MACHINE", None)}


def test_slower_first_tokens_of_one_node_point_at_the_network(tmp_path: Path) -> None:
    folder = fleet(tmp_path)
    path = folder / "nodes/alpha/journal.jsonl"
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    late = [e | {"first_s": e["issued_s"] + 0.09} if e["engine"] == "beta-0" else e for e in entries]
    path.write_text("".join(json.dumps(e) + "\n" for e in late))
    findings = found(folder)
    assert set(findings) == {("NETWORK_LATENCY", None)}
    assert "TTFT p50 through beta is 90 ms and through alpha 20 ms" in findings["NETWORK_LATENCY", None].sentence


def test_mostly_idle_engines_show_the_target_and_not_the_machine(tmp_path: Path) -> None:
    folder = fleet(tmp_path)
    for node in ("alpha", "beta"):
        telemetry(folder, node, running=1, cpu_percent=20)
    findings = found(folder)
    assert set(findings) == {("TARGET_TOO_LOW", None)}
    assert "2.0 of 16 sequences ran" in findings["TARGET_TOO_LOW", None].sentence


def test_rate_far_above_what_was_answered_is_too_high(tmp_path: Path) -> None:
    folder = fleet(tmp_path)
    path = folder / "nodes/alpha/performance/mlperf_log_detail.txt"
    scheduled = '"result_scheduled_samples_per_sec", "value": '
    path.write_text(path.read_text().replace(f"{scheduled}38.0003", f"{scheduled}60.0"))
    assert found(folder) == {}  # a run of seconds says nothing: the time until its last answer is part of it
    path = folder / "nodes/alpha/journal.jsonl"
    last = [json.loads(line) for line in path.read_text().splitlines()][49]
    path.write_text(path.read_text().replace(f'"last_s": {last["last_s"]}', '"last_s": 45.0', 1))
    assert "36.57 samples/s of the 60.00" in found(folder)["TARGET_TOO_HIGH", None].sentence


def test_waiting_in_the_client_is_offlines_nature(tmp_path: Path) -> None:
    folder = fleet(tmp_path, scenario="offline", performance="offline_50", accuracy="offline_50")
    queued(folder)
    assert found(folder) == {}


def test_latency_near_its_limit_is_warned_of(tmp_path: Path) -> None:
    folder = fleet(tmp_path)
    path = folder / "nodes/alpha/performance/mlperf_log_detail.txt"
    path.write_text(
        path.read_text().replace(
            '"result_first_token_99.00_percentile_latency_ns", "value": 13029789',
            '"result_first_token_99.00_percentile_latency_ns", "value": 1900000000',
        )
    )
    findings = found(folder)
    assert set(findings) == {("NEAR_LIMIT", None)}
    assert "TTFT p99 is 1900 ms of 2000" in findings["NEAR_LIMIT", None].sentence


def test_engine_that_slows_down_at_half_is_found_with_both_figures(tmp_path: Path) -> None:
    folder = fleet(tmp_path, samples=420)
    assert set(found(folder)) <= {("TELEMETRY_GAPS", "alpha"), ("TELEMETRY_GAPS", "beta")}
    path = folder / "nodes/alpha/journal.jsonl"
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    slower = [e | {"last_s": e["last_s"] + 0.0127} if e["qsl_idx"] >= 210 and "alpha" in e["engine"] else e
              for e in entries]  # fmt: skip
    path.write_text("".join(json.dumps(e) + "\n" for e in slower))
    (sentence,) = [finding.sentence for finding in build(folder)[0].findings if finding.code == "NOT_STEADY"]
    assert "took 1.0 ms in the first half of the performance run and 1.1 ms in the second (+10.0 %)" in sentence


def test_half_empty_offline_batch_is_found(tmp_path: Path) -> None:
    folder = fleet(tmp_path, scenario="offline", performance="offline_50", accuracy="offline_50")
    shutil.rmtree(folder / "nodes/alpha/accuracy")
    edit(folder / "nodes/alpha/outcome.json", lambda o: o["performance"].update(finished_unix=START + 25))
    telemetry(folder, "alpha", running=2)
    assert set(found(folder)) == {("BATCH_EMPTY", "alpha")}


def test_every_advice_is_one_sentence_that_says_what_to_do() -> None:
    for advice in Advice:
        assert (advice.value.endswith(".") and ";" in advice.value) or "," in advice.value
        assert ". " not in advice.value
