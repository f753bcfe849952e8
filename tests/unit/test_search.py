"""The search for the highest VALID rate: costs estimated from answers, forecasts of whole runs, and the next step."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from bench import peak as bench
from harness.early_stopping import forgiven
from harness.errors import BadInput
from harness.files import write_json
from harness.load.forecast import Costs, Trace, Workload, fit, play
from harness.load.peak import Search, budget_minutes
from harness.load.search import ATTEMPTS_MOST, PROBES_MOST, Chances, Question, Run, Step, next_step
from harness.spec import FEWEST_CONFIRMED, FULL_SAMPLES, Mode, parse_spec

SHORT = 2000
SLOW, HIGH = 3.0, 5.0


@pytest.fixture(scope="module")
def whole() -> Workload:
    return bench.workload()


@pytest.fixture(scope="module")
def short() -> Workload:
    return bench.workload(SHORT)


def question(load: Workload, **values: float) -> Question:
    defaults = {"start_qps": SLOW, "highest_qps": 10.0, "budget_s": 1e5}
    return Question(load, bench.TTFT_S, bench.TPOT_S, queries=lambda rate: len(load.arrivals), **{**defaults, **values})


def probe(load: Workload, rate: float, samples: int, seed: int = 1) -> Run:
    return bench.run(load, Step("probe", rate, samples), seed)


@pytest.fixture(scope="module")
def probes(short: Workload) -> list[Run]:
    """Probes on both sides of the limit."""
    runs = [probe(short, rate, samples) for rate, samples in ((SLOW, 200), (HIGH, 500), (3.5, 600), (3.4, 900))]
    assert [run.held for run in runs[:2]] == [True, False]
    return runs


@pytest.mark.parametrize("seed", [400, 401])
def test_in_virtual_time_the_rate_found_is_near_the_truth_and_valid(whole: Workload, seed: int) -> None:
    result = bench.search(whole, seed, bench.capacity())
    assert result.valid and result.steps[-1].samples == FULL_SAMPLES
    assert 0.97 <= result.rate / bench.TRUTH_QPS <= 1.02
    assert result.count("probe") <= PROBES_MOST and result.lengths <= 2.5
    assert any(not run.held for run in result.runs), "nothing is known of rates above"


def test_costs_are_estimated_from_answers(short: Workload) -> None:
    costs = fit(short, [(SLOW, probe(short, SLOW, 1500).trace)])
    assert costs.step_s == pytest.approx(bench.A30.base_ms / 1000, rel=0.1)
    assert costs.prompt_token_s == pytest.approx(bench.A30.prefill_ms_per_token / 1000, rel=0.1)
    assert 0 < costs.sequence_s < 2 * bench.A30.decode_ms_per_sequence / 1000
    assert costs.answer_tokens == 128


def test_a_forecast_agrees_with_its_engine(short: Workload) -> None:
    costs = Costs(0.0216, 0.000148, 0.000195, answer_tokens=128)
    run = probe(short, SLOW, SHORT)
    first = run.trace.first_s - run.trace.issued_s
    ttft, tpot = play(short, costs, SLOW, SHORT, 1)
    assert np.median(ttft) == pytest.approx(np.median(first), rel=0.1)
    assert np.median(tpot) == pytest.approx(np.median(run.trace.last_s - run.trace.first_s) / 127, rel=0.05)
    assert not np.array_equal(ttft, play(short, costs, SLOW, SHORT, -1)[0])
    assert np.array_equal(ttft, play(short, costs, SLOW, SHORT, 1)[0])


def test_the_chance_falls_with_the_rate(short: Workload, probes: list[Run]) -> None:
    chances = Chances(question(short), probes)
    rates = np.linspace(2.5, 4.5, 9)
    values = [chances.of(rate) for rate in rates]
    assert values == sorted(values, reverse=True) and values[0] > 0.99 and values[-1] < 0.01
    assert chances.of(chances.rate(0.8)) == pytest.approx(0.8, abs=0.05)
    assert chances.rate(0.95) < chances.rate(0.5) < chances.rate(0.05)


def test_runs_at_the_limit_are_better_evidence_than_a_short_one(short: Workload, probes: list[Run]) -> None:
    assert Chances(question(short), probes).deviation < Chances(question(short), probes[:1]).deviation


def test_a_search_begins_with_a_short_probe_at_the_calibrated_rate(whole: Workload) -> None:
    step = next_step(question(whole, start_qps=2.87654), [])
    assert step == Step("probe", 2.877, round(0.03 * FULL_SAMPLES) + 1)


def test_where_nothing_is_answered_a_much_lower_rate_is_probed_a_few_times(whole: Workload) -> None:
    nothing = Trace(*(np.zeros(0) for _ in range(3)), np.zeros(0, np.int64), np.zeros(0, np.int64))
    runs: list[Run] = []
    while step := next_step(question(whole), runs):
        assert step.kind == "probe"
        runs.append(Run("probe", step.target_qps, 10.0, held=False, trace=nothing))
    assert [run.target_qps for run in runs] == [SLOW, SLOW / 2, SLOW / 4, SLOW / 8]


def test_an_unanswered_probe_is_no_reason_to_stop(short: Workload, probes: list[Run]) -> None:
    nothing = Trace(*(np.zeros(0) for _ in range(3)), np.zeros(0, np.int64), np.zeros(0, np.int64))
    unanswered = Run("probe", HIGH, 10.0, held=False, trace=nothing)
    step, other = (next_step(question(short), [unanswered, *runs]) for runs in (probes, probes[:1]))
    assert step and other and step == next_step(question(short), [*probes, unanswered])


def test_probes_grow_towards_the_limit_and_then_a_whole_run_follows(short: Workload, probes: list[Run]) -> None:
    workload_question, steps = question(short), []
    for count in range(1, len(probes) + 1):
        step = next_step(workload_question, probes[:count])
        assert step
        steps.append(step)
    assert [step.kind for step in steps] == ["probe"] * 3 + ["attempt"]
    assert steps[0].samples < steps[1].samples < steps[2].samples < steps[3].samples == SHORT
    assert steps[0].target_qps > steps[1].target_qps > steps[3].target_qps
    assert 0.65 < (steps[3].chance or 0) < 0.8


def test_a_failed_attempt_is_followed_by_one_at_a_lower_rate_and_a_held_one_by_nothing(
    short: Workload, probes: list[Run]
) -> None:
    workload_question, runs = question(short), list(probes)
    rates = []
    for _ in range(3):
        step = next_step(workload_question, runs)
        assert step
        rates.append(step.target_qps)
        runs.append(dataclasses.replace(probes[2], kind="attempt", target_qps=step.target_qps, held=False))
    assert rates[1] < 0.991 * rates[0] and rates[2] < 0.962 * rates[1]
    assert next_step(workload_question, [*runs, dataclasses.replace(runs[-1], held=True)]) is None
    assert next_step(workload_question, [*probes, *runs[-1:] * ATTEMPTS_MOST]) is None


def test_the_remaining_budget_decides_how_safe_an_attempt_is(short: Workload, probes: list[Run]) -> None:
    whole_s, spent = SHORT / 3.4, sum(run.seconds for run in probes)
    once = next_step(question(short, budget_s=spent + 1.2 * whole_s), probes)
    twice = next_step(question(short, budget_s=spent + 3 * whole_s), probes)
    assert once and twice and once.target_qps < twice.target_qps and (once.chance or 0) > 0.85
    late = question(short, budget_s=spent + 0.5 * whole_s)
    first = next_step(late, probes)
    assert first == once, "a search that ends without an attempt has found nothing"
    failed = dataclasses.replace(probes[2], kind="attempt", held=False)
    assert next_step(late, [*probes, dataclasses.replace(failed, seconds=0.0)]) is None
    assert next_step(question(short, budget_s=0.9 * whole_s), probes) is None, "a whole run alone is too long"


def test_where_nothing_failed_yet_a_higher_rate_is_probed(
    short: Workload, probes: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    held_probes = [dataclasses.replace(run, held=True) for run in probes]
    step = next_step(question(short), held_probes)
    assert step and step.kind == "probe" and step.target_qps == pytest.approx(1.08 * HIGH, rel=1e-3)
    monkeypatch.setattr("harness.load.search._KNOWN", 1.0)  # the rate is known after the first two
    step = next_step(question(short), held_probes[:2])
    assert step and step.kind == "probe" and step.target_qps == pytest.approx(1.08 * HIGH, rel=1e-3)
    step = next_step(question(short), [*held_probes, *held_probes[-1:] * (PROBES_MOST - len(held_probes))])
    assert step and step.kind == "attempt"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"scenario": "offline"}, "target_qps = peak: scenario offline has no latency limit; choose server or inter"),
        ({"mode": "accuracy"}, "target_qps = peak: mode accuracy has no performance run"),
        ({"samples": 458}, "459 queries at least, and samples = 458; give more"),
        ({"target_qps": 3.0, "peak_budget_minutes": 5.0}, "are for target_qps = peak; leave them out"),
        ({"peak_budget_minutes": 0}, "peak_budget_minutes = 0"),
        ({"target_qps": "peek"}, "target_qps"),
    ],
)
def test_unsuitable_settings_of_a_search_are_refused(values: dict[str, object], message: str) -> None:
    settings = {"run_id": "r", "model": "m", "dataset": "d", "samples": 500, "target_qps": "peak"}
    engines = [{"name": "e", "url": "http://e:1"}]
    assert parse_spec({**settings, "engines": engines}).has_attempts
    with pytest.raises(BadInput, match=re.escape(message)):
        parse_spec({**settings, "engines": engines, **values})


def test_by_default_a_search_may_take_two_and_a_half_runs_and_the_accuracy_run() -> None:
    settings = {"run_id": "r", "model": "m", "dataset": "d", "samples": 600, "target_qps": "peak"}
    spec = parse_spec({**settings, "engines": [{"name": "e", "url": "http://e:1"}]})
    assert budget_minutes(spec, 5.0) == pytest.approx(3.5 * 600 / 5 / 60)
    assert budget_minutes(spec.model_copy(update={"mode": Mode.PERFORMANCE}), 5.0) == pytest.approx(5.0)
    assert budget_minutes(spec.model_copy(update={"peak_budget_minutes": 7.0}), 5.0) == 7.0


def test_the_fewest_queries_that_can_be_confirmed_are_those_of_early_stopping() -> None:
    assert forgiven(FEWEST_CONFIRMED) == 0 and forgiven(FEWEST_CONFIRMED - 1) == -1


def test_a_search_that_is_taken_up_knows_that_it_had_lost_an_engine(tmp_path: Path) -> None:
    """Fault: a search is interrupted after one of its engines was lost in a probe."""
    search = Search.__new__(Search)
    search._run_dir, search._ended, search._runs, search.budget_minutes = tmp_path, [], [], 1.0
    search._start_qps, search._limits_ms = 3.0, (2000.0, 100.0)
    search._queries = lambda qps: 700  # type: ignore[method-assign]
    probe = {"target_qps": 5.0, "seconds": 9.0, "samples": 45, "ttft_ms_p99": 1.0, "tpot_ms_p99": 1.0}
    record = {**probe, "over_ttft": 9, "over_tpot": 0, "held": False, "engine_lost": True, "started_unix": 1.0}
    write_json(tmp_path / "probes/1/probe.json", record)
    search.take_up([])
    assert search.next() == Step("attempt", 3.0, 700)
    assert len(search.probes) == 1 and search.result().lowest_failed_qps is None


@pytest.mark.parametrize("content", [[], None, {"started_unix": 1.0}, {"started_unix": "x"}])
def test_a_damaged_probe_is_named(tmp_path: Path, content: object) -> None:
    """Fault: probe.json of a search that is resumed holds something else."""
    search = Search.__new__(Search)
    search._run_dir = tmp_path
    write_json(tmp_path / "probes/1/probe.json", content)
    with pytest.raises(BadInput, match=r"probe\.json is damaged"):
        search.take_up([])
