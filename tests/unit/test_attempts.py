"""The rate of the next attempt, and when a run is stopped early: pure functions of the measurements."""

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.errors import RunFailed
from harness.load import attempts as attempts_module
from harness.load.answer import Answer
from harness.load.attempts import Attempt, all_attempts_s, drain, journal_figures, next_rate, rates_at_most
from harness.load.limits import LimitWatch
from harness.spec import Mode, Scenario
from tests.fake_server import FakeServer
from tests.unit.load import make_spec

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


def test_the_next_rate_falls_with_the_distance_to_the_limit() -> None:
    rates = [following(attempt(ttft_ms_p99=value)) or 0 for value in (2000.0, 4000.0, 8000.0)]
    assert 80 < rates[0] <= 85 and rates[0] > rates[1] > rates[2] > 30
    slow = following(attempt(ttft_ms_p99=100.0, tpot_ms_p99=60.0), scenario=Scenario.INTERACTIVE) or 0
    assert 70 < slow < 90


def test_an_early_end_lowers_the_rate_more_than_a_late_one() -> None:
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


def test_a_run_is_stopped_at_the_first_query_beyond_the_forgiven() -> None:
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


def test_a_run_is_not_stopped_for_queries_that_an_engine_which_hangs_makes_late() -> None:
    """Fault: an engine hangs in a Server run; its silence is noticed later than its late queries."""
    watch = LimitWatch(Scenario.SERVER, 838, sure_after=3)
    watch.issued([1, 2, 3], time.perf_counter() - 2.5)
    looks = [watch.surely_hopeless(9, in_doubt=doubt) for doubt in (False, False, True, False, False, False)]
    assert [reason is not None for reason in looks] == [False] * 5 + [True]


@pytest.mark.parametrize("on_engine_loss", ["continue", "fail"])
def test_an_engine_that_hangs_between_two_attempts_is_given_up_where_the_run_may_go_on_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_engine_loss: str
) -> None:
    """Fault: an engine hangs with requests that it does not finish, and its server still answers."""
    servers = [cast(FakeServer, SimpleNamespace(url=f"http://127.0.0.1:{port}")) for port in (1, 2)]
    limits = {"request_timeout_s": 1.0, "engine_silence_s": 0.3}
    spec = make_spec(tmp_path, *servers, limits=limits, on_engine_loss=on_engine_loss)
    monkeypatch.setattr(attempts_module, "_queued", lambda url, may_be_lost: 3.0 * url.endswith(":2"))
    if on_engine_loss == "continue":
        drain(spec)
    else:
        with pytest.raises(RunFailed, match="engine1 still has 3 requests 1 s after"):
            drain(spec)


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


def test_a_delayed_first_token_callback_does_not_count_as_time_between_tokens() -> None:
    watch = LimitWatch(Scenario.SERVER, 838)
    watch.issued([0], 0.0)
    watch.first(0, 0.1, 0.3)
    watch.done(0, answer(0.1, 1.2))  # LoadGen sees 90 ms a token
    assert watch.counts(1.2)["over_tpot"] == 0


def test_a_late_first_token_is_counted_once() -> None:
    watch = LimitWatch(Scenario.SERVER, 838)
    watch.issued([0], 0.0)

    class Now(float):
        """A time whose comparison lets a first token arrive in between."""

        def __sub__(self, since: float) -> float:
            watch.first(0, 2.5, 2.5)
            return float(self) - since

    assert watch.counts(Now(2.5))["over_ttft"] == 1
    assert watch.counts(3.0)["over_ttft"] == 1


def test_a_run_too_short_to_confirm_a_limit_is_never_stopped_early() -> None:
    watch = LimitWatch(Scenario.SERVER, 458)
    watch.issued(range(458), 0.0)
    assert watch.hopeless(0) is None and watch.counts(9.0)["over_ttft"] == 458


def test_the_figures_of_an_attempt_take_a_percentile_as_loadgen_does(tmp_path: Path) -> None:
    lines = [
        {
            "mode": "performance",
            "qsl_idx": n,
            "engine": "e",
            "issued_s": 0.0,
            "sent_s": 0.0,
            "issued_unix": 0.0,
            "first_s": n / 10,
            "last_s": 20.0,
            "n_tokens": 1,
        }
        for n in range(1, 101)
    ]
    (tmp_path / "journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert journal_figures(tmp_path / "journal.jsonl", 100)["ttft_ms_p99"] == pytest.approx(10_000)


def test_all_attempts_take_as_long_as_whole_ones_and_the_accuracy_run(tmp_path: Path) -> None:
    server = cast(FakeServer, SimpleNamespace(url="http://127.0.0.1:1"))
    spec = make_spec(tmp_path, server, target_qps=10.0, rate_attempts=2, mode="both")
    assert all_attempts_s(spec, 10.0) == pytest.approx(spec.samples / 10 + 2 * spec.samples / 8.5)
    spec = spec.model_copy(update={"mode": Mode.PERFORMANCE})
    assert all_attempts_s(spec, 10.0) == pytest.approx(spec.samples / 10 + spec.samples / 8.5)


def test_the_highest_rates_of_all_attempts_are_those_of_next_rate() -> None:
    assert rates_at_most(1) == [1.0]
    assert rates_at_most(2) == pytest.approx([1.0, 0.85])
    assert rates_at_most(4) == pytest.approx([1.0, 0.85, 0.595, 0.238])
