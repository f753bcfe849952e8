"""benchmark.yml over the real vLLM on the CPU: the gate, both topologies, ansible-runner, a killed engine."""

import csv
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from harness import ci
from tests.conftest import REPOSITORY
from tests.integration.conftest import SAMPLES, Site, Vllms, endpoints, until

pytestmark = [pytest.mark.vllm, pytest.mark.xdist_group("engines")]


@pytest.fixture
def own(site: Site, free_ports: list[int]) -> Site:
    """inventory/local itself, except its ports: those may be in use on a machine that runs tests."""
    port = "{{ [" + ", ".join(map(str, free_ports)) + "][local_node] }}"
    engine = {"name": "{{ inventory_hostname }}", "port": port, "cpu_cores": "{{ local_cores }}"}
    site.variables = {"harness_engines": [engine]}
    return site


def scored(folder: Path) -> list[int]:
    with (folder / "accuracy" / "scores.csv").open() as stream:
        return [int(row["qsl_idx"]) for row in csv.DictReader(stream)]


def assert_rate_for_auto(calibration: dict[str, Any]) -> None:
    """The rate `auto` takes for Server: below what the engines hold, every probe with its result."""
    probes = calibration["tried"]
    assert 0 < calibration["target_qps"] < calibration["samples_per_s"]
    assert calibration["target_qps"] == pytest.approx(probes[-1]["target_qps"], rel=1e-3)
    rates = [probe["target_qps"] for probe in probes]
    assert rates == sorted(rates, reverse=True)
    for probe in probes:
        assert probe["samples"] > 0
        assert probe["held"] is (0 < probe["ttft_ms_p99"] <= 2000 and 0 < probe["tpot_ms_p99"] <= 100)
    assert not any(probe["held"] for probe in probes[:-1])


def test_fleet_in_server_mode_both_passes_the_gate(own: Site) -> None:
    status = own.play(run_id="gate", target_qps=8)
    result = own.read("gate", "result.json")
    # Whether latency limits hold depends on what else this machine does; everything else must.
    broken = [reason["sentence"] for reason in result["verdict"]["reasons"] if reason["level"] == "INVALID"]
    assert [sentence for sentence in broken if "a latency limit was broken" not in sentence] == [], own.output()
    assert status == (2 if broken else 0), own.output()
    assert result["verdict"]["level"] == ("INVALID" if broken else "UNOFFICIAL")
    assert result["failures"] == []
    assert_rate_for_auto(own.read("gate", "plan.json")["calibration"]["node1"])
    assert result["accuracy_reference"]["compared"] == SAMPLES
    assert result["accuracy_reference"]["identical"] >= 0.99 * SAMPLES
    assert sorted(scored(own.results / "gate" / "nodes" / "node1")) == list(range(SAMPLES))
    for node in ("node1", "node2"):
        engine = own.read("gate", f"nodes/{node}/engines/{node}/engine.json")
        assert engine["verified"]["enable_prefix_caching"] is False
        assert engine["verified"]["max_model_len"] == 2668
        assert engine["state"] == "stopped"
        assert not Path(f"/proc/{engine['engine_pid']}").exists()
    journal = own.lines("gate", "nodes/node1/journal.jsonl")
    assert len(journal) == 2 * SAMPLES
    assert {entry["engine"] for entry in journal} == {"node1", "node2"}
    for page in ("report.md", "report.html"):
        text = (own.results / "gate" / page).read_text()
        assert result["verdict"]["level"] in text
        assert "Result not verified by MLCommons Association." in text


def test_per_node_through_ansible_runner_merges_accuracy(site: Site, vllms: Vllms) -> None:
    keys = {"api_key_file": f"{vllms.root}/keys/{{{{ inventory_hostname }}}}"}
    site.variables = endpoints(keys, node1=vllms.url("node1"), node2=vllms.url("node2"))
    run = ci.benchmark(
        inventory=site.inventory(),
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
        indices_of_all = []
        for node in ("node1", "node2"):
            share = plan["nodes"][node]["share"]
            indices = scored(run.directory / "nodes" / node)
            assert sorted(indices) == list(range(share["start"], share["stop"]))
            indices_of_all += indices
        assert sorted(indices_of_all) == list(range(SAMPLES))
        reference = run.result.accuracy_reference
        assert reference is not None
        assert reference.compared == SAMPLES
        assert reference.identical >= 0.99 * SAMPLES
    finally:
        shutil.rmtree(run.directory, ignore_errors=True)


@pytest.mark.long
def test_a_killed_engine_of_a_fleet_is_started_again_and_joins_again(own: Site) -> None:
    """Fault: one of two engines is killed in an accuracy run; its supervisor may start it again."""
    process = own.start("benchmark.yml", mode="accuracy", run_id="again", samples=400, target_qps=2.5)
    until(lambda: "accuracy  " in own.output() and own.status("node1", "again")["samples_done"] > 5, "samples", 600)
    engine = json.loads((own.folder / "node2" / "engines" / "node2" / "engine.json").read_text())
    os.kill(engine["engine_pid"], signal.SIGKILL)
    assert process.wait(700) == 0, own.output()
    assert own.read("again", "failures.json") == []
    result = own.read("again", "result.json")
    (loss,) = result["engine_losses"]
    assert (loss["engine"], loss["mode"]) == ("node2", "accuracy") and loss["rejoined_unix"] > loss["at_unix"]
    assert "was killed by SIGKILL" in loss["cause"]
    assert result["verdict"]["level"] == "UNOFFICIAL"
    assert "ENGINE_ALIVE" in {reason["code"] for reason in result["verdict"]["reasons"]}
    assert sorted(scored(own.results / "again" / "nodes" / "node1")) == list(range(400))
    assert result["accuracy_reference"]["identical"] >= 0.99 * 400  # also those that moved, whole from one engine
    lines = own.lines("again", "nodes/node1/journal.jsonl")
    later = {line["engine"] for line in lines if line["issued_unix"] > loss["rejoined_unix"] + 1}
    assert later == {"node1", "node2"}
    assert sum("moved" in line for line in lines) == loss["moved"]


@pytest.mark.long
def test_killed_engine_names_node_reason_and_log(own: Site) -> None:
    request = {"mode": "performance", "run_id": "killed", "samples": 600, "target_qps": 5}
    process = own.start("benchmark.yml", "--limit", "node1", **request)
    until(lambda: "performance  " in own.output() and own.status("node1", "killed")["samples_done"] > 5, "samples", 300)
    engine = json.loads((own.folder / "node1" / "engines" / "node1" / "engine.json").read_text())
    os.kill(engine["engine_pid"], signal.SIGKILL)
    assert process.wait(120) == 2, own.output()
    failures = own.read("killed", "failures.json")
    assert {failure["host"] for failure in failures} == {"node1"}
    by_phase = {failure["phase"]: failure for failure in failures}
    assert "SIGKILL" in by_phase["engine"]["reason"] or "signal 9" in by_phase["engine"]["reason"]
    assert by_phase["engine"]["log"].endswith("engines/node1/engine.log")
    assert by_phase["run"]["log"].endswith("harness.log")
    assert own.read("killed", "result.json")["verdict"]["level"] == "INVALID"
    message = own.output().split("Fail if a node failed")[1]
    assert "node1 | engine |" in " ".join(message.split())
    assert (own.results / "killed" / "nodes" / "node1" / "engines" / "node1" / "engine.log").stat().st_size > 0
