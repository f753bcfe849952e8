"""Count the queries over the scenario's latency limits during a performance run."""

import time
from collections.abc import Hashable, Iterable
from typing import Any

from harness.early_stopping import forgiven
from harness.load.answer import Answer
from harness.spec import Scenario


class LimitWatch:
    """Counts queries over each limit, and reports when the run cannot become VALID any more.

    LoadGen's own latencies are never lower than those counted here: TTFT is counted from after LoadGen's clock was
    started until before LoadGen is told of the first token, TPOT from after that. `issued` is called in LoadGen's
    thread, `first` and `done` in the dispatcher's, `hopeless` in any.

    Args:
        scenario: its limits apply; Offline has none.
        planned: number of queries of the complete run, of which early stopping forgives some.
        sure_after: so many calls of `surely_hopeless` in a row must find it hopeless.
    """

    def __init__(self, scenario: Scenario, planned: int, sure_after: int = 1) -> None:
        self._ttft_s = (scenario.ttft_limit_ms or float("inf")) / 1000
        self._tpot_s = (scenario.tpot_limit_ms or float("inf")) / 1000
        self._forgiven, self._planned = forgiven(planned), planned
        self._waiting: dict[Hashable, float] = {}
        self._first_s: dict[Hashable, float] = {}
        self._over_ttft = self._over_tpot = 0
        self._sure_after, self._times_hopeless = sure_after, 0

    def issued(self, keys: Iterable[Hashable], now: float) -> None:
        """Queries were issued at `now` (`perf_counter` seconds)."""
        self._waiting.update(dict.fromkeys(keys, now))

    def first(self, key: Hashable, before: float, after: float) -> None:
        """LoadGen was notified of a query's first token between `before` and `after`."""
        self._first_s[key] = after
        if before - self._waiting.pop(key) > self._ttft_s:
            self._over_ttft += 1

    def done(self, key: Hashable, answer: Answer) -> None:
        """A query's answer is complete."""
        tokens, first_s = len(answer.token_ids), self._first_s.pop(key, answer.first_s)
        if tokens > 1 and (answer.last_s - first_s) / (tokens - 1) > self._tpot_s:
            self._over_tpot += 1

    def counts(self, now: float) -> dict[str, Any]:
        """Queries over each limit, including those that have already waited too long for their first token."""
        over_ttft = self._over_ttft  # read first: a query whose first token comes meanwhile is not counted twice
        over_ttft += sum(now - since > self._ttft_s for since in list(self._waiting.values()))
        return {"over_ttft": over_ttft, "over_tpot": self._over_tpot, "forgiven": self._forgiven}

    def surely_hopeless(self, answered: int, *, in_doubt: bool) -> str | None:
        """`hopeless`, unless it may be the fault of an engine that is being lost, so that other engines answer late.

        An engine that hangs makes its queries late before its silence is noticed, so one call is not enough.
        """
        reason = self.hopeless(answered)
        self._times_hopeless = self._times_hopeless + 1 if reason and not in_doubt else 0
        return reason if self._times_hopeless >= self._sure_after else None

    def hopeless(self, answered: int) -> str | None:
        """Why the run cannot become VALID any more; None while it can, or when it has too few queries to be VALID."""
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
