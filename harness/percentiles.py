"""Percentiles of latencies, one definition for the load and for the report."""

import numpy as np
from numpy.typing import NDArray


def percentile(values: NDArray[np.float64], percent: float) -> float | None:
    """The value at position ⌊n × percent / 100⌋ of the sorted values, as LoadGen takes it: one that was measured."""
    numbers = np.sort(values[~np.isnan(values)])
    return float(numbers[min(int(len(numbers) * percent / 100), len(numbers) - 1)]) if len(numbers) else None
