"""Which engine gets the next sample: the least loaded for its speed, within each engine's limit."""

import math
from collections.abc import Sequence

FIRST_TOKEN_WEIGHT = 16
"""What a request weighs until its first token has come; afterwards it weighs 1.

Until then its prefill is still to do, which delays every other request of its engine. Chosen with bench/dispatch.py: a
smaller weight leaves more late first tokens, a larger one spreads the further tokens' load less evenly.
"""


class EngineLoad:
    """What one engine has to do.

    Args:
        limit: most requests it is given at once.
        speed: how fast it is beside the others, in any unit, above 0.
    """

    __slots__ = ("cost", "in_flight", "limit", "weight")

    def __init__(self, limit: int, speed: float = 1.0) -> None:
        self.limit = limit
        self.set_speed(speed)
        self.in_flight = 0
        self.weight = 0  # of all requests in flight; whole numbers, so that equals stay equal

    def set_speed(self, speed: float) -> None:
        """Take the engine as so fast from now on."""
        self.cost = 1 / speed

    def sent(self, weight: int) -> None:
        """A request goes to this engine."""
        self.in_flight += 1
        self.weight += weight

    def over(self, weight: int) -> None:
        """A request of this weight is through."""
        self.in_flight -= 1
        self.weight -= weight


class Balance:
    """Chooses among engines; equals take turns."""

    def __init__(self, loads: Sequence[EngineLoad]) -> None:
        self._loads = loads
        self._turn = 0

    def choose(self) -> int | None:
        """Position of the engine with room whose weight divided by its speed is least; None when all are full."""
        loads, best, least = self._loads, None, math.inf
        for position in range(self._turn - len(loads), self._turn):  # negative ones count from the end
            load = loads[position]
            if load.in_flight < load.limit and load.weight * load.cost < least:
                best, least = position, load.weight * load.cost
        if best is None:
            return None
        best %= len(loads)
        self._turn = (best + 1) % len(loads)
        return best
