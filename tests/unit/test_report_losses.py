"""Engines that were lost, in verdict and report: which, when, how many samples moved, the speed before and after."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from harness import report as reports
from harness.report.record import Level
from harness.resume import interrupted
from harness.spec import parse_spec
from tests.unit import results_tree
from tests.unit.results_tree import START, benchmark, edit
from tests.unit.test_verdict import OVER, SMOKE, codes, judge

LOSS: dict[str, Any] = {
    "mode": "performance", "engine": "beta-0", "node": "beta", "at_unix": START + 2.0, "at_s": 2.0,
    "reason": "no byte of 7 answers for 60 s while other engines answered", "moved": 7, "rejoined_unix": None,
}  # fmt: skip


def lose(folder: Path, *losses: dict[str, Any], **more: Any) -> Path:
    """Note losses in the outcome of the run on alpha."""
    edit(folder / "nodes/alpha/outcome.json", lambda outcome: outcome.update(engine_losses=losses, **more))
    return folder


def slower_afterwards(folder: Path) -> None:
    """From 2.2 s on, samples take place at half the pace."""
    path = folder / "nodes/alpha/journal.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        late = max(0.0, line["issued_s"] - 2.0)
        for name in ("issued_s", "sent_s", "first_s", "last_s", "first_logged_s", "last_logged_s", "issued_unix"):
            if name in line:
                line[name] += late
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    for mode in ("performance", "accuracy"):
        results_tree.relog(folder, mode)


def test_a_performance_run_that_lost_an_engine_is_invalid_with_the_numbers(tmp_path: Path) -> None:
    folder = lose(benchmark(tmp_path / "run"), LOSS)
    slower_afterwards(folder)
    verdict = judge(folder)
    assert (verdict.level, codes(verdict)) == (Level.INVALID, SMOKE | {"ENGINE_ALIVE"})
    assert verdict.reasons[0].sentence == (
        "beta/beta-0: the engine was lost after 2 s of the performance run: no byte of 7 answers for 60 s while other "
        "engines answered; 7 samples were moved to other engines; 9.5 samples/s before, 5.21 after"
    )


def test_an_accuracy_run_that_lost_an_engine_is_unofficial(tmp_path: Path) -> None:
    folder = benchmark(tmp_path / "run", mode="accuracy")
    before = codes(judge(folder))
    lose(folder, LOSS | {"mode": "accuracy", "at_unix": START + 1002.0, "moved": 1})
    verdict = judge(folder)
    assert (verdict.level, codes(verdict)) == (Level.UNOFFICIAL, before | {"ENGINE_ALIVE"})
    (sentence,) = (reason.sentence for reason in verdict.reasons if reason.code == "ENGINE_ALIVE")
    assert "after 2 s of the accuracy run" in sentence and "1 sample was moved" in sentence


def test_the_report_has_a_table_of_losses_and_counts_what_was_sent_again(tmp_path: Path) -> None:
    back = LOSS | {"rejoined_unix": START + 3.5}
    folder = lose(benchmark(tmp_path / "run"), back, resent={"alpha-0": 3})
    result = reports.report(folder)
    (loss,) = result.engine_losses
    assert (loss.loadgen, loss.moved, result.resent) == ("alpha", 7, {"alpha-0": 3})
    assert loss.samples_per_s_before == pytest.approx(10, rel=0.1)
    assert loss.samples_per_s_after == pytest.approx(10, rel=0.1)  # until it was back
    assert "; it was back 2 s later" in result.verdict.reasons[0].sentence
    for page in ("report.md", "report.html"):
        text = (folder / page).read_text()
        assert "Engines lost" in text and "no byte of 7 answers" in text and "alpha-0 3" in text
    row = next(line for line in (folder / "report.md").read_text().splitlines() if line.startswith("| beta-0 |"))
    assert row.startswith("| beta-0 | beta | performance | 2.0 | 20") and "| 7 | " in row and "| 1.5 |" in row
    assert '<failure message="beta/beta-0: the engine was lost' in (folder / "junit.xml").read_text()


def test_a_loss_in_an_accuracy_run_is_no_failed_test(tmp_path: Path) -> None:
    folder = lose(benchmark(tmp_path / "run"), LOSS | {"mode": "accuracy", "at_unix": START + 1002.0})
    reports.report(folder)
    assert '<skipped message="beta/beta-0: the engine was lost' in (folder / "junit.xml").read_text()


def test_an_engine_whose_loss_is_noted_is_named_once(tmp_path: Path) -> None:
    folder = lose(benchmark(tmp_path / "run"), LOSS)
    state = {"state": "failed", "reason": "killed by signal 9"}
    edit(folder / "nodes/beta/engines/beta-0/engine.json", lambda engine: engine.update(state))
    reasons = [reason.sentence for reason in judge(folder).reasons if reason.code == "ENGINE_ALIVE"]
    assert len(reasons) == 1 and "was lost after 2 s" in reasons[0]


GONE = {"host": "beta", "phase": "engine", "reason": "beta has not answered for 2m00s", "log": None}


@pytest.mark.parametrize("noted", [True, False])
def test_a_node_that_went_away_fails_the_benchmark_only_where_no_run_went_on_without_it(
    tmp_path: Path, noted: bool
) -> None:
    folder = benchmark(tmp_path / "run", mode="accuracy")
    before = codes(judge(folder))
    if noted:
        lose(folder, LOSS | {"mode": "accuracy", "at_unix": START + 1002.0})
    shutil.rmtree(folder / "nodes/beta")
    results_tree.write(folder / "failures.json", [GONE])
    verdict = judge(folder)
    if noted:
        assert (verdict.level, codes(verdict)) == (Level.UNOFFICIAL, before | {"ENGINE_ALIVE"})
    else:
        assert (verdict.level, codes(verdict)) == (Level.INVALID, before | {"RUN_FINISHED"})


def test_a_run_that_failed_with_its_engines_is_no_run_that_went_on(tmp_path: Path) -> None:
    folder = lose(benchmark(tmp_path / "run"), LOSS)
    edit(folder / "nodes/alpha/status.json", lambda status: status.update(state="failed", reason="no engine is left"))
    results_tree.write(folder / "failures.json", [GONE])
    assert {"RUN_FINISHED", "ENGINE_ALIVE"} <= codes(judge(folder))


def test_no_setting_is_advised_where_an_engine_was_lost(tmp_path: Path) -> None:
    folder = benchmark(tmp_path / "run")
    results_tree.attempts(folder, OVER | {"reason": "engine beta-0 was lost after 2 s"})
    assert "NO_ATTEMPT_HELD" in codes(judge(folder))
    assert "NO_ATTEMPT_HELD" not in codes(judge(lose(folder, LOSS)))


def searched(folder: Path) -> Path:
    """A search whose probe failed, and whose second attempt is VALID."""
    results_tree.attempts(benchmark(folder, samples=460), OVER | {"target_qps": 14.0}, {})
    results_tree.probes(folder, 15.0)
    return folder


def test_a_loss_in_a_probe_is_not_charged_to_the_attempt_that_counts(tmp_path: Path) -> None:
    folder = searched(tmp_path / "run")
    before = codes(judge(folder))
    lose(folder, LOSS | {"folder": "probes/1", "at_unix": START + 1.0}, LOSS | {"folder": "probes/2"})
    result = reports.report(folder)
    assert {reason.code for reason in result.verdict.reasons} == before
    first, second = result.engine_losses
    assert (first.judged, first.lost_in, second.lost_in) == (False, "probe 1", "probe 2")
    assert first.samples_per_s_before == pytest.approx(10, rel=0.1)  # of that probe's own journal
    assert (second.samples_per_s_before, second.samples_per_s_after) == (None, None)
    assert "| beta-0 | beta | probe 1 | 2.0 | " in (folder / "report.md").read_text()
    verdict = judge(lose(folder, LOSS | {"folder": "attempts/2"}))
    assert "beta/beta-0: the engine was lost after 2 s of attempt 2: " in verdict.reasons[0].sentence


def test_a_failed_engine_is_not_excused_by_a_loss_in_a_probe(tmp_path: Path) -> None:
    folder = lose(searched(tmp_path / "run"), LOSS | {"folder": "probes/1"})
    state = {"state": "failed", "reason": "killed by signal 9"}
    edit(folder / "nodes/beta/engines/beta-0/engine.json", lambda engine: engine.update(state))
    (reason,) = (reason for reason in judge(folder).reasons if reason.code == "ENGINE_ALIVE")
    assert reason.sentence == "beta/beta-0: the engine failed: killed by signal 9"


def test_a_resumed_run_keeps_the_losses_of_what_it_keeps(tmp_path: Path) -> None:
    """Fault: a run that had lost engines is interrupted before its performance run has ended."""
    folder = benchmark(tmp_path / "run") / "nodes/alpha"
    in_accuracy = LOSS | {"mode": "accuracy"}
    made = json.loads((folder / "outcome.json").read_text())["performance"]
    outcome = {"performance": None, "engine_losses": [LOSS, in_accuracy], "resent": {"beta-0": 2}}
    edit(folder / "outcome.json", lambda content: content.update(outcome))
    edit(folder / "status.json", lambda status: status.update(state="failed", phase="accuracy"))
    spec = parse_spec(json.loads((folder / "spec.json").read_text()))
    finished = interrupted(spec, folder).finished
    assert (finished["engine_losses"], finished["resent"]) == ([in_accuracy], {"beta-0": 2})
    edit(folder / "outcome.json", lambda content: content.update(performance=made))
    assert interrupted(spec, folder).finished["engine_losses"] == [LOSS, in_accuracy]


def test_losses_of_attempts_and_probes_that_are_made_again_are_dropped(tmp_path: Path) -> None:
    """Fault: a run is interrupted in an attempt in which an engine was lost."""
    folder = benchmark(tmp_path / "run") / "nodes/alpha"
    made = results_tree.attempt(1, 50, second_half=None, second_half_per_s=None, repeatable=True)
    losses = [LOSS | {"folder": name} for name in ("attempts/1", "attempts/2", "probes/1", "probes/2")]
    edit(folder / "outcome.json", lambda outcome: outcome.update(attempts=[made], engine_losses=losses))
    edit(folder / "status.json", lambda status: status.update(state="failed"))
    results_tree.write(folder / "probes/1/probe.json", {})
    (folder / "probes/2").mkdir()
    spec = parse_spec(json.loads((folder / "spec.json").read_text()))
    assert interrupted(spec, folder).finished["engine_losses"] == [losses[0], losses[2]]
