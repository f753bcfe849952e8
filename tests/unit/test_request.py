"""What a user may ask of benchmark.yml, and what is refused before anything is touched."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.ansible_modules import Failed, call

ASKED = {
    "scenario": "server", "mode": "both", "samples": 600, "target_qps": "auto", "rate_attempts": 4,
    "peak_budget_minutes": None,
    "topology": "fleet", "launcher": "process",
}  # fmt: skip


def ask(results: Path, nodes: tuple[str, ...] = ("node1", "node2"), **more: Any) -> dict[str, Any]:
    controllers, forks = more.pop("controllers", []), more.pop("forks", 20)
    return call(
        "mlperf_request",
        {
            "given": more, "defaults": {"samples": 600}, "nodes": list(nodes), "controllers": controllers,
            "forks": forks, "results": str(results),
        },
    )  # fmt: skip


def begin(results: Path, run_id: str, asked: dict[str, Any] | None = None, **files: Any) -> None:
    folder = results / run_id
    folder.mkdir(parents=True)
    content = {"schema": 1, "run_id": run_id, "asked": asked or ASKED, "nodes": ["node1", "node2"]}
    (folder / "request.json").write_text(json.dumps(content))
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))


def test_defaults_and_a_name_that_tells_what_it_is(tmp_path: Path) -> None:
    found = ask(tmp_path)
    assert found["asked"] == ASKED
    assert found["run_id"].endswith("-server-600")
    assert found["directory"] == str(tmp_path / found["run_id"])
    assert (found["begun"], found["ended"], found["plan"]) == (False, False, {})
    assert not list(tmp_path.iterdir())


def test_strings_of_the_command_line_become_values(tmp_path: Path) -> None:
    asked = ask(tmp_path, samples="50", target_qps="7.5", scenario="offline", mode="accuracy")["asked"]
    assert (asked["samples"], asked["target_qps"], asked["scenario"], asked["mode"]) == (50, 7.5, "offline", "accuracy")


@pytest.mark.parametrize(
    ("setting", "value", "says"),
    [
        ("samples", "0", "samples = '0'"), ("samples", "-1", "samples = '-1'"), ("samples", "ten", "samples = 'ten'"),
        ("samples", "20000", "13368"), ("samples", "1.5", "whole number"), ("samples", "٣", "whole number"),
        ("scenario", "singlestream", "server or offline or interactive"), ("mode", "fast", "mode = 'fast'"),
        ("target_qps", "0", "target_qps = '0'"), ("target_qps", "nan", "above 0"), ("target_qps", "inf", "above 0"),
        ("target_qps", "much", "or auto, or peak"), ("peak_budget_minutes", "0", "minutes as a number above 0"),
        ("rate_attempts", "0", "= '0': give a whole number from 1 to 10"),
        ("rate_attempts", "11", "1 to 10"), ("rate_attempts", "2.5", "rate_attempts = '2.5'"),
        ("topology", "ring", "fleet or per_node"),
        ("launcher", "slurm", "launcher = 'slurm'"), ("run_id", "a/b", "run_id = 'a/b'"), ("run_id", "../x", "run_id"),
        ("run_id", ".x", "run_id = '.x'"), ("run_id", "x" * 89, "88 at most"),
    ],
)  # fmt: skip
def test_bad_values_are_refused_by_name(tmp_path: Path, setting: str, value: str, says: str) -> None:
    with pytest.raises(Failed, match=says.replace("(", r"\(")):
        ask(tmp_path, **{setting: value})


def test_alone_in_the_play_a_node_runs_everything_itself(tmp_path: Path) -> None:
    found = ask(tmp_path, nodes=("node2",))
    assert (found["topology"], found["loadgen_hosts"]) == ("per_node", ["node2"])
    assert ask(tmp_path, nodes=("node2",), topology="fleet")["topology"] == "per_node"


def test_loadgen_prefers_the_controller_in_a_fleet_only(tmp_path: Path) -> None:
    fleet = ask(tmp_path, controllers=["jw1"])
    assert (fleet["topology"], fleet["loadgen_hosts"]) == ("fleet", ["jw1", "node1", "node2"])
    assert ask(tmp_path, controllers=["jw1"], topology="per_node")["loadgen_hosts"] == ["node1", "node2"]


def test_too_few_forks_and_no_nodes_are_refused(tmp_path: Path) -> None:
    assert ask(tmp_path, forks=2)["run_id"]
    with pytest.raises(Failed, match="forks = 2 is less than the 3 hosts"):
        ask(tmp_path, controllers=["jw1"], forks=2)
    with pytest.raises(Failed, match="gpu_nodes"):
        ask(tmp_path, nodes=())


def test_unfinished_run_is_named_with_both_offers(tmp_path: Path) -> None:
    begin(tmp_path, "r1")
    with pytest.raises(Failed) as refused:
        ask(tmp_path)
    message = refused.value.result["msg"]
    assert "benchmark.yml -e run_id=r1" in message
    assert "stop.yml -e run_id=r1" in message


def test_finished_run_is_not_in_the_way(tmp_path: Path) -> None:
    begin(tmp_path, "r1", failures=[])
    assert ask(tmp_path)["begun"] is False


def test_picked_up_run_keeps_what_it_was_asked(tmp_path: Path) -> None:
    begin(tmp_path, "r1", {**ASKED, "samples": 50, "scenario": "offline"}, plan={"loadgens": ["node1"]})
    found = ask(tmp_path, run_id="r1")
    assert (found["asked"]["samples"], found["asked"]["scenario"]) == (50, "offline")
    assert (found["begun"], found["ended"], found["plan"]) == (True, False, {"loadgens": ["node1"]})
    assert ask(tmp_path, run_id="r1", samples="50")["run_id"] == "r1"


def test_same_run_with_other_settings_is_refused_with_both_values(tmp_path: Path) -> None:
    begin(tmp_path, "r1")
    with pytest.raises(
        Failed, match=r"samples: existing 600, requested 50; target_qps: existing 'auto', requested 3\.0"
    ):
        ask(tmp_path, run_id="r1", samples="50", target_qps="3")
    with pytest.raises(Failed, match="it has node1, node2, this play has node1"):
        ask(tmp_path, nodes=("node1",), run_id="r1")


def test_directory_of_something_else_is_not_written_into(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    with pytest.raises(Failed, match="something else"):
        ask(tmp_path, run_id="mine")


def test_damaged_request_is_named(tmp_path: Path) -> None:
    begin(tmp_path, "r1")
    (tmp_path / "r1" / "request.json").write_text("{")
    with pytest.raises(Failed, match=r"request\.json is not JSON"):
        ask(tmp_path, run_id="r1")


def test_fewer_samples_than_nodes_are_refused_for_shares_only(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="samples = 1: give at least one for each of the 2 nodes") as refused:
        ask(tmp_path, samples="1", topology="per_node")
    assert refused.value.result["exit"] == 2
    assert ask(tmp_path, samples="1", topology="fleet")["asked"]["samples"] == 1


def test_attempts_are_for_a_rate_that_is_found(tmp_path: Path) -> None:
    assert ask(tmp_path, rate_attempts="2")["asked"]["rate_attempts"] == 2
    for other in ({"target_qps": "7"}, {"scenario": "offline"}, {"mode": "accuracy"}):
        with pytest.raises(Failed, match="rate_attempts = 2: a performance run is repeated only with target_qps=auto"):
            ask(tmp_path, rate_attempts="2", **other)
        assert ask(tmp_path, **other)["run_id"]


def test_the_highest_rate_is_searched_for_where_limits_judge_it(tmp_path: Path) -> None:
    found = ask(tmp_path, target_qps="peak", peak_budget_minutes="90")
    assert (found["asked"]["target_qps"], found["asked"]["peak_budget_minutes"]) == ("peak", 90.0)
    assert found["attempts_most"] == 1
    for other, says in (
        ({"scenario": "offline"}, "target_qps = peak: scenario offline has no latency limit"),
        ({"mode": "accuracy"}, "target_qps = peak: mode accuracy has no performance run"),
        ({"samples": "458"}, "459 queries at least, and samples = 458"),
        ({"topology": "per_node"}, "target_qps = peak: 2 nodes would each search on their own"),
        ({"rate_attempts": "2"}, "rate_attempts = 2: a performance run is repeated only with target_qps=auto"),
        ({"target_qps": "auto", "peak_budget_minutes": "9"}, "peak_budget_minutes = 9: it is for target_qps=peak"),
    ):
        with pytest.raises(Failed, match=says) as refused:
            ask(tmp_path, **{"target_qps": "peak", **other})
        assert refused.value.result["exit"] == 2
    assert ask(tmp_path, ("node1",), target_qps="peak", topology="per_node")["topology"] == "per_node"


def test_run_of_an_older_version_is_picked_up(tmp_path: Path) -> None:
    begin(tmp_path, "r1", {name: value for name, value in ASKED.items() if name != "rate_attempts"})
    assert ask(tmp_path, run_id="r1")["asked"] == ASKED


def test_request_is_recorded_once(tmp_path: Path) -> None:
    folder = tmp_path / "r1"
    arguments = {
        "given": {"run_id": "r1"}, "defaults": {**ASKED, "samples": 5}, "nodes": ["jw2"], "forks": 5,
        "results": str(tmp_path), "record": True,
    }  # fmt: skip
    assert call("mlperf_request", arguments, check=True)["changed"] is True
    assert not folder.exists()
    assert call("mlperf_request", arguments)["changed"] is True
    written = {"schema": 1, "run_id": "r1", "asked": {**ASKED, "samples": 5}, "nodes": ["jw2"]}
    assert json.loads((folder / "request.json").read_text()) == written
    assert call("mlperf_request", {**arguments, "defaults": {}})["changed"] is False
    assert json.loads((folder / "request.json").read_text()) == written
