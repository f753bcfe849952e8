"""Whether engines were as fast in the second half of a performance run as in its first."""

import math

import numpy as np
from numpy.typing import NDArray

from harness.report.journals import Table
from harness.report.record import Steadiness

BATCHES = 10
"""Batches per half."""
CRITICAL = 2.878
"""Student's t, two-sided, 1 %, 2 x 10 - 2 degrees of freedom."""
MOST_CORRELATION = 0.8
MOST_CHANGE = 0.05
LEAST_SAMPLES = 200
LEAST_SECONDS = 30.0
REQUIRED = f"{LEAST_SECONDS:.0f} s, {LEAST_SAMPLES} samples and answers that come token by token"

Floats = NDArray[np.float64]


def steadiness(rows: Table) -> Steadiness | None:
    """Compare the halves of one node's part of a performance run.

    The figure is the time per output token at equal load: the logarithm of each sample's TPOT, less what the number of
    sequences that its engine decoded meanwhile explains. Its means over batches of samples in a row are compared
    between the halves by Student's t, with the error widened by the correlation of one batch with the next.

    Args:
        rows: the node's samples (`tables.JOURNAL`).

    Returns:
        None for fewer than 200 samples, less than 30 s, or answers that came in one piece.
    """
    answers = rows[rows["tpot_ms"] > 0]
    if len(answers) < max(LEAST_SAMPLES, 0.9 * len(rows)):
        return None
    first = answers["issued_unix"] + answers["ttft_ms"] / 1e3
    last = answers["done_unix"]
    if last.max() - first.min() < LEAST_SECONDS:
        return None
    order = np.argsort(first, kind="stable")
    engines = np.unique(answers["engine"][order].astype(str), return_inverse=True)[1]
    second = np.arange(len(order)) >= len(order) // 2
    logarithms = np.log(answers["tpot_ms"][order])
    figure = _at_equal_load(logarithms, first[order], last[order], engines, second)
    halves = [np.array_split(figure[second == half], BATCHES) for half in (False, True)]
    means = np.array([[batch.mean() for batch in half] for half in halves])
    before, after = means.mean(axis=1)
    change = math.exp(after - before) - 1
    return Steadiness(
        first_half_tpot_ms=math.exp(before),
        second_half_tpot_ms=math.exp(after),
        change_percent=100 * change,
        steady=abs(change) <= MOST_CHANGE or bool(abs(after - before) <= CRITICAL * _error(means)),
    )


def _error(means: Floats) -> float:
    """Standard error of the difference of the halves' means, from their batches' means (2 x BATCHES)."""
    rest = means - means.mean(axis=1, keepdims=True)
    squares = float((rest**2).sum())
    if squares == 0:
        return 0.0
    lagged = float((rest[:, 1:] * rest[:, :-1]).sum()) / squares
    # Batches about their own mean show on average (1 + 4 r) / BATCHES less than the correlation r that they have.
    correlation = min(max((BATCHES * lagged + 1) / (BATCHES - 4), 0.0), MOST_CORRELATION)
    widening = (1 + correlation) / (1 - correlation)
    return math.sqrt(2 * squares / (2 * BATCHES - 2) / BATCHES * widening)


def _at_equal_load(
    figure: Floats, first: Floats, last: Floats, engines: NDArray[np.intp], second: NDArray[np.bool_]
) -> Floats:
    """`figure` less what the engine and its number of decoding sequences explain, at the mean of both.

    The change between the halves is fitted too, so that neither explains it away. The square serves the ramp at the
    start, where the number grows from nothing.
    """
    names = np.unique(engines)
    load = np.zeros_like(figure)
    for engine in names:
        own = engines == engine
        load[own] = concurrency(first[own], last[own])
    causes = np.column_stack([*(engines == engine for engine in names), load, load**2]).astype(float)
    fit, *_ = np.linalg.lstsq(np.column_stack([causes, second]), figure, rcond=None)
    return np.asarray(figure - (causes - causes.mean(axis=0)) @ fit[:-1])


def concurrency(first: Floats, last: Floats) -> Floats:
    """Mean number of intervals [first, last) that overlap each of them, itself included; times in seconds."""

    def passed(moments: Floats, starts: Floats) -> Floats:
        """Sum of the seconds from each start to each moment."""
        ordered = np.sort(starts)
        sums = np.concatenate(([0.0], np.cumsum(ordered)))
        count = np.searchsorted(ordered, moments)
        seconds: Floats = moments * count - sums[count]
        return seconds

    origin = first.min()  # unix seconds are too large to be multiplied by thousands
    first, last = first - origin, last - origin
    busy: Floats = (passed(last, first) - passed(last, last)) - (passed(first, first) - passed(first, last))
    busy /= np.maximum(last - first, 1e-9)
    return busy
