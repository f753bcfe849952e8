"""Whether two sets of runs differ: Student's t-test on logarithms, so that differences are ratios.

Runs, not samples, are repeated, because the effect of an upgrade has to stand out from the variance between runs. The
logarithms of both sides are taken to have one variance, since both are the same work on the same machines; with three
runs a side that leaves 4 degrees of freedom instead of about 2.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

CONFIDENCE = 0.95
POWER = 0.8
MOST_REPEATS = 100


@dataclass(frozen=True, slots=True)
class Test:
    """One metric of two sets of runs; percentages are of the base.

    Attributes:
        base, new: medians.
        difference_percent: between the geometric means.
        low_percent, high_percent: its 95 % interval; None without repeats on both sides.
        p: chance of a difference as large without a true one; None as above.
    """

    base: float
    new: float
    difference_percent: float
    low_percent: float | None
    high_percent: float | None
    p: float | None


@dataclass(frozen=True, slots=True)
class Middle:
    """Where the values of one side lie: median, standard deviation in percent, 95 % interval of the geometric mean."""

    median: float
    deviation_percent: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Middle:
    """Of two or more values above 0."""
    logs = np.log(values)
    deviation, mean = float(logs.std(ddof=1)), float(logs.mean())
    error = deviation / math.sqrt(len(logs))
    low, high = _stats().t.interval(CONFIDENCE, len(logs) - 1, mean, error) if error else (mean, mean)
    return Middle(float(np.median(values)), _percent(deviation), math.exp(low), math.exp(high))


def test(base: Sequence[float], new: Sequence[float]) -> Test | None:
    """Compare values above 0; None where there is none on a side, or one that is not above 0."""
    if not base or not new or min(*base, *new) <= 0:
        return None
    logs = np.log(base), np.log(new)
    difference = float(logs[1].mean() - logs[0].mean())
    low = high = p = None
    if min(len(base), len(new)) > 1:
        low = high = _percent(difference)
        p = 1.0 if abs(difference) < _ROUNDING else 0.0
        if _deviation(logs):
            result = _stats().ttest_ind(logs[1], logs[0])
            low, high = map(_percent, result.confidence_interval(CONFIDENCE))
            p = float(result.pvalue)
    return Test(float(np.median(base)), float(np.median(new)), _percent(difference), low, high, p)


def p_beyond(base: Sequence[float], new: Sequence[float], percent: float) -> float:
    """One-sided p of the true difference being at most `percent` of the base (above 0), or at least it (below 0).

    Both sides need repeats.
    """
    logs = np.log(base), np.log(new)
    if not _deviation(logs):
        return 0.0 if _beyond(logs, percent) > 0 else 1.0
    alternative = "greater" if percent > 0 else "less"
    return float(_stats().ttest_ind(logs[1] - math.log1p(percent / 100), logs[0], alternative=alternative).pvalue)


def holm(values: Sequence[float]) -> list[float]:
    """p values, corrected by Holm's method for there being several, in the same order."""
    order = np.argsort(values)
    corrected = np.array(values, dtype=float)[order] * np.arange(len(values), 0, -1)
    result = np.empty(len(values))
    result[order] = np.minimum(1.0, np.maximum.accumulate(corrected))
    return list(map(float, result))


def smallest_percent(base: Sequence[float], new: Sequence[float], tests: int, repeats: int | None = None) -> float:
    """The difference in percent that would have been found in 80 of 100 such comparisons, among `tests` metrics.

    With `repeats`, that many runs a side are assumed, of the same variance. One side needs repeats.
    """
    logs = np.log(base), np.log(new)
    counts = (repeats, repeats) if repeats else (len(base), len(new))
    return _percent(_found(logs, counts, (1 - CONFIDENCE) / 2 / tests))


def repeats_for(base: Sequence[float], new: Sequence[float], percent: float, tests: int) -> int | None:
    """Runs a side by which a difference of `percent` would be found; None where more than 100 would be needed.

    One side needs repeats.
    """
    logs = np.log(base), np.log(new)
    wanted = abs(math.log1p(percent / 100))
    counts, share = range(2, MOST_REPEATS + 1), (1 - CONFIDENCE) / 2 / tests
    return next((count for count in counts if _found(logs, (count, count), share) <= wanted), None)


def repeats_beyond(base: Sequence[float], new: Sequence[float], percent: float, tests: int) -> int | None:
    """Runs a side, more than there are, by which it would be certain whether the true difference is beyond `percent`.

    That is in 80 of 100 cases, where the difference is as large as the one that is shown, by the one-sided test of
    `p_beyond` among `tests` metrics. None where more than 100 would be needed. One side needs repeats.
    """
    logs = np.log(base), np.log(new)
    distance = abs(_beyond(logs, percent))
    counts = range(max(len(base), len(new)) + 1, MOST_REPEATS + 1)
    share = (1 - CONFIDENCE) / tests
    return next((count for count in counts if _found(logs, (count, count), share) <= distance), None)


_ROUNDING = 1e-12
_Logs = tuple[np.ndarray, np.ndarray]


def _beyond(logs: _Logs, percent: float) -> float:
    """By how much the difference is further than `percent` from none; below 0 where it is less far."""
    return math.copysign(1, percent) * float(logs[1].mean() - logs[0].mean() - math.log1p(percent / 100))


def _found(logs: _Logs, counts: tuple[int, int], share: float) -> float:
    """The true difference that so many runs would find in 80 of 100 cases, where in `share` of all none is taken for
    one."""
    freedom = sum(counts) - 2
    error = _deviation(logs) * math.sqrt(sum(1 / count for count in counts))
    return float(_stats().t.ppf(1 - share, freedom) + _stats().t.ppf(POWER, freedom)) * error


def _deviation(logs: _Logs) -> float:
    """Standard deviation between runs of one side, pooled."""
    squares = sum(float(((side - side.mean()) ** 2).sum()) for side in logs)
    deviation = math.sqrt(squares / (len(logs[0]) + len(logs[1]) - 2))
    return deviation if deviation > _ROUNDING else 0.0  # equal values have none but rounding


def _percent(logarithm: float) -> float:
    return 100 * math.expm1(logarithm)


def _stats() -> Any:
    """scipy.stats, which takes half a second to import, and most runs are compared with none."""
    from scipy import stats

    return stats
