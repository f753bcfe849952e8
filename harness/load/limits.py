"""Queries over the scenario's latency limits, counted while a performance run lasts."""

import time
from collections.abc import Hashable, Iterable
from typing import Any

from harness.load.client import Answer
from harness.load.early_stopping import forgiven
from harness.spec import Scenario


class LimitWatch:
    """Counts queries over each limit, and says when too many are for the run ever to become VALID.

    LoadGen's own latencies are never below the ones counted here: it starts its clock before its query reaches us, and
    stops it when we call. `issued` is called on LoadGen's thread, `first` and `done` on the dispatcher's, `hopeless`
    on any.

    Args:
        scenario: whose limits; Offline has none.
        planned: queries of the whole run, for which early stopping forgives some.
    """

    def __init__(self, scenario: Scenario, planned: int) -> None:
        self._ttft_s = (scenario.ttft_limit_ms or float("inf")) / 1000
        self._tpot_s = (scenario.tpot_limit_ms or float("inf")) / 1000
        self._forgiven, self._planned = forgiven(planned), planned
        self._waiting: dict[Hashable, float] = {}
        self._over_ttft = self._over_tpot = 0

    def issued(self, keys: Iterable[Hashable], now: float) -> None:
        """Queries were issued at `now` (`perf_counter` seconds)."""
        self._waiting.update(dict.fromkeys(keys, now))

    def first(self, key: Hashable, now: float) -> None:
        """A query's first token came."""
        if now - self._waiting.pop(key) > self._ttft_s:
            self._over_ttft += 1

    def done(self, answer: Answer) -> None:
        """A query's answer is complete."""
        tokens = len(answer.token_ids)
        if tokens > 1 and (answer.last_s - answer.first_s) / (tokens - 1) > self._tpot_s:
            self._over_tpot += 1

    def counts(self, now: float) -> dict[str, Any]:
        """Queries over each limit, those that wait for their first token for longer than it allows included."""
        late = sum(now - since > self._ttft_s for since in list(self._waiting.values()))
        return {"over_ttft": self._over_ttft + late, "over_tpot": self._over_tpot, "forgiven": self._forgiven}

    def hopeless(self, answered: int) -> str | None:
        """Why the run cannot become VALID any more; None while it can, or where it never could."""
        counts = self.counts(time.perf_counter())
        if self._forgiven < 0:
            return None
        for name, limit_s in (("ttft", self._ttft_s), ("tpot", self._tpot_s)):
            if counts[f"over_{name}"] > self._forgiven:
                return (
                    f"{counts[f'over_{name}']} queries exceeded the {name.upper()} limit of {limit_s * 1000:,.0f} ms "
                    f"by the time {answered:,} were answered; early stopping forgives {self._forgiven} of "
                    f"{self._planned:,}"
                )
        return None
