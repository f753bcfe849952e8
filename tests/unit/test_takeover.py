"""Accuracy shares of lost nodes: who takes over what, and how the verdict sees it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from harness import report as reports
from harness.benchmark.plan import NodePlan, Plan
from harness.benchmark.takeover import describe, taken_shares
from harness.report.record import Level
from harness.spec import parse_spec
from harness.state_file import summary
from tests.unit import loadgen_logs, results_tree
from tests.unit.results_tree import benchmark, edit
from tests.unit.test_verdict import codes, judge


def plan(*sizes: int, speeds: tuple[float | None, ...] | None = None, **asked: Any) -> Plan:
    """A plan for nodes n0, n1, ... with shares of these sizes."""
    nodes, start = {}, 0
    for number, size in enumerate(sizes):
        nodes[f"n{number}"] = NodePlan(
            loadgen=True,
            share={"start": start, "stop": start + size},  # type: ignore[arg-type]
            samples_per_s=speeds[number] if speeds else None,
            why="speed",
        )
        start += size
    asked = {"topology": "per_node", "samples": sum(sizes), **asked}
    return Plan.model_validate(
        {
            "run_id": "r1", "topology": asked["topology"], "launcher": "process", "asked": asked,
            "nodes": {host: node.model_dump() for host, node in nodes.items()}, "loadgens": list(nodes),
        }
    )  # fmt: skip


def shares(plan: Plan, *finished: str) -> dict[str, list[tuple[str, str, int, int]]]:
    return {
        host: [(taken.run_id, taken.lost, taken.share.start, taken.share.stop) for taken in parts]
        for host, parts in taken_shares(plan, finished).items()
    }


def test_a_lost_share_is_split_by_speed_among_those_who_finished() -> None:
    made = plan(60, 30, 10, speeds=(6.0, 3.0, 1.0))
    assert shares(made, "n1", "n2") == {"n1": [("r1.share1", "n0", 0, 45)], "n2": [("r1.share1", "n0", 45, 60)]}
    assert shares(made, "n1") == {"n1": [("r1.share1", "n0", 0, 60), ("r1.share3", "n2", 90, 100)]}
    (taken,) = taken_shares(made, ["n1", "n2"])["n2"]
    assert describe("n2", taken) == "n2 takes over samples 45 to 59 of n0 for accuracy"


def test_a_share_that_is_being_answered_counts_as_its_benchmark() -> None:
    runs = [{"run_id": name, "state": "running"} for name in ("r1.share2", "r1.shared", "r2.calibration")]
    assert summary(runs, "r1")["running"] == ["r1", "r1.shared", "r2"]


def test_every_sample_of_a_small_share_goes_to_one_node() -> None:
    assert shares(plan(10, 1, 10), "n0", "n2") == {"n0": [("r1.share2", "n1", 10, 11)]}


@pytest.mark.parametrize(
    ("asked", "finished"),
    [
        ({}, ("n0", "n1")), ({}, ()), ({"on_engine_loss": "fail"}, ("n0",)), ({"mode": "performance"}, ("n0",)),
        ({"topology": "fleet"}, ("n0",)),
    ],
)  # fmt: skip
def test_nothing_is_taken_over(asked: dict[str, Any], finished: tuple[str, ...]) -> None:
    assert shares(plan(5, 5, **asked), *finished) == {}


ADDRESS = "http://127.0.0.1:8101"


def lose_beta(folder: Path) -> Path:
    """Leave nothing of beta but a failure; alpha has made beta's accuracy run."""
    share = folder / "nodes/alpha/shares/beta"
    shutil.copytree(folder / "nodes/beta", share, ignore=shutil.ignore_patterns("engines", "performance"))
    shutil.rmtree(folder / "nodes/beta")

    def of_alpha(spec: dict[str, Any]) -> None:
        spec["node"].update(node="alpha", engines=[{"name": "alpha-0", "url": ADDRESS, "node": "alpha"}])
        spec["common"]["mode"] = "accuracy"

    results_tree.respec(share, of_alpha)
    engines = json.loads((folder / "nodes/alpha/manifest.json").read_text())["engines"]
    edit(share / "manifest.json", lambda manifest: manifest.update(engines=engines))
    edit(share / "outcome.json", lambda outcome: outcome.update(performance=None))
    lines = [json.loads(line) for line in (share / "journal.jsonl").read_text().splitlines()]
    own = [line | {"engine": "alpha-0"} for line in lines if line["mode"] == "accuracy"]
    results_tree.journal(share, own)
    spec = parse_spec(json.loads((share / "spec.json").read_text()))
    loadgen_logs.write(share / "accuracy", "accuracy", own, spec)
    failure = {"host": "beta", "phase": "run", "reason": "beta has not answered for 2m00s", "log": None}
    results_tree.write(folder / "failures.json", [failure])
    return folder


def test_an_accuracy_benchmark_whose_node_was_lost_is_complete_and_unofficial(tmp_path: Path) -> None:
    """Fault: a node of per_node goes away in an accuracy run."""
    folder = benchmark(tmp_path / "run", topology="per_node", samples=100, mode="accuracy")
    before = codes(judge(folder))
    verdict = judge(lose_beta(folder))
    assert (verdict.level, codes(verdict)) == (Level.UNOFFICIAL, before | {"SHARE_TAKEN_OVER"})
    (sentence,) = (reason.sentence for reason in verdict.reasons if reason.code == "SHARE_TAKEN_OVER")
    assert sentence == (
        "beta was lost (beta has not answered for 2m00s); the 50 samples of its accuracy share were answered by alpha"
    )
    result = reports.report(folder)
    assert result.together.rouge is not None and result.together.rouge.gen_num == 100


def test_a_performance_share_is_not_taken_over(tmp_path: Path) -> None:
    """Fault: a node of per_node goes away in a benchmark with a performance run."""
    folder = lose_beta(benchmark(tmp_path / "run", topology="per_node", samples=100))
    verdict = judge(folder)
    assert verdict.level == Level.INVALID and {"RUN_FINISHED", "SHARE_TAKEN_OVER"} <= codes(verdict)
    assert "ACCURACY_COVERAGE" not in codes(verdict)


def test_a_share_that_was_taken_over_in_part_is_missing(tmp_path: Path) -> None:
    folder = lose_beta(benchmark(tmp_path / "run", topology="per_node", samples=100, mode="accuracy"))
    shutil.rmtree(folder / "nodes/alpha/shares/beta/accuracy")
    assert {"RUN_FINISHED", "ACCURACY_COVERAGE"} <= codes(judge(folder))


def test_what_others_took_over_of_a_node_that_finished_after_all_is_left_out(tmp_path: Path) -> None:
    """Fault: a node of per_node does not answer for minutes, its share is taken over, and its own run finishes."""
    folder = benchmark(tmp_path / "run", topology="per_node", samples=100, mode="accuracy")
    before = codes(judge(folder))
    shutil.copytree(folder / "nodes/beta", tmp_path / "beta")
    lose_beta(folder)
    shutil.move(tmp_path / "beta", folder / "nodes/beta")
    results_tree.write(folder / "failures.json", [])
    assert codes(judge(folder)) == before
    result = reports.report(folder)
    assert result.together.rouge is not None and result.together.rouge.gen_num == 100
