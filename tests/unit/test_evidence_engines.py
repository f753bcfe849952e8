"""Forgeries about engines, answers and attempts: each is made in an honest tree with its checksums written anew."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.report.record import Level
from tests.unit import results_tree
from tests.unit.results_tree import REAL, START, Pace, benchmark, edit
from tests.unit.test_evidence import Change, document, entries, every, judged, line, logged, new, text

BETA = "nodes/beta/engines/beta-0/engine.json"
ALPHA = "nodes/alpha/engines/alpha-0/engine.json"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = benchmark(tmp_path_factory.mktemp("good") / "run")
    results_tree.second_engine(folder)
    assert new(folder) == {}
    return folder


@pytest.fixture
def tree(good: Path, tmp_path: Path) -> Path:
    return shutil.copytree(good, tmp_path / "run")


def engine(name: str, **changes: Any) -> Change:
    """Other values in an engine.json; those of an object are added to it."""

    def change(folder: Path) -> None:
        def update(content: dict[str, Any]) -> None:
            for key, value in changes.items():
                content[key] = {**content[key], **value} if isinstance(value, dict) and content.get(key) else value

        edit(folder / name, update)

    return change


def both(*changes: Change) -> Change:
    return lambda folder: [change(folder) for change in changes]


def machine(**changes: Any) -> Change:
    """Another machine behind the first engine of a node, as its second one hides it."""
    return document("engines/alpha-0/engine.json", lambda content: content["machine"].update(changes))


SEVEN = {"max_num_seqs": 7}
MANIFEST = document("manifest.json", lambda content: content["engines"][0]["config"].update(SEVEN))
FORGERIES: dict[str, tuple[Change, str, str]] = {
    "an own engine as an endpoint": (
        both(engine(BETA, kind="endpoint", config={"kind": "endpoint"}),
             lambda folder: edit(folder / BETA, lambda e: e["machine"]["model"].update(sha256="9" * 64))),
        "ENGINE_FILES", "beta/beta-0: kind is endpoint, but its description of the machine"),
    "an own engine as an endpoint without weights": (
        engine(ALPHA, kind="endpoint", config={"kind": "endpoint"}, machine=None, unverified=["weights"]),
        "ENGINE_FILES", "alpha/alpha-0: kind is endpoint, but manifest.json of alpha says vllm"),
    "a kind by the word alone": (
        engine(BETA, kind="deepspeed"), "ENGINE_FILES", "kind is deepspeed, but its configuration says vllm"),
    "an endpoint as an own engine": (
        engine(BETA, config={"url": "http://127.0.0.1:8101", "port": None}), "ENGINE_FILES",
        "kind is vllm, but its address says endpoint"),
    "a server that shows another model": (
        engine(BETA, verified={"model": "/srv/other"}), "ENGINE_FILES",
        "verified.model is /srv/other, but its configuration says /srv/model"),
    "a server that shows no model": (
        engine(BETA, verified={"model": None}), "UNVERIFIED", "does not show model"),
    "a server that shows no quantization, though its file says that all is verified": (
        lambda folder: edit(folder / BETA, lambda e: e["verified"].pop("quantization")), "UNVERIFIED",
        "does not show quantization"),
    "a server that shows no dtype": (engine(BETA, verified={"dtype": None}), "UNVERIFIED", "does not show dtype"),
    "a server that quantised weights unasked": (
        engine(BETA, verified={"quantization": "fp8"}), "ENGINE_FILES",
        "verified.quantization is fp8, but its configuration or its weights says –"),
    "a server that showed LoadGen's host other settings": (
        document("manifest.json", lambda m: m["engines"][-2]["verified"].update(enable_prefix_caching=True)),
        "ENGINE_FILES", "beta/beta-0: verified.enable_prefix_caching is False, but manifest.json of alpha says True"),
    "a context that the server does not have": (
        engine(BETA, verified={"max_model_len": 4096}), "ENGINE_FILES", "verified.max_model_len is 4096, but"),
    "another configuration": (
        engine(BETA, config=SEVEN), "ENGINE_FILES", "asked.max_num_seqs is 8, but its configuration says 7"),
    "another configuration, asked for": (
        engine(BETA, config=SEVEN, asked=SEVEN), "ENGINE_FILES", "--max-num-seqs is 8, but its configuration says 7"),
    "another configuration, asked for with other words": (
        engine(ALPHA, config=SEVEN, asked=SEVEN, command=["--max-num-seqs", "7"]), "ENGINE_FILES",
        "alpha/alpha-0: command is ('--max-num-seqs', '7'), but manifest.json of alpha says"),
    "a description of another configuration": (
        MANIFEST, "ENGINE_FILES", "config.max_num_seqs is 8, but manifest.json of alpha says 7"),
    "another model's directory": (
        engine(BETA, model="/srv/other"), "ENGINE_FILES", "model is /srv/other, but its configuration says /srv/model"),
    "the folder of another engine": (
        lambda folder: (folder / "nodes/beta/engines/beta-0").rename(folder / "nodes/beta/engines/beta-9"),
        "ENGINE_FILES", "name is beta-0, but its folder says beta-9"),
    "another driver behind one of two engines of a node": (
        machine(driver="570.1"), "NODES_ALIKE", "different driver: alpha/alpha-0: 570.1"),
    "another environment behind one of two engines of a node": (
        machine(environment_sha256="9" * 64), "NODES_ALIKE", "different environment"),
    "another version of one of two engines of a node": (
        both(engine(ALPHA, version={"vllm": "0.33.0"}),
             document("manifest.json", lambda m: m["engines"][0]["version"].update(vllm="0.33.0"))),
        "NODES_ALIKE", "different engine versions"),
    "other weights behind one of two engines of a node": (
        document("engines/alpha-0/engine.json", lambda e: e["machine"]["model"].update(sha256="9" * 64)),
        "MODEL_IDENTITY", "alpha/alpha-0, engine.json: SHA-256 of the weights"),
    "weights of another size on one engine": (
        lambda folder: edit(folder / BETA, lambda e: e["machine"]["model"].update(weights_bytes=999_999)),
        "MODEL_IDENTITY", "beta/beta-0, engine.json: sizes of the model: (999999, 64, 2, 2048), the benchmark's is"),
    "another machine than the LoadGen's host described": (
        machine(kernel="6.2.0"), "ENGINE_FILES", "machine.kernel is 6.2.0, but manifest.json of alpha says 6.1.0"),
    "an engine that was still starting": (
        engine(BETA, state="starting"), "ENGINE_ALIVE", "the engine's state is starting, neither ready nor stopped"),
    "an engine that was seen at another address": (
        document("manifest.json", lambda m: m["engines"][-2].update(url="http://b:1")), "ENGINE_FILES",
        "address is http://b:1, but spec.json of alpha says http://127.0.0.1:8101"),
    "a server that was started again unnoticed": (
        engine(BETA, restarts=[{"unix": START + 2.0, "reason": "killed by signal 9"}]), "ENGINE_ALIVE",
        "beta/beta-0: its server died in the performance run"),
    "an address that was not planned": (
        lambda folder: edit(folder / "plan.json", lambda p: p["nodes"]["beta"]["engines"][0].update(url="http://b:1")),
        "SAME_RUN", "plan.json: url of beta/beta-0 is http://b:1"),
    # What a run read, and how it was asked for.
    "no data set": (
        document("manifest.json", lambda m: m.update(dataset=None)), "SAME_RUN",
        "manifest.json: dataset.sha256 is –, this run's is a SHA-256"),
    "samples without a hash": (
        document("manifest.json", lambda m: m["dataset"].update(samples_sha256=None)), "SAME_RUN",
        "manifest.json: dataset.samples_sha256 is –"),
    "another data set": (
        document("manifest.json", lambda m: m["dataset"].update(path="/srv/easy.json")), "SAME_RUN",
        "dataset.path is /srv/easy.json, this run's is /srv/cnn_eval.json"),
    "another model's weights": (
        document("manifest.json", lambda m: m["model"].update(path="/srv/other")), "SAME_RUN", "model.path is"),
    "another sampling seed": (
        document("manifest.json", lambda m: m["seeds"].update(sampling=7)), "SAME_RUN", "seeds.sampling is 7"),
    "another request": (
        lambda folder: results_tree.write(folder / "request.json", {
            "schema": 1, "run_id": "run", "asked": {"samples": 50, "target_qps": 7.0, "mode": "both"}}),
        "SAME_RUN", "plan.json: asked.target_qps is auto, this run's is 7.0"),
    "failures that were removed": (
        lambda folder: (folder / "failures.json").unlink(), "FILES_WHOLE", "failures.json does not exist"),
    # LoadGen's settings.
    "another system's log": (logged("sut_name", "PySUT"), "LOG_OF_RUN", "sut_name is PySUT, this run's is mlperf-dist"),
    "another target": (logged("effective_target_qps", 12.0), "LOG_OF_RUN", "effective_target_qps is 12.0, this run's"),
    "another target of the accuracy run": (
        logged("requested_server_target_qps", 12.0, "accuracy"), "LOG_OF_RUN", "requested_server_target_qps is 12.0"),
    "another percentile": (
        logged("effective_target_latency_percentile", 0.9), "LOG_OF_RUN", "effective_target_latency_percentile is 0.9"),
    "a longest duration": (
        logged("effective_max_duration_ms", 60_000), "LOG_OF_RUN", "effective_max_duration_ms is 60000"),
    "an outcome of another target": (
        document("outcome.json", lambda o: o.update(target_qps=9.0)), "LOG_OF_RUN", "effective_target_qps is 10.0"),
    "settings that LoadGen was not given": (
        text("performance/user.conf", "min_query_count = 50", "min_query_count = 500"), "LOG_OF_RUN",
        "performance/user.conf: llama3_1-8b.Server.min_query_count is 500, this run's is 50"),
    "a setting more": (
        lambda folder: (folder / "nodes/alpha/performance/user.conf").open("a").write("*.Server.coalesce = 1\n"),
        "LOG_OF_RUN", "user.conf: *.Server.coalesce is 1, this run's is –"),
    "no settings": (
        lambda folder: (folder / "nodes/alpha/accuracy/user.conf").unlink(), "FILES_WHOLE", "user.conf does not exist"),
    # The answers of the performance run.
    "answers of nothing": (
        entries("performance", every(token_ids=lambda e: [0] * e["n_tokens"])), "SAME_ANSWERS",
        "50 of 50 performance answers differ from the accuracy run's within the first token"),
    "answers of nothing after some tokens": (
        entries("performance", every(token_ids=lambda e: e["token_ids"][:10] + [0] * 118)), "SAME_ANSWERS",
        "within the first 11 tokens; rounding explains 39 at most"),
    "tokens that the model does not have": (
        entries("performance", line(3, token_ids=[2048] * 128)), "JOURNAL_TIMES",
        "a token that the model does not have: samples 3"),
    "samples that moved though no engine was lost": (
        entries("performance", line(3, moved=1)), "JOURNAL_OUTCOME",
        "samples that moved from a lost engine: 1 in the journal, no loss in outcome.json"),
    # Times that outcome.json claims.
    "an outcome that began long before": (
        document("outcome.json", lambda o: o["performance"].update(started_unix=START - 100)), "JOURNAL_OUTCOME",
        "time from the first issue to the last answer"),
    "an outcome that ended long after": (
        document("outcome.json", lambda o: o["performance"].update(finished_unix=START + 600)), "JOURNAL_OUTCOME",
        "time from the first issue to the last answer"),
}  # fmt: skip


@pytest.mark.parametrize("name", FORGERIES)
def test_forgery_is_not_valid_and_named(tree: Path, name: str) -> None:
    change, code, words = FORGERIES[name]
    change(tree)
    results_tree.seal(tree)
    found = new(tree)
    assert words in found.get(code, ""), found
    assert code == "UNVERIFIED" or judged(tree).level == Level.INVALID


def test_a_rate_that_the_target_does_not_explain_is_a_forgery(tmp_path: Path) -> None:
    """Twice the rate in journal, logs and outcome, of a LoadGen that was to offer half of it."""
    folder = benchmark(tmp_path / "run", pace=Pace(interval_s=0.025, target_qps=10.0))
    assert "40.0 samples/s were scheduled at a target of 10.0" in new(folder)["LOG_NUMBERS"]


def parts(lines: list[dict[str, Any]], rest: Callable[[list[int]], list[int]]) -> None:
    """At every token 2 % of the answers go on differently, with what `rest` makes of their tokens."""
    for number, answer in enumerate(lines):
        same = min(128, number * 50 * 4 // len(lines))
        answer["token_ids"] = [*answer["token_ids"][:same], *rest(answer["token_ids"][same:])]
        answer["n_tokens"] = len(answer["token_ids"])


@pytest.mark.parametrize("model", [REAL, results_tree.TINY])
def test_answers_that_part_by_rounding_are_honest(tmp_path: Path, model: dict[str, Any]) -> None:
    folder = benchmark(tmp_path / "run", model=model)
    entries("performance", lambda lines: parts(lines, lambda ids: ids[::-1]))(folder)
    results_tree.relog(folder)
    assert "SAME_ANSWERS" not in new(folder)


@pytest.mark.parametrize("rest", [lambda ids: [0] * len(ids), lambda ids: ids[:2]], ids=["padding", "fewer tokens"])
def test_answers_of_llama_that_end_in_nothing_are_not_its_answers(
    tmp_path: Path, rest: Callable[[list[int]], list[int]]
) -> None:
    folder = benchmark(tmp_path / "run", model=REAL)
    entries("performance", lambda lines: parts(lines, rest))(folder)
    results_tree.relog(folder)
    assert "the same model's answers share 20 % at least" in new(folder)["SAME_ANSWERS"]


@pytest.mark.parametrize(
    ("samples", "tokens", "judged"),
    [(29, 128, False), (30, 128, True), (100, 19, False), (100, 20, True)],
    ids=["29 answers", "30 answers", "1,900 tokens", "2,000 tokens"],
)
def test_answers_are_judged_from_so_many_on(tmp_path: Path, samples: int, tokens: int, judged: bool) -> None:
    """However short the performance run's answers are: the accuracy run's count."""
    folder = benchmark(tmp_path / "run", samples=samples, pace=Pace(tokens=tokens))
    entries("performance", every(token_ids=lambda _: [7, 7], n_tokens=lambda _: 2))(folder)
    results_tree.relog(folder)
    assert ("SAME_ANSWERS" in new(folder)) == judged


@pytest.mark.parametrize(("answers", "judged"), [(31, False), (32, True)])
def test_rests_of_llamas_answers_are_judged_from_2000_tokens_on(tmp_path: Path, answers: int, judged: bool) -> None:
    """Rests of 63 tokens that are padding, of so few answers that rounding explains where they part."""
    folder = benchmark(tmp_path / "run", model=REAL, samples=300)
    pad = every(token_ids=lambda answer: [*answer["token_ids"][:65], *[0] * 63])
    entries("performance", lambda lines: pad(lines[:answers]))(folder)
    results_tree.relog(folder)
    assert ("SAME_ANSWERS" in new(folder)) == judged


def test_a_token_after_an_end_token_is_no_answer_of_llama(tmp_path: Path) -> None:
    folder = benchmark(tmp_path / "run", model=REAL)
    entries("performance", line(3, token_ids=[5, 128_009, *[5] * 126]))(folder)
    results_tree.relog(folder)
    assert "1 lines have a token after an end token: samples 3" in new(folder)["JOURNAL_TIMES"]


def test_published_weights_have_their_size(tmp_path: Path) -> None:
    published = {"sha256": "98adf6001439cdc357e62ab86642b1d4ac5836d845d42317df52e56c4a6f76cd"}
    folder = benchmark(tmp_path / "run", model=REAL | published)
    assert "size of the weights in bytes: 16060522496" in new(folder)["MODEL_IDENTITY"]
    whole = benchmark(tmp_path / "whole", model=REAL | published | {"weights_bytes": 16_060_556_376})
    assert "MODEL_IDENTITY" not in new(whole)


SLOW = {"over_ttft": 9, "ttft_ms_p99": 2310.0, "verdict": "INVALID", "target_qps": 14.0}
LAST = {"target_qps": 10.0}


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search that ended with its second attempt, after two probes."""
    folder = benchmark(tmp_path_factory.mktemp("searched") / "run", samples=460, pace=Pace(tokens=8))
    results_tree.attempts(folder, SLOW, LAST)
    results_tree.probes(folder, 16.0, 15.0)
    assert new(folder) == {}
    return folder


def recorded(number: int, **changes: Any) -> Change:
    """Another record of an attempt, in both of the files that have it."""
    return both(
        document(f"attempts/{number}/attempt.json", lambda attempt: attempt.update(changes)),
        document("outcome.json", lambda outcome: outcome["attempts"][number - 1].update(changes)),
    )


def probed(number: int, **changes: Any) -> Change:
    """The same of a probe."""
    return both(
        document(f"probes/{number}/probe.json", lambda probe: probe.update(changes)),
        document("outcome.json", lambda outcome: outcome["peak"]["probes"][number - 1].update(changes)),
    )


SEARCHES: dict[str, tuple[Change, str]] = {
    "a higher rate": (recorded(1, target_qps=20.0), "says a target of 20.0 samples/s, LoadGen's log 14.0"),
    "a higher rate of the last attempt": (recorded(2, target_qps=20.0), "target of 20.0 samples/s, LoadGen's log 10.0"),
    "a rate that outcome.json has otherwise": (
        document("outcome.json", lambda o: o.update(target_qps=11.0)), "a target of 11.0, the last attempt 10.0"),
    "a better verdict": (recorded(1, verdict="VALID"), "says VALID, LoadGen's log INVALID"),
    "a verdict of another kind": (recorded(1, verdict="ENDED EARLY"), "says ENDED EARLY and partial False"),
    "a lower latency": (recorded(1, ttft_ms_p99=310.0), "says TTFT p99 310.0 ms, journal.jsonl 2310"),
    "fewer late queries": (recorded(1, over_ttft=2), "says that 2 queries were over the TTFT limit, journal.jsonl 9"),
    "more answers": (recorded(1, samples=500, planned_samples=500), "says 500 answers, journal.jsonl beside it has 4"),
    "no journal": (
        lambda folder: (folder / "nodes/alpha/attempts/1/journal.jsonl").unlink(), "beside it has 0 whole lines"),
    "a probe's rate": (probed(2, target_qps=20.0), "probes/2/probe.json says a target of 20.0 samples/s, LoadGen"),
    "an engine that an attempt did not lose": (
        recorded(1, engine_lost=True), "says that an engine was lost, outcome.json none there"),
    "an engine that a probe did not lose": (
        probed(2, engine_lost=True), "probes/2/probe.json says that an engine was lost, outcome.json none there"),
    "a probe that held": (probed(2, held=True, over_ttft=0), "says that 0 queries were over the TTFT limit, journal"),
    "a probe in one file": (
        document("probes/1/probe.json", lambda p: p.update(samples=19)), "is not the probe that outcome.json records"),
    "a probe less": (
        lambda folder: shutil.rmtree(folder / "nodes/alpha/probes/2"), "probes/2/probe.json cannot be read"),
    "a better bracket": (
        document("outcome.json", lambda o: o["peak"].update(highest_valid_qps=13.0)),
        "the highest VALID rate and the lowest that failed are 13.0 and 14.0, not 10.0 and 14.0"),
    "a nearer bracket": (
        document("outcome.json", lambda o: o["peak"].update(distance_percent=1.0)), "these are 1.0 % apart, not 39.9"),
    "a better sentence": (
        document("outcome.json", lambda o: o["peak"].update(sentence="Highest VALID rate 13 samples/s")),
        "says of the search 'Highest VALID rate 13 samples/s'; the highest VALID rate of its runs is 10.0"),
    "a search that is hidden": (
        document("outcome.json", lambda o: o.update(peak=None)), "has no search, for a target of peak"),
    "attempts that are hidden": (
        both(lambda folder: shutil.rmtree(folder / "nodes/alpha/attempts"),
             document("outcome.json", lambda o: o.update(attempts=[]))),
        "asks for attempts at a performance run, and 0 attempts are there"),
}  # fmt: skip


@pytest.mark.parametrize("name", SEARCHES)
def test_attempts_and_probes_are_what_their_files_say(searched: Path, tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(searched, tmp_path / "run")
    change, words = SEARCHES[name]
    change(folder)
    results_tree.seal(folder)
    assert words in new(folder)["ATTEMPTS_MARKED"]


def test_weights_that_were_quantised_already_need_no_word_about_it(tree: Path) -> None:
    engine(BETA, config={"quantization": "fp8_per_channel"}, asked={"quantization": "fp8_per_channel"})(tree)
    assert "--quantization is –, but its configuration says fp8_per_channel" in new(tree)["ENGINE_FILES"]
    edit(tree / BETA, lambda content: content["machine"]["model"].update(quantization="fp8"))
    engine(BETA, verified={"quantization": "fp8"})(tree)
    assert "quantization" not in new(tree).get("ENGINE_FILES", "")
