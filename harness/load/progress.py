"""Progress of a run: counts, rates and latencies so far, cheap enough to update with every answer."""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.load.answer import Answer

RATE_WINDOW_S = 10.0
TTFT_BOUNDS_MS = (25.0, 50.0, 100.0, 200.0, 350.0, 500.0, 750.0, 1000.0, 1500.0, 2000.0, 3000.0, 5000.0, 10_000.0)
TPOT_BOUNDS_MS = (2.5, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 40.0, 50.0, 75.0, 100.0, 150.0, 250.0, 500.0)
"""Upper bounds of the exported histogram buckets; MLPerf's limits are among them."""
_STEPS = 100.0  # buckets per factor e: 1 % resolution


@dataclass(frozen=True)
class Latencies:
    """A histogram: the number of values at or below each bound, their total number, and their sum in ms."""

    at_most: tuple[int, ...] = ()
    count: int = 0
    sum_ms: float = 0.0


@dataclass(frozen=True)
class Progress:
    """A run's progress. Rates cover the last 10 s, latencies the whole run so far; None means not measured.

    `engine_losses` and `resent` are those of `Outcome`, so far; `over` counts the requests that are over by engine.
    """

    done: int
    total: int | None
    failed: int
    in_flight: int
    samples_per_s: float | None
    tokens_per_s: float | None
    ttft_ms_p50: float | None
    ttft_ms_p99: float | None
    tpot_ms_p50: float | None
    tpot_ms_p99: float | None
    elapsed_s: float
    ttft: Latencies = field(default_factory=Latencies)
    tpot: Latencies = field(default_factory=Latencies)
    engine_losses: tuple[dict[str, Any], ...] = ()
    resent: dict[str, int] = field(default_factory=dict)
    over: dict[str, int] = field(default_factory=dict)

    @classmethod
    def parse(cls, values: dict[str, Any]) -> "Progress":
        """The inverse of `dataclasses.asdict`."""
        latencies = {name: Latencies(**values[name]) for name in ("ttft", "tpot")}
        return cls(**{**values, **latencies, "engine_losses": tuple(values["engine_losses"])})


class Histogram:
    """Quantiles of positive values within 1 %, in constant time per value."""

    def __init__(self) -> None:
        self._buckets: dict[int, int] = {}
        self._count = 0
        self._sum = 0.0

    def add(self, value: float) -> None:
        """Count a value; zero and negative values count as the smallest positive one."""
        bucket = round(math.log(max(value, 1e-9)) * _STEPS)
        self._buckets[bucket] = self._buckets.get(bucket, 0) + 1
        self._count += 1
        self._sum += value

    def quantile(self, share: float) -> float | None:
        """The value that `share` of all values do not exceed; None without values."""
        rank, cumulative = math.ceil(share * self._count), 0
        for bucket, count in sorted(self._buckets.copy().items()):
            cumulative += count
            if cumulative >= rank:
                return math.exp(bucket / _STEPS)
        return None

    def latencies(self, bounds: Sequence[float]) -> Latencies:
        """The values as a histogram with these bounds, which must be in ascending order."""
        at_most, cumulative, rest = [], 0, deque(sorted(self._buckets.copy().items()))
        for bound in bounds:
            last = round(math.log(bound) * _STEPS)
            while rest and rest[0][0] <= last:
                cumulative += rest.popleft()[1]
            at_most.append(cumulative)
        return Latencies(tuple(at_most), cumulative + sum(count for _, count in rest), self._sum)


class Tally:
    """Counts answers, in one thread, and reports the progress, in any thread."""

    def __init__(self) -> None:
        self.done = self.tokens = self.failed = 0
        self._ttft_ms, self._tpot_ms = Histogram(), Histogram()
        self._marks: deque[tuple[float, int, int]] = deque()

    def add(self, issued_s: float, answer: Answer) -> None:
        """Count an answer to a sample issued at `issued_s`."""
        tokens = len(answer.token_ids)
        self.done += 1
        self.tokens += tokens
        self._ttft_ms.add((answer.first_s - issued_s) * 1000)
        if tokens > 1:
            self._tpot_ms.add((answer.last_s - answer.first_s) * 1000 / (tokens - 1))

    def progress(self, now: float, elapsed_s: float, total: int | None, in_flight: int) -> Progress:
        """The progress at `now` (monotonic seconds); called about once a second."""
        self._marks.append((now, self.done, self.tokens))
        while now - self._marks[0][0] > RATE_WINDOW_S + 0.5:
            self._marks.popleft()
        before, done, tokens = self._marks[0]
        span = now - before
        return Progress(
            done=self.done,
            total=total,
            failed=self.failed,
            in_flight=in_flight,
            samples_per_s=(self.done - done) / span if span > 0 else None,
            tokens_per_s=(self.tokens - tokens) / span if span > 0 else None,
            ttft_ms_p50=self._ttft_ms.quantile(0.5),
            ttft_ms_p99=self._ttft_ms.quantile(0.99),
            tpot_ms_p50=self._tpot_ms.quantile(0.5),
            tpot_ms_p99=self._tpot_ms.quantile(0.99),
            elapsed_s=elapsed_s,
            ttft=self._ttft_ms.latencies(TTFT_BOUNDS_MS),
            tpot=self._tpot_ms.latencies(TPOT_BOUNDS_MS),
        )
