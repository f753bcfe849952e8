"""benchmark.yml over fake servers: topologies, repetition, check mode, failures, interruption, stopping."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import NODE_ENVIRONMENT
from tests.integration.conftest import SAMPLES, Fakes, Site, until

# Enough for a run to last while a test interferes with it.
MANY = 600


def verified(folder: Path) -> bool:
    """Whether the collected files are those whose hashes were computed on the node."""
    result = subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=folder, capture_output=True)
    return result.returncode == 0


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_fleet_from_first_run_to_unchanged_second(fakes: Fakes) -> None:
    site = fakes.site
    assert site.play(mode="performance", run_id="first") == 0, site.output()
    plan = site.read("first", "plan.json")
    assert (plan["topology"], plan["loadgens"], plan["shared_machine"]) == ("fleet", ["node1"], True)
    assert set(plan["calibration"]["node1"]["by_engine"]) == {"node1", "node2"}
    assert site.read("first", "failures.json") == []
    journal = site.performance("first", "node1")
    assert sorted(entry["qsl_idx"] for entry in journal) == list(range(SAMPLES))
    assert {entry["engine"] for entry in journal} == {"node1", "node2"}
    assert verified(site.results / "first" / "nodes" / "node1")
    assert site.read("first", "nodes/node2/engines/node2/engine.json")["state"] == "stopped"
    result = site.read("first", "result.json")
    assert result["verdict"]["level"] == "UNOFFICIAL", site.output()

    output = site.output()
    assert output.index("samples/s, LoadGen at") < output.index(
        "pick it up:  ansible-playbook benchmark.yml -e run_id=first"
    )
    looks = site.lines("first", "progress.jsonl")
    assert {(look["host"], look["kind"]) for look in looks} == {
        ("node1", "engine"), ("node2", "engine"), ("node1", "calibration"), ("node1", "run"),
    }  # fmt: skip
    assert looks[-1]["lost"] is None
    assert any(look["kind"] == "run" and look["status"]["state"] == "finished" for look in looks)

    before = contents(site.results / "first")
    assert site.play(run_id="first") == 0, site.output()
    assert site.changed() == 0, site.output()
    assert contents(site.results / "first") == before

    assert site.play(run_id="first", samples=50, scenario="offline") == 2
    assert f"scenario: existing 'server', requested 'offline'; samples: existing {SAMPLES}, requested 50" in " ".join(
        site.output().split()
    )


def test_check_mode_starts_nothing_and_prints_the_plan(fakes: Fakes) -> None:
    site = fakes.site
    assert site.play("benchmark.yml", "--check", mode="performance") == 0, site.output()
    assert "time: not known before the engines are calibrated" in site.output()
    assert "engine node2 at" in site.output()
    assert site.untouched()
    assert all(server.records() == [] for server in fakes.servers.values())


def test_per_node_shares_by_measured_speed(fakes: Fakes) -> None:
    site = fakes.site
    fakes.servers["node1"].set(ms_per_token=4.0, slots=16)
    fakes.servers["node2"].set(ms_per_token=4.0, slots=16, speed=0.5)
    assert site.play(mode="performance", topology="per_node", scenario="offline", run_id="pair") == 0, site.output()
    plan = site.read("pair", "plan.json")
    shares = {node: plan["nodes"][node]["share"] for node in ("node1", "node2")}
    assert shares["node1"]["start"] == 0
    assert shares["node1"]["stop"] == shares["node2"]["start"]
    assert shares["node2"]["stop"] == SAMPLES
    # Twice as fast, so two thirds, within what calibrating for two seconds can tell.
    assert 0.6 * SAMPLES < shares["node1"]["stop"] < 0.73 * SAMPLES
    for node, share in shares.items():
        journal = site.lines("pair", f"nodes/{node}/journal.jsonl")
        assert {entry["engine"] for entry in journal} == {node}
        assert sorted(entry["qsl_idx"] for entry in journal) == list(range(share["start"], share["stop"]))
    levels = [reason["level"] for reason in site.read("pair", "result.json")["verdict"]["reasons"]]
    assert "INVALID" not in levels


@pytest.mark.long
def test_one_node_alone(fakes: Fakes) -> None:
    site = fakes.site
    assert site.play("benchmark.yml", "--limit", "node2", mode="performance", run_id="alone") == 0, site.output()
    plan = site.read("alone", "plan.json")
    assert (plan["topology"], plan["loadgens"], list(plan["nodes"])) == ("per_node", ["node2"], ["node2"])
    assert len(site.performance("alone", "node2")) == SAMPLES
    assert not (site.results / "alone" / "nodes" / "node1").exists()


@pytest.mark.long
def test_failing_node_costs_neither_the_other_nor_the_report(fakes: Fakes) -> None:
    site = fakes.site
    process = site.start(topology="per_node", mode="performance", run_id="broken", samples=MANY, target_qps=40)
    until(lambda: "pick it up" in site.output(), "watching")
    until(lambda: site.status("node2", "broken")["samples_done"] > 20, "samples on node2")
    os.kill(fakes.servers["node2"].pid, signal.SIGKILL)
    assert process.wait(200) == 2, site.output()
    failures = site.read("broken", "failures.json")
    assert {failure["host"] for failure in failures} == {"node2"}
    assert all(failure["reason"] for failure in failures)
    log = next(failure["log"] for failure in failures if failure["phase"] == "run")
    assert log.endswith("harness.log")
    tail = " ".join(site.output().split("Fail if a node failed")[1].split())
    assert "node2 | run |" in tail
    assert log.split("/")[-1] in tail
    share = site.read("broken", "plan.json")["nodes"]["node1"]["share"]
    assert len(site.lines("broken", "nodes/node1/journal.jsonl")) == share["stop"] - share["start"]
    assert site.status("node1", "broken")["state"] == "finished"
    result = site.read("broken", "result.json")
    assert result["verdict"]["level"] == "INVALID"
    assert "node2" in {failure["node"] for failure in result["failures"]}
    assert (site.results / "broken" / "report.html").exists()


@pytest.mark.long
def test_interrupted_watching_is_resumed_and_the_run_continues(fakes: Fakes) -> None:
    site = fakes.site
    process = site.start(mode="performance", run_id="long", samples=MANY, target_qps=30)
    until(lambda: "performance  " in site.output() and "pick it up" in site.output(), "watching")
    assert site.interrupt(process) != 0
    samples_done = site.status("node1", "long")["samples_done"]
    until(lambda: site.status("node1", "long")["samples_done"] > samples_done, "samples after Ctrl-C")

    assert site.play(mode="performance") == 2
    text = " ".join(site.output().split())
    assert "run long is not finished" in text
    assert "benchmark.yml -e run_id=long" in text
    assert "playbooks/stop.yml -e run_id=long" in text

    assert site.play(run_id="long") == 0, site.output()
    status = site.status("node1", "long")
    assert status["state"] == "finished"
    assert len(site.lines("long", "nodes/node1/journal.jsonl")) == MANY
    kinds = [look["kind"] for look in site.lines("long", "progress.jsonl")]
    assert kinds.count("calibration") == len([kind for kind in kinds[: kinds.index("run")] if kind == "calibration"])


@pytest.mark.long
def test_stopped_run_ends_with_a_report(fakes: Fakes) -> None:
    site = fakes.site
    process = site.start(mode="performance", run_id="stopped", samples=MANY, target_qps=5)
    until(lambda: "pick it up" in site.output(), "watching")
    pid = until(lambda: site.status("node1", "stopped")["pid"], "the run")
    site.interrupt(process)
    assert site.play("playbooks/stop.yml", run_id="stopped") == 0, site.output()
    assert not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2]
    assert site.status("node1", "stopped")["state"] == "stopped"
    assert site.read("stopped", "result.json")["verdict"]["level"] == "INVALID"
    assert site.read("stopped", "nodes/node1/engines/node1/engine.json")["state"] == "stopped"
    assert site.play("playbooks/stop.yml", run_id="never") == 2
    assert "never begun" in site.output()


@pytest.mark.long
def test_killed_harness_is_noticed(fakes: Fakes) -> None:
    site = fakes.site
    process = site.start(
        "benchmark.yml", "--limit", "node1", mode="performance", run_id="killed", samples=MANY, target_qps=5
    )
    until(lambda: "performance  " in site.output(), "watching")
    os.kill(site.status("node1", "killed")["pid"], signal.SIGKILL)
    assert process.wait(100) == 2
    assert (site.results / "killed" / "failures.json").exists(), site.output()
    (failure,) = site.read("killed", "failures.json")
    assert "harness died" in failure["reason"]


@pytest.mark.long
def test_report_is_built_again_from_the_files(fakes: Fakes) -> None:
    site = fakes.site
    assert site.play("benchmark.yml", "--limit", "node1", mode="performance", run_id="again") == 0, site.output()
    folder = site.results / "again"
    before = contents(folder)
    for name in ("result.json", "report.md", "report.html", "junit.xml"):
        (folder / name).unlink()
    assert site.play("playbooks/report.yml", run_id="again") == 0, site.output()
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"scenario": "singlestream"}, "scenario = 'singlestream': give server or offline or interactive"),
        ({"harness_model": "/no/such/model", "harness_dataset": "/no/such/set"}, "/no/such/model"),
    ],
)
def test_bad_input_is_one_clear_error_before_anything_is_started(
    fakes: Fakes, more: dict[str, object], message: str
) -> None:
    site = fakes.site
    assert site.play(**more) == 2
    assert message in " ".join(site.output().split())
    assert not site.results.exists()
    assert not list(site.folder.glob("*/runs/*"))
    assert all(server.records() == [] for server in fakes.servers.values())


def test_corrupt_data_set_is_found_before_anything_is_started(fakes: Fakes) -> None:
    site, path = fakes.site, fakes.site.folder / "set.json"
    records = json.loads((site.sandbox / "cnn_eval.json").read_text())
    records[7]["tok_input"][3] = 1_000_000
    path.write_text(json.dumps(records))
    assert site.play(harness_model=str(site.sandbox / "model"), harness_dataset=str(path)) == 2
    assert "record 7: tok_input[3] = 1000000 is beyond the vocabulary" in " ".join(site.output().split())
    assert not site.results.exists()
    assert not list(site.folder.glob("*/runs/*"))
    assert all(server.records() == [] for server in fakes.servers.values())


def test_server_that_answers_html_is_refused(fakes: Fakes) -> None:
    fakes.servers["node2"].set(website=True)
    assert fakes.site.play() == 2
    assert "not an OpenAI-compatible server" in " ".join(fakes.site.output().split())
    assert not fakes.site.results.exists()


def test_too_few_forks_are_a_preflight_error(fakes: Fakes) -> None:
    assert fakes.site.play("benchmark.yml", "-f", "1", topology="per_node") == 2
    assert "forks = 1 is less than the 2 runs" in " ".join(fakes.site.output().split())
    assert fakes.site.untouched()


def test_unreachable_host_is_named_before_anything_is_started(fakes: Fakes, free_ports: list[int]) -> None:
    site = fakes.site
    inventory = site.folder / "hosts.json"
    far = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": free_ports[0], "local_node": 1}
    near = {"ansible_connection": "local", "local_node": 0, "ansible_python_interpreter": sys.executable}
    inventory.write_text(
        json.dumps({"gpu_nodes": {"hosts": {"node1": near, "node2": far}}, "controller": {"hosts": {}}})
    )
    assert site.play("benchmark.yml", "-i", str(inventory), harness_root=str(site.folder / "root")) != 0
    text = " ".join(site.output().split())
    assert "node2 is unreachable" in text
    assert "--limit '!node2'" in text
    assert not site.results.exists()


@pytest.mark.long
def test_unreadable_inventory_is_an_error(fakes: Fakes) -> None:
    broken = fakes.site.folder / "broken.yml"
    broken.write_text("gpu_nodes: [\n")
    for inventory in ("/no/such/inventory", str(broken)):
        assert fakes.site.play("benchmark.yml", "-i", inventory, "--list-hosts") != 0
        assert inventory in fakes.site.output()


@pytest.mark.long
def test_check_mode_works_where_nothing_is_installed(fakes: Fakes) -> None:
    site = fakes.site
    empty = site.folder / "empty"
    settings = {"harness_install": True, "harness_env": str(empty / "env"), "harness_sandbox": str(empty / "sandbox")}
    for playbook in ("site.yml", "benchmark.yml"):
        assert site.play(playbook, "--check", **settings) == 0, site.output()
        assert site.changed() > 0
    assert not empty.exists()
    assert site.untouched()


@pytest.fixture
def sleeper() -> Iterator[int]:
    """A process that does nothing."""
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process.pid
        process.kill()


def busy(site: Site, node: str, kind: str, pid: int) -> None:
    """State files of a running run or engine of the node, with `sleeper` as its process."""
    alive = {"pid": pid, "boot_id": Path("/proc/sys/kernel/random/boot_id").read_text().strip()}
    if kind == "run":
        folder = site.folder / node / "runs" / "long"
        record = {"run_id": "long", "state": "running", "started_unix": time.time(), "updated_unix": time.time() + 300}
    else:
        folder = site.folder / node / "engines" / "own"
        record = {"name": "own", "kind": "vllm", "state": "ready", "started_unix": 1.0}
        record["log"] = str(folder / "engine.log")
    folder.mkdir(parents=True)
    (folder / ("status.json" if kind == "run" else "engine.json")).write_text(json.dumps({**record, **alive}))


@pytest.mark.parametrize(
    ("kind", "setting", "folder", "message"),
    [("run", "harness_env", "env",
      "run long: wait for its end, or end it with `ansible-playbook --limit node1 playbooks/stop.yml -e run_id=long "
      "-e harness_results={results}`"),
     ("engine", "harness_sandbox", "sandbox",
      "engine own: take it down with `{env}/bin/python -m harness engine down own --root {root}`")],
)  # fmt: skip
@pytest.mark.long
def test_files_in_use_are_not_changed(
    fakes: Fakes, sleeper: int, kind: str, setting: str, folder: str, message: str
) -> None:
    site, empty = fakes.site, fakes.site.folder / "empty"
    busy(site, "node2", kind, sleeper)
    # The nodes share what would change, so not even the one alone that is not busy may change it.
    settings = {setting: str(empty / folder), "harness_install": setting == "harness_env"}
    assert site.play("site.yml", "--limit", "node1", **settings) == 2
    text = " ".join(site.output().split())
    expected = message.format(env=NODE_ENVIRONMENT, root=site.folder / "node2", results=site.folder / "results")
    assert f"{empty / folder} is in use by {expected}" in text
    assert list(site.folder.glob("empty*")) == []


@pytest.mark.long
def test_files_in_use_may_be_checked(fakes: Fakes, sleeper: int) -> None:
    for kind in ("run", "engine"):
        busy(fakes.site, "node2", kind, sleeper)
    assert fakes.site.play("site.yml") == 0, fakes.site.output()
    assert fakes.site.changed() == 0


@pytest.mark.long
def test_the_highest_rate_is_searched_for_from_the_calibrated_one(fakes: Fakes) -> None:
    site = fakes.site
    for server in fakes.servers.values():
        server.set(step_ms=10.0, decode_ms_per_sequence=0.33, prefill_ms_per_token=0.067, tokens=20)
    request = {"target_qps": "peak", "peak_budget_minutes": 4, "scenario": "interactive", "samples": MANY}
    assert site.play(mode="performance", run_id="peak", **request) == 0, site.output()
    assert "until one is VALID; at most 0.07 h for these 600 samples" in site.output()
    spec = site.read("peak", "nodes/node1/spec.json")["node"]
    assert spec["target_qps"] == "peak"
    assert spec["peak_from_qps"] == site.read("peak", "plan.json")["nodes"]["node1"]["target_qps"]
    outcome = site.read("peak", "nodes/node1/outcome.json")
    assert outcome["peak"]["budget_minutes"] == 4
    assert outcome["peak"]["highest_valid_qps"] == outcome["attempts"][-1]["target_qps"]
    assert outcome["peak"]["sentence"] in site.output() and "probe 1 at " in site.output()
