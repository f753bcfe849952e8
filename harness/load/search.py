"""The search for the highest rate that is VALID: from what was measured to the next step, without a clock or an engine.

Nothing is concluded from whether one run held. Every run tells the engines' costs; LoadGen's schedule is played on
them at rates around the limit, several times with an engine's usual noise; how much slower or faster the engines are
than those costs is weighed by how well it explains what each run saw. Together that is the chance that a whole run at
a rate is VALID. Probes are the beginnings of such runs: short ones first, then longer ones near the limit. Then come
whole runs at the highest rate that is expected to hold.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from harness.early_stopping import forgiven
from harness.load.forecast import SPEED_NOISE, SPEED_NOISE_S, Floats, Trace, Workload, fit, play

# Lengths of probes are shares of a whole run. The values of this part were chosen on the engine model of bench/peak.py,
# on other seeds than those of its table.
_PROBES = (
    (0.03, 1.0),  # is the calibrated rate right? Short, since it only needs enough answers to estimate costs
    (0.1, 1.12),  # is to fail: where the limit breaks says more than that it holds
    (0.12, 1.03),  # near the limit, where chance decides
    (0.2, 0.99),  # nearer, and longer, as bursts of LoadGen's schedule come late
)
"""Length of each probe; its rate over the one that holds in half of all runs, of the first over the calibrated one."""
_PROBES_LEAST = 2
"""One that holds and one that fails."""
PROBES_MOST = 12
"""The third and fourth are left out where the rate is known, further ones come only while none failed."""
_KNOWN = 0.006
"""Standard deviation of the rate, as a part of it, at which no further probe is made: it costs more than it tells."""
_ABOVE = (0.1, 1.08)
"""Length of a probe that is to fail where none did; its rate over the highest tried."""
_LEAST_SAMPLES = 100
"""Queries of a probe; fewer say nothing of a 99th percentile."""
_MUCH_LOWER = 0.5
"""The next rate over the last, where too few queries were answered to tell anything."""
_UNANSWERED_MOST = 4
"""Such probes; at an eighth of the calibrated rate, the calibration was wrong."""
_TWO_ATTEMPTS = 2.03
"""Lengths of a whole run that two attempts take with a little to spare; a probe that leaves less is made shorter."""
_SHORTEST = 0.05
"""Length down to which a probe is made shorter."""
_LEFT = (1.95, 2.01)
"""Lengths of a whole run that are left of the budget, between which the chance asked of an attempt changes …"""
_CHANCE = (0.9, 0.7)
"""… from that of the last attempt that fits, which must hold, to that of one that another can follow."""
_STEP = 0.99
"""To the square of how many attempts failed, over the rate of each of them: the next attempt's rate at most."""
ATTEMPTS_MOST = 10
"""The tenth is at a seventeenth of the first one's rate at most: a lower one would not hold either."""

_RATES = (-0.08, -0.04, -0.015, 0.02)
"""Rates at which whole runs are played, as logarithms over the highest that would hold without noise."""
_NOISES = (1, -1, 2, -2, 3, -3)
"""Courses of noise with which each is played, and the opposite of each."""
_REACH = 0.15
"""Runs further from the limit than this, in the logarithm, tell costs only: their latencies say little of it."""
_SPEEDS = np.linspace(-0.1, 0.1, 81)
"""Logarithms of how much faster than by their costs the engines may be."""
_MODEL = 0.01
"""Standard deviation of that for no reason we know of: costs are estimated, and engines are not quite as modelled."""
_MARGIN_MODEL = 0.04
"""The same of the logarithm of a forecast latency."""
_LEAST_TAIL = 8
"""Queries above the latency by which a run is compared with its forecast; fewer are chance."""
_FINE = np.linspace(-0.25, 0.15, 401)
"""Logarithms of the rates among which the one with a given chance is looked for, over the one without noise."""


@dataclass(frozen=True)
class Question:
    """What is searched for, and in which time.

    Attributes:
        workload: what LoadGen issues, long enough for the longest run.
        ttft_limit_s, tpot_limit_s: at the 99th percentile.
        queries: how many a whole run at a rate has.
        start_qps: a rate that is believed to hold.
        highest_qps: the highest that may be tried.
        budget_s: seconds for probes and attempts together.
    """

    workload: Workload
    ttft_limit_s: float
    tpot_limit_s: float
    queries: Callable[[float], int]
    start_qps: float
    highest_qps: float
    budget_s: float


@dataclass(frozen=True)
class Run:
    """A probe or an attempt that has ended: what was offered, for how long, whether it could be or was VALID."""

    kind: Literal["probe", "attempt"]
    target_qps: float
    seconds: float
    held: bool
    trace: Trace


@dataclass(frozen=True)
class Step:
    """What to do next: a run of the first `samples` queries (all for an attempt) at a rate, and the chance it holds."""

    kind: Literal["probe", "attempt"]
    target_qps: float
    samples: int
    chance: float | None = None


def next_step(question: Question, runs: Sequence[Run]) -> Step | None:
    """The next probe or attempt; None when an attempt held, or when no whole run fits into the budget any more.

    Where probes took longer than they should, and less than a whole run is left, the first attempt is made all the
    same: a search that ends without one has found nothing.
    """
    attempted = [run.target_qps for run in runs if run.kind == "attempt"]
    if runs and runs[-1].kind == "attempt" and (runs[-1].held or len(attempted) == ATTEMPTS_MOST):
        return None
    left = question.budget_s - sum(run.seconds for run in runs)
    answered = [run for run in runs if run.trace.explains]
    if not answered:
        rate = question.start_qps * _MUCH_LOWER ** len(runs)
        return _probe(question, rate, _PROBES[0][0]) if len(runs) < _UNANSWERED_MOST and left > 0 else None
    chances = Chances(question, answered)
    even = chances.rate(0.5)
    whole_s = question.queries(even) / even
    if not attempted and (planned := _planned(runs, even, chances.deviation)):
        share, rate = planned
        probe = _probe(question, rate, min(share, max(_SHORTEST, left / whole_s - _TWO_ATTEMPTS)), chances)
        if left > whole_s + probe.samples / probe.target_qps:
            return probe
    if left < whole_s and (attempted or whole_s > question.budget_s):
        return None
    rate = chances.rate(float(np.interp(left / whole_s, _LEFT, _CHANCE)))
    rate = _rounded(min(rate, question.highest_qps, *(one * _STEP ** len(attempted) ** 2 for one in attempted)))
    return Step("attempt", rate, question.queries(rate), chances.of(rate))


def _planned(runs: Sequence[Run], even: float, deviation: float) -> tuple[float, float] | None:
    """Length, as a share of a whole run, and rate of the next probe; None when enough is known.

    Args:
        even: the rate that holds in half of all runs, known within `deviation`, a part of it.
    """
    if len(runs) < len(_PROBES) and (len(runs) < _PROBES_LEAST or deviation > _KNOWN):
        share, factor = _PROBES[len(runs)]
        return share, factor * even
    if len(runs) >= PROBES_MOST or any(not run.held for run in runs):
        return None
    share, factor = _ABOVE
    return share, factor * max(run.target_qps for run in runs if run.trace.explains)


def _probe(question: Question, rate: float, share: float, chances: "Chances | None" = None) -> Step:
    rate = _rounded(min(rate, question.highest_qps))
    queries = question.queries(rate)
    samples = min(queries, max(_LEAST_SAMPLES, math.ceil(share * queries)))
    return Step("probe", rate, samples, chances.of(rate) if chances else None)


def _rounded(rate: float) -> float:
    return float(f"{rate:.4g}")


class Chances:
    """The chance that a whole run at a rate is VALID, given what was measured."""

    def __init__(self, question: Question, runs: Sequence[Run]) -> None:
        self._question = question
        self._costs = fit(question.workload, [(run.target_qps, run.trace) for run in runs])
        self._centre = self._without_noise(max(run.target_qps for run in runs))
        self._logs = math.log(self._centre) + np.array(_RATES)
        self._plays = [[self._play(math.exp(log), noise) for noise in _NOISES] for log in self._logs]
        self._weights = self._weighed(runs)

    @property
    def deviation(self) -> float:
        """Standard deviation of the speed, and so of the rate that holds, as a part of it."""
        mean = float(self._weights @ _SPEEDS)
        return math.sqrt(float(self._weights @ (_SPEEDS - mean) ** 2))

    def of(self, rate: float) -> float:
        """The chance at a rate."""
        return float(self._chances(np.array([math.log(rate)]))[0])

    def rate(self, chance: float) -> float:
        """The highest rate with at least this chance."""
        logs = math.log(self._centre) + _FINE
        below = self._chances(logs) < chance
        return math.exp(logs[max(0, int(below.argmax()) - 1) if below.any() else -1])

    def _chances(self, logs: Floats) -> Floats:
        means, deviation = self._whole
        margins = _beyond(logs[:, None] - _SPEEDS[None, :], self._logs, means)
        return np.asarray(_normal(-margins / deviation) @ self._weights)

    @cached_property
    def _whole(self) -> tuple[Floats, float]:
        """Of whole runs at the rates played: the margin on average, rising with the rate; its deviation."""
        margins = np.array(
            [
                [_margin(self._question, ttft, tpot, _tail(len(ttft), len(ttft))) for ttft, tpot in plays]
                for plays in self._plays
            ]
        )
        return np.maximum.accumulate(margins.mean(1)), math.hypot(_pooled(margins), _MARGIN_MODEL)

    def _weighed(self, runs: Sequence[Run]) -> Floats:
        """How likely each of `_SPEEDS` is: what was seen may be chance, and every run speaks for some of them."""
        seconds = sum(run.seconds for run in runs)
        prior = math.hypot(SPEED_NOISE * math.sqrt(2 * SPEED_NOISE_S / max(seconds, 2 * SPEED_NOISE_S)), _MODEL)
        logs = -0.5 * (_SPEEDS / prior) ** 2
        for run in runs:
            count = min(run.trace.whole, len(self._plays[0][0][0]))
            if count <= _LEAST_TAIL or abs(math.log(run.target_qps / self._centre)) > _REACH:
                continue
            tail = _tail(count, self._question.queries(run.target_qps))
            ttft, tpot = _latencies(run.trace, count)
            seen = _margin(self._question, ttft, tpot, tail)
            margins = np.array(
                [[_margin(self._question, a[:count], b[:count], tail) for a, b in plays] for plays in self._plays]
            )
            expected = np.interp(math.log(run.target_qps) - _SPEEDS, self._logs, margins.mean(1))
            logs -= 0.5 * ((seen - expected) / math.hypot(_pooled(margins), _MARGIN_MODEL)) ** 2
        weights = np.exp(logs - logs.max())
        return np.asarray(weights / weights.sum())

    def _without_noise(self, rate: float) -> float:
        """The rate at which a whole run would just hold if engines had no noise."""
        low, high = rate / 1.6, rate * 1.6
        while high / low > 1.02:
            middle = math.sqrt(low * high)
            ttft, tpot = self._play(middle, 0)
            held = _margin(self._question, ttft, tpot, _tail(len(ttft), len(ttft))) <= 0
            low, high = (middle, high) if held else (low, middle)
        return math.sqrt(low * high)

    def _play(self, rate: float, noise: int) -> tuple[Floats, Floats]:
        return play(self._question.workload, self._costs, rate, self._question.queries(rate), noise)


def _tail(count: int, whole: int) -> int:
    """How many of the first `count` queries may be over a limit if the whole run's may be spread evenly."""
    return max(_LEAST_TAIL, forgiven(whole) * count // whole) if count < whole else max(0, forgiven(whole))


def _margin(question: Question, ttft: Floats, tpot: Floats, tail: int) -> float:
    """Logarithm of the latency that `tail` queries exceed, over its limit, for the limit that is nearer to breaking."""
    return max(
        math.log(max(1e-6, float(np.partition(values, -tail - 1)[-tail - 1])) / limit)
        for values, limit in ((ttft, question.ttft_limit_s), (tpot, question.tpot_limit_s))
    )


def _latencies(trace: Trace, count: int) -> tuple[Floats, Floats]:
    first, steps = trace.first_s[:count], np.maximum(1, trace.answer_tokens[:count] - 1)
    return first - trace.issued_s[:count], (trace.last_s[:count] - first) / steps


def _beyond(at: Floats, points: Floats, values: Floats) -> Floats:
    """`values` at `points` interpolated; beyond the outermost points it goes on as between the outermost two."""
    inside = np.interp(at, points, values)
    low, high = ((values[b] - values[a]) / (points[b] - points[a]) for a, b in ((0, 1), (-2, -1)))
    return np.asarray(inside + low * np.minimum(at - points[0], 0) + high * np.maximum(at - points[-1], 0))


def _pooled(margins: Floats) -> float:
    return float(np.sqrt(margins.var(1, ddof=1).mean()))


def _normal(values: Floats) -> NDArray[np.float64]:
    """The normal distribution's function."""
    return np.array([0.5 * math.erfc(-value / math.sqrt(2)) for value in values.ravel()]).reshape(values.shape)
