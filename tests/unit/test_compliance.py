"""TEST06: what LoadGen's log of a compliance run must show, from a good one by the smallest faults."""

import json
import re
import shutil
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness import compliance, journal
from harness.benchmark.public_settings import check
from harness.benchmark.speeds import durations
from harness.errors import BadInput
from harness.files import sha256_file
from harness.report.build import build
from harness.spec import Mode, Scenario, why_no_peak
from tests.unit.results_tree import benchmark, edit, seal
from tests.unit.submission_runs import add_compliance

END = (9,)
RUN = {"run_id": "r1", "common_sha256": "a" * 64, "node_sha256": "b" * 64}
ALL_PASSED = (
    "First token check pass: True\nEOS check pass: True\nSample length check pass: True\nTEST06 verification complete\n"
)


def entry(index: int, ids: list[int], first: list[int], count: int | None = None) -> dict[str, Any]:
    """One answer as LoadGen logs it."""
    return {
        "seq_id": index,
        "qsl_idx": index,
        "data": array("i", ids).tobytes().hex().upper(),
        "token_data": array("i", first).tobytes().hex().upper(),
        "token_count": len(ids) if count is None else count,
    }


def log(folder: Path, *entries: dict[str, Any]) -> Path:
    """A log of three good answers and the given ones."""
    good = [entry(0, [5, 6, 7], [5]), entry(1, [6, 7, 9], [6]), entry(2, [9, 9], [9])]
    (folder / compliance.LOG).write_text(json.dumps([*good, *entries]))
    return folder


def test_consistent_answers_pass_and_the_text_has_the_verifiers_form(tmp_path: Path) -> None:
    result = compliance.verify(log(tmp_path), True, END, RUN)
    assert result.passed and result.failures() == []
    assert (tmp_path / "verify_accuracy.txt").read_text() == ALL_PASSED
    record = json.loads((tmp_path / "test06.json").read_text())
    assert record["end_tokens"] == [9] and record["answers"] == 3 and record.items() >= RUN.items()
    assert record["log_sha256"] == sha256_file(tmp_path / compliance.LOG)
    assert compliance.recorded_end_tokens(tmp_path) == {9}


def test_offline_reports_no_first_tokens(tmp_path: Path) -> None:
    result = compliance.verify(log(tmp_path, entry(3, [5, 6], [])), False, END, RUN)
    assert result.passed
    assert (tmp_path / "verify_accuracy.txt").read_text() == ALL_PASSED.replace(
        "token check pass: True", "token check pass: Skipped"
    )


@pytest.mark.parametrize(
    ("bad", "failed"),
    [
        (entry(3, [5, 6], [6]), "First token check pass"),
        (entry(3, [5, 6], []), "First token check pass"),
        (entry(3, [5, 6], [5, 7]), "First token check pass"),
        (entry(3, [5, 9, 9], [5]), "EOS check pass"),
        (entry(3, [5, 9, 6], [5]), "EOS check pass"),
        (entry(3, [9, 6], [9]), "EOS check pass"),
        (entry(3, [5, 6], [5], count=3), "Sample length check pass"),
    ],
)
def test_one_inconsistent_answer_fails_its_check_alone(tmp_path: Path, bad: dict[str, Any], failed: str) -> None:
    result = compliance.verify(log(tmp_path, bad), True, END, RUN)
    assert not result.passed and len(result.failures()) == 1
    expected = ALL_PASSED.replace(f"{failed}: True", f"{failed}: False").replace("complete", "failed")
    assert (tmp_path / "verify_accuracy.txt").read_text() == expected


@pytest.mark.parametrize(
    "change",
    [
        lambda entry: entry.pop("token_count"),
        lambda entry: entry.update(token_count="2"),
        lambda entry: entry.update(qsl_idx=None),
        lambda entry: entry.update(data="00"),
        lambda entry: entry.update(data="no hex"),
        lambda entry: entry.update(token_data=5),
    ],
)
def test_a_damaged_answer_is_named(tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    bad = entry(3, [5, 6], [5])
    change(bad)
    with pytest.raises(BadInput, match=r"mlperf_log_accuracy.json: entry 3 is damaged .*mode=compliance"):
        compliance.check(log(tmp_path, bad), True, END)


@pytest.mark.parametrize("content", ["", "[", "{}", "[]", "5"])
def test_a_damaged_log_is_one_error(tmp_path: Path, content: str) -> None:
    (tmp_path / compliance.LOG).write_text(content)
    with pytest.raises(BadInput):
        compliance.check(tmp_path, True, END)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"end_tokens": []}', '{"end_tokens": ["9"]}'])
def test_end_tokens_are_never_guessed(tmp_path: Path, content: str) -> None:
    (tmp_path / compliance.RECORD).write_text(content)
    with pytest.raises(BadInput):
        compliance.recorded_end_tokens(tmp_path)


@pytest.mark.parametrize(
    ("mode", "runs"),
    [
        ("performance", ["performance"]),
        ("accuracy", ["accuracy"]),
        ("compliance", ["compliance"]),
        ("both", ["performance", "accuracy"]),
        ("all", ["performance", "accuracy", "compliance"]),
    ],
)
def test_a_mode_names_its_runs_in_order(mode: str, runs: list[str]) -> None:
    assert list(Mode(mode).runs) == runs
    refused = why_no_peak("peak", Scenario.SERVER, Mode(mode), 13_368)
    assert (refused is None) is ("performance" in runs)
    settings = check({"mode": mode, "samples": "600", "scenario": "server"})
    assert settings.attempts_most == (4 if "performance" in runs else 1)


def test_a_compliance_run_adds_its_queries_to_the_time_of_a_plan() -> None:
    both, every = (check({"mode": mode, "samples": "600", "scenario": "server"}) for mode in ("both", "all"))
    assert durations(both, 600, 10.0, 10.0) == (60.0, 60.0)
    assert durations(every, 600, 10.0, 10.0) == (60.0, 70.0)
    assert durations(check({"mode": "compliance", "samples": "600"}), 600, 10.0, 10.0) == (0.0, 10.0)


Change = Callable[[Path], object]


def answers(change: Callable[[list[dict[str, Any]]], object]) -> Change:
    """Other answers in the log of the compliance run."""
    return lambda home: edit(home / "compliance" / compliance.LOG, change)


def outcome(change: Callable[[dict[str, Any]], object]) -> Change:
    return lambda home: edit(home / "outcome.json", change)


def detail(key: str, value: int) -> Change:
    """Another value in the detail log of the compliance run."""

    def change(home: Path) -> None:
        path = home / "compliance/mlperf_log_detail.txt"
        text, count = re.subn(rf'("key": "{key}", "value": )\d+', rf"\g<1>{value}", path.read_text())
        assert count == 1
        path.write_text(text)
        summary = path.with_name("mlperf_log_summary.txt")
        label = key.removeprefix("effective_")
        summary.write_text(re.sub(rf"^{label} : \d+", f"{label} : {value}", summary.read_text(), flags=re.M))

    return change


def edit_text(path: Path, old: str, new: str) -> None:
    content = path.read_text()
    assert old in content
    path.write_text(content.replace(old, new))


def cut(home: Path) -> None:
    """A detail log that ends after its settings, and an empty summary."""
    path = home / "compliance/mlperf_log_detail.txt"
    lines = path.read_text().splitlines(keepends=True)
    end = next(number for number, line in enumerate(lines) if '"generated_query_count"' in line)
    path.write_text("".join(lines[:end]))
    path.with_name("mlperf_log_summary.txt").write_text("")


def copied(log: list[dict[str, Any]]) -> None:
    for number, entry in enumerate(log):
        entry.update(log[0], seq_id=number)


def failed(home: Path) -> None:
    with (home / "journal.jsonl").open("ab") as file:
        file.write(journal.seal({"mode": "compliance", "qsl_idx": 3, "engine": "alpha-0", "failed": "HTTP 500"}))


FORGERIES: dict[str, tuple[Change, str]] = {
    "copies of one answer": (answers(copied), "the journal has other answers than the log"),
    "answers of one query": (
        answers(lambda log: [entry.update(seq_id=0) for entry in log]), "several answers to one query"),
    "a log that is cut after its settings": (cut, "is cut short: it has no num_errors"),
    "a failed line": (failed, "1 queries failed, first sample 3: HTTP 500"),
    "a record of another log": (
        lambda home: edit(home / "compliance/test06.json", lambda record: record.update(log_sha256="0" * 64)),
        "test06.json says that log_sha256 is 0000"),
    "no outcome": (outcome(lambda o: o.update(compliance=None)), "outcome.json has no record of the run"),
    "an outcome of more samples": (
        outcome(lambda o: o["compliance"].update(samples=200)), "the outcome has 200 queries"),
    "an outcome of other tokens": (outcome(lambda o: o["compliance"].update(tokens=1)), "1 in outcome.json"),
    "an outcome of another time": (
        outcome(lambda o: o["compliance"].update(finished_unix=1.0)), "time from the first issue to the last answer"),
    "another system's log": (
        lambda home: edit_text(home / "compliance/mlperf_log_detail.txt", "mlperf-distributed (", "PySUT ("),
        "says SUT name"),
    "a setting that LoadGen was not given": (
        lambda home: edit_text(
            home / "compliance/mlperf_log_detail.txt", '"requested_server_coalesce_queries", "value": false',
            '"requested_server_coalesce_queries", "value": true'),
        "requested_server_coalesce_queries is True, the rule is False"),
    "another number of queries": (
        detail("effective_min_query_count", 1), "effective_min_query_count is 1, the rule is 100"),
    "another number of samples": (
        detail("effective_performance_sample_count", 50), "effective_performance_sample_count is 50"),
}  # fmt: skip


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compliance run alone, over the whole data set."""
    folder = benchmark(tmp_path_factory.mktemp("good") / "run", nodes=("alpha",), samples=13_368, mode="compliance")
    add_compliance(folder / "nodes/alpha", "server")
    seal(folder)
    assert judged(folder) == []
    return folder


def judged(folder: Path) -> list[str]:
    """What the verdict says of the compliance run."""
    reasons = build(folder)[0].verdict.reasons
    return [reason.sentence for reason in reasons if reason.code in ("COMPLIANCE", "FILES_WHOLE")]


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_compliance_run_is_seen(good: Path, tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(good, tmp_path / "run")
    change, words = FORGERIES[name]
    change(folder / "nodes/alpha")
    seal(folder)
    assert words in "; ".join(judged(folder))


def test_the_audit_settings_are_those_of_the_test() -> None:
    assert compliance.audit_config().splitlines() == [
        "*.*.mode = 2",
        "*.*.accuracy_log_rng_seed = 720381539243781796",
        "*.*.accuracy_log_sampling_target = 100",
        "*.*.min_query_count = 100",
        "*.*.min_duration = 0",
        "*.*.sample_concatenate_permutation = 0",
    ]
