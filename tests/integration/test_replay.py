"""A run over two running servers, repeated: what is compared, what must be allowed, and what is the same."""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from harness import run_store
from harness.cli import cli
from harness.errors import BadInput
from harness.run_phases import execute
from tests.fake_server import FakeServer
from tests.integration.conftest import Fakes
from tests.integration.test_run import make_spec
from tests.unit.load import worker_path
from tests.unit.results_tree import edit

pytestmark = pytest.mark.usefixtures(worker_path.__name__)

__all__ = ["worker_path"]


@pytest.fixture(scope="module")
def servers() -> Iterator[list[FakeServer]]:
    with FakeServer(ms_per_token=1, tokens=12) as one, FakeServer(ms_per_token=1, tokens=12) as two:
        yield [one, two]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, servers: list[FakeServer]) -> Path:
    """A run of performance that an engine on each server answered, with a seed and limits of its own."""
    folder = tmp_path_factory.mktemp("root")
    values = {"mode": "performance", "target_qps": 300.0, "seed": 7, "limits": {"request_timeout_s": 99.0}}
    spec = make_spec(folder, *servers, max_in_flight=24, **values)
    run_store.create(spec, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        return execute(spec, folder, run_store.validate(spec, folder))


@pytest.fixture
def original(finished: Path, tmp_path: Path) -> Path:
    """A copy of it in a root of its own."""
    return Path(shutil.copytree(finished, tmp_path / "runs" / "test"))


def replay(original: Path, *words: str) -> Result:
    root = str(original.parents[1])
    return CliRunner().invoke(cli, ["replay", str(original), "--root", root, "--json", *words], standalone_mode=False)


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_the_same_place_repeats_the_same_request(original: Path) -> None:
    done = replay(original, "--run-id", "again")
    assert done.exception is None and done.return_value == 0, done.exception
    before, now = (read(original.parent / name / "spec.json") for name in ("test", "again"))
    differing = {key for key in now["common"] if now["common"][key] != before["common"].get(key)}
    assert differing == {"run_id", "replay_of"}
    assert now["common"]["replay_of"] == "test"
    assert now["node"]["target_qps"] == 300.0 and now["node"]["engines"] == before["node"]["engines"]
    result = json.loads(done.stdout)
    assert result["asked"]["replay_of"] == "test" and result["asked"]["sampling_seed"] == 7
    assert "repeats `test`" in (original.parent / "again/report/report.md").read_text()
    assert read(original.parent / "again/outcome.json")["performance"]["samples"] == 120


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda m: m["model"].update(sha256="0" * 64), "weights"),
        (lambda m: m["dataset"].update(sha256="0" * 64), "dataset"),
        (lambda m: m.update(tokenizer_sha256="0" * 64), "tokenizer"),
        (lambda m: m.update(punkt_sha256="0" * 64), "punkt"),
        (lambda m: m.update(image_digest="sha256:1"), "image"),
        (lambda m: m["engines"][1].update(version={"vllm": "0.1"}), "engine"),
        (lambda m: m.update(driver="570.1"), "driver"),
        (lambda m: m.update(gpus=[{"name": "NVIDIA A30", "memory_gib": 24.0}]), "gpu"),
        (lambda m: m["host"].update(cpu_governor="powersave"), "clocks"),
        (lambda m: m["versions"].update(harness="0.0.1"), "harness"),
        (lambda m: m["engines"][0]["config"].update(quantization="fp8"), "settings"),
        (lambda m: m.update(kernel="4.0"), "kernel"),
        (lambda m: m["host"].update(virtual_machine="another"), "machine"),
        (lambda m: m.update(variables={"OMP_NUM_THREADS": "9"}), "variables"),
    ],
)
def test_each_difference_is_listed_and_refused_by_its_name(original: Path, change: Any, name: str) -> None:
    edit(original / "manifest.json", change)
    refused = replay(original, "--run-id", "again")
    assert isinstance(refused.exception, BadInput)
    assert f"{name}: was " in str(refused.exception) and f"give allow={name}" in str(refused.exception)
    assert not (original.parent / "again").exists()


def test_what_is_allowed_by_name_runs(original: Path) -> None:
    edit(original / "manifest.json", lambda m: m.update(driver="570.1", kernel="4.0"))
    assert "give allow=driver,kernel" in str(replay(original, "--allow", "driver").exception)
    done = replay(original, "--allow", "driver, kernel", "--run-id", "again")
    assert done.exception is None, done.exception
    assert "allowed difference: driver: was ['570.1', None], is " in done.stderr


def test_a_name_that_no_difference_has_is_refused(original: Path) -> None:
    assert "allow = drivers: no difference has this name; choose from" in str(
        replay(original, "--allow", "drivers").exception
    )


def test_as_many_endpoints_are_needed_as_there_were_engines(original: Path, servers: list[FakeServer]) -> None:
    assert "1 endpoints are given, the original had 2 engines" in str(
        replay(original, "--endpoint", servers[0].url).exception
    )


def test_a_folder_without_a_run_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "runs" / "none").mkdir(parents=True)
    assert isinstance(replay(tmp_path / "runs" / "none").exception, BadInput)


@pytest.mark.long
def test_the_playbook_repeats_a_run_on_the_hosts_of_the_inventory(fakes: Fakes) -> None:
    site = fakes.site
    assert site.play(mode="performance", target_qps=60, run_id="first", harness_seed=7) == 0, site.output()
    assert site.play("playbooks/replay.yml", run_id="again", **{"from": "first"}) == 0, site.output()
    before, now = (site.read(run_id, "nodes/node1/spec.json") for run_id in ("first", "again"))
    differing = {key for key in now["common"] if now["common"][key] != before["common"][key]}
    assert differing == {"run_id", "replay_of"}
    assert now["node"]["target_qps"] == before["node"]["target_qps"] == 60.0
    assert site.read("again", "request.json")["replay_of"] == "first"
    assert site.read("again", "result.json")["asked"]["replay_of"] == "first"
    for path in site.results.glob("first/nodes/node2/engines/*/engine.json"):
        edit(path, lambda engine: engine["version"].update(vllm="0.1"))
    assert site.play("playbooks/replay.yml", run_id="third", **{"from": "first"}) == 2
    assert "node2 is not what the original ran on: engine: was" in " ".join(site.output().split())
    assert not (site.results / "third").exists()
