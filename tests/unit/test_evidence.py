"""The raw files agree: from a good tree, the smallest forgery of each kind, and the reason that names its file."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.engine.config import EngineConfig
from harness.report import journals
from harness.report.build import build
from harness.report.evidence.models import KINDS
from harness.report.record import Level, Verdict
from harness.spec import FULL_SAMPLES, parse_spec
from tests.unit import loadgen_logs, results_tree
from tests.unit.results_tree import REAL, Pace, benchmark, edit

SMOKE = {"EARLY_STOPPING_SUBSET", "SHORT", "TINY_MODEL", "SUBSET"}
Change = Callable[[Path], object]


def judged(folder: Path) -> Verdict:
    return build(folder)[0].verdict


def new(folder: Path) -> dict[str, str]:
    """Reasons that the good tree does not have: the sentences of each rule."""
    sentences: dict[str, str] = {}
    for reason in judged(folder).reasons:
        if reason.code not in SMOKE:
            sentences[reason.code] = "; ".join(filter(None, (sentences.get(reason.code), reason.sentence)))
    return sentences


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = benchmark(tmp_path_factory.mktemp("good") / "run", topology="fleet")
    assert new(folder) == {}
    return folder


@pytest.fixture
def tree(good: Path, tmp_path: Path) -> Path:
    return shutil.copytree(good, tmp_path / "run")


@pytest.fixture
def shrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A data set of 700 samples is judged like that of 13,368."""
    results_tree.shrink(monkeypatch)


HONEST: dict[str, dict[str, Any]] = {
    "Server on one node": {"nodes": ("alpha",)},
    "Server on two nodes": {},
    "Offline": {"scenario": "offline"},
    "Interactive": {"scenario": "interactive"},
    "two passes, one query over a limit": results_tree.whole(passes=2, interval_s=0.51, target_qps=1.9, slow=1),
}


@pytest.mark.usefixtures("shrunk")
@pytest.mark.parametrize("name", HONEST)
def test_honest_run_is_valid(tmp_path: Path, name: str) -> None:
    verdict = judged(benchmark(tmp_path / "run", **({"model": REAL} | results_tree.whole() | HONEST[name])))
    assert (verdict.level, verdict.reasons) == (Level.VALID, ())


def test_honest_run_over_the_whole_data_set_is_valid(tmp_path: Path) -> None:
    verdict = judged(benchmark(tmp_path / "run", samples=FULL_SAMPLES, model=REAL, pace=Pace(tokens=2, slow=107)))
    assert (verdict.level, verdict.reasons) == (Level.VALID, ())


def text(name: str, old: str, replaced: str, count: int = 1) -> Change:
    """Replace text in a file of the LoadGen's node."""

    def change(folder: Path) -> None:
        path = folder / "nodes/alpha" / name
        content = path.read_text()
        assert old in content, old
        path.write_text(content.replace(old, replaced, count))

    return change


def document(name: str, change: Callable[[Any], object]) -> Change:
    return lambda folder: edit(folder / name if name == "plan.json" else folder / "nodes/alpha" / name, change)


def logged(key: str, value: object, mode: str = "performance") -> Change:
    """Another value of a key, in detail log and summary alike."""

    def change(folder: Path) -> None:
        path = folder / "nodes/alpha" / mode / "mlperf_log_detail.txt"
        pattern = rf'("key": "{re.escape(key)}", "value": )("[^"]*"|[^,]*),'
        content, count = re.subn(pattern, lambda match: f"{match[1]}{json.dumps(value)},", path.read_text())
        assert count == 1, key
        path.write_text(content)
        summary = path.with_name("mlperf_log_summary.txt")
        if summary.stat().st_size > 500:  # so that the two logs do not contradict each other
            loadgen_logs.resummarise(path.parent)

    return change


def entries(mode: str, change: Callable[[list[dict[str, Any]]], object]) -> Change:
    """Other journal lines of one mode."""

    def changed(folder: Path) -> None:
        by_mode = {each: results_tree.lines(folder, each) for each in ("performance", "accuracy")}
        change(by_mode[mode])
        results_tree.journal(folder / "nodes/alpha", [*by_mode["performance"], *by_mode["accuracy"]])

    return changed


def every(**values: Callable[[dict[str, Any]], Any]) -> Callable[[list[dict[str, Any]]], object]:
    """New values in every line."""
    return lambda lines: [line.update({name: value(line) for name, value in values.items()}) for line in lines]


def line(number: int, **values: Any) -> Callable[[list[dict[str, Any]]], object]:
    return lambda lines: lines[number].update(values)


def answer(change: Callable[[list[dict[str, Any]]], object]) -> Change:
    """Other entries in the accuracy log, whose hash the score then names."""

    def changed(folder: Path) -> None:
        path = folder / "nodes/alpha/accuracy/mlperf_log_accuracy.json"
        edit(path, change)

    return changed


def scored(change: Callable[[Any], object]) -> Change:
    return document("accuracy/score.json", change)


SAID = ("run_id", "common_sha256", "node_sha256")
CONF, TELEMETRY = "performance/user.conf", "engines/alpha-0/telemetry.csv"
DETAIL, SUMMARY = "performance/mlperf_log_detail.txt", "performance/mlperf_log_summary.txt"
FORGERIES: dict[str, tuple[Change, str, str]] = {
    # LoadGen's logs fit their folder.
    "log of the accuracy run as performance": (
        lambda folder: [shutil.copy(folder / f"nodes/alpha/accuracy/mlperf_log_{name}.txt",
                                    folder / f"nodes/alpha/performance/mlperf_log_{name}.txt")
                        for name in ("detail", "summary")],
        "LOG_OF_RUN", f"{DETAIL}: effective_test_mode is AccuracyOnly"),
    "another scenario": (logged("effective_scenario", "Offline"), "LOADGEN_RULES", "scenario (performance) is offline"),
    "another sample count": (
        logged("effective_performance_sample_count", 49), "LOG_OF_RUN", "effective_performance_sample_count is 49"),
    "no token latencies": (
        logged("requested_use_token_latencies", False), "LOG_OF_RUN", "requested_use_token_latencies is False"),
    "no result": (
        text(DETAIL, '"result_validity"', '"result_nothing"'), "LOG_NUMBERS", "there is no result_validity"),
    "two results": (
        text(DETAIL, '"result_query_count"', '"result_validity"'), "FILES_WHOLE", "result_validity is there twice"),
    "two results in the summary": (
        text(SUMMARY, "Result is : INVALID", "Result is : INVALID\nResult is : VALID"), "FILES_WHOLE",
        f"{SUMMARY} has 2 results"),
    "a summary of another run": (
        text(SUMMARY, "target_qps : 10", "target_qps : 11"), "FILES_WHOLE", "says target_qps 11"),
    "accuracy log of other settings": (
        logged("effective_accuracy_sample_count", 49, "accuracy"), "LOG_OF_RUN", "effective_accuracy_sample_count"),
    # Numbers, not flags.
    "TTFT over its limit": (
        logged("result_first_token_99.00_percentile_latency_ns", 2_100_000_000), "LATENCY_LIMITS", "TTFT p99 is 2,100"),
    "TPOT over its limit": (
        logged("result_time_per_output_token_99.00_percentile_ns", 110_000_000), "LATENCY_LIMITS", "TPOT p99 is 110"),
    "percentile missing": (
        text(DETAIL, '"result_first_token_99.00_percentile_latency_ns"', '"result_x"'), "LOG_NUMBERS",
        "percentiles of TTFT are missing"),
    "early stopping met with too few queries": (
        logged("early_stopping_met", True), "LOG_NUMBERS", "50 queries confirm nothing"),
    "limits broken by the flag alone": (
        logged("result_perf_constraints_met", False), "LOG_NUMBERS", "result_perf_constraints_met is False"),
    "valid by the word alone": (logged("result_validity", "VALID"), "LOG_NUMBERS", "result_validity is VALID, but"),
    "a shorter run": (
        lambda folder: [logged(f"{kind}_min_duration_ms", 60_000)(folder) for kind in ("requested", "effective")],
        "LOG_OF_RUN", "effective_min_duration_ms is 60000, this run's is 0"),
    "more queries than answered": (logged("generated_query_count", 100), "JOURNAL_LOG", "rows: 50 in the journal, 100"),
    "a result of other queries": (logged("result_query_count", 100), "LOG_NUMBERS", "result_query_count is 100"),
    # Journal, log and outcome.
    "another rate": (
        logged("result_completed_samples_per_sec", 8.5), "JOURNAL_LOG", "samples/s: 9.70872 in the journal, 8.5 in"),
    "more tokens": (
        logged("result_completed_tokens_per_second", 1500.0), "JOURNAL_LOG", "tokens/s: 1268.08 in the journal, 1500"),
    "a higher rate of queries": (
        logged("result_scheduled_samples_per_sec", 12.0), "JOURNAL_LOG", "samples/s scheduled: 10 in the journal, 12"),
    "shorter first tokens": (
        logged("result_first_token_99.00_percentile_latency_ns", 18_000_000), "LOG_NUMBERS", "TTFT are missing"),
    "all first tokens shorter": (
        lambda folder: [logged(f"result_first_token_{p}_percentile_latency_ns", 18_000_000)(folder)
                        for p in ("50.00", "90.00", "95.00", "97.00", "99.00", "99.90")],
        "JOURNAL_LOG", "99th percentile of TTFT: 20.010 ms in the journal, 18.000 ms"),
    "slow answers in the journal": (
        entries("performance", every(**dict.fromkeys(("first_s", "first_logged_s"), lambda e: e["issued_s"] + 0.1))),
        "JOURNAL_LOG", "50th percentile of TTFT"),
    "first tokens that LoadGen was told of before they came": (
        entries("performance", every(first_logged_s=lambda e: e["first_s"] - 0.001)), "JOURNAL_TIMES",
        "in another order"),
    "first tokens that LoadGen was told of later": (
        entries("performance", every(first_logged_s=lambda e: e["first_s"] + 0.005)), "JOURNAL_LOG",
        "50th percentile of TTFT: 25.000 ms in the journal, 20.010 ms"),
    "answers that LoadGen was told of later": (
        entries("performance", every(last_logged_s=lambda e: e["last_s"] + 0.005)), "JOURNAL_LOG",
        "50th percentile of end to end"),
    "a line less": (entries("performance", lambda lines: lines.pop()), "JOURNAL_LOG", "rows: 49 in the journal, 50"),
    "a sample in place of another": (
        entries("performance", line(3, qsl_idx=4)), "JOURNAL_LOG", "lines of each sample: not 1 for samples 3, 4"),
    "other tokens than counted": (
        document("outcome.json", lambda o: o["performance"].update(tokens=1)), "JOURNAL_OUTCOME", "tokens: 6400"),
    "other samples than counted": (
        document("outcome.json", lambda o: o["performance"].update(samples=60, issued=60)), "JOURNAL_OUTCOME",
        "rows: 50 in the journal, 60 in outcome.json"),
    "an outcome without its performance run": (
        document("outcome.json", lambda o: o.pop("performance")), "JOURNAL_OUTCOME",
        "nodes/alpha/journal.jsonl (performance): rows: 50 in the journal, no such run in outcome.json"),
    "an outcome without its accuracy run": (
        document("outcome.json", lambda o: o.update(accuracy=None)), "JOURNAL_OUTCOME",
        "nodes/alpha/journal.jsonl (accuracy): rows: 50 in the journal, no such run in outcome.json"),
    "an outcome of another hour": (
        document("outcome.json", lambda o: o["performance"].update(started_unix=0.0, finished_unix=5.0)),
        "JOURNAL_OUTCOME", "time from the first issue to the last answer"),
    "first token before the request": (
        entries("performance", line(3, sent_s=0.4)), "JOURNAL_TIMES", "in another order: samples 3"),
    "a stamp of another clock": (
        entries("performance", line(3, issued_unix=results_tree.START)), "JOURNAL_OUTCOME", "not constant"),
    "an answer of more tokens": (
        entries("performance", line(3, n_tokens=100)), "JOURNAL_TIMES", "not the number of token ids: samples 3"),
    "an answer of 129 tokens": (
        entries("performance", line(3, n_tokens=129, token_ids=[5] * 129)), "JOURNAL_TIMES", "more than 128 tokens"),
    "an answer of one token": (
        entries("performance", line(3, n_tokens=1, token_ids=[5])), "JOURNAL_OUTCOME", "one-token answers: [3]"),
    "an engine of another run": (
        entries("performance", line(3, engine="gamma-0")), "JOURNAL_TIMES", "an engine that is not of the run"),
    "a failed line": (
        entries("performance", lambda lines: lines.append(
            {"mode": "performance", "qsl_idx": 3, "engine": "alpha-0", "failed": "HTTP 500"})),
        "NO_FAILED_SAMPLES", "1 samples failed in performance, first sample 3: HTTP 500"),
    "a sample of a very great number": (
        entries("performance", line(3, qsl_idx=1_900_000_000)), "JOURNAL_TIMES", "not of the share: samples 19"),
    "a number of 400 digits": (
        logged("generated_query_count", 10**400), "FILES_WHOLE", "is cut short or damaged"),
    "an entry that is nested too deeply": (
        text(DETAIL, ":::MLLOG ", ":::MLLOG " + "[" * 100_000 + "\n:::MLLOG "), "FILES_WHOLE", "line 1 is cut"),
    "an error that is indented": (
        text(DETAIL, ":::MLLOG ", ' :::MLLOG {"key": "error_runtime", "value": "an error"}\n:::MLLOG '), "FILES_WHOLE",
        f"{DETAIL} line 1 is cut short or damaged"),
    "an attempt whose number is no decimal one": (
        lambda folder: (folder / "nodes/alpha/attempts/²").mkdir(parents=True), "ATTEMPTS_MARKED",
        "attempts/² is the folder of no attempt"),
    "an attempt whose number begins with 0": (
        lambda folder: (folder / "nodes/alpha/attempts/01").mkdir(parents=True), "ATTEMPTS_MARKED", "attempts/01 is"),
    "a failed line of a run whose accuracy was not resumed": (
        lambda folder: [
            entries("performance", lambda lines: lines.append(
                {"mode": "performance", "qsl_idx": 3, "engine": "alpha-0", "failed": "HTTP 500"}))(folder),
            document("outcome.json", lambda o: o.update(
                resumed=[{"at_unix": 1.0, "phase": "performance", "kept": 0, "missing": 50}]))(folder)],
        "NO_FAILED_SAMPLES", "1 samples failed in performance"),
    "a line of another kind": (
        entries("performance", lambda lines: lines.append({"mode": "performance"})), "FILES_WHOLE", "1 damaged lines"),
    "a port of another kind": (
        document("engines/alpha-0/engine.json", lambda e: e["config"].update(port="[")), "ENGINE_FILES",
        "its configuration says port ["),
    "an engine in the plan whose name is no text": (
        document("plan.json", lambda p: p["nodes"]["beta"]["engines"][0].update(name=[])), "FILES_WHOLE",
        "name = [] is not of type str"),
    "a setting that is no number": (
        logged("requested_min_query_count", "many"), "LOG_OF_RUN", "requested_min_query_count is many, this run's is"),
    "settings that are there twice": (
        lambda folder: (folder / f"nodes/alpha/{CONF}").write_text((folder / f"nodes/alpha/{CONF}").read_text() * 2),
        "LOG_OF_RUN", "llama3_1-8b.Server.target_qps is there 2 times, this run's is 10.0"),
    "a summary that is not UTF-8": (
        lambda folder: (folder / f"nodes/alpha/{SUMMARY}").open("ab").write(b"\xff\n"), "FILES_WHOLE",
        f"{SUMMARY} is damaged: it is not UTF-8"),
    "answers that a performance run does not log": (
        lambda folder: (folder / "nodes/alpha/performance/mlperf_log_accuracy.json").write_text("[5]"), "LOG_OF_RUN",
        "performance/mlperf_log_accuracy.json: its list of answers is filled, this run's is empty"),
    "a count of errors twice": (
        text(SUMMARY, "No errors encountered", "No errors encountered during test.\nNo errors encountered"),
        "FILES_WHOLE", f"{SUMMARY} says several times how many errors there were"),
    "telemetry that holds text for a number": (
        text(TELEMETRY, ",50.0,", ",much,"), "FILES_WHOLE", f"{TELEMETRY} line 2 is damaged"),
    "telemetry with a line that is cut": (
        text(TELEMETRY, ",1,30.0\n", "\n"), "FILES_WHOLE", f"{TELEMETRY} line 2 is damaged"),
    "telemetry without names": (
        text(TELEMETRY, "unix_s", "unix"), "FILES_WHOLE", f"{TELEMETRY} does not begin with the names of its columns"),
    # The accuracy log and the score.
    "no accuracy log": (
        lambda folder: (folder / "nodes/alpha/accuracy/mlperf_log_accuracy.json").unlink(), "ANSWERS_LOGGED",
        "nodes/alpha/accuracy/mlperf_log_accuracy.json does not exist"),
    "an answer changed": (
        answer(lambda log: log[3].update(data="00000000" + log[3]["data"][8:])), "ANSWERS_LOGGED",
        "other token ids than journal.jsonl for 1 samples: 3"),
    "the same change in the journal": (
        entries("accuracy", lambda lines: lines[3]["token_ids"].__setitem__(0, 6)), "ANSWERS_LOGGED", "samples: 3"),
    "an answer with another count": (
        answer(lambda log: log[3].update(token_count=99)), "ANSWERS_LOGGED", "another number of tokens than"),
    "answers of one query": (
        answer(lambda log: [entry.update(seq_id=0) for entry in log]), "ANSWERS_LOGGED", "one query more than once"),
    "an answer without its query": (
        answer(lambda log: log[3].pop("seq_id")), "ANSWERS_LOGGED", "is no list of LoadGen's answers"),
    "an accuracy summary that is empty": (
        lambda folder: (folder / "nodes/alpha/accuracy/mlperf_log_summary.txt").write_text(""), "FILES_WHOLE",
        "accuracy/mlperf_log_summary.txt is cut short"),
    "an accuracy summary with a result": (
        text("accuracy/mlperf_log_summary.txt", "\n", "\nResult is : INVALID\n"), "FILES_WHOLE", "has a result, which"),
    "a summary with errors": (
        text(SUMMARY, "No errors encountered", "5 ERRORS encountered"), "FILES_WHOLE", "says 5 errors, but"),
    "fewer than no characters": (
        text("accuracy/scores.csv", "3,1.0,1.0,1.0,1.0,611", "3,1.0,1.0,1.0,1.0,-1000000000"), "FILES_WHOLE",
        "-1000000000 characters"),
    "more characters than tokens can have": (
        text("accuracy/scores.csv", "3,1.0,1.0,1.0,1.0,611", "3,1.0,1.0,1.0,1.0,1000000000"), "FILES_WHOLE",
        "1000000000 characters"),
    "an answer twice": (
        answer(lambda log: log.append(log[3])), "ANSWERS_LOGGED", "answers more than once 1 samples: 3"),
    "an answer less": (answer(lambda log: log.pop(3)), "ANSWERS_LOGGED", "does not answer 1 samples: 3"),
    "an answer to another sample": (
        answer(lambda log: log[3].update(qsl_idx=50)), "ANSWERS_LOGGED", "not of the share, 1 samples: 50"),
    "the score of another log": (scored(lambda s: s.update(log_sha256="0" * 64)), "ACCURACY_LOG", "sha256 differs"),
    "no hash in the score": (scored(lambda s: s.update(log_sha256=None)), "ACCURACY_LOG", "sha256 differs"),
    "a better score": (scored(lambda s: s.update(rouge1=99.9)), "SCORES_FOLLOW", "rouge1 is 99.9; 100.0 follows"),
    "a score that is no number": (scored(lambda s: s.update(rouge2=float("nan"))), "FILES_WHOLE", "score.json"),
    "a better row": (text("accuracy/scores.csv", "3,1.0,", "3,0.5,"), "SCORES_FOLLOW", "rouge1 is 100.0; 99.0 follows"),
    "a row that is no number": (text("accuracy/scores.csv", "3,1.0,", "3,nan,"), "FILES_WHOLE", "scores.csv"),
    "a row less": (
        text("accuracy/scores.csv", "49,1.0,1.0,1.0,1.0,611,128\n", ""), "SCORES_FOLLOW",
        "scores.csv is not one row for each answer"),
    "rougeLsum missing": (scored(lambda s: s.update(rougeLsum=None)), "SCORES_FOLLOW", "lacks rougeLsum or gen_len"),
    "gen_len missing": (scored(lambda s: s.update(gen_len=None)), "SCORES_FOLLOW", "lacks rougeLsum or gen_len"),
    "other printed figures": (text("accuracy/accuracy.txt", "100.0", "99.0"), "SCORES_FOLLOW", "accuracy.txt"),
    # One run.
    "limits changed": (
        document("spec.json", lambda s: s["common"]["limits"].update(min_duration_s=1.0)), "SAME_RUN",
        "spec.json: common_sha256 is"),
    "the outcome of another run": (
        document("outcome.json", lambda o: o.update(run_id="other")), "SAME_RUN", "outcome.json: run_id is other"),
    "the outcome of another specification": (
        document("outcome.json", lambda o: o.update(node_sha256="0" * 64)), "SAME_RUN", "outcome.json: node_sha256"),
    "the score of another run": (
        scored(lambda s: s.update(run_id="other")), "SAME_RUN", "accuracy/score.json: run_id is other"),
    "the score of another specification": (
        scored(lambda s: s.update(common_sha256="0" * 64)), "SAME_RUN", "accuracy/score.json: common_sha256"),
    "the status of another specification": (
        document("status.json", lambda s: s.update(node_sha256="0" * 64)), "SAME_RUN", "status.json: node_sha256"),
    "a manifest without its run": (
        document("manifest.json", lambda m: m.pop("run_id")), "SAME_RUN", "manifest.json: run_id is –"),
    "the status of another run": (
        document("status.json", lambda s: s.update(run_id="other")), "SAME_RUN", "status.json: run_id is other"),
    "a plan of more samples": (
        document("plan.json", lambda p: p["asked"].update(samples=60)), "SAME_RUN", "plan.json: samples is 60"),
    # Engines.
    "a node that is not there any more": (
        lambda folder: [shutil.rmtree(folder / "nodes/beta"),
                        edit(folder / "plan.json", lambda plan: plan["nodes"].pop("beta"))],
        "SAME_RUN", "plan.json: engines is alpha/alpha-0, this run's is alpha/alpha-0, beta/beta-0"),
    "a plan without engines": (
        document("plan.json", lambda p: p["nodes"]["beta"].update(engines=[])), "SAME_RUN", "plan.json: engines is"),
    "an engine without its file": (
        lambda folder: shutil.rmtree(folder / "nodes/beta/engines"), "NODES_PRESENT", "engine beta-0 of beta was"),
    "an engine of another name": (
        document("engines/alpha-0/engine.json", lambda e: e.update(name="alpha-1")), "SAME_RUN",
        "engine.json: engines is alpha/alpha-1"),
    "a manifest without engines": (
        document("manifest.json", lambda m: m.update(engines=[])), "SAME_RUN", "manifest.json: engines is none"),
    "a LoadGen that was not planned": (
        document("plan.json", lambda p: p.update(loadgens=["beta"])), "SAME_RUN", "loadgens is beta, this run's is"),
    # The model.
    "another model on the LoadGen's host": (
        document("manifest.json", lambda m: m["model"].update(sha256="9" * 64)), "MODEL_IDENTITY",
        "SHA-256 of the weights"),
    "another model on the engine": (
        document("engines/alpha-0/engine.json", lambda e: e["machine"]["model"].update(sha256="9" * 64)),
        "MODEL_IDENTITY", "alpha/alpha-0, engine.json: SHA-256 of the weights"),
    "an engine without a hash": (
        document("engines/alpha-0/engine.json", lambda e: e["machine"]["model"].pop("sha256")), "MODEL_IDENTITY",
        "SHA-256 of the weights: –"),
    "an engine of no known kind": (
        document("engines/alpha-0/engine.json", lambda e: e.update(kind="oven")), "MODEL_IDENTITY", "kind: oven"),
}  # fmt: skip


@pytest.mark.parametrize("name", FORGERIES)
def test_forgery_is_invalid_with_its_file(tree: Path, name: str) -> None:
    change, code, words = FORGERIES[name]
    change(tree)
    results_tree.seal(tree)
    sentences = new(tree)
    assert code in sentences, sentences
    assert words in sentences[code]
    assert judged(tree).level == Level.INVALID


@pytest.mark.parametrize("content", [b"", b"unix_s,engine", b"unix_s,engine\n1.0,alpha-0\n2.0,al"])
def test_telemetry_of_a_process_that_was_killed_is_no_damage(tree: Path, content: bytes) -> None:
    (tree / "nodes/alpha" / TELEMETRY).write_bytes(content)
    results_tree.seal(tree)
    assert new(tree) == {}


def test_score_and_status_of_earlier_versions_name_no_specification(tree: Path) -> None:
    for name, keys in (("accuracy/score.json", SAID), ("status.json", SAID[1:])):
        document(name, lambda content, keys=keys: [content.pop(key) for key in keys])(tree)  # type: ignore[misc]
    assert new(tree) == {}


def test_each_forgery_is_seen_by_the_checksum_alone(tree: Path) -> None:
    text("status.json", "/srv/harness.log", "/srv/other.log")(tree)
    what = "is not the file that was collected: its SHA-256 is not that in SHA256SUMS"
    assert new(tree) == {"FILE_SUMS": f"nodes/alpha/status.json {what}"}


def test_file_that_was_not_collected_and_one_that_is_gone_are_named(tree: Path) -> None:
    (tree / "nodes/alpha/attempts").mkdir()
    (tree / "nodes/alpha/attempts/note.txt").write_text("")
    (tree / "nodes/beta/engines/beta-0/telemetry.csv").unlink()
    sentences = [reason.sentence for reason in judged(tree).reasons if reason.code == "FILE_SUMS"]
    assert sentences == [
        "nodes/alpha/attempts/note.txt was not collected: SHA256SUMS does not list it",
        "nodes/beta/engines/beta-0/telemetry.csv is listed in SHA256SUMS and missing",
    ]


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"no sums"])
def test_sums_that_are_not_there_vouch_for_nothing(tree: Path, content: bytes | None) -> None:
    path = tree / "nodes/beta/SHA256SUMS"
    path.unlink() if content is None else path.write_bytes(content)
    assert list(new(tree)) == ["FILE_SUMS"]


def test_without_any_engine_file_nobody_knows_how_engines_ended(tree: Path) -> None:
    for node in ("alpha", "beta"):
        shutil.rmtree(tree / f"nodes/{node}/engines")
    results_tree.seal(tree)
    sentences = new(tree)
    assert "alpha/alpha-0" in sentences["UNVERIFIED"] and "how it ended" in sentences["UNVERIFIED"]


@pytest.mark.usefixtures("shrunk")
def test_loadgens_are_counted_where_the_plan_names_fewer(tmp_path: Path) -> None:
    folder = benchmark(tmp_path / "run", topology="per_node", model=REAL, **results_tree.whole())
    edit(folder / "plan.json", lambda plan: plan.update(loadgens=["alpha"]))
    assert {"SAME_RUN", "SUMMED_LOADGENS"} <= set(new(folder))


def test_report_inside_a_collected_folder_is_no_forgery(tree: Path) -> None:
    (tree / "nodes/alpha/report").mkdir()
    (tree / "nodes/alpha/report/report.md").write_text("")
    assert new(tree) == {}


def test_a_journal_without_told_times_and_lengths_is_judged_by_its_own_times(tmp_path: Path) -> None:
    """Journals of earlier versions have none of these fields."""
    folder = benchmark(tmp_path / "run")
    expected = judged(folder)
    old = {mode: results_tree.lines(folder, mode) for mode in ("performance", "accuracy")}
    for line in [*old["performance"], *old["accuracy"]]:
        for name in ("first_logged_s", "last_logged_s", "n_input"):
            line.pop(name, None)
    results_tree.journal(folder / "nodes/alpha", [*old["performance"], *old["accuracy"]])
    for mode in old:
        results_tree.relog(folder, mode)
    assert judged(folder) == expected
    rows = journals.read([folder / "nodes/alpha/journal.jsonl"])[0].rows
    assert (rows["first_logged_s"] == rows["first_s"]).all() and (rows["last_logged_s"] == rows["last_s"]).all()
    assert not rows["n_input"].any()


@pytest.mark.usefixtures("shrunk")
def test_early_stopping_is_counted_in_the_journal(tmp_path: Path) -> None:
    """3 queries over the limit in the journal, 6 allowed by the 99th percentile, one forgiven."""
    folder = benchmark(tmp_path / "run", model=REAL, **results_tree.whole(slow=3))
    home = folder / "nodes/alpha/performance"
    for name, old, replaced in (
        ("detail", '"early_stopping_met", "value": false', '"early_stopping_met", "value": true'),
        ("detail", '"result_validity", "value": "INVALID"', '"result_validity", "value": "VALID"'),
        ("detail", '"key": "result_invalid_reason"', '"key": "nothing"'),
        ("summary", "Early stopping satisfied: NO", "Early stopping satisfied: Yes"),
        ("summary", "Result is : INVALID", "Result is : VALID"),
    ):
        path = home / f"mlperf_log_{name}.txt"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, replaced))
    results_tree.seal(folder)
    reasons = judged(folder).reasons
    assert {reason.code for reason in reasons} == {"JOURNAL_LOG"}
    assert "queries over the TTFT limit: 3 in the journal, early_stopping_met, which forgives 1" in reasons[0].sentence


@pytest.mark.usefixtures("shrunk")
@pytest.mark.parametrize("scenario", ["server", "offline"])
def test_duration_is_a_number(tmp_path: Path, scenario: str) -> None:
    """A run of 70 s that says of itself that it was long enough."""
    pace = results_tree.whole(interval_s=0.1, target_qps=10.0 if scenario == "server" else 0.9)
    folder = benchmark(tmp_path / "run", model=REAL, scenario=scenario, **pace)
    assert set(new(folder)) == {"MIN_DURATION"}
    for key, value in (("result_min_duration_met", True), ("result_validity", "VALID")):
        logged(key, value)(folder)
    text(DETAIL, '"key": "result_invalid_reason"', '"key": "nothing"')(folder)
    results_tree.seal(folder)
    assert "result_min_duration_met is True, but the last" in new(folder)["LOG_NUMBERS"]


def test_weights_of_an_impossible_size_are_not_the_model(tmp_path: Path) -> None:
    folder = benchmark(tmp_path / "run", model=REAL | {"weights_bytes": 1_000_000_000})
    assert "size of the weights in bytes: 1000000000" in new(folder)["MODEL_IDENTITY"]


def test_a_tiny_engine_beside_the_real_model_is_no_llama(tmp_path: Path) -> None:
    folder = benchmark(tmp_path / "run", model=REAL)
    change = document("engines/alpha-0/engine.json", lambda e: e["machine"]["model"].update(layers=2))
    change(folder)
    results_tree.seal(folder)
    assert "TINY_MODEL" in {reason.code for reason in judged(folder).reasons}


def test_kinds_are_those_of_engines() -> None:
    assert EngineConfig.model_fields["kind"].annotation.__args__ == KINDS  # type: ignore[union-attr]


HELD = {"forgiven": -1, "verdict": "INVALID"}
ATTEMPTS: dict[str, tuple[Change, str]] = {
    "an attempt that was removed": (
        lambda folder: shutil.rmtree(folder / "nodes/alpha/attempts/1"), "attempts holds attempts 2, not 1 to 1"),
    "an attempt without its mark": (
        lambda folder: (folder / "nodes/alpha/attempts/1/attempt.json").unlink(), "does not describe attempt 1"),
    "an attempt that was marked anew": (
        document("attempts/1/attempt.json", lambda a: a.update(samples=1)), "is not the attempt that outcome.json"),
    "a mark that LoadGen contradicts": (
        lambda folder: [document("attempts/2/attempt.json", lambda a: a.update(verdict="VALID"))(folder),
                        document("outcome.json", lambda o: o["attempts"][1].update(verdict="VALID"))(folder)],
        "says VALID, LoadGen's log INVALID"),
    "a VALID attempt before the last": (
        lambda folder: [document("attempts/1/attempt.json", lambda a: a.update(verdict="VALID"))(folder),
                        document("outcome.json", lambda o: o["attempts"][0].update(verdict="VALID"))(folder)],
        "is VALID, yet attempt 2 follows"),
    "a second performance run": (
        lambda folder: (folder / "nodes/alpha/performance").mkdir(), "two performance runs"),
}  # fmt: skip


@pytest.mark.parametrize("name", ATTEMPTS)
def test_attempts_are_marked_and_the_last_one_counts(tree: Path, name: str) -> None:
    results_tree.attempts(tree, HELD, HELD)
    assert new(tree) == {}
    change, words = ATTEMPTS[name]
    change(tree)
    results_tree.seal(tree)
    assert words in new(tree)["ATTEMPTS_MARKED"]


def test_logs_are_written_as_loadgen_writes_them(tmp_path: Path) -> None:
    """What the tree's logs are made of has every key of LoadGen's, and no other."""
    folder = benchmark(tmp_path / "run", samples=50)
    own = (folder / "nodes/alpha/performance/mlperf_log_detail.txt").read_text()
    recorded = (loadgen_logs.LOGS / "server_50/mlperf_log_detail.txt").read_text()
    keys = [sorted(re.findall(r'"key": "([^"]*)"', content)) for content in (own, recorded)]
    assert keys[0] == keys[1]
    assert parse_spec(json.loads((folder / "nodes/alpha/spec.json").read_text())).samples == 50
