"""Findings: each is reported where its figures show it, and only there."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.report import render
from harness.report.build import build
from harness.report.findings import Advice
from harness.report.record import Finding
from tests.unit import loadgen_logs
from tests.unit.results_tree import START, attempts, benchmark, edit, retimed

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


def fleet(tmp_path: Path, **request: Any) -> Path:
    folder = benchmark(tmp_path / "run", **request)
    for node in ("alpha", "beta"):
        telemetry(folder, node)
    return folder


def findings_of(folder: Path) -> dict[tuple[str, str | None], Finding]:
    return {(finding.code, finding.node): finding for finding in build(folder)[0].findings}


def outcome(**values: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "nodes/alpha/outcome.json", lambda o: o["performance"].update(values))


def card(folder: Path) -> None:
    edit(folder / "nodes/alpha/engines/alpha-0/engine.json", lambda e: e["machine"].update(gpus=[CARD]))


def readings(**values: object) -> Callable[[Path], None]:
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
    moved = [retimed(e, sent_s=e["issued_s"] + 0.05, first_s=e["issued_s"] + 0.07) for e in entries]
    path.write_text("".join(json.dumps(e) + "\n" for e in moved))


def gpus_of_engines(folder: Path, pods: bool, *utilizations: int, **alone: int) -> None:
    """An engine for each GPU of alpha, which answers in turn; in pods each sees a GPU 0, on hosts all see all."""
    first = folder / "nodes/alpha/engines/alpha-0"
    cards = [{**CARD, "index": index, "uuid": f"GPU-{index}"} for index in range(len(utilizations))]
    for index in range(len(utilizations)):
        engine = first.with_name(f"alpha-{index}")
        if index:
            shutil.copytree(first, engine)
        settings: dict[str, Any] = {} if pods else {"gpus": str(index)}
        edit(engine / "engine.json", lambda e, own=settings: e["config"].update(own))
        edit(engine / "engine.json", lambda e, name=engine.name: e.update(name=name))
        seen = cards[index : index + 1] if pods else cards
        edit(engine / "engine.json", lambda e, cards=seen: e["machine"].update(gpus=[dict(card) for card in cards]))
        lines = [",".join(COLUMNS)]
        for second in range(-2, 30):
            for local, card in enumerate(seen):
                number = int(card["uuid"][-1])
                row = {**USUAL, **GPU, "unix_s": START + second, "engine": engine.name if not local else ""}
                row |= {"gpu_index": local, "gpu_util_percent": utilizations[number], "gpu_power_w": 100 + number}
                lines.append(",".join(str(row.get(column, "")) for column in COLUMNS))
        (engine / "telemetry.csv").write_text("\n".join(lines) + "\n")


def two_engines(folder: Path) -> None:
    """Two engines of 8 sequences each: all run in every second second only, and then 6 and 7 requests wait."""
    first = folder / "nodes/alpha/engines/alpha-0"
    shutil.copytree(first, first.with_name("alpha-1"))
    edit(first.with_name("alpha-1") / "engine.json", lambda engine: engine.update(name="alpha-1"))
    for name, waiting, cache in (("alpha-0", 6, 30), ("alpha-1", 7, 90)):
        lines = [",".join(COLUMNS)]
        for second in range(-2, 30):
            full = second % 2 == 0
            reading = {**USUAL, "engine": name, "unix_s": START + second + 0.2}
            reading |= {"running": 8 if full else 4, "waiting": waiting if full else 0, "kv_cache_percent": cache}
            lines.append(",".join(str(reading.get(column, "")) for column in COLUMNS))
        (first.with_name(name) / "telemetry.csv").write_text("\n".join(lines) + "\n")


def one_full_cache(folder: Path) -> None:
    """The second of two engines has a full cache and runs 4 sequences, while the first one's is nearly empty."""
    two_engines(folder)
    path = folder / "nodes/alpha/engines/alpha-1/telemetry.csv"
    path.write_text(path.read_text().replace(",90\n", ",98\n").replace(",8,7,", ",4,7,"))


def test_an_ordinary_run_has_no_findings(tmp_path: Path) -> None:
    assert findings_of(fleet(tmp_path)) == {}


CASES: dict[str, tuple[Callable[[Path], None], str, str | None, str]] = {
    "shared": (shared, "SHARED_MACHINE", None, "share one machine"),
    "batch": (
        readings(running=8, waiting=12), "BATCH_LIMITED", "alpha",
        "12 requests waited on average while all 8 sequences ran (6 of 6 s)",
    ),
    "batch of two engines": (
        two_engines, "BATCH_LIMITED", "alpha",
        "13 requests waited on average while all 16 sequences ran (3 of 5 s) and the KV cache was at most 90 % full",
    ),
    "kv": (readings(running=8, waiting=2, kv_cache_percent=97), "KV_FULL", "alpha", "engine alpha-0 reached 97 %"),
    "kv of one of two engines": (
        one_full_cache, "KV_FULL", "alpha",
        "engine alpha-1 reached 98 %, so sequences may be preempted and computed again; give it more memory, use an "
        "8-bit format for weights or cache, or lower max_num_seqs to about 4.",
    ),
    "memory": (readings(memory_used_gib=23), "MEMORY_SHORT", "alpha", "23.0 of 24.0 GiB"),
    "cpu": (readings(cpu_percent=98), "CPU_BOUND", "alpha", "98 % busy"),
    "throttle": (readings(**(GPU | {"gpu_throttle": "thermal"})), "GPU_THROTTLED", "alpha", "% of readings (thermal)"),
    "clock": (readings(**(GPU | {"gpu_sm_clock_mhz": 1000})), "GPU_CLOCK_LOW", "alpha", "1000 MHz on average of 1440"),
    "power": (readings(**(GPU | {"gpu_power_w": 164})), "GPU_POWER_LIMITED", "alpha", "164 W on average of 165 W"),
    "idle GPU": (readings(**(GPU | {"gpu_util_percent": 40})), "GPU_IDLE", "alpha", "GPU 0: 40 % busy"),
    "client": (outcome(client_cpu_s=4.9), "CLIENT_BUSY", "alpha", "0.96 processor cores"),
    "gap": (lambda folder: telemetry(folder, "alpha", seconds=0), "TELEMETRY_GAPS", "alpha", "gap of 5 s"),
    "cost": (
        lambda folder: edit(folder / "nodes/alpha/outcome.json", lambda o: o["telemetry_cost"].update(cpu_s=2.0)),
        "TELEMETRY_COST", "alpha", "10.0 % of one core",
    ),
    "warned": (
        lambda folder: edit(folder / "nodes/alpha/outcome.json", lambda o: o.update(warnings=["engine e is shared"])),
        "WARNING", "alpha", "engine e is shared",
    ),
    "deepspeed": (deepspeed, "NOT_TUNED", "alpha", "alpha-0 is DeepSpeed behind a plain adapter and is not tuned"),
    "queue": (queued, "ENGINES_FULL", "alpha", "up to 50 ms (p99) in the client"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_one_condition_gives_one_finding(tmp_path: Path, name: str) -> None:
    change, code, node, words = CASES[name]
    folder = fleet(tmp_path)
    change(folder)
    findings = findings_of(folder)
    expected = {(code, node)} | ({(code, "beta")} if name == "queue" else set())
    assert set(findings) == expected
    assert words in findings[code, node].sentence


@pytest.mark.parametrize("pods", [False, True])
def test_each_gpu_is_judged_and_listed_by_itself(tmp_path: Path, pods: bool) -> None:
    folder = fleet(tmp_path)
    gpus_of_engines(folder, pods, 95, 20, 30)
    result = build(folder)[0]
    (idle,) = [one for one in result.findings if one.code == "GPU_IDLE"]
    assert (idle.node, idle.sentence[:54]) == ("alpha", "GPUs 1, 2: 20 to 30 % busy on average, so something el")
    alpha = result.nodes[0]
    assert [(gpu.number, gpu.engines) for gpu in alpha.gpus] == [(n, (f"alpha-{n}",)) for n in range(3)]
    assert [gpu.util_percent and gpu.util_percent.mean for gpu in alpha.gpus] == [95, 20, 30]
    assert [gpu.power_w and gpu.power_w.peak for gpu in alpha.gpus] == [100, 101, 102]
    assert len(alpha.machine.gpus) == 3
    # All of the node's samples were answered by its first engine.
    assert alpha.gpus[0].samples_per_s == pytest.approx(alpha.figures.samples_per_s)
    assert [gpu.samples_per_s for gpu in alpha.gpus[1:]] == [0, 0]
    page = render.page(result, "md")
    assert [f"| {n} A30 | alpha-{n} |" in page for n in range(3)] == [True] * 3


def test_a_gpu_without_engine_is_named(tmp_path: Path) -> None:
    folder = fleet(tmp_path)
    gpus_of_engines(folder, False, 95, 0)
    edit(folder / "nodes/alpha/engines/alpha-1/engine.json", lambda engine: engine["config"].update(gpus="0"))
    findings = findings_of(folder)
    assert set(findings) == {("GPU_UNUSED", "alpha")}
    assert findings["GPU_UNUSED", "alpha"].sentence.startswith("GPU 1: no engine used it")


def test_gpus_of_unequal_speed_are_named(tmp_path: Path) -> None:
    folder = fleet(tmp_path, speeds={"alpha": 4, "beta": 1})
    gpus_of_engines(folder, False, 95, 95)
    path = folder / "nodes/alpha/journal.jsonl"
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    for entry in entries:
        if entry["engine"] == "alpha-0" and entry["qsl_idx"] % 5 == 0:
            entry["engine"] = "alpha-1"
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    sentence = findings_of(folder)["GPU_UNEVEN", "alpha"].sentence
    assert sentence.startswith("The engine of GPU 0 was 3.00 times as fast as that of GPU 1")


def test_a_well_used_gpu_is_no_finding(tmp_path: Path) -> None:
    folder = fleet(tmp_path)
    readings(**GPU)(folder)
    assert findings_of(folder) == {}


def test_uneven_nodes_are_named_with_their_ratio(tmp_path: Path) -> None:
    findings = findings_of(fleet(tmp_path, speeds={"alpha": 4, "beta": 1}))
    assert set(findings) == {("UNEVEN_NODES", None)}
    assert "alpha was 3.76 times as fast as beta" in findings["UNEVEN_NODES", None].sentence


def test_uneven_nodes_of_one_machine_mean_nothing(tmp_path: Path) -> None:
    folder = fleet(tmp_path, speeds={"alpha": 4, "beta": 1})
    shared(folder)
    assert set(findings_of(folder)) == {("SHARED_MACHINE", None)}


def test_slower_first_tokens_of_one_node_point_at_the_network(tmp_path: Path) -> None:
    folder = fleet(tmp_path)
    path = folder / "nodes/alpha/journal.jsonl"
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    late = [retimed(e, first_s=e["issued_s"] + 0.09) if e["engine"] == "beta-0" else e for e in entries]
    path.write_text("".join(json.dumps(e) + "\n" for e in late))
    assert findings_of(folder) == {}, "slow answers alone say nothing about the network"
    times = {"alpha-0": 0.2, "beta-0": 31.4}
    edit(folder / "nodes/alpha/outcome.json", lambda outcome: outcome["performance"].update(connect_ms=times))
    findings = findings_of(folder)
    assert set(findings) == {("NETWORK_LATENCY", None)}
    sentence = findings["NETWORK_LATENCY", None].sentence
    assert "connection to beta took 31.4 ms at least, and TTFT p50 through it is 90 ms" in sentence


@pytest.mark.parametrize(("log", "size", "code"), [
    ("Loading weights took 80.00 seconds", 16_060_556_376, "SLOW_LOADING"),
    ("Loading weights took 20.00 seconds", 16_060_556_376, None),
    ("Loading weights took 80.00 seconds", None, None),
    ("no word of it", 16_060_556_376, None),
])  # fmt: skip
def test_a_slow_disk_is_found_by_the_time_of_loading(tmp_path: Path, log: str, size: int | None, code: str) -> None:
    folder = fleet(tmp_path)
    engine = folder / "nodes/alpha/engines/alpha-0"
    (engine / "engine.log").write_text(f"INFO {log}\n")
    edit(engine / "engine.json", lambda content: content["machine"]["model"].update(weights_bytes=size))
    findings = findings_of(folder)
    assert set(findings) == ({(code, "alpha")} if code else set())
    if code:
        assert "for 80 s at 201 MB/s" in findings[code, "alpha"].sentence


@pytest.mark.parametrize(
    ("host", "found"),
    [
        ({"container": "podman", "shared_memory_gib": 0.0625}, True),
        ({"container": "podman", "shared_memory_gib": 8}, False),
        ({"container": None, "shared_memory_gib": 0.0625}, False),
        ({"container": "podman", "shared_memory_gib": None}, False),
    ],
)
def test_small_shared_memory_matters_in_containers(tmp_path: Path, host: dict[str, Any], found: bool) -> None:
    folder = fleet(tmp_path)
    edit(folder / "nodes/alpha/engines/alpha-0/engine.json", lambda engine: engine["machine"].update(host=host))
    assert (("SHARED_MEMORY", "alpha") in findings_of(folder)) is found


def test_mostly_idle_engines_mean_that_the_target_is_the_limit(tmp_path: Path) -> None:
    folder = fleet(tmp_path)
    for node in ("alpha", "beta"):
        telemetry(folder, node, running=1, cpu_percent=20)
    findings = findings_of(folder)
    assert set(findings) == {("TARGET_TOO_LOW", None)}
    assert "2.0 of 16 sequences ran" in findings["TARGET_TOO_LOW", None].sentence


def test_rate_far_above_what_was_answered_is_too_high(tmp_path: Path) -> None:
    folder = fleet(tmp_path)
    path = folder / "nodes/alpha/performance/mlperf_log_detail.txt"
    scheduled = '"result_scheduled_samples_per_sec", "value": '
    text = path.read_text().replace(f"{scheduled}10.0", f"{scheduled}60.0")
    assert text != path.read_text()
    path.write_text(text)
    loadgen_logs.resummarise(path.parent)
    assert findings_of(folder) == {}  # a run of seconds says nothing: the time until its last answer is part of it
    late = '"result_first_token_99.00_percentile_latency_ns", "value": '
    path.write_text(text.replace(f"{late}20010000", f"{late}2500000000"))  # but it does where it broke a limit
    loadgen_logs.resummarise(path.parent)
    assert "9.71 samples/s of the 60.00" in findings_of(folder)["TARGET_TOO_HIGH", None].sentence
    long = fleet(tmp_path / "long", samples=250)
    path = long / "nodes/alpha/performance/mlperf_log_detail.txt"
    path.write_text(path.read_text().replace(f"{scheduled}10.0", f"{scheduled}60.0"))
    loadgen_logs.resummarise(path.parent)
    assert ("TARGET_TOO_HIGH", None) in findings_of(long)


EARLY = {"verdict": "ENDED EARLY", "target_qps": 60.0}


@pytest.mark.parametrize(("tried", "words"), [
    # Ended while first answers were late, and while too many had no answer at all, which no journal shows.
    ([EARLY | {"over_ttft": 3, "ttft_ms_p99": 2500.0}], "answered 4.97 samples/s of the 60.00 that were sent"),
    ([EARLY], "answered 9.82 samples/s of the 60.00 that were sent"),
    ([EARLY, EARLY | {"target_qps": 30.0}], "answered 9.82 samples/s of the 30.00 that were sent"),
    ([EARLY, {"target_qps": 10.0}], None),
    ([EARLY | {"target_qps": 11.0}], None),  # 11 were sent: one more was in flight
    ([EARLY | {"engine_lost": True}], None),
])  # fmt: skip
def test_rate_of_a_last_attempt_that_was_ended_early_is_too_high(
    tmp_path: Path, tried: list[dict[str, Any]], words: str | None
) -> None:
    folder = fleet(tmp_path)
    attempts(folder, *tried)
    found = [one for one in build(folder)[0].findings if one.code == "TARGET_TOO_HIGH"]
    assert [one.node for one in found] == ([None] if words else [])
    assert not words or words in found[0].sentence


def test_rates_of_loadgens_that_were_ended_early_are_too_high_each_and_together(tmp_path: Path) -> None:
    folder = fleet(tmp_path, topology="per_node", samples=100)
    attempts(folder, EARLY, node="alpha")
    attempts(folder, EARLY | {"target_qps": 30.0}, node="beta")
    found = {one.node: one.sentence for one in build(folder)[0].findings if one.code == "TARGET_TOO_HIGH"}
    assert [(node, sentence.split("of the ")[1][:5]) for node, sentence in found.items()] == [
        (None, "90.00"), ("alpha", "60.00"), ("beta", "30.00"),
    ]  # fmt: skip


def test_waiting_in_the_client_is_normal_in_offline(tmp_path: Path) -> None:
    folder = fleet(tmp_path, scenario="offline")
    queued(folder)
    assert findings_of(folder) == {}


def test_latency_near_its_limit_is_a_warning(tmp_path: Path) -> None:
    folder = fleet(tmp_path)
    path = folder / "nodes/alpha/performance/mlperf_log_detail.txt"
    path.write_text(
        path.read_text().replace(
            '"result_first_token_99.00_percentile_latency_ns", "value": 20010000',
            '"result_first_token_99.00_percentile_latency_ns", "value": 1900000000',
        )
    )
    loadgen_logs.resummarise(path.parent)
    findings = findings_of(folder)
    assert set(findings) == {("NEAR_LIMIT", None)}
    assert "TTFT p99 is 1900 ms of 2000" in findings["NEAR_LIMIT", None].sentence
    edit(folder / "plan.json", lambda plan: plan["asked"].update(target_qps="peak"))
    assert findings_of(folder) == {}, "a search looks for the limit"


def test_engine_that_slows_down_at_half_is_found_with_both_figures(tmp_path: Path) -> None:
    folder = fleet(tmp_path, samples=420)
    assert set(findings_of(folder)) <= {("TELEMETRY_GAPS", "alpha"), ("TELEMETRY_GAPS", "beta")}
    path = folder / "nodes/alpha/journal.jsonl"
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    slower = [retimed(e, last_s=e["last_s"] + 0.0127) if e["qsl_idx"] >= 210 and "alpha" in e["engine"] else e
              for e in entries]  # fmt: skip
    path.write_text("".join(json.dumps(e) + "\n" for e in slower))
    (sentence,) = [finding.sentence for finding in build(folder)[0].findings if finding.code == "NOT_STEADY"]
    assert "took 1.0 ms in the first half of the performance run and 1.1 ms in the second (+10.0 %)" in sentence


def test_half_empty_offline_batch_is_found(tmp_path: Path) -> None:
    folder = fleet(tmp_path, scenario="offline")
    shutil.rmtree(folder / "nodes/alpha/accuracy")
    edit(folder / "nodes/alpha/outcome.json", lambda o: o["performance"].update(finished_unix=START + 25))
    telemetry(folder, "alpha", running=2)
    assert set(findings_of(folder)) == {("BATCH_EMPTY", "alpha")}


def test_every_advice_is_one_imperative_sentence() -> None:
    for advice in Advice:
        assert (advice.value.endswith(".") and ";" in advice.value) or "," in advice.value
        assert ". " not in advice.value
