"""Verdicts. Each test changes one thing in a benchmark's files and expects exactly the reasons that follow from it."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.report.build import build
from harness.report.record import Level, Verdict
from harness.report.rules import Rule
from harness.spec import parse_spec
from tests.unit import results_tree
from tests.unit.loadgen_logs import LOGS
from tests.unit.results_tree import REAL, TOLD_LATER_S, Pace, benchmark, edit

SMOKE = {"EARLY_STOPPING_SUBSET", "SHORT", "TINY_MODEL", "SUBSET"}


def judge(folder: Path) -> Verdict:
    """The verdict, as if the files had been collected as they are now."""
    results_tree.seal(folder)
    return build(folder)[0].verdict


def codes(verdict: Verdict) -> set[str]:
    return {reason.code for reason in verdict.reasons}


def smoke(tmp_path: Path, **request: Any) -> Path:
    return benchmark(tmp_path / "run", **request)


@pytest.fixture(scope="module", autouse=True)
def shrunk() -> Iterator[None]:
    """A data set of 700 samples is judged like that of 13,368."""
    with pytest.MonkeyPatch.context() as patch:
        results_tree.shrink(patch)
        yield


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A full run of the sandbox in fleet, built once; tests change a copy."""
    return full(tmp_path_factory.mktemp("embedded"))


@pytest.fixture
def copied(embedded: Path, tmp_path: Path) -> Path:
    return shutil.copytree(embedded, tmp_path / "run")


def full(tmp_path: Path, **request: Any) -> Path:
    return benchmark(tmp_path / "run", **(results_tree.whole() | request))


def test_full_embedded_run_is_unofficial_for_the_tiny_model_only(copied: Path) -> None:
    verdict = judge(copied)
    assert (verdict.level, codes(verdict)) == (Level.UNOFFICIAL, {"TINY_MODEL"})


def test_full_embedded_offline_run_is_unofficial_for_the_tiny_model_only(tmp_path: Path) -> None:
    folder = full(tmp_path, scenario="offline")
    assert codes(judge(folder)) == {"TINY_MODEL"}


def test_full_run_of_the_real_model_is_valid(copied: Path) -> None:
    really(copied)
    verdict = judge(copied)
    assert (verdict.level, verdict.reasons) == (Level.VALID, ())


def test_smoke_run_is_unofficial_with_every_reason(tmp_path: Path) -> None:
    verdict = judge(smoke(tmp_path))
    assert (verdict.level, codes(verdict)) == (Level.UNOFFICIAL, SMOKE)
    sentences = " ".join(reason.sentence for reason in verdict.reasons)
    assert "LoadGen needs at least 409 more" in sentences and "50 of 700 samples" in sentences


def test_invalid_outranks_unofficial_and_comes_first(tmp_path: Path) -> None:
    verdict = judge(smoke(tmp_path, pace=Pace(tpot_ms=190)))
    assert verdict.level == Level.INVALID
    assert verdict.reasons[0].code == "LATENCY_LIMITS"
    assert codes(verdict) == {"LATENCY_LIMITS", "SHORT", "TINY_MODEL", "SUBSET"}
    assert verdict.reasons[0].sentence == (
        "alpha: a latency limit was broken: TPOT p99 is 190 ms of 100 ms allowed")  # fmt: skip


@pytest.mark.parametrize(("ttft_ms", "tpot_ms", "held"), [
    (2000.0, 100.0, True), (2000.001, 100.0, False), (2000.0, 100.001, False),
])  # fmt: skip
def test_a_percentile_that_equals_its_limit_holds_it_as_for_loadgen(
    tmp_path: Path, ttft_ms: float, tpot_ms: float, held: bool
) -> None:
    """A submission needs less; see the test of its rules with the same values."""
    pace = Pace(interval_s=0.5, ttft_ms=ttft_ms - 1e3 * TOLD_LATER_S, tpot_ms=tpot_ms, target_qps=2.0)
    found = codes(judge(smoke(tmp_path, pace=pace)))
    assert found == (SMOKE if held else SMOKE - {"EARLY_STOPPING_SUBSET"} | {"LATENCY_LIMITS"})


def test_a_full_run_with_too_few_queries_is_invalid(tmp_path: Path) -> None:
    """3 queries over a limit are less than 1 %, but more than early stopping forgives."""
    folder = full(tmp_path, **results_tree.whole(slow=3))
    assert codes(judge(folder)) == {"EARLY_STOPPING", "TINY_MODEL"}


def test_run_that_ended_too_early_is_invalid(tmp_path: Path) -> None:
    pace = Pace(min_duration_s=3, target_qps=1)
    folder = smoke(tmp_path, scenario="offline", samples=5, mode="performance", pace=pace)
    assert codes(judge(folder)) == {"MIN_DURATION", "SHORT", "TINY_MODEL", "SUBSET", "BOTH_MODES"}


def test_invalid_without_a_known_cause_is_still_invalid(tmp_path: Path) -> None:
    folder = smoke(tmp_path, scenario="offline")
    for name in ("mlperf_log_detail.txt", "mlperf_log_summary.txt"):
        path = folder / "nodes/alpha/performance" / name
        text = path.read_text().replace('"result_validity", "value": "VALID"', '"result_validity", "value": "INVALID"')
        path.write_text(text.replace("Result is : VALID", "Result is : INVALID"))
    assert "LOADGEN_RESULT" in codes(judge(folder))


def test_one_token_answers_are_loadgen_errors(tmp_path: Path) -> None:
    verdict = judge(smoke(tmp_path, samples=5, pace=Pace(tokens=1)))
    reason = next(reason for reason in verdict.reasons if reason.code == "LOADGEN_ERRORS")
    assert reason.level == Level.INVALID
    assert "5 errors in performance: Number of tokens need to be greater than 1 (5 times)" in reason.sentence


def test_run_under_another_scenarios_limits_is_invalid(tmp_path: Path) -> None:
    folder = smoke(tmp_path)
    edit(folder / "nodes/alpha/spec.json", lambda spec: spec["common"].update(scenario="interactive"))
    verdict = judge(folder)
    broken = [reason.sentence for reason in verdict.reasons if reason.code == "LOADGEN_RULES"]
    assert any("TTFT limit in ms (performance) is 2000.0, the rule is 500.0" in sentence for sentence in broken)


def test_other_loadgen_seeds_are_invalid(copied: Path) -> None:
    folder = copied
    for path in (folder / "nodes/alpha/performance").glob("mlperf_log_*.txt"):
        path.write_text(path.read_text().replace("2085463073848966840", "1"))
    assert codes(judge(folder)) == {"LOADGEN_RULES", "TINY_MODEL"}


def test_fewer_queries_than_samples_are_invalid(copied: Path) -> None:
    results_tree.relog(copied, lines_of=results_tree.lines(copied, "performance")[:50])
    assert {"QUERY_COUNT", "JOURNAL_LOG", "LOG_NUMBERS"} <= codes(judge(copied))


def outcome(change: Callable[[Any], object]) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "nodes/alpha/outcome.json", change)


def score(**values: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "nodes/alpha/accuracy/score.json", lambda content: content.update(values))


def rescored(**figures: float | None) -> Callable[[Path], None]:
    """Scores of which both the sums and the rows reach these figures."""

    def change(folder: Path) -> None:
        home = folder / "nodes/alpha"
        asked, model = (json.loads((home / name).read_text()) for name in ("spec.json", "manifest.json"))
        tokens = results_tree.lines(folder, "accuracy")[0]["n_tokens"]
        results_tree.score(home / "accuracy", parse_spec(asked), model["model"], tokens, **figures)

    return change


def engine(node: str, change: Callable[[Any], object]) -> Callable[[Path], None]:
    return lambda folder: edit(folder / f"nodes/{node}/engines/{node}-0/engine.json", change)


def shown(**values: Any) -> Callable[[Path], None]:
    """Another value in what the server of beta's engine showed, as its own host has it."""
    return engine("beta", lambda content: content["verified"].update(values))


def manifest(**values: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "nodes/alpha/manifest.json", lambda content: content.update(values))


def spec(**values: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "nodes/alpha/spec.json", lambda content: content["common"].update(values))


def drop(name: str) -> Callable[[Path], None]:
    def remove(folder: Path) -> None:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return remove


def same_samples_over_and_over(folder: Path) -> None:
    changed = [line | {"qsl_idx": line["qsl_idx"] % 25} for line in results_tree.lines(folder, "performance")]
    results_tree.journal(folder / "nodes/alpha", [*changed, *results_tree.lines(folder, "accuracy")])


REFERENCE = {
    "compared": 50,
    "identical": 49,
    "identical_percent": 98.0,
    "differing": [7],
    "misplaced": [],
    "shifted": [],
    "decode_differing": [],
}
FAILED = {"mode": "accuracy", "qsl_idx": 7, "engine": "alpha-0", "reason": "HTTP 500"}
CASES: dict[str, tuple[Callable[[Path], object], set[str]]] = {
    "failed sample": (outcome(lambda o: o.update(failures=[FAILED])), {"NO_FAILED_SAMPLES"}),
    "answer of one token": (
        outcome(lambda o: o["accuracy"].update(one_token_answers=[3])), {"ONE_TOKEN", "JOURNAL_OUTCOME"}),
    "lost sample": (outcome(lambda o: o["accuracy"].update(samples=49)), {"NO_LOST_SAMPLES", "JOURNAL_OUTCOME"}),
    "same samples": (
        same_samples_over_and_over, {"PERFORMANCE_COVERAGE", "JOURNAL_LOG", "SAME_ANSWERS"}),
    "missing answer": (score(missing=[4]), {"ACCURACY_COVERAGE", "SCORES_FOLLOW"}),
    "answer twice": (score(duplicates=[4]), {"ACCURACY_ONCE", "SCORES_FOLLOW"}),
    "foreign answer": (score(foreign=[60]), {"ACCURACY_FOREIGN", "SCORES_FOLLOW"}),
    "another log's score": (score(log_sha256="0" * 64), {"ACCURACY_LOG", "SCORES_FOLLOW"}),
    "no score": (drop("nodes/alpha/accuracy/score.json"), {"ACCURACY_SCORED"}),
    "token after end": (score(end_token_violations=[3]), {"END_TOKEN"}),
    "less than 99 % of ids": (score(reference=REFERENCE), {"REFERENCE_IDS"}),
    "ROUGE of the reference": (rescored(rougeL=99.0), set()),
    "ROUGE below the reference": (rescored(rougeL=98.9999), {"ROUGE"}),
    "misplaced answer": (score(reference=REFERENCE | {"identical": 50, "misplaced": [7]}), {"REFERENCE_FAULT"}),
    "shifted answer": (score(reference=REFERENCE | {"identical": 50, "shifted": [7]}), {"REFERENCE_FAULT"}),
    "other text": (score(reference=REFERENCE | {"identical": 50, "decode_differing": [7]}), {"REFERENCE_FAULT"}),
    "no reference": (score(reference=None), {"NO_REFERENCE"}),
    "reference for a part": (score(reference=REFERENCE | {"compared": 49}), {"NO_REFERENCE"}),
    "no Punkt": (rescored(rougeLsum=None, gen_len=None), {"PUNKT"}),
    "prefix caching": (shown(enable_prefix_caching=True), {"PREFIX_CACHING", "ENGINE_FILES"}),
    "speculation": (shown(speculative_decoding=True), {"SPECULATIVE", "ENGINE_FILES"}),
    "short context": (shown(max_model_len=2667), {"CONTEXT_LENGTH", "ENGINE_FILES"}),
    "hidden setting": (shown(enable_prefix_caching=None), {"UNVERIFIED", "ENGINE_FILES"}),
    "dead engine": (engine("beta", lambda e: e.update(state="failed", reason="killed by signal 9")), {"ENGINE_ALIVE"}),
    "other weights": (
        engine("beta", lambda e: e["machine"]["model"].update(sha256="9" * 64)), {"NODES_ALIKE", "MODEL_IDENTITY"}),
    "other environment": (engine("beta", lambda e: e["machine"].update(environment_sha256="9" * 64)), {"NODES_ALIKE"}),
    "other image": (engine("beta", lambda e: e["machine"].update(image_digest="sha256:9")), {"NODES_ALIKE"}),
    "other driver": (engine("beta", lambda e: e["machine"].update(driver="580.1")), {"NODES_ALIKE"}),
    "other vLLM": (engine("beta", lambda e: e["version"].update(vllm="0.31.0")), {"NODES_ALIKE", "ENGINE_FILES"}),
    "unknown kind": (engine("beta", lambda e: e.update(kind="oven")), {"MODEL_IDENTITY", "ENGINE_FILES"}),
    "unknown machine": (engine("beta", lambda e: e.pop("machine")), {"NODES_UNVERIFIED", "UNVERIFIED"}),
    "other seed": (spec(seed=7), {"SAMPLING_SEED", "SAME_RUN"}),
    "lost node": (drop("nodes/beta"), {"NODES_PRESENT"}),
    "damaged failures": (lambda folder: results_tree.write(folder / "failures.json", [{"host": 1}]), {"FILES_WHOLE"}),
    "damaged GPUs": (manifest(gpus=["A30"]), {"FILES_WHOLE"}),
    "no outcome": (drop("nodes/alpha/outcome.json"), {"FILES_WHOLE"}),
}  # fmt: skip


def test_loadgens_that_read_different_samples_are_invalid(tmp_path: Path) -> None:
    folder = benchmark(tmp_path / "run", topology="per_node", samples=100)
    path = folder / "nodes/beta/manifest.json"
    edit(path, lambda manifest: manifest["dataset"].update(sha256="9" * 64))
    assert not {"NODES_ALIKE", "NODES_UNVERIFIED"} & codes(judge(folder))
    edit(path, lambda manifest: manifest["dataset"].update(samples_sha256="9" * 64))
    assert "NODES_ALIKE" in codes(judge(folder))
    edit(path, lambda manifest: manifest["dataset"].pop("samples_sha256"))
    assert "NODES_UNVERIFIED" in codes(judge(folder))


@pytest.mark.parametrize("name", CASES)
def test_one_change_gives_one_reason(tmp_path: Path, name: str) -> None:
    change, expected = CASES[name]
    folder = smoke(tmp_path)
    change(folder)
    verdict = judge(folder)
    assert codes(verdict) == SMOKE | expected
    assert (verdict.level == Level.INVALID) == any(Rule[code].level == Level.INVALID for code in expected)


@pytest.mark.parametrize(("identical", "code"), [(693, None), (692, "REFERENCE_IDS")])
def test_99_percent_of_answers_must_have_the_references_ids(copied: Path, identical: int, code: str | None) -> None:
    score(reference=REFERENCE | {"compared": 700, "identical": identical})(copied)
    assert codes(judge(copied)) == {"TINY_MODEL"} | ({code} if code else set())


def test_lost_loadgen_is_invalid(tmp_path: Path) -> None:
    folder = smoke(tmp_path)
    shutil.rmtree(folder / "nodes/alpha")
    verdict = judge(folder)
    assert (verdict.level, codes(verdict)) == (Level.INVALID, {"NODES_PRESENT", "TINY_MODEL"})


def test_cut_log_is_invalid(tmp_path: Path) -> None:
    folder = smoke(tmp_path)
    (folder / "nodes/alpha/performance/mlperf_log_summary.txt").write_text("")
    verdict = judge(folder)
    assert codes(verdict) == {"FILES_WHOLE", "TINY_MODEL", "SUBSET"}
    assert "mlperf_log_summary.txt is cut short" in verdict.reasons[0].sentence


OVER = {"verdict": "INVALID", "ttft_ms_p99": 2310.0, "over_ttft": 9}
STOPPED = {"verdict": "ENDED EARLY", "target_qps": 40.0, "ttft_ms_p99": 2310.0, "over_ttft": 3}


def test_only_the_last_attempt_is_judged(tmp_path: Path) -> None:
    folder = smoke(tmp_path)
    results_tree.attempts(folder, *[OVER] * 9, {"verdict": "INVALID", "forgiven": -1})
    slow = smoke(tmp_path / "slow", pace=Pace(tpot_ms=190)) / "nodes/alpha"
    for name in ("mlperf_log_detail.txt", "mlperf_log_summary.txt"):
        shutil.copy(slow / "performance" / name, folder / "nodes/alpha/attempts/9/performance")
    assert codes(judge(folder)) == SMOKE
    for name in ("performance/mlperf_log_detail.txt", "performance/mlperf_log_summary.txt", "journal.jsonl"):
        shutil.copy(slow / name, folder / "nodes/alpha/attempts/10" / name)
    assert "LATENCY_LIMITS" in codes(judge(folder))


def test_samples_are_those_of_the_last_attempt(tmp_path: Path) -> None:
    folder = smoke(tmp_path)
    results_tree.attempts(folder, OVER | {"forgiven": -1}, {"verdict": "INVALID", "forgiven": -1})
    first, last = (folder / f"nodes/alpha/attempts/{number}/journal.jsonl" for number in (1, 2))
    first.unlink()
    assert codes(judge(folder)) == SMOKE | {"ATTEMPTS_MARKED"}
    last.write_text("".join(last.read_text().splitlines(keepends=True)[:30]))
    reasons = [reason.sentence for reason in judge(folder).reasons if reason.code == "PERFORMANCE_COVERAGE"]
    assert reasons == ["alpha: performance used 30 different samples of 50"]


def test_attempt_that_was_ended_early_is_invalid_with_its_numbers(tmp_path: Path) -> None:
    folder = smoke(tmp_path)
    results_tree.attempts(folder, OVER | {"target_qps": 50.0}, STOPPED)
    verdict = judge(folder)
    assert codes(verdict) == {"ATTEMPT_ENDED_EARLY", "NO_ATTEMPT_HELD", "TINY_MODEL", "SUBSET"}
    assert verdict.reasons[0].sentence == (
        "alpha: attempt 2 at 40.0 samples/s was ended early after 25 of 50 queries: 3 queries were over the TTFT limit "
        "and 0 over the TPOT limit, of which early stopping forgives 2"
    )
    assert verdict.reasons[1].sentence.startswith(
        "alpha: the latency limits did not hold after 2 attempts: 50.0 samples/s (TTFT p99 2,310 ms, TPOT p99 1 ms); "
        "40.0 samples/s (TTFT p99 2,310 ms, TPOT p99 1 ms). What would help most: "
    )


def test_the_reason_is_the_one_that_the_attempt_recorded(tmp_path: Path) -> None:
    folder = smoke(tmp_path)
    results_tree.attempts(folder, STOPPED | {"reason": "3 of 50 queries are over 2,000 ms, 2 are forgiven"})
    reason = next(reason for reason in judge(folder).reasons if reason.code == "ATTEMPT_ENDED_EARLY")
    assert reason.sentence.endswith(": 3 of 50 queries are over 2,000 ms, 2 are forgiven")


def test_too_few_samples_to_confirm_a_limit_stay_unofficial(tmp_path: Path) -> None:
    folder = smoke(tmp_path)
    results_tree.attempts(folder, {"verdict": "INVALID", "forgiven": -1})
    assert (judge(folder).level, codes(judge(folder))) == (Level.UNOFFICIAL, SMOKE)


def test_subset_that_could_confirm_its_limits_and_did_not_is_invalid(tmp_path: Path) -> None:
    folder = smoke(tmp_path, samples=690, pace=Pace(tokens=8))
    results_tree.attempts(folder, {"verdict": "INVALID", "over_ttft": 3})
    assert codes(judge(folder)) == SMOKE | {"NO_ATTEMPT_HELD"}
    assert "more samples, since both limits held at the 99th percentile" in judge(folder).reasons[0].sentence


def test_an_attempt_that_failed_for_another_cause_is_not_blamed_on_its_rate(tmp_path: Path) -> None:
    folder = full(tmp_path)
    results_tree.attempts(folder, {"verdict": "INVALID", "reason": "Min duration"})
    for name in ("mlperf_log_detail.txt", "mlperf_log_summary.txt"):
        path = folder / "nodes/alpha/attempts/1/performance" / name
        text = path.read_text().replace('"result_validity", "value": "VALID"', '"result_validity", "value": "INVALID"')
        path.write_text(text.replace("Result is : VALID", "Result is : INVALID"))
    assert codes(judge(folder)) == {"LOADGEN_RESULT", "LOG_NUMBERS", "TINY_MODEL"}


def test_a_run_that_failed_after_an_attempt_has_only_the_reason_of_its_failure(tmp_path: Path) -> None:
    folder = smoke(tmp_path)
    results_tree.attempts(folder, OVER, {"verdict": "INVALID", "forgiven": -1})
    (folder / "nodes/alpha/attempts/2/attempt.json").unlink()
    edit(folder / "nodes/alpha/status.json", lambda status: status.update(state="failed", reason="engine died"))
    assert {"RUN_FINISHED"} == {code for code in codes(judge(folder)) if Rule[code].level == Level.INVALID}
    edit(folder / "nodes/alpha/status.json", lambda status: status.update(state="finished"))
    assert "attempts/2/attempt.json does not exist" in judge(folder).reasons[0].sentence


def test_truncated_scores_of_a_share_are_invalid(tmp_path: Path) -> None:
    folder = smoke(tmp_path, topology="per_node", samples=100)
    (folder / "nodes/beta/accuracy/scores.csv").unlink()
    assert codes(judge(folder)) == {*SMOKE, "SUMMED_LOADGENS", "FILES_WHOLE", "SCORES_FOLLOW"}


def test_performance_alone_is_unofficial(tmp_path: Path) -> None:
    assert codes(judge(full(tmp_path, mode="performance"))) == {"BOTH_MODES", "TINY_MODEL"}


def test_accuracy_alone_is_unofficial(tmp_path: Path) -> None:
    assert codes(judge(full(tmp_path, mode="accuracy"))) == {"BOTH_MODES", "TINY_MODEL"}


def test_summed_loadgens_are_unofficial(tmp_path: Path) -> None:
    verdict = judge(smoke(tmp_path, topology="per_node", samples=100))
    assert codes(verdict) == {*SMOKE, "SUMMED_LOADGENS"}
    assert any("2 LoadGens were summed" in reason.sentence for reason in verdict.reasons)


def test_overlapping_shares_are_invalid(tmp_path: Path) -> None:
    folder = smoke(tmp_path, topology="per_node", samples=100)
    accuracy = folder / "nodes/beta/accuracy"
    shutil.copy(folder / "nodes/alpha/accuracy/scores.csv", accuracy / "scores.csv")
    assert {"ACCURACY_ONCE", "ACCURACY_COVERAGE"} <= codes(judge(folder))


def test_failure_seen_by_ansible_is_invalid_and_named_once(copied: Path) -> None:
    folder = copied
    shutil.rmtree(folder / "nodes/beta")
    failure = {"host": "beta", "phase": "performance", "reason": "lost for 120 s", "log": "/srv/harness.log"}
    results_tree.write(folder / "failures.json", [failure])
    verdict = judge(folder)
    assert codes(verdict) == {"RUN_FINISHED", "TINY_MODEL"}
    assert verdict.reasons[0].sentence == (
        "beta: the run failed in phase performance: lost for 120 s (log: /srv/harness.log)")  # fmt: skip


def test_a_failed_run_has_its_reason(copied: Path) -> None:
    folder = copied
    broken = {"state": "failed", "phase": "accuracy", "reason": "engine alpha-0 died"}
    edit(folder / "nodes/alpha/status.json", lambda status: status.update(broken))
    shutil.rmtree(folder / "nodes/alpha/accuracy")
    verdict = judge(folder)
    assert codes(verdict) == {"RUN_FINISHED", "TINY_MODEL"}
    assert "engine alpha-0 died" in verdict.reasons[0].sentence


def really(folder: Path) -> None:
    """Turn a run of the sandbox into one of Llama-3.1-8B with the reference's figures."""
    manifest(model=REAL)(folder)
    for node in ("alpha", "beta"):
        engine(node, lambda content: content["machine"].update(model=REAL))(folder)
    path = folder / "nodes/alpha/manifest.json"
    edit(path, lambda content: content["engines"][0]["machine"].update(model=REAL))
    rescored()(folder)


@pytest.mark.parametrize(
    ("metric", "value", "code"),
    [
        ("rouge1", 38.3915, None),
        ("rouge1", 38.3914, "ROUGE"),
        ("rouge2", 15.7484, "ROUGE"),
        ("rougeL", 24.2507, "ROUGE"),
        ("rougeLsum", 35.4350, "ROUGE"),
        ("gen_len", 7_350_880, None),
        ("gen_len", 7_350_879, "GEN_LEN"),
        ("gen_len", 8_984_408, None),
        ("gen_len", 8_984_409, "GEN_LEN"),
    ],
)
def test_gate_of_the_real_model(copied: Path, metric: str, value: float, code: str | None) -> None:
    really(copied)
    rescored(**{metric: value})(copied)
    assert codes(judge(copied)) == ({code} if code else set())


def test_subset_of_the_real_model_has_no_gate(tmp_path: Path) -> None:
    verdict = judge(smoke(tmp_path, model=REAL))
    assert codes(verdict) == {"EARLY_STOPPING_SUBSET", "SHORT", "SUBSET", "NO_REFERENCE"}
    assert any("no reference for a subset" in reason.sentence for reason in verdict.reasons)


@pytest.mark.parametrize("changed", [{"hidden_size": 2048}, {"layers": 16}, {"vocab_size": None}, {"sandbox": True}])
def test_only_the_real_shape_counts_as_the_real_model(copied: Path, changed: dict[str, Any]) -> None:
    really(copied)
    manifest(model=REAL | changed)(copied)
    assert "TINY_MODEL" in codes(judge(copied))


def test_lone_run_directory_is_judged(tmp_path: Path) -> None:
    folder = full(tmp_path, nodes=["alpha"])
    home = folder / "nodes/alpha"
    engines = [json.loads((home / "engines/alpha-0/engine.json").read_text())]
    edit(home / "manifest.json", lambda content: content.update(engines=engines))
    assert codes(judge(home)) == {"TINY_MODEL"}
    shutil.rmtree(home / "engines")
    assert codes(judge(home)) == {"TINY_MODEL", "FILE_SUMS"}
    (home / "SHA256SUMS").unlink()
    assert codes(judge(home)) == {"TINY_MODEL"}
    edit(home / "manifest.json", lambda content: content.update(engines=[]))
    assert codes(judge(home)) == {"TINY_MODEL", "NODES_PRESENT", "SAME_RUN"}


def test_recorded_logs_are_small() -> None:
    assert all(path.stat().st_size < 150_000 for path in LOGS.rglob("*.txt"))
