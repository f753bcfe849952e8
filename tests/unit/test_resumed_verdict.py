"""Verdicts on runs that were interrupted and resumed, and on journals with damaged lines."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from harness.files import sha256_file
from harness.journal import seal
from harness.report.build import build
from harness.report.record import Level
from harness.report.render import page
from harness.resume import interrupted
from harness.scoring.scores import accuracy_text, merge
from harness.spec import parse_spec
from tests.unit import loadgen_logs, results_tree
from tests.unit.test_verdict import SMOKE, codes, judge, smoke


def resume(folder: Path, phase: str = "accuracy") -> None:
    """Interrupt the accuracy run after 20 of its 50 answers and resume it; `phase` is that of the last try before."""
    home = folder / "nodes/alpha"
    shutil.copytree(home / "accuracy", home / "accuracy.2", ignore=shutil.ignore_patterns("score*"))
    (home / "accuracy.2/part.json").write_text(json.dumps({"schema": 1, "qsl_idx": list(range(20, 50))}))
    detail = home / "accuracy/mlperf_log_detail.txt"
    detail.write_text(detail.read_text()[:-900])
    (home / "accuracy/mlperf_log_summary.txt").write_text("")
    (home / "accuracy/mlperf_log_accuracy.json").write_text("[\n{")
    rest = results_tree.lines(folder, "accuracy")[20:]
    (home / "accuracy.2/mlperf_log_accuracy.json").write_text(loadgen_logs.accuracy_log(rest, 20))
    hashes = {name: sha256_file(home / name / "mlperf_log_accuracy.json") for name in ("accuracy", "accuracy.2")}
    results_tree.edit(home / "accuracy/score.json", lambda s: s.update(log_sha256=None, part_logs_sha256=hashes))
    (home / "accuracy/accuracy.txt").write_text(accuracy_text(merge([home / "accuracy"])))
    entry = {"at_unix": results_tree.START + 5000, "phase": phase, "kept": 20, "missing": 30}
    results_tree.edit(home / "outcome.json", lambda o: o.update(resumed=[entry]))


def test_an_accuracy_run_that_was_resumed_is_unofficial_with_its_numbers(tmp_path: Path) -> None:
    folder = smoke(tmp_path)
    resume(folder)
    verdict = judge(folder)
    assert codes(verdict) == SMOKE | {"RESUMED"}
    (reason,) = [reason for reason in verdict.reasons if reason.code == "RESUMED"]
    assert reason.level == Level.UNOFFICIAL
    assert reason.sentence == (
        "alpha: the accuracy run was interrupted and resumed once: 20 of its 50 answers are from before, and each part "
        "has a LoadGen log of its own"
    )


def test_it_is_unofficial_after_a_try_that_failed_before_the_accuracy_run(tmp_path: Path) -> None:
    """Fault: the engine does not start when a run is resumed, and the next try succeeds."""
    folder = smoke(tmp_path)
    resume(folder, "starting engine")
    assert codes(judge(folder)) == SMOKE | {"RESUMED"}


@pytest.mark.parametrize("finished", [True, False])
def test_what_is_kept_says_whether_the_accuracy_run_had_finished(tmp_path: Path, finished: bool) -> None:
    home = smoke(tmp_path) / "nodes/alpha"
    if not finished:
        results_tree.edit(home / "outcome.json", lambda o: o.update(accuracy=None))
    results_tree.edit(home / "status.json", lambda s: s.update(state="failed", phases=[{"phase": "starting engine"}]))
    entry = interrupted(parse_spec(json.loads((home / "spec.json").read_text())), home).keep()
    assert (entry["accuracy_finished"], entry["kept"], entry["missing"]) == (finished, 50, 0)


@pytest.mark.parametrize("phase", ["scoring", "starting engine"])
def test_a_run_whose_accuracy_run_had_finished_is_like_any_other(tmp_path: Path, phase: str) -> None:
    folder = smoke(tmp_path)
    entry = {"at_unix": results_tree.START + 5000, "phase": phase, "kept": 50, "missing": 0, "accuracy_finished": True}
    results_tree.edit(folder / "nodes/alpha/outcome.json", lambda o: o.update(resumed=[entry]))
    assert codes(judge(folder)) == SMOKE


def kill_after_the_last_answer(folder: Path) -> Path:
    """Cut LoadGen's logs of the only part, all of whose answers the journal has; returns its folder."""
    home = folder / "nodes/alpha"
    detail, log = home / "accuracy/mlperf_log_detail.txt", home / "accuracy/mlperf_log_accuracy.json"
    detail.write_text(detail.read_text()[:-900])
    (home / "accuracy/mlperf_log_summary.txt").write_text("")
    log.write_text(log.read_text().rstrip().removesuffix("]"))
    results_tree.edit(home / "accuracy/score.json", lambda s: s.update(log_sha256=sha256_file(log)))
    (home / "accuracy/accuracy.txt").write_text(accuracy_text(merge([home / "accuracy"])))
    entry = {"at_unix": results_tree.START + 5000, "phase": "accuracy", "kept": 50, "missing": 0}
    results_tree.edit(home / "outcome.json", lambda o: o.update(resumed=[entry]))
    return home / "accuracy"


def test_a_run_that_was_killed_after_its_last_answer_is_unofficial(tmp_path: Path) -> None:
    """Fault: a run is killed after its last answer and before LoadGen has closed its log, and is resumed."""
    folder = smoke(tmp_path)
    kill_after_the_last_answer(folder)
    assert codes(judge(folder)) == SMOKE | {"RESUMED"}


def test_a_cut_log_with_other_answers_than_the_journal_is_invalid(tmp_path: Path) -> None:
    folder = smoke(tmp_path)
    accuracy = kill_after_the_last_answer(folder)
    log = accuracy / "mlperf_log_accuracy.json"
    first = results_tree.lines(folder, "accuracy")[0]["token_ids"]
    hexadecimal = np.array(first, "<i4").tobytes().hex().upper()
    changed = np.array([*first[:-1], first[-1] ^ 1], "<i4").tobytes().hex().upper()
    text = re.sub(hexadecimal, changed, log.read_text(), count=1, flags=re.IGNORECASE)
    assert text != log.read_text()
    log.write_text(text)
    results_tree.edit(accuracy / "score.json", lambda s: s.update(log_sha256=sha256_file(log)))
    (accuracy / "accuracy.txt").write_text(accuracy_text(merge([accuracy])))
    (reason,) = [reason for reason in judge(folder).reasons if reason.code == "ANSWERS_LOGGED"]
    assert "holds other token ids than journal.jsonl for 1 samples" in reason.sentence


def test_an_interrupted_part_may_lack_its_log(tmp_path: Path) -> None:
    folder = smoke(tmp_path)
    resume(folder)
    home = folder / "nodes/alpha"
    (home / "accuracy/mlperf_log_accuracy.json").unlink()
    results_tree.edit(home / "accuracy/score.json", lambda s: s["part_logs_sha256"].pop("accuracy"))
    assert codes(judge(folder)) == SMOKE | {"RESUMED"}


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ("accuracy/mlperf_log_accuracy.json", "ACCURACY_LOG"),
        ("accuracy.2/mlperf_log_accuracy.json", "ACCURACY_LOG"),
        ("accuracy.2/mlperf_log_detail.txt", "FILES_WHOLE"),
        ("accuracy.2/part.json", "FILES_WHOLE"),
    ],
)
def test_every_part_of_a_resumed_run_is_checked(tmp_path: Path, file: str, code: str) -> None:
    folder = smoke(tmp_path)
    resume(folder)
    (folder / "nodes/alpha" / file).write_text("[1]")
    assert code in codes(judge(folder))


def test_a_performance_run_that_was_made_again_is_like_any_other(tmp_path: Path) -> None:
    folder = smoke(tmp_path)
    entry = {"at_unix": results_tree.START - 9, "phase": "performance", "kept": 0, "missing": 50}
    results_tree.edit(folder / "nodes/alpha/outcome.json", lambda o: o.update(resumed=[entry]))
    assert codes(judge(folder)) == SMOKE
    assert "interrupted in phase performance" in page(build(folder).result, "md")


def test_a_damaged_journal_line_is_named(tmp_path: Path) -> None:
    folder = smoke(tmp_path)
    path = folder / "nodes/alpha/journal.jsonl"
    lines = [seal(json.loads(line)) for line in path.read_text().splitlines()]
    path.write_bytes(b"".join(lines).replace(b'"n_tokens":128', b'"n_tokens":129', 1))
    (reason,) = [reason for reason in judge(folder).reasons if reason.code == "FILES_WHOLE"]
    assert "1 damaged lines, which were left out (line 1)" in reason.sentence
