"""The search for the highest VALID rate: costs seen in answers, whole runs forecast from them, and the next step."""

import dataclasses
import re

import numpy as np
import pytest

from bench import peak as bench
from harness.errors import BadInput
from harness.load.early_stopping import forgiven
from harness.load.forecast import Costs, Workload, fit, play
from harness.load.peak import budget_minutes
from harness.load.search import ATTEMPTS_MOST, PROBES_MOST, Chances, Question, Run, Step, next_step
from harness.spec import FEWEST_CONFIRMED, FULL_SAMPLES, Mode, parse_spec

TRUTH = 3.472
"""Samples/s at which half of 50 runs of the modelled engine are VALID, by `bench/peak.py`."""
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
def seen(short: Workload) -> list[Run]:
    """Probes on both sides of the limit."""
    runs = [probe(short, rate, samples) for rate, samples in ((SLOW, 200), (HIGH, 500), (3.5, 600), (3.4, 900))]
    assert [run.held for run in runs[:2]] == [True, False]
    return runs


@pytest.mark.parametrize("seed", [11, 12])
def test_in_virtual_time_the_rate_found_is_near_the_truth_and_valid(whole: Workload, seed: int) -> None:
    found = bench.search(whole, seed, bench.capacity())
    assert found.valid and found.steps[-1].samples == FULL_SAMPLES
    assert 0.97 <= found.rate / TRUTH <= 1.02
    assert found.count("probe") <= PROBES_MOST and found.lengths <= 2.5
    assert any(not run.held for run in found.runs), "nothing is known of rates above"


def test_costs_are_seen_in_the_answers(short: Workload) -> None:
    costs = fit(short, [(SLOW, probe(short, SLOW, 1500).trace)])
    assert costs.step_s == pytest.approx(bench.A30.base_ms / 1000, rel=0.1)
    assert costs.prompt_token_s == pytest.approx(bench.A30.prefill_ms_per_token / 1000, rel=0.1)
    assert 0 < costs.sequence_s < 2 * bench.A30.decode_ms_per_sequence / 1000
    assert costs.answer_tokens == 128


def test_a_forecast_agrees_with_the_engine_it_is_of(short: Workload) -> None:
    costs = Costs(0.0216, 0.000148, 0.000195, answer_tokens=128)
    run = probe(short, SLOW, SHORT)
    first = run.trace.first_s - run.trace.issued_s
    ttft, tpot = play(short, costs, SLOW, SHORT, 1)
    assert np.median(ttft) == pytest.approx(np.median(first), rel=0.1)
    assert np.median(tpot) == pytest.approx(np.median(run.trace.last_s - run.trace.first_s) / 127, rel=0.05)
    assert not np.array_equal(ttft, play(short, costs, SLOW, SHORT, -1)[0])
    assert np.array_equal(ttft, play(short, costs, SLOW, SHORT, 1)[0])


def test_the_chance_falls_with_the_rate(short: Workload, seen: list[Run]) -> None:
    chances = Chances(question(short), seen)
    rates = np.linspace(2.5, 4.5, 9)
    values = [chances.of(rate) for rate in rates]
    assert values == sorted(values, reverse=True) and values[0] > 0.99 and values[-1] < 0.01
    assert chances.of(chances.rate(0.8)) == pytest.approx(0.8, abs=0.05)
    assert chances.rate(0.95) < chances.rate(0.5) < chances.rate(0.05)


def test_runs_at_the_limit_say_more_of_it_than_one_short_one(short: Workload, seen: list[Run]) -> None:
    assert Chances(question(short), seen).deviation < Chances(question(short), seen[:1]).deviation


def test_a_search_begins_with_a_short_probe_at_the_calibrated_rate(whole: Workload) -> None:
    step = next_step(question(whole, start_qps=2.87654), [])
    assert step == Step("probe", 2.877, round(0.03 * FULL_SAMPLES) + 1)


def test_probes_grow_towards_the_limit_and_then_a_whole_run_follows(short: Workload, seen: list[Run]) -> None:
    asked, steps = question(short), []
    for count in range(1, len(seen) + 1):
        step = next_step(asked, seen[:count])
        assert step
        steps.append(step)
    assert [step.kind for step in steps] == ["probe"] * 3 + ["attempt"]
    assert steps[0].samples < steps[1].samples < steps[2].samples < steps[3].samples == SHORT
    assert steps[0].target_qps > steps[1].target_qps > steps[3].target_qps
    assert 0.65 < (steps[3].chance or 0) < 0.8


def test_a_failed_attempt_is_followed_by_one_at_a_lower_rate_and_a_held_one_by_nothing(
    short: Workload, seen: list[Run]
) -> None:
    asked, runs = question(short), list(seen)
    rates = []
    for _ in range(3):
        step = next_step(asked, runs)
        assert step
        rates.append(step.target_qps)
        runs.append(dataclasses.replace(seen[2], kind="attempt", target_qps=step.target_qps, held=False))
    assert rates[1] < 0.991 * rates[0] and rates[2] < 0.962 * rates[1]
    assert next_step(asked, [*runs, dataclasses.replace(runs[-1], held=True)]) is None
    assert next_step(asked, [*seen, *runs[-1:] * ATTEMPTS_MOST]) is None


def test_what_is_left_of_the_budget_decides_how_safe_an_attempt_is(short: Workload, seen: list[Run]) -> None:
    whole_s, spent = SHORT / 3.4, sum(run.seconds for run in seen)
    once = next_step(question(short, budget_s=spent + 1.2 * whole_s), seen)
    twice = next_step(question(short, budget_s=spent + 3 * whole_s), seen)
    assert once and twice and once.target_qps < twice.target_qps and (once.chance or 0) > 0.85
    assert next_step(question(short, budget_s=spent + 0.5 * whole_s), seen) is None


def test_where_nothing_failed_yet_a_higher_rate_is_probed(short: Workload, seen: list[Run]) -> None:
    held = [dataclasses.replace(run, held=True) for run in seen]
    step = next_step(question(short), held)
    assert step and step.kind == "probe" and step.target_qps == pytest.approx(1.08 * HIGH, rel=1e-3)
    step = next_step(question(short), [*held, *held[-1:] * (PROBES_MOST - len(held))])
    assert step and step.kind == "attempt"


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"scenario": "offline"}, "target_qps = peak: scenario offline has no latency limit; choose server or inter"),
        ({"mode": "accuracy"}, "target_qps = peak: mode accuracy has no performance run"),
        ({"samples": 458}, "459 queries at least, and samples = 458; give more"),
        ({"target_qps": 3.0, "peak_budget_minutes": 5.0}, "are for target_qps = peak; leave them out"),
        ({"peak_budget_minutes": 0}, "peak_budget_minutes = 0"),
        ({"target_qps": "peek"}, "target_qps"),
    ],
)
def test_what_cannot_be_searched_for_is_refused(values: dict[str, object], says: str) -> None:
    asked = {"run_id": "r", "model": "m", "dataset": "d", "samples": 500, "target_qps": "peak"}
    engines = [{"name": "e", "url": "http://e:1"}]
    assert parse_spec({**asked, "engines": engines}).has_attempts
    with pytest.raises(BadInput, match=re.escape(says)):
        parse_spec({**asked, "engines": engines, **values})


def test_by_default_a_search_may_take_two_and_a_half_runs_and_the_accuracy_run() -> None:
    asked = {"run_id": "r", "model": "m", "dataset": "d", "samples": 600, "target_qps": "peak"}
    spec = parse_spec({**asked, "engines": [{"name": "e", "url": "http://e:1"}]})
    assert budget_minutes(spec, 5.0) == pytest.approx(3.5 * 600 / 5 / 60)
    assert budget_minutes(spec.model_copy(update={"mode": Mode.PERFORMANCE}), 5.0) == pytest.approx(5.0)
    assert budget_minutes(spec.model_copy(update={"peak_budget_minutes": 7.0}), 5.0) == 7.0


def test_the_fewest_queries_that_can_be_confirmed_are_those_of_early_stopping() -> None:
    assert forgiven(FEWEST_CONFIRMED) == 0 and forgiven(FEWEST_CONFIRMED - 1) == -1
