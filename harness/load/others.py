"""Requests of other clients on a run's engines, by the servers' own count."""

import time
from collections import deque

from harness.node import probe
from harness.spec import EngineRef, Spec

_SETTLE_S = 3.0  # a server may count a request for a moment after its answer
_PAUSE_S = 0.2
_OWN_LOOKS = 15  # the run's own requests are not counted at the very moment at which the servers count
_FOREIGN_LOOKS = 10
_FEW = 4


def other_requests(spec: Spec) -> dict[str, str]:
    """For each engine that has requests a sentence, by its name; to be called while the run itself has none there.

    An engine that does not say how many it has counts as having none.
    """
    counts = {engine: _others(engine) for engine in spec.engines}
    return {
        engine.name: f"engine {engine.name} at {engine.url} has {count:.0f} requests of another client, which slow "
        "this run down and are slowed down by it; end one of the two, and repeat the other"
        for engine, count in counts.items()
        if count
    }


def _others(engine: EngineRef) -> float:
    """Requests that an engine has for longer than answered ones are counted."""
    end = time.monotonic() + _SETTLE_S
    while (count := _queued(engine)) and time.monotonic() < end:
        time.sleep(_PAUSE_S)
    return count


def _queued(engine: EngineRef) -> float:
    try:
        return probe.requests_in_flight(engine.url)
    except (OSError, ValueError):
        return 0.0


class OthersWatch:
    """Notices requests of another client while the run itself has some, from looks about once a second."""

    def __init__(self) -> None:
        self._own: deque[int] = deque(maxlen=_OWN_LOOKS)
        self._in_a_row = 0

    def look(self, own: int, counted: float) -> str | None:
        """A sentence once the servers have counted more requests for a while than the run has; else None.

        Args:
            own: requests that the run has in flight.
            counted: what the servers of all its engines run and queue.
        """
        self._own.append(own)
        foreign = counted - max(self._own)
        self._in_a_row = self._in_a_row + 1 if foreign > _FEW else 0
        if self._in_a_row < _FOREIGN_LOOKS:
            return None
        return (
            f"the engines have about {foreign:.0f} requests of another client beside this run's, which slow it down "
            "and are slowed down by it; end one of the two, and repeat the other"
        )
