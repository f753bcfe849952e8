"""benchmark.yml over the real vLLM on the CPU: the gate, both topologies, ansible-runner, a killed engine."""

import csv
import json
import os
import shutil
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from harness import ci
from tests.conftest import REPOSITORY
from tests.integration.conftest import SAMPLES, Site, until


@pytest.fixture
def vllm(site: Site, free_ports: list[int]) -> Site:
    """inventory/local itself, but for its ports: those may be taken on a machine that runs tests."""
    port = "{{ [" + ", ".join(map(str, free_ports)) + "][local_node] }}"
    engine = {"name": "{{ inventory_hostname }}", "port": port, "cpu_cores": "{{ local_cores }}"}
    site.variables = {"harness_engines": [engine]}
    return site


def scored(folder: Path) -> list[int]:
    with (folder / "accuracy" / "scores.csv").open() as stream:
        return [int(row["qsl_idx"]) for row in csv.DictReader(stream)]


def assert_rate_for_auto(calibration: dict[str, Any]) -> None:
    """The rate `auto` takes for Server: below what the engines hold, every probe with what it was taken or left for."""
    probes = calibration["tried"]
    assert 0 < calibration["target_qps"] < calibration["samples_per_s"]
    assert calibration["target_qps"] == pytest.approx(probes[-1]["target_qps"], rel=1e-3)
    rates = [probe["target_qps"] for probe in probes]
    assert rates == sorted(rates, reverse=True)
    for probe in probes:
        assert probe["samples"] > 0
        assert probe["held"] is (0 < probe["ttft_ms_p99"] <= 2000 and 0 < probe["tpot_ms_p99"] <= 100)
    assert not any(probe["held"] for probe in probes[:-1])


def test_fleet_in_server_mode_both_passes_the_gate(vllm: Site) -> None:
    status = vllm.play(run_id="gate", target_qps=8)
    result = vllm.read("gate", "result.json")
    # Whether latency limits hold depends on what else this machine does; everything else must.
    broken = [reason["sentence"] for reason in result["verdict"]["reasons"] if reason["level"] == "INVALID"]
    assert [sentence for sentence in broken if "a latency limit was broken" not in sentence] == [], vllm.output()
    assert status == (2 if broken else 0), vllm.output()
    assert result["verdict"]["level"] == ("INVALID" if broken else "UNOFFICIAL")
    assert result["failures"] == []
    assert_rate_for_auto(vllm.read("gate", "plan.json")["calibration"]["node1"])
    assert result["accuracy_reference"]["compared"] == SAMPLES
    assert result["accuracy_reference"]["identical"] >= 0.99 * SAMPLES
    assert sorted(scored(vllm.results / "gate" / "nodes" / "node1")) == list(range(SAMPLES))
    for node in ("node1", "node2"):
        engine = vllm.read("gate", f"nodes/{node}/engines/{node}/engine.json")
        assert engine["verified"]["enable_prefix_caching"] is False
        assert engine["verified"]["max_model_len"] == 2668
        assert engine["state"] == "stopped"
        assert not Path(f"/proc/{engine['engine_pid']}").exists()
    journal = vllm.lines("gate", "nodes/node1/journal.jsonl")
    assert len(journal) == 2 * SAMPLES
    assert {entry["engine"] for entry in journal} == {"node1", "node2"}
    for page in ("report.md", "report.html"):
        text = (vllm.results / "gate" / page).read_text()
        assert result["verdict"]["level"] in text
        assert "Result not verified by MLCommons Association." in text


def test_per_node_through_ansible_runner_merges_accuracy(vllm: Site) -> None:
    run = ci.benchmark(
        inventory=vllm.inventory(),
        project=REPOSITORY,
        scenario="offline",
        topology="per_node",
        run_id=f"test-{os.getpid()}",
    )
    try:
        looks = list(run)
        assert {(look["host"], look["kind"]) for look in looks} >= {("node1", "run"), ("node2", "run")}
        assert run.exit_code == 0
        assert run.result.verdict.level == "UNOFFICIAL"
        assert (run.directory / "junit.xml").exists()
        plan = json.loads((run.directory / "plan.json").read_text())
        found = []
        for node in ("node1", "node2"):
            share = plan["nodes"][node]["share"]
            indices = scored(run.directory / "nodes" / node)
            assert sorted(indices) == list(range(share["start"], share["stop"]))
            found += indices
        assert sorted(found) == list(range(SAMPLES))
        reference = run.result.accuracy_reference
        assert reference is not None
        assert reference.compared == SAMPLES
        assert reference.identical >= 0.99 * SAMPLES
    finally:
        shutil.rmtree(run.directory, ignore_errors=True)


def test_killed_engine_names_node_reason_and_log(vllm: Site) -> None:
    process = vllm.start("benchmark.yml", "--limit", "node1", mode="performance", run_id="killed", target_qps=5)
    until(
        lambda: "performance  " in vllm.output() and vllm.status("node1", "killed")["samples_done"] > 5, "samples", 300
    )
    engine = json.loads((vllm.folder / "node1" / "engines" / "node1" / "engine.json").read_text())
    os.kill(engine["engine_pid"], signal.SIGKILL)
    assert process.wait(120) == 2, vllm.output()
    failures = vllm.read("killed", "failures.json")
    assert {failure["host"] for failure in failures} == {"node1"}
    by_phase = {failure["phase"]: failure for failure in failures}
    assert "SIGKILL" in by_phase["engine"]["reason"] or "signal 9" in by_phase["engine"]["reason"]
    assert by_phase["engine"]["log"].endswith("engines/node1/engine.log")
    assert by_phase["run"]["log"].endswith("harness.log")
    assert vllm.read("killed", "result.json")["verdict"]["level"] == "INVALID"
    said = vllm.output().split("Fail for what failed on a node")[1]
    assert "node1 | engine |" in " ".join(said.split())
    assert (vllm.results / "killed" / "nodes" / "node1" / "engines" / "node1" / "engine.log").stat().st_size > 0


def test_taken_port_is_found_before_anything_is_started(vllm: Site, free_ports: list[int]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free_ports[1]))
        taken.listen()
        assert vllm.play() == 2
    assert f"port {free_ports[1]}" in " ".join(vllm.output().split())
    assert vllm.untouched()


def test_spoilt_model_and_data_set_are_found_before_anything_is_started(vllm: Site) -> None:
    model, dataset = vllm.folder / "model", vllm.folder / "set.json"
    shutil.copytree(vllm.sandbox / "model", model)
    with (model / "model.safetensors").open("r+b") as weights:
        weights.truncate(1000)
    records = json.loads((vllm.sandbox / "cnn_eval.json").read_text())
    dataset.write_text(json.dumps(records))
    given = {"harness_model": str(model), "harness_dataset": str(dataset)}
    assert vllm.play(**given) == 2
    assert "model.safetensors" in " ".join(vllm.output().split())
    given["harness_model"] = str(vllm.sandbox / "model")
    del records[7]["tok_input"]
    for content, says in (("[", "not JSON"), (json.dumps(records), "tok_input"), (json.dumps(records[:5]), "600")):
        dataset.write_text(content)
        assert vllm.play(**given) == 2
        assert says in " ".join(vllm.output().split())
    assert vllm.untouched()
