"""benchmark.yml over SSH: LoadGens and engines on hosts of their own, which are bare, slower or lost."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hosts import hosts, inventory
from tests.hosts.conftest import Play, until
from tests.hosts.layout import ADDRESSES, GPU_HOSTS, REPOSITORY, SANDBOX, USER

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


def copy_of_inventory_hosts(folder: Path) -> Path:
    """inventory/hosts with the two hosts' addresses and login, made as docs/getting-started/hosts.md says."""
    shutil.copytree(REPOSITORY / "inventory" / "hosts", folder)
    file = folder / "hosts.yml"
    text = file.read_text()
    for placeholder, name in (("192.0.2.21", "jw2"), ("192.0.2.22", "jw3")):
        assert placeholder in text
        text = text.replace(placeholder, ADDRESSES[name])
    file.write_text(text)
    (folder / "group_vars" / "all.json").write_text(json.dumps(inventory.connection()))
    return folder


def sums(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of a folder, by its name."""
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir() if file.is_file()}


def test_bare_hosts_without_kubernetes_get_to_a_number_and_the_slower_one_a_smaller_share(benchmark: Benchmark) -> None:
    hosts.fresh()
    benchmark.inventories = (copy_of_inventory_hosts(benchmark.folder / "inventory"),)
    settings = benchmark.settings(run_id="bare", scenario="offline", topology="per_node")
    del settings["harness_root"]

    # A host that lacks everything is refused with all of it in one list, by the names of the inventory.
    assert benchmark.run("benchmark.yml", **settings) == 2
    for host in ("gpu1", "gpu2"):
        for words in (
            "gpu: no NVIDIA GPU",
            "harness_model = /var/lib/mlperf/model/Llama-3.1-8B-Instruct does not exist",
        ):
            assert f"{host}: {words}" in benchmark.unwrapped(), benchmark.output()
    command = f"sudo install -d -o {USER} /var/lib/mlperf"
    assert command in benchmark.unwrapped()
    for name in GPU_HOSTS:
        assert hosts.run(name, "ls -A /var/lib | grep mlperf || true") == ""
        hosts.run(name, f"{command} && touch /tmp/before")

    model, dataset = SANDBOX / "model", SANDBOX / "cnn_eval.json"
    assets = {
        "assets_model_source": str(model),
        "assets_model_files": sums(model),
        "assets_dataset_source": str(SANDBOX),
        "assets_dataset_files": {dataset.name: hashlib.sha256(dataset.read_bytes()).hexdigest()},
    }
    assert benchmark.run("playbooks/assets.yml", **assets) == 0, benchmark.output()
    assert {counts.changed > 0 for counts in benchmark.counts().values()} == {True}
    assert benchmark.run("playbooks/assets.yml", **assets) == 0 and benchmark.changed() == {"gpu1": 0, "gpu2": 0}

    # In place of the GPUs: vLLM's CPU build, on a core of this machine for each host.
    hosts.ask("slow", "jw2", cores=1.0)
    hosts.ask("slow", "jw3", cores=0.6)
    of_host = {host: inventory.harness(name) for host, name in zip(("gpu1", "gpu2"), GPU_HOSTS, strict=True)}
    engines = {host: own.pop("harness_engines") for host, own in of_host.items()}
    settings |= {
        name: value for name, value in of_host["gpu1"].items() if not name.startswith(("harness_model", "harness_data"))
    }
    settings |= {
        "harness_engine_build": "cpu",
        "harness_engines": "{{ " + json.dumps(engines) + "[inventory_hostname] }}",
    }
    assert benchmark.run("benchmark.yml", timeout_s=500, **settings) in (0, 2), benchmark.output()
    assert benchmark.read("bare", "result.json")["failures"] == [], benchmark.output()
    rows = benchmark.read("bare", "plan.json")["nodes"]
    sizes = {name: row["share"]["stop"] - row["share"]["start"] for name, row in rows.items()}
    assert sum(sizes.values()) == SAMPLES
    assert 0.2 < sizes["gpu2"] / sizes["gpu1"] < 0.85, sizes
    assert abs(sizes["gpu2"] / sizes["gpu1"] - rows["gpu2"]["samples_per_s"] / rows["gpu1"]["samples_per_s"]) < 0.03
    for name in sizes:
        score = benchmark.read("bare", f"nodes/{name}/accuracy/score.json")
        assert score["samples_expected"] == sizes[name]

    # Nothing is left outside of harness_root, and nothing there belongs to root.
    for name in GPU_HOSTS:
        folders = "/etc /usr /opt /srv /var/lib /var/cache /home"
        own = "-path '/var/lib/mlperf*' -o -path '/var/lib/systemd/*'"
        changed = set(hosts.run(name, f"sudo find {folders} -xdev -newer /tmp/before -not '(' {own} ')'").split())
        assert changed <= {f"/home/{USER}", f"/home/{USER}/.ansible", f"/home/{USER}/.ansible/tmp"}
        assert hosts.run(name, f"find /var/lib/mlperf -not -user {USER}") == ""


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
