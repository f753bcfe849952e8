"""Attempts at a performance run and the probes of a search: written by the run, read by the report."""

from collections.abc import Iterable
from typing import Literal

from pydantic import BaseModel, ConfigDict


class AttemptRecord(BaseModel):
    """One performance run at one rate, the content of attempts/N/attempt.json.

    Attributes:
        number: from 1.
        target_qps: samples/s offered.
        verdict: LoadGen's, or that the attempt was ended early because it could not become VALID any more. INVALID
            where an engine was lost.
        reason: why it is not VALID, with the figures.
        partial: whether it was ended early, so that LoadGen's summary is empty and the figures are the journal's.
        planned_samples, samples: number of queries of a complete run; number of answered ones.
        started_unix, finished_unix: unix seconds.
        samples_per_s: answers per second over the whole attempt.
        ttft_ms_p99, tpot_ms_p99: of the answered queries, from the journal; None without any.
        over_ttft, over_tpot: queries over each limit.
        forgiven: queries over one limit that early stopping forgives at `planned_samples`; -1 when there are too few
            queries to confirm it.
        engine_lost: whether an engine was lost, so that the attempt says nothing of the rate.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())

    number: int
    target_qps: float
    verdict: Literal["VALID", "INVALID", "ENDED EARLY"]
    reason: str | None
    partial: bool
    planned_samples: int
    samples: int
    started_unix: float
    finished_unix: float
    samples_per_s: float | None
    ttft_ms_p99: float | None
    tpot_ms_p99: float | None
    over_ttft: int
    over_tpot: int
    forgiven: int
    engine_lost: bool = False

    @property
    def held(self) -> bool:
        """Whether the limits held and LoadGen confirmed it."""
        return self.verdict == "VALID" and not self.partial

    @property
    def ended_early(self) -> bool:
        """Whether LoadGen was ended before it could write its result."""
        return self.partial or self.verdict == "ENDED EARLY"


class ProbeRecord(BaseModel):
    """The beginning of a performance run, made by a search, the content of probes/N/probe.json.

    Attributes:
        target_qps: samples/s offered.
        seconds, samples: how long it lasted; number of answered queries.
        ttft_ms_p99, tpot_ms_p99: of the answered queries; None without any.
        over_ttft, over_tpot: queries over each limit, those included that had waited too long for their first token.
        held: whether the whole run could still have become VALID.
        engine_lost: whether an engine was lost, so that the probe says nothing of the rate.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    target_qps: float
    seconds: float
    samples: int
    ttft_ms_p99: float | None
    tpot_ms_p99: float | None
    over_ttft: int
    over_tpot: int
    held: bool
    engine_lost: bool = False

    @property
    def reason(self) -> str:
        """How many queries were over the limit that was broken more often."""
        name, over = ("TTFT", self.over_ttft) if self.over_ttft >= self.over_tpot else ("TPOT", self.over_tpot)
        return f"{over:,} of {self.samples:,} queries over the {name} limit"


class PeakRecord(BaseModel):
    """The result of a search for the highest VALID rate so far; rates in samples/s.

    Attributes:
        probes: in order; the attempts are recorded with the run's.
        highest_valid_qps: of the attempts; None while none was VALID.
        lowest_failed_qps: of probes and attempts above that; None where none failed.
        distance_percent: from the first to the second, of the first.
        sentence: the same in words.
        budget_minutes: for probes, attempts and the accuracy run.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    probes: tuple[ProbeRecord, ...] = ()
    highest_valid_qps: float | None = None
    lowest_failed_qps: float | None = None
    distance_percent: float | None = None
    sentence: str | None = None
    budget_minutes: float | None = None


def bracket(
    runs: Iterable[AttemptRecord | ProbeRecord],
) -> tuple[AttemptRecord | None, AttemptRecord | ProbeRecord | None]:
    """The VALID attempt at the highest rate, and of the runs above it that failed the one at the lowest rate.

    Runs that lost an engine do not count.
    """
    runs = tuple(run for run in runs if not run.engine_lost)
    held = [run for run in runs if isinstance(run, AttemptRecord) and run.held]
    valid = max(held, key=lambda run: run.target_qps, default=None)
    failed = [run for run in runs if not run.held and (valid is None or run.target_qps > valid.target_qps)]
    return valid, min(failed, key=lambda run: run.target_qps, default=None)


def bracket_sentence(
    valid: AttemptRecord | None, failed: AttemptRecord | ProbeRecord | None, limits_ms: tuple[float, float]
) -> str | None:
    """A bracket in words, without a full stop; None where it is empty.

    Args:
        limits_ms: of TTFT and TPOT at the 99th percentile.
    """
    if valid is None and failed is None:
        return None
    highest = f"Highest VALID rate {rate(valid.target_qps)} samples/s" if valid else "No rate was VALID"
    if failed is None:
        return highest
    which = rate(failed.target_qps) if valid else f"the lowest, {rate(failed.target_qps)} samples/s,"
    return f"{highest}; {which} failed: {why_failed(failed, limits_ms)}"


def why_failed(run: AttemptRecord | ProbeRecord, limits_ms: tuple[float, float]) -> str:
    """The 99th percentiles over their limits; where none is, since those who still wait have no latency, the reason."""
    why = percentiles(run, limits_ms) or run.reason or "early stopping could not confirm the limits"
    return why.rstrip(".")


def percentiles(run: AttemptRecord | ProbeRecord, above_ms: tuple[float, float] = (0.0, 0.0)) -> str:
    """A run's 99th percentiles that are over `above_ms`: "TTFT p99 2,310 ms, TPOT p99 120 ms"."""
    pairs = (("TTFT", run.ttft_ms_p99, above_ms[0]), ("TPOT", run.tpot_ms_p99, above_ms[1]))
    return ", ".join(
        f"{name} p99 {value:,.0f} ms" for name, value, above in pairs if value is not None and value > above
    )


def rate(samples_per_s: float) -> str:
    """A rate with about three digits."""
    return f"{samples_per_s:,.{1 if samples_per_s >= 10 else 2}f}"
