"""LoadGen's early stopping: how many queries of a run may exceed a latency limit."""

import math
from functools import cache

PERCENTILE = 0.99
CONFIDENCE = 0.99


@cache
def forgiven(queries: int, percentile: float = PERCENTILE, confidence: float = CONFIDENCE) -> int:
    """The most of `queries` that may exceed a limit so that LoadGen still confirms it; -1 if none can confirm it.

    It confirms a limit at `percentile` when so few queries over it would be seen with a probability of at most
    1 - `confidence` if 1 - `percentile` of all queries truly exceeded it: the largest t with
    P[Binomial(queries, 1 - percentile) <= t] <= 1 - confidence.
    """
    over, probability, allowed = 1 - percentile, 0.0, 1 - confidence
    for t in range(queries + 1):
        probability += math.exp(
            math.lgamma(queries + 1)
            - math.lgamma(t + 1)
            - math.lgamma(queries - t + 1)
            + t * math.log(over)
            + (queries - t) * math.log(percentile)
        )
        if probability > allowed * (1 + 1e-9):
            return t - 1
    return queries
