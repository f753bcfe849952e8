"""What of a finished run is repeated, from a made-up directory of results."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from harness import replay
from harness.cli import cli
from harness.cli.replays import _configs, _spec
from harness.errors import BadInput
from harness.replay import Original, original
from tests.unit.results_tree import benchmark, edit, machine


def made(folder: Path, change: Any = lambda engine: None, **values: Any) -> Original:
    run = benchmark(folder / "first", **{"nodes": ["alpha"], "topology": "per_node", **values})
    for path in run.glob("nodes/*/engines/*/engine.json"):
        edit(path, lambda engine: engine["config"].update(kind="vllm", model="/srv/model", host="127.0.0.1", env={}))
        edit(path, change)
    return original(run)


def test_the_request_the_rate_and_the_engines_settings_are_read(tmp_path: Path) -> None:
    run = made(tmp_path, nodes=["alpha", "beta"], topology="fleet")
    assert run.run_id == "first" and run.nodes == ("alpha", "beta")
    asked = {"scenario": "server", "mode": "both", "samples": 50, "target_qps": 10.0, "topology": "fleet"}
    assert asked.items() <= run.asked.items()
    assert run.engine_settings("beta") == {"max_model_len": 2668, "dtype": "float32", "max_num_seqs": 8}


def test_an_engine_of_the_runs_own_is_started_with_its_settings(tmp_path: Path) -> None:
    run = made(tmp_path)
    (config,) = _configs(run, Path("/srv/other"), (), None)
    assert (config.name, config.kind, config.port, config.max_num_seqs) == ("alpha-0", "vllm", 8101, 8)
    assert str(config.model) == "/srv/other"
    paths = {"model": config.model, "dataset": Path("/srv/data.json"), "punkt": None}
    spec = _spec(run, [config], "again", paths)
    assert (spec.dataset, spec.punkt) == (Path("/srv/data.json"), None)
    assert (spec.run_id, spec.replay_of, spec.target_qps, spec.rate_attempts) == ("again", "first", 10.0, 1)
    assert spec.share == run.spec.share and spec.seed == run.spec.seed and spec.mode == run.spec.mode
    assert [(engine.name, engine.max_in_flight) for engine in spec.engines] == [("alpha-0", 1024)]


def test_environment_variables_whose_values_are_not_recorded_are_asked_for(tmp_path: Path) -> None:
    run = made(tmp_path, lambda engine: engine["config"].update(env={"HF_TOKEN": "sha256:12"}))
    with pytest.raises(BadInput, match=r"environment variables of engine alpha-0 are not recorded.*--engine-config"):
        _configs(run, Path("/srv/model"), (), None)
    (tmp_path / "engine.json").write_text(json.dumps({"env": {"VLLM_X": "1"}}))
    (config,) = _configs(run, Path("/srv/model"), (), str(tmp_path / "engine.json"))
    assert config.env == {"VLLM_X": "1"}


def test_a_run_that_ended_before_its_rate_was_known_cannot_be_repeated(tmp_path: Path) -> None:
    made(tmp_path)
    edit(tmp_path / "first/nodes/alpha/outcome.json", lambda outcome: outcome.update(target_qps=None))
    with pytest.raises(BadInput, match="ended before its rate was known"):
        original(tmp_path / "first")


def test_facts_of_a_manifest_and_of_a_recorded_engine_are_alike(tmp_path: Path) -> None:
    run = made(tmp_path)
    engine = json.loads((tmp_path / "first/nodes/alpha/engines/alpha-0/engine.json").read_text())
    here = replay.facts(
        {
            **machine("alpha", json.loads((tmp_path / "first/nodes/alpha/manifest.json").read_text())["model"]),
            "engines": [engine],
        }
    )
    assert replay.differences(run.facts["alpha"], here) == {}
    changed = {**here, "driver": ["570.1", None]}
    differences = replay.differences(run.facts["alpha"], changed)
    assert list(differences) == ["driver"]
    replay.check(differences, ["driver"], "alpha")
    with pytest.raises(BadInput, match=r"alpha is not what the original ran on: driver: was .* give allow=driver"):
        replay.check(differences, [], "alpha")


GPU = {"name": "NVIDIA A30", "memory_gib": 24.0, "pcie_gen": 4, "pcie_width": 16, "ecc": True, "mig": False}


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"tokenizer_sha256": "0" * 64}, "tokenizer"),
        ({"punkt_sha256": "0" * 64}, "punkt"),
        ({"gpus": [{**GPU, "ecc": False}]}, "gpu"),
        ({"gpus": [{**GPU, "mig": True}]}, "gpu"),
        ({"gpus": [{**GPU, "numa_node": 1}]}, "gpu"),
        ({"gpus": [{**GPU, "pcie_width_now": 8}]}, "gpu"),
    ],
)
def test_each_change_of_what_it_ran_on_has_its_name(change: dict[str, Any], name: str) -> None:
    before = {"gpus": [GPU], "punkt_sha256": "1" * 64, "tokenizer_sha256": "2" * 64, "engines": []}
    assert list(replay.differences(replay.facts(before), replay.facts({**before, **change}))) == [name]


def test_punkt_s_data_is_that_of_the_loadgen_whose_run_was_scored_with_it(tmp_path: Path) -> None:
    folder = benchmark(tmp_path / "first", nodes=["alpha", "beta"])
    edit(folder / "nodes/alpha/manifest.json", lambda manifest: manifest.update(punkt_sha256="1" * 64))
    facts = original(folder).facts
    assert [facts[node]["punkt"] for node in ("alpha", "beta")] == ["1" * 64] * 2


def test_another_request_is_a_difference_of_its_own(tmp_path: Path) -> None:
    run = made(tmp_path, nodes=["alpha", "beta"], topology="fleet")
    assert run.other_request({**run.asked, "rate_attempts": 4, "launcher": "process"}) == {}
    differences = run.other_request({**run.asked, "samples": 9, "topology": "per_node"})
    assert differences == {"request": "request: was samples=50 topology=fleet, is samples=9 topology=per_node"}


@pytest.mark.parametrize(
    ("origin", "options"),
    [
        (None, "-i INVENTORY "),
        ({}, ""),
        ({"inventory": ["site a"], "limit": "alpha,beta"}, "-i 'site a' --limit alpha,beta "),
    ],
)
def test_a_run_of_several_nodes_is_repeated_with_the_inventory_that_it_was_given(
    tmp_path: Path, origin: dict[str, Any] | None, options: str
) -> None:
    made(tmp_path, nodes=["alpha", "beta"], topology="fleet")
    if origin is not None:
        request = {"run_id": "first", "nodes": ["alpha", "beta"], "asked": {}, "origin": origin}
        (tmp_path / "first/request.json").write_text(json.dumps(request))
    command = f"`ansible-playbook {options}playbooks/replay.yml -e from=first`"
    with pytest.raises(BadInput, match=re.escape(f"run first had 2 nodes; repeat it with {command}")):
        CliRunner().invoke(cli, ["replay", str(tmp_path / "first")], standalone_mode=False, catch_exceptions=False)


def test_hosts_of_a_repeat_stand_for_the_nodes_in_order(tmp_path: Path) -> None:
    run = made(tmp_path, nodes=["alpha", "beta"], topology="fleet")
    assert run.other_nodes(["n1", "n2"]) == {}
    assert run.other_nodes(["n1"]) == {"nodes": "nodes: was alpha, beta, is n1"}
    assert run.counterparts(["n1", "n2", "n3"]) == {"n1": "alpha", "n2": "beta", "n3": "beta"}


@pytest.mark.parametrize(
    ("given", "names"),
    [([], ()), ([""], ()), (["driver, engine,"], ("driver", "engine")), (["driver", " gpu"], ("driver", "gpu"))],
)
def test_names_come_in_one_text_or_several(given: list[str], names: tuple[str, ...]) -> None:
    assert replay.names(given) == names


def test_a_name_that_no_difference_has_is_refused() -> None:
    with pytest.raises(BadInput, match="allow = drivers: no difference has this name; choose from weights, tokenizer"):
        replay.names(["driver,drivers"])
