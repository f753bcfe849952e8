"""Which engine gets the next sample: the least loaded for its speed, within each engine's limit."""

import math
from collections.abc import Collection, Sequence

FIRST_TOKEN_WEIGHT = 16
"""What a request weighs until its first token has come; afterwards it weighs 1.

Until then its prefill is still to do, which delays every other request of its engine. Chosen with bench/dispatch.py: a
smaller weight leaves more late first tokens, a larger one spreads the further tokens' load less evenly.
"""


class EngineLoad:
    """What one engine has to do.

    Args:
        limit: most requests it is given at once.
        speed: how fast it is compared with the others, in any unit, above 0.
    """

    __slots__ = ("cost", "in_flight", "limit", "weight")

    def __init__(self, limit: int, speed: float = 1.0) -> None:
        self.limit = limit
        self.set_speed(speed)
        self.in_flight = 0
        self.weight = 0  # of all requests in flight; whole numbers, so that equals stay equal

    def set_speed(self, speed: float) -> None:
        """Set the engine's speed from now on."""
        self.cost = 1 / speed

    def sent(self, weight: int) -> None:
        """A request was sent to this engine."""
        self.in_flight += 1
        self.weight += weight

    def over(self, weight: int) -> None:
        """A request of this weight is finished."""
        self.in_flight -= 1
        self.weight -= weight


class Balance:
    """Chooses among engines; equals take turns."""

    def __init__(self, loads: Sequence[EngineLoad]) -> None:
        self._loads = loads
        self._turn = 0

    def choose(self, waiting: int = 0, avoided: Collection[EngineLoad] = ()) -> int | None:
        """Position of the engine with room whose weight divided by its speed is least; None when all are full, but for
        those to be avoided.

        While samples are `waiting` after this one, an engine is given no more than its part, by speed, of all that are
        unanswered. So a slow engine is not left with many when the others have finished theirs.
        """
        loads, best, least, part = self._loads, None, math.inf, math.inf
        if waiting:
            unanswered = waiting + sum(load.in_flight for load in loads)
            part = unanswered / (sum(1 / load.cost for load in loads if load.limit) or math.inf)
        for position in range(self._turn - len(loads), self._turn):  # negative ones count from the end
            load = loads[position]
            if load in avoided:
                continue
            if load.in_flight < min(load.limit, part / load.cost) and load.weight * load.cost < least:
                best, least = position, load.weight * load.cost
        if best is None:
            return None
        best %= len(loads)
        self._turn = (best + 1) % len(loads)
        return best
