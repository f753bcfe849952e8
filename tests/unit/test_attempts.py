"""The rate of the next attempt, and when a run is given up: pure functions of what was seen."""

import time
from typing import Any

import pytest

from harness.load.answer import Answer
from harness.load.attempts import Attempt, next_rate
from harness.load.limits import LimitWatch
from harness.spec import Scenario

FAILED: dict[str, Any] = {
    "number": 1,
    "target_qps": 100.0,
    "verdict": "INVALID",
    "reason": "a limit was broken",
    "partial": False,
    "planned_samples": 838,
    "samples": 838,
    "started_unix": 0.0,
    "finished_unix": 10.0,
    "samples_per_s": 83.8,
    "ttft_ms_p99": 2100.0,
    "tpot_ms_p99": 40.0,
    "over_ttft": 20,
    "over_tpot": 0,
    "forgiven": 2,
    "second_half": 1.0,
    "second_half_per_s": 100.0,
    "repeatable": True,
}


def attempt(**values: Any) -> Attempt:
    return Attempt(**{**FAILED, **values})


def following(*attempts: Attempt, most: int = 4, scenario: Scenario = Scenario.SERVER) -> float | None:
    return next_rate(attempts, most, scenario)


def test_a_run_that_holds_or_cannot_hold_at_any_rate_is_not_repeated() -> None:
    assert following(attempt(verdict="VALID", repeatable=False)) is None
    assert following(attempt(repeatable=False)) is None
    assert following(*[attempt()] * 4) is None
    assert following(attempt(), most=1) is None


def test_where_a_queue_grew_the_next_rate_lies_below_what_the_engines_answered() -> None:
    assert following(attempt(second_half=0.6, second_half_per_s=60.0)) == pytest.approx(51.0)


def test_the_further_over_a_limit_the_lower_the_next_rate() -> None:
    rates = [following(attempt(ttft_ms_p99=value)) or 0 for value in (2000.0, 4000.0, 8000.0)]
    assert 80 < rates[0] <= 85 and rates[0] > rates[1] > rates[2] > 30
    slow = following(attempt(ttft_ms_p99=100.0, tpot_ms_p99=60.0), scenario=Scenario.INTERACTIVE) or 0
    assert 70 < slow < 90


def test_a_run_ended_soon_steps_further_than_one_ended_late() -> None:
    soon, late = (attempt(partial=True, samples=count, ttft_ms_p99=900.0) for count in (100, 800))
    assert (following(soon) or 0) < (following(late) or 0)


def test_each_step_is_larger_and_the_last_attempt_is_a_safe_one() -> None:
    rate, rates = 100.0, [100.0]
    for number in range(1, 4):
        attempts = [attempt(target_qps=rate)] * number
        rate = following(*attempts) or 0
        rates.append(rate)
    assert rates == [100.0, 85.0, 59.5, 23.8]


def test_a_run_waits_for_the_others_as_long_as_a_complete_attempt_takes() -> None:
    assert attempt(planned_samples=4000, target_qps=4.0, finished_unix=100.0).left_s == 900.0
    assert attempt(planned_samples=838, target_qps=100.0, finished_unix=10.0).left_s == 0.0


def answer(first_s: float, last_s: float, tokens: int = 11) -> Answer:
    return Answer(list(range(tokens)), 0.0, first_s, last_s)


def test_a_run_is_given_up_with_the_first_query_too_many() -> None:
    watch = LimitWatch(Scenario.SERVER, 838)  # forgives two
    now = time.perf_counter()
    watch.issued([1, 2, 3], now)
    for key in (1, 2, 3):
        assert watch.hopeless(0) is None
        watch.first(key, now + 2.5, now + 2.5)
    reason = watch.hopeless(411) or ""
    assert reason == (
        "3 queries exceeded the TTFT limit of 2,000 ms by the time 411 were answered; early stopping forgives 2 of 838"
    )


def test_queries_that_still_wait_count_once_they_have_waited_too_long() -> None:
    watch = LimitWatch(Scenario.SERVER, 838)
    watch.issued(range(5), 100.0)
    assert watch.counts(101.9)["over_ttft"] == 0
    assert watch.counts(102.1)["over_ttft"] == 5


def test_each_limit_is_counted_by_itself() -> None:
    watch = LimitWatch(Scenario.SERVER, 838)
    watch.issued(range(4), 0.0)
    for key in (0, 1):
        watch.first(key, 2.1, 2.1)
    for key in (2, 3):
        watch.first(key, 0.1, 0.1)
        watch.done(key, answer(0.1, 1.2))  # 110 ms a token
    watch.done(0, answer(2.1, 2.1, tokens=1))
    assert watch.counts(3.0) == {"over_ttft": 2, "over_tpot": 2, "forgiven": 2}
    assert watch.hopeless(4) is None
    watch.done(1, answer(2.1, 3.2))
    assert "3 queries exceeded the TPOT limit of 100 ms" in (watch.hopeless(5) or "")


def test_time_that_loadgen_takes_to_hear_of_a_first_token_is_no_time_between_tokens() -> None:
    watch = LimitWatch(Scenario.SERVER, 838)
    watch.issued([0], 0.0)
    watch.first(0, 0.1, 0.3)
    watch.done(0, answer(0.1, 1.2))  # LoadGen sees 90 ms a token
    assert watch.counts(1.2)["over_tpot"] == 0


def test_a_late_first_token_that_comes_while_late_ones_are_counted_counts_once() -> None:
    watch = LimitWatch(Scenario.SERVER, 838)
    watch.issued([0], 0.0)

    class Now(float):
        """Compared for each waiting query; the first token comes just then."""

        def __sub__(self, since: float) -> float:
            watch.first(0, 2.5, 2.5)
            return float(self) - since

    assert watch.counts(Now(2.5))["over_ttft"] == 1
    assert watch.counts(3.0)["over_ttft"] == 1


def test_so_few_queries_that_nothing_can_be_confirmed_are_never_given_up() -> None:
    watch = LimitWatch(Scenario.SERVER, 458)
    watch.issued(range(458), 0.0)
    assert watch.hopeless(0) is None and watch.counts(9.0)["over_ttft"] == 458
