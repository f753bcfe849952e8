"""LoadGen's early stopping: how many queries of a run may exceed a latency limit."""

import math
from functools import cache

PERCENTILE = 0.99
CONFIDENCE = 0.99


@cache
def forgiven(queries: int, percentile: float = PERCENTILE, confidence: float = CONFIDENCE) -> int:
    """How many of `queries` may exceed a limit in a VALID run; -1 when so few queries can never confirm the limit.

    LoadGen confirms a limit at `percentile` when the observed number of queries over it would have a probability of at
    most 1 - `confidence` if a share of 1 - `percentile` of all queries exceeded it. The result is the largest t with
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
