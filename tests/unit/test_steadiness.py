"""The test for steadiness, against a simulated engine whose speed is known."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from harness.report.journals import Table
from harness.report.record import Steadiness
from harness.report.steadiness import concurrency, steadiness
from harness.report.tables import JOURNAL
from tests.unit.results_tree import START

TOKENS = 16
SAMPLES = 420
RUNS = 60


def speeds(random: np.random.Generator, deviation: float, memory_s: float) -> Iterator[float]:
    """A factor on the time of each second's steps, correlated over `memory_s`."""
    memory = np.exp(-1 / memory_s)
    noise = random.normal()
    while True:
        yield float(np.exp(deviation * noise))
        noise = memory * noise + np.sqrt(1 - memory**2) * random.normal()


def run(seed: int, change: float = 0.0, deviation: float = 0.02, memory_s: float = 60.0) -> Table:
    """The journal of an engine at a Poisson rate of 4/s: each step makes a token of every sequence in the batch.

    A step takes 100 ms and 3 % more for each sequence, 20 ms for each prompt, 10 % noise, and `1 + change` times as
    long once half of the samples were admitted.
    """
    random = np.random.default_rng(seed)
    issued = np.cumsum(random.exponential(1 / 4, SAMPLES))
    factors = speeds(random, deviation, memory_s)
    by_second: list[float] = []
    first, last = np.empty(SAMPLES), np.empty(SAMPLES)
    batch: list[list[int]] = []  # [sample, tokens still to make]
    now, admitted = 0.0, 0
    while admitted < SAMPLES or batch:
        if not batch:
            now = max(now, issued[admitted])
        new = int(np.searchsorted(issued, now, side="right"))
        while len(by_second) <= now:
            by_second.append(next(factors))
        batch += [[sample, TOKENS] for sample in range(admitted, new)]
        step_s = 0.1 * (1 + 0.03 * len(batch)) + 0.02 * (new - admitted)
        now += step_s * by_second[int(now)] * np.exp(0.1 * random.normal()) * (1 + change * (new > SAMPLES // 2))
        first[admitted:new], admitted = now, new
        for entry in batch:
            entry[1] -= 1
            if not entry[1]:
                last[entry[0]] = now
        batch = [entry for entry in batch if entry[1]]
    return changed(
        np.empty(SAMPLES, JOURNAL),
        engine="alpha-0",
        issued_unix=START + issued,
        done_unix=START + last,
        ttft_ms=(first - issued) * 1e3,
        tpot_ms=(last - first) / (TOKENS - 1) * 1e3,
    )


def changed(rows: Table, **columns: Any) -> Table:
    """A copy with other columns."""
    rows = rows.copy()
    for name, values in columns.items():
        rows[name] = values
    return rows


def alarms(**settings: float) -> float:
    """The fraction of runs that are reported as not steady."""
    return float(np.mean([not compared(run(seed, **settings)).steady for seed in range(RUNS)]))


def compared(rows: Table) -> Steadiness:
    result = steadiness(rows)
    assert result
    return result


def test_steady_engines_are_rarely_reported() -> None:
    assert alarms() <= 0.02


def test_serial_correlation_is_accounted_for() -> None:
    """With noise correlated over 15 s, a test that assumes independent samples reports two runs in five."""

    def independent(rows: Table) -> bool:
        first, second = np.array_split(np.log(rows["tpot_ms"]), 2)
        difference = second.mean() - first.mean()
        error = np.sqrt(first.var(ddof=1) / len(first) + second.var(ddof=1) / len(second))
        return bool(abs(np.exp(difference) - 1) > 0.05 and abs(difference) > 2.6 * error)

    noise = {"deviation": 0.06, "memory_s": 15.0}
    assert np.mean([independent(run(seed, **noise)) for seed in range(RUNS)]) > 0.4
    assert alarms(**noise) <= 0.06


@pytest.mark.parametrize("change", [0.1, -0.1])
def test_engine_that_changes_by_a_tenth_at_half_is_found(change: float) -> None:
    assert alarms(change=change) >= 0.9


def test_both_figures_are_those_of_equal_load() -> None:
    changes = [compared(run(seed, change=0.1)) for seed in range(RUNS)]
    assert np.mean([result.change_percent for result in changes]) == pytest.approx(10, abs=1)
    for result in changes:
        ratio = result.second_half_tpot_ms / result.first_half_tpot_ms
        assert result.change_percent == pytest.approx(100 * (ratio - 1))
    # 9.4 sequences at once on average: 100 ms x 1.28, and 20 ms for each prompt of 4 a second
    assert np.mean([result.first_half_tpot_ms for result in changes]) == pytest.approx(140, rel=0.05)


def test_two_unlike_engines_are_not_a_change() -> None:
    """The fast one answers the first two thirds, the slow one the last two; each is compared with itself."""
    fast, slow = run(1), run(2)
    slow = changed(slow, engine="alpha-1", tpot_ms=slow["tpot_ms"] * 2)
    both = np.concatenate([fast[: 2 * SAMPLES // 3], slow[SAMPLES // 3 :]])
    assert compared(both).steady
    assert not compared(changed(both, engine="one")).steady


def test_too_few_answers_to_compare() -> None:
    rows = run(0)
    assert steadiness(rows[:199]) is None
    assert steadiness(changed(rows, tpot_ms=0.0)) is None
    assert steadiness(rows[:0]) is None
    hurried = changed(
        rows, issued_unix=START + np.arange(SAMPLES) / 100, done_unix=START + np.arange(SAMPLES) / 100 + 1
    )
    assert steadiness(hurried) is None


def test_concurrency_counts_what_overlaps() -> None:
    first, last = START + np.array([0.0, 1.0, 10.0]), START + np.array([2.0, 3.0, 11.0])
    assert concurrency(first, last) == pytest.approx([1.5, 1.5, 1.0])
