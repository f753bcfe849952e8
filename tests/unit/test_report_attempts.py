"""Advice where no attempt held: one setting, by the limit that the last attempt broke."""

from pathlib import Path
from typing import Any

import pytest

from harness.attempt_record import AttemptRecord, PeakRecord, ProbeRecord, bracket, bracket_sentence
from harness.report import phases, tables
from harness.report.attempts import Load, advice, highest_valid
from harness.report.load_inputs import load
from tests.unit.results_tree import attempt, benchmark, respec

LIMITS = (2000.0, 100.0)
BUSY = Load(in_flight=6.0, max_num_seqs=16)


def failed(number: int = 1, **changes: Any) -> AttemptRecord:
    return AttemptRecord.model_validate(attempt(number, 838, **{"verdict": "INVALID", "target_qps": 40.0, **changes}))


TPOT = {"tpot_ms_p99": 130.0, "over_tpot": 90}
CAPPED = Load(in_flight=6.0, max_num_seqs=16, tokens_per_step=2048)
FULL = Load(in_flight=20, max_num_seqs=16)
TTFT = {"ttft_ms_p99": 3000.0, "over_ttft": 90, "samples_per_s": 39.0}
CASES: dict[str, tuple[dict[str, Any], Load, str]] = {
    "tokens too slow for one at a time": (TPOT, Load(in_flight=1.4, max_num_seqs=8), "a faster engine"),
    "tokens too slow, flight unknown": (TPOT, Load(), "a faster engine"),
    "tokens too slow in a batch": (TPOT, BUSY, "max_num_seqs lowered to about 3, since 6.0 requests in flight"),
    "tokens too slow in a full queue": (TPOT, Load(in_flight=50, max_num_seqs=16), "max_num_seqs lowered to about 8"),
    "sequences all in use, tokens slow": (TTFT | {"tpot_ms_p99": 80.0}, FULL, "more engines, since requests"),
    "sequences all in use, tokens fast": (TTFT | {"tpot_ms_p99": 30.0}, FULL, "a higher max_num_seqs than 16"),
    "queue grew": (TTFT | {"samples_per_s": 20.0}, BUSY, "target_qps=16.0, since 20.0 samples/s"),
    "long prefill steps": (TTFT, BUSY, "max_num_batched_tokens at half of the value in vLLM's log"),
    "long steps of known length": (TTFT, CAPPED, "max_num_batched_tokens = 1024 in place of 2048, since"),
    "held, not confirmed": ({"over_ttft": 5}, BUSY, "more samples, since both limits held at the 99th"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_advice_follows_from_what_was_broken(name: str) -> None:
    changes, load, words = CASES[name]
    assert advice([failed(**changes)], LIMITS, load).startswith(words)


def test_tokens_per_step_are_known_where_every_engine_states_them(tmp_path: Path) -> None:
    folder = benchmark(tmp_path / "run", nodes=["alpha"])

    def known() -> int | None:
        inputs = load(folder)
        return phases.loads(inputs, tables.journal(inputs.loadgens))["alpha"].tokens_per_step

    assert known() is None
    respec(
        folder / "nodes/alpha",
        lambda content: [engine.update(tokens_per_step=2048) for engine in content["node"]["engines"]],
    )
    assert known() == 2048


def test_one_more_attempt_is_advised_where_the_last_came_close() -> None:
    before, close, far = failed(1, **TTFT), failed(2, **TTFT | {"over_ttft": 5}), failed(2, **TTFT | {"over_ttft": 6})
    assert advice([before, close], LIMITS, BUSY).startswith("a higher rate_attempts than 2")
    assert advice([before, close], LIMITS, BUSY, search=True).startswith("a longer peak_budget_minutes")
    assert "rate_attempts" not in advice([before, far], LIMITS, BUSY)
    assert "rate_attempts" not in advice([failed(1, over_ttft=4), close], LIMITS, BUSY)


def test_highest_valid_rate_and_the_lowest_that_failed() -> None:
    valid = AttemptRecord.model_validate(attempt(4, 838, target_qps=9.5))
    tries = [failed(1, target_qps=20.0, **TTFT), failed(2, target_qps=12.3, **TPOT), failed(3, target_qps=9.0), valid]
    sentence = "Highest VALID rate 9.50 samples/s; 12.3 failed: TPOT p99 130 ms"
    assert highest_valid(tries, LIMITS, None) == sentence
    none = "No rate was VALID; the lowest, 20.0 samples/s, failed: TTFT p99 3,000 ms"
    assert highest_valid([tries[0], tries[0]], LIMITS, None) == none
    assert highest_valid([valid], LIMITS, None) is None
    assert highest_valid([valid], LIMITS, PeakRecord(sentence="As the search says.")) == "As the search says"
    unconfirmed = failed(1, target_qps=10.0, reason="5 over the limit, 2 forgiven.")
    assert str(highest_valid([unconfirmed, valid], LIMITS, None)).endswith("10.0 failed: 5 over the limit, 2 forgiven")


def test_an_attempt_that_lost_an_engine_says_nothing_of_its_rate() -> None:
    lost = failed(2, target_qps=12.3, reason="engine beta-0 was lost after 2 s", engine_lost=True)
    tried = failed(1, target_qps=20.0, **TTFT)
    assert highest_valid([tried, lost], LIMITS, None) == highest_valid([tried, tried], LIMITS, None)
    assert highest_valid([lost, lost], LIMITS, None) is None


def test_a_probe_whose_late_queries_were_never_answered_is_named_by_their_number() -> None:
    valid = AttemptRecord.model_validate(attempt(1, 838, target_qps=41.2))
    counts = {"over_ttft": 30, "over_tpot": 2, "held": False}
    probe = ProbeRecord(target_qps=42.4, seconds=9, samples=1400, ttft_ms_p99=900, tpot_ms_p99=40, **counts)
    lower = probe.model_copy(update={"target_qps": 40.0})  # failed by chance, below a rate that was VALID
    higher = probe.model_copy(update={"target_qps": 50.0})
    runs = bracket([higher, lower, valid, probe])
    assert runs == (valid, probe)
    words = "Highest VALID rate 41.2 samples/s; 42.4 failed: 30 of 1,400 queries over the TTFT limit"
    assert bracket_sentence(*runs, LIMITS) == words
    slow = probe.model_copy(update={"ttft_ms_p99": 2310.4})
    assert str(bracket_sentence(valid, slow, LIMITS)).endswith("42.4 failed: TTFT p99 2,310 ms")
    assert bracket_sentence(*bracket([]), LIMITS) is None
