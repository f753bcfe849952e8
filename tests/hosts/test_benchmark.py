"""benchmark.yml over SSH: LoadGens and engines on hosts of their own, one of them slower, one of them lost."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hosts import hosts
from tests.hosts.conftest import Play, until
from tests.hosts.layout import GPU_HOSTS, SANDBOX, USER

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("hosts")]
SAMPLES = 120


class Benchmark(Play):
    """benchmark.yml with results in the test's folder."""

    @property
    def results(self) -> Path:
        """Directory of all results."""
        return self.folder / "results"

    def settings(self, **more: Any) -> dict[str, Any]:
        """Extra variables: a folder that the login user may write, frequent looks, and lost hosts noticed soon."""
        return {
            "samples": SAMPLES,
            "harness_root": f"/home/{USER}/mlperf",
            "harness_results": str(self.results),
            "harness_watch_interval_s": 2,
            "harness_lost_after_s": 15,
            "harness_limits": {"calibration_s": 4},
            "ansible_ssh_args": "-o ControlMaster=auto -o ControlPersist=60s -o ServerAliveInterval=2",
            **more,
        }

    def read(self, run_id: str, name: str) -> Any:
        """A JSON file of a run's results."""
        return json.loads((self.results / run_id / name).read_text())

    def progress(self, run_id: str) -> list[dict[str, Any]]:
        """All looks so far."""
        file = self.results / run_id / "progress.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@pytest.fixture(scope="module", autouse=True)
def prepared(booted: None) -> None:
    """The sandbox that the hosts see must be there, with samples enough."""
    file = SANDBOX / "sandbox.json"
    assert file.exists(), f"{file} is missing: run `make site` first"
    assert json.loads(file.read_text())["samples"] >= SAMPLES


@pytest.fixture
def benchmark(play: Play) -> Iterator[Benchmark]:
    """A benchmark, and hosts at full speed with nothing left running after it."""
    result = Benchmark(play.folder)
    yield result
    result.end()
    hosts.fresh(*GPU_HOSTS)


def engines_are_down(name: str) -> bool:
    """Whether no engine runs on the host."""
    return "vllm" not in hosts.run(name, "ps -eo args")


def test_slower_host_gets_the_smaller_share(benchmark: Benchmark) -> None:
    hosts.ask("slow", "jw2", cores=1.0)
    hosts.ask("slow", "jw3", cores=0.6)
    settings = benchmark.settings(run_id="slow", scenario="offline", topology="per_node")
    assert benchmark.run("benchmark.yml", timeout_s=500, **settings) in (0, 2), benchmark.output()
    assert benchmark.read("slow", "result.json")["failures"] == [], benchmark.output()
    rows = benchmark.read("slow", "plan.json")["nodes"]
    sizes = {name: row["share"]["stop"] - row["share"]["start"] for name, row in rows.items()}
    assert sum(sizes.values()) == SAMPLES
    assert 0.2 < sizes["jw3"] / sizes["jw2"] < 0.85, sizes
    assert abs(sizes["jw3"] / sizes["jw2"] - rows["jw3"]["samples_per_s"] / rows["jw2"]["samples_per_s"]) < 0.03
    for name in GPU_HOSTS:
        score = benchmark.read("slow", f"nodes/{name}/accuracy/score.json")
        assert score["samples_expected"] == sizes[name]


def test_host_that_loses_power_is_reported_and_the_other_one_finishes(benchmark: Benchmark) -> None:
    settings = benchmark.settings(run_id="lost", mode="performance", topology="per_node", target_qps=8, samples=400)
    process = benchmark.start("benchmark.yml", **settings)

    def jw3_is_in_the_middle() -> bool:
        assert process.poll() is None, benchmark.output()
        looks = [look for look in benchmark.progress("lost") if look["host"] == "jw3" and look["kind"] == "run"]
        return any((look["status"] or {}).get("samples_done", 0) > 5 for look in looks)

    until(jw3_is_in_the_middle, "samples of jw3", 300)
    hosts.ask("off", "jw3")
    assert process.wait(200) == 2, benchmark.output()
    failures = benchmark.read("lost", "failures.json")
    assert {failure["host"] for failure in failures} == {"jw3"}
    assert "playbooks/stop.yml" in failures[0]["reason"]
    assert benchmark.read("lost", "nodes/jw2/status.json")["state"] == "finished"
    assert benchmark.read("lost", "nodes/jw2/engines/jw2/engine.json")["state"] == "stopped"
    assert (benchmark.results / "lost" / "nodes" / "jw2" / "performance" / "mlperf_log_summary.txt").exists()
    result = benchmark.read("lost", "result.json")
    assert result["verdict"]["level"] == "INVALID"
    assert "jw3" in json.dumps(result["failures"])
    assert "jw3" in (benchmark.results / "lost" / "report.md").read_text()
    assert engines_are_down("jw2")
