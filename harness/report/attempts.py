"""The attempts of a performance run in words, and the one setting that would help where the last did not hold."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.attempt_record import AttemptRecord, PeakRecord, bracket, bracket_sentence, percentiles, rate
from harness.report.load_inputs import LoadGenRun
from harness.report.record import Reason
from harness.report.rules import Rule

FEW_SEQUENCES = 2.0
"""In flight per engine; at so few, a lower max_num_seqs would change nothing."""


@dataclass(frozen=True, slots=True)
class Load:
    """Load of the engines in the judged attempt.

    Args:
        distinct_samples: how many different samples were answered.
        in_flight: mean number of requests in flight per engine; None where nothing was answered.
        max_num_seqs: the engines' smallest limit of sequences; None where one is not known.
        tokens_per_step: the fewest tokens that an engine may compute in one step; None where one is not known.
    """

    distinct_samples: int = 0
    in_flight: float | None = None
    max_num_seqs: int | None = None
    tokens_per_step: int | None = None


def describe(attempt: AttemptRecord) -> str:
    """An attempt's rate with its figures, for a list: "41.2 samples/s (TTFT p99 2,310 ms, TPOT p99 35 ms)"."""
    figures = percentiles(attempt)
    return f"{rate(attempt.target_qps)} samples/s" + (f" ({figures})" if figures else "")


def attempt_reasons(loadgen: LoadGenRun, load: Load) -> Iterator[Reason]:
    """An attempt that was ended early is no result; where the last one did not hold, what was tried and would help."""
    last, spec = loadgen.last_attempt, loadgen.spec
    if last is None or spec is None:
        return
    if last.ended_early:
        yield Rule.ATTEMPT_ENDED_EARLY.reason(
            node=loadgen.host,
            number=last.number,
            rate=rate(last.target_qps),
            samples=last.samples,
            planned=last.planned_samples,
            why=_why_ended_early(last),
        )
    log = loadgen.performance
    too_fast = last.ended_early or (log and False in (log.latency_limits_met, log.early_stopping_met))
    ttft, tpot = spec.scenario.ttft_limit_ms, spec.scenario.tpot_limit_ms
    if loadgen.losses_in(loadgen.judged):
        return  # no other rate would have helped
    # Where too few queries can confirm no limit (forgiven is negative), another rate would change nothing.
    if too_fast and last.forgiven >= 0 and loadgen.finished and ttft is not None and tpot is not None:
        yield Rule.NO_ATTEMPT_HELD.reason(
            node=loadgen.host,
            count=f"{len(loadgen.attempts)} attempt{'s' if len(loadgen.attempts) > 1 else ''}",
            tried="; ".join(describe(attempt) for attempt in loadgen.attempts),
            advice=advice(loadgen.attempts, (ttft, tpot), load, search=loadgen.outcome.peak is not None),
        )


def _why_ended_early(attempt: AttemptRecord) -> str:
    return attempt.reason or (
        f"{attempt.over_ttft} queries were over the TTFT limit and {attempt.over_tpot} over the TPOT limit, "
        f"of which early stopping forgives {max(attempt.forgiven, 0)}"
    )


def advice(
    attempts: Sequence[AttemptRecord], limits_ms: tuple[float, float], load: Load, *, search: bool = False
) -> str:
    """The one setting that would help most, by what the last attempt, the one at the lowest rate, broke.

    Args:
        attempts: all of one LoadGen, in order; none of them held.
        limits_ms: TTFT and TPOT limit at the 99th percentile.
        load: the last attempt's load.
        search: whether the attempts ended a search for the highest rate, which has a budget of minutes.
    """
    last, forgiven = attempts[-1], max(attempts[-1].forgiven, 0)
    worst = max(last.over_ttft, last.over_tpot)
    before = [max(attempt.over_ttft, attempt.over_tpot) for attempt in attempts[:-1]]
    figures = zip((last.ttft_ms_p99, last.tpot_ms_p99), limits_ms, strict=True)
    broken = any(value is not None and value > limit for value, limit in figures)
    if not last.ended_early and not broken:
        return (
            f"more samples, since both limits held at the 99th percentile, but {last.planned_samples:,} queries are "
            f"too few to confirm it with {worst} of them over a limit"
        )
    if before and worst <= 2 * forgiven + 1 and worst < min(before):
        setting = "a longer peak_budget_minutes" if search else f"a higher rate_attempts than {len(attempts)}"
        return f"{setting}, since the last rate came close to holding"
    if last.over_tpot > last.over_ttft:
        return _faster_tokens(load, limits_ms[1])
    return _earlier_first_tokens(last, limits_ms[1], load)


def _faster_tokens(load: Load, limit_ms: float) -> str:
    flight = load.in_flight
    if flight is None or flight <= FEW_SEQUENCES:
        few = "" if flight is None else f" with {flight:.1f} requests in flight per engine"
        return f"a faster engine (quantised weights, or another GPU), since tokens took over {limit_ms:.0f} ms{few}"
    limit = max(1, int(min(flight, load.max_num_seqs or flight) / 2))
    return (
        f"max_num_seqs lowered to about {limit}, since {flight:.1f} requests in flight per engine made tokens take "
        f"over {limit_ms:.0f} ms"
    )


def _earlier_first_tokens(last: AttemptRecord, tpot_limit_ms: float, load: Load) -> str:
    flight, slots, answered = load.in_flight, load.max_num_seqs, last.samples_per_s
    if flight and slots and flight >= 0.9 * slots:
        if last.tpot_ms_p99 is not None and last.tpot_ms_p99 <= tpot_limit_ms / 2:
            return f"a higher max_num_seqs than {slots}, since requests waited while tokens were fast enough"
        return f"more engines, since requests waited for one of {slots} sequences per engine"
    if answered and answered < 0.9 * last.target_qps:
        return (
            f"target_qps={rate(0.8 * answered)}, since {rate(answered)} samples/s were answered of "
            f"{rate(last.target_qps)} sent and the queue grew"
        )
    tokens = load.tokens_per_step
    lower = f"= {max(tokens // 2, slots or 1)} in place of {tokens}" if tokens else "at half of the value in vLLM's log"
    return (
        f"max_num_batched_tokens {lower}, since the engines kept up with the rate but first tokens waited for long "
        "prefill steps"
    )


def highest_valid(
    attempts: Sequence[AttemptRecord], limits_ms: tuple[float, float], peak: PeakRecord | None
) -> str | None:
    """The highest rate that was VALID and the lowest that failed, in one sentence; None where there was one rate.

    That of a search was written by the run, since it rests on probes, too.
    """
    if peak and peak.sentence:
        return peak.sentence.rstrip(".")
    return bracket_sentence(*bracket(attempts), limits_ms) if len(attempts) > 1 else None
