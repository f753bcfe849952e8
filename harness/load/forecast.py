"""How a run would go at another rate: an engine's costs from what was measured, and LoadGen's schedule played on them.

Where several engines share the queries they are taken together as one, whose step serves all of them.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SPEED_NOISE = 0.02
"""Standard deviation of an engine's speed, as a part of it."""
SPEED_NOISE_S = 60.0
"""Seconds after which an engine has largely forgotten how fast it was."""
STEP_NOISE = 0.1
"""Standard deviation of the logarithm of a step's duration."""
TOKENS_PER_STEP = 2048
"""Of one engine, where it is not known."""
_FEW = 20
"""Equations; with fewer, costs cannot be told from noise."""
_NOISES = 8191
"""Steps after which their noise repeats, less one: all bits set, so that a mask finds the place."""


@dataclass(frozen=True)
class Workload:
    """What LoadGen issues, in its order, which its seeds fix.

    Attributes:
        arrivals: when each query is due at a rate of one sample/s, in seconds, rising.
        prompt_tokens: of each query.
        tokens_per_step: most that the engines compute in one step, together.
        sequences: most queries they take at once, together.
    """

    arrivals: Floats
    prompt_tokens: NDArray[np.int64]
    tokens_per_step: int
    sequences: int


@dataclass(frozen=True)
class Trace:
    """Answered queries of one run, in the order of issue; times in seconds from its start."""

    issued_s: Floats
    first_s: Floats
    last_s: Floats
    prompt_tokens: NDArray[np.int64]
    answer_tokens: NDArray[np.int64]

    @property
    def explains(self) -> bool:
        """Whether there are enough answers to estimate costs from."""
        return len(self.issued_s) >= _FEW

    @property
    def whole(self) -> int:
        """How many of the first queries are all answered: an ended run lacks some of the last."""
        longest = float((self.last_s - self.issued_s).max())
        return int(np.searchsorted(self.issued_s, self.last_s.max() - longest, side="right"))


@dataclass(frozen=True)
class Costs:
    """Seconds of a step: always, for each sequence that decodes, for each token of a prompt. And tokens per answer."""

    step_s: float
    sequence_s: float
    prompt_token_s: float
    answer_tokens: int


def fit(workload: Workload, runs: Sequence[tuple[float, Trace]]) -> Costs:
    """The costs that explain the time between tokens in runs, given with their rates.

    They are estimated by least squares, whose estimate is biased: a slow moment looks like expensive prompts, since
    more of them come while it lasts, and steps are not observed one by one. To correct it, the runs are simulated with
    the estimate, the costs are estimated again from that, and the difference is subtracted. All answers are taken to be
    equally long, as nearly all of this benchmark are.
    """
    first = _estimate([trace for _, trace in runs])
    again = _estimate([_played(workload, first, rate, trace, noise) for rate, trace in runs for noise in (1, -1)])
    pairs = zip(dataclasses.astuple(first)[:3], dataclasses.astuple(again)[:3], strict=True)
    step_s, sequence_s, token_s = (max(0.0, 2 * one - other) for one, other in pairs)
    return Costs(step_s, sequence_s, token_s, first.answer_tokens)


def _played(workload: Workload, costs: Costs, rate: float, trace: Trace, noise: int) -> Trace:
    count = len(trace.issued_s)
    ttft, tpot = play(workload, costs, rate, count, noise)
    issued, tokens = workload.arrivals[: len(ttft)] / rate, costs.answer_tokens
    last = issued + ttft + tpot * (tokens - 1)
    return Trace(issued, issued + ttft, last, workload.prompt_tokens[: len(ttft)], np.full(len(ttft), tokens))


def _estimate(traces: Sequence[Trace]) -> Costs:
    parts = [_equations(trace) for trace in traces]
    work, seconds = (np.concatenate(each) for each in zip(*parts, strict=True))
    columns, values = [0, 1, 2], np.zeros(3)
    while columns:
        solved, *_ = np.linalg.lstsq(work[:, columns], seconds, rcond=None)
        if (solved >= 0).all():
            values[columns] = solved
            break
        columns.pop(int(solved.argmin()))
    step_s, sequence_s, token_s = values.tolist()
    tokens = np.concatenate([trace.answer_tokens for trace in traces])
    return Costs(step_s, sequence_s, token_s, max(1, round(float(tokens.mean()))))


def _equations(trace: Trace) -> tuple[Floats, Floats]:
    """For each answer: one, sequences beside it, prompt tokens per step meanwhile; and its seconds per step."""
    first, last, steps = trace.first_s, trace.last_s, trace.answer_tokens - 1
    several = (steps > 0) & (last > first)
    # After the last issue it is not known what an ended run had under way beside the answered.
    kept = several & (last <= trace.issued_s[-1])
    if kept.sum() < _FEW:
        kept = several
    seconds, steps = np.maximum(last - first, 1e-9), np.maximum(steps, 1)
    times = np.concatenate([first, last])
    by_time = times.argsort(kind="stable")
    times = times[by_time]
    running = np.repeat([1.0, -1.0], len(first))[by_time].cumsum()
    area = np.concatenate([[0.0], (running[:-1] * np.diff(times)).cumsum()])
    beside = (np.interp(last, times, area) - np.interp(first, times, area)) / seconds
    by_first = first.argsort(kind="stable")
    prefilled = np.concatenate([[0], trace.prompt_tokens[by_first].cumsum()])
    ends = np.searchsorted(first[by_first], [first, last], side="right")
    per_step = (prefilled[ends[1]] - prefilled[ends[0]]) / steps
    work = np.stack([np.ones(len(first)), beside, per_step], 1)
    return work[kept], (seconds / steps)[kept]


def play(workload: Workload, costs: Costs, rate: float, queries: int, noise: int = 0) -> tuple[Floats, Floats]:
    """TTFT and TPOT in seconds of the first `queries` at a rate. Noise 0 is none, any other number another course of an
    engine's usual noise; that of -n is the opposite of n's, so that together they are not slow or fast by chance.

    Each step gives every decoding sequence a token, then fills its cap with prompts in order of arrival, the last in
    part. That makes all that decode advance together: a step's answers end a fixed number of steps later.
    """
    arrivals = workload.arrivals[:queries] / rate
    due, need = [*arrivals.tolist(), math.inf], workload.prompt_tokens[:queries].cumsum().tolist()
    speeds, steps = _noises(noise, int(due[-2]) + 2)
    base, sequence, token = costs.step_s, costs.sequence_s, costs.prompt_token_s
    most, length = workload.sequences, costs.answer_tokens
    cap = max(workload.tokens_per_step, most + 1)
    now, arrived, started, prefilled, running, seconds = 0.0, 0, 0, 0, 0, len(speeds)
    ends: list[float] = []
    begun: list[int] = []
    while started < queries or running:
        while due[arrived] <= now:
            arrived += 1
        if not running and arrived == started:
            now = due[arrived]
            arrived += 1
        before, tokens, last = started, 0, min(arrived, started + most - running)
        if last > started:
            tokens = min(cap - running, need[last - 1] - prefilled)
            prefilled += tokens
            while started < last and need[started] <= prefilled:
                started += 1
        number = len(ends)
        now += (base + sequence * running + token * tokens) * steps[number & _NOISES] / speeds[int(now) % seconds]
        ends.append(now)
        begun.append(started - before)
        running += started - before
        if number >= length - 1:
            running -= begun[number - length + 1]
    step = np.repeat(np.arange(len(begun)), begun)
    times = np.array(ends)
    first, final = times[step], times[np.minimum(step + length - 1, len(times) - 1)]
    return first - arrivals, (final - first) / max(1, length - 1)


def _noises(number: int, seconds: int) -> tuple[list[float], list[float]]:
    """Speed in each second, as a share of the mean; and factors of steps."""
    random, sign = np.random.default_rng(abs(number)), np.sign(number)
    kept = math.exp(-1 / SPEED_NOISE_S)
    pushes = SPEED_NOISE * sign * random.standard_normal(seconds)
    pushes[1:] *= math.sqrt(1 - kept * kept)
    deviation, speeds = 0.0, []
    for push in pushes.tolist():
        deviation = kept * deviation + push
        speeds.append(1 + deviation)
    return speeds, np.exp(STEP_NOISE * sign * random.standard_normal(_NOISES + 1)).tolist()
