"""How far a run is: counts, rates and latencies so far, cheap enough to keep up per answer."""

import math
from collections import deque
from dataclasses import dataclass

from harness.load.client import Answer

RATE_WINDOW_S = 10.0
_STEPS = 100.0  # buckets per factor e: 1 % resolution


@dataclass(frozen=True)
class Progress:
    """A look at a run. Rates are of the last 10 s, latencies of the whole run so far; None = not measured."""

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


class Histogram:
    """Quantiles of positive values within 1 %, in constant time per value."""

    def __init__(self) -> None:
        self._buckets: dict[int, int] = {}
        self._count = 0

    def add(self, value: float) -> None:
        """Count a value; what is not positive counts as the smallest."""
        bucket = round(math.log(max(value, 1e-9)) * _STEPS)
        self._buckets[bucket] = self._buckets.get(bucket, 0) + 1
        self._count += 1

    def quantile(self, share: float) -> float | None:
        """The value that `share` of all values do not exceed; None without values."""
        rank, seen = math.ceil(share * self._count), 0
        for bucket, count in sorted(self._buckets.copy().items()):
            seen += count
            if seen >= rank:
                return math.exp(bucket / _STEPS)
        return None


class Tally:
    """Counts answers as they come (one thread) and says how far the run is (any thread)."""

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
        """A look at `now` (monotonic seconds); called about once a second."""
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
        )
