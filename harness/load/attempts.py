"""Attempts: performance runs at decreasing rates until one holds the latency limits."""

import time
from collections.abc import Callable, Sequence
from itertools import accumulate
from operator import mul
from pathlib import Path
from typing import Literal

import numpy as np

from harness import journal, mllog
from harness.attempt_record import AttemptRecord
from harness.dataset import Dataset
from harness.errors import RunFailed
from harness.files import write_json
from harness.load.loadgen import Outcome, Settings, run_loadgen
from harness.load.progress import Progress
from harness.node import probe
from harness.percentiles import percentile
from harness.spec import Scenario, Spec

_DRAIN_PAUSE_S = 0.2
_OVERLOADED = 0.93  # answers per query issued in the second half; fewer mean that a queue grew
_OF_CAPACITY = 0.85  # next rate as a part of what overloaded engines answered
_LOAD = 0.85  # part of the engines' capacity, assumed where a limit was exceeded without overload
_AIM = 0.7  # part of the limit at which the next attempt's 99th percentile should be
_EARLY = 0.3  # part of the queries; an attempt that ended before that was far too fast
_EARLY_STEP = 0.9  # next rate after such an attempt, as a part of what it would be otherwise
_MOST = (0.85, 0.7, 0.5)  # upper limit of the next rate as a part of the last one, after attempt 1, 2, 3 and later
_MOST_OF_LAST = 0.4  # the same before the last of three attempts or more


class Attempt(AttemptRecord):
    """An attempt with what decides about the next one; the content of attempt.json.

    Attributes:
        second_half: answers per query issued, while the second half of the queries was issued; 1 means that the queue
            did not grow.
        second_half_per_s: answers per second in that time.
        repeatable: whether a lower rate may help; it cannot where an engine was lost.
    """

    second_half: float | None
    second_half_per_s: float | None
    repeatable: bool

    @property
    def left_s(self) -> float:
        """Seconds that a complete run at this rate would have taken longer."""
        return max(0.0, self.planned_samples / self.target_qps - (self.finished_unix - self.started_unix))


def drain(spec: Spec) -> None:
    """Wait until no engine runs or queues a request; an engine that does not report its queue counts as empty.

    One that hangs is given up after `silence_s`, where the run may go on without it: the next run loses it.

    Raises:
        RunFailed: an engine still has requests after `limits.request_timeout_s`, or does not answer and the run may not
            go on without it.
    """
    silence_s = spec.silence_s
    for engine in spec.engines:
        start = changed = time.monotonic()
        before: float | None = None
        while left := _queued(engine.url, may_be_lost=silence_s is not None):
            now = time.monotonic()
            if left != before:
                before, changed = left, now
            if silence_s is not None and now - changed > silence_s:
                break
            if now - start > spec.limits.request_timeout_s:
                raise RunFailed(
                    f"engine {engine.name} still has {left:.0f} requests {spec.limits.request_timeout_s:g} s after "
                    "the last attempt; check its log, and whether another client uses it"
                )
            time.sleep(_DRAIN_PAUSE_S)


def _queued(url: str, *, may_be_lost: bool) -> float:
    try:
        return probe.requests_in_flight(url)
    except (OSError, ValueError) as error:
        if may_be_lost:
            return 0.0  # the next run finds out
        raise RunFailed(f"the engine at {url} does not answer between two attempts: {error}; see its log") from None


def attempt(
    spec: Spec,
    samples: Dataset,
    run_dir: Path,
    number: int,
    target_qps: float,
    on_progress: Callable[[Progress], None],
) -> tuple[Attempt, Outcome]:
    """Run attempt `number`, in `<run_dir>/attempts/<number>/`.

    Raises:
        SamplesFailed, RunFailed, BadInput, NotReady: as `run_loadgen`.
    """
    folder = run_dir / "attempts" / str(number)
    outcome = run_loadgen(
        spec, samples, "performance", run_dir, target_qps, on_progress, folder=folder, ends_early=True
    )
    made = _judged(spec, number, target_qps, outcome, folder)
    write_json(folder / "attempt.json", {"schema": 1, **made.model_dump()})
    return made, outcome


def _judged(spec: Spec, number: int, target_qps: float, outcome: Outcome, folder: Path) -> Attempt:
    verdict: Literal["VALID", "INVALID", "ENDED EARLY"] = "ENDED EARLY"
    reason, repeatable = outcome.ended_early, True
    if not outcome.ended_early:
        values, _ = mllog.read(folder / "performance" / "mlperf_log_detail.txt")
        verdict = "VALID" if values.get("result_validity") == "VALID" else "INVALID"
        repeatable = verdict == "INVALID" and outcome.forgiven >= 0 and _too_fast(values)
        reason = None if verdict == "VALID" else _reason(spec.scenario, outcome, values)
    if outcome.engines_lost:
        verdict, reason, repeatable = "INVALID", outcome.engines_lost, False
    seconds = outcome.finished_unix - outcome.started_unix
    expected = Settings.of(spec, "performance", target_qps).expected_samples
    return Attempt(
        number=number,
        target_qps=target_qps,
        verdict=verdict,
        reason=reason,
        partial=outcome.ended_early is not None,
        planned_samples=expected if outcome.ended_early else outcome.issued,
        samples=outcome.samples,
        started_unix=outcome.started_unix,
        finished_unix=outcome.finished_unix,
        samples_per_s=outcome.samples / seconds if seconds > 0 else None,
        over_ttft=outcome.over_ttft,
        over_tpot=outcome.over_tpot,
        forgiven=outcome.forgiven,
        repeatable=repeatable,
        engine_lost=bool(outcome.engine_losses),
        **journal_figures(folder / "journal.jsonl", outcome.issued),
    )


def _too_fast(values: dict[str, object]) -> bool:
    """Whether LoadGen says INVALID because of a latency limit."""
    return values.get("result_perf_constraints_met") is False or values.get("early_stopping_met") is False


def _reason(scenario: Scenario, outcome: Outcome, values: dict[str, object]) -> str:
    over = [
        f"{count} of {outcome.samples:,} queries exceeded the {name} limit of {limit:,.0f} ms"
        for name, count, limit in (
            ("TTFT", outcome.over_ttft, scenario.ttft_limit_ms or 0),
            ("TPOT", outcome.over_tpot, scenario.tpot_limit_ms or 0),
        )
        if count
    ]
    forgives = f"early stopping forgives {outcome.forgiven}"
    if outcome.forgiven < 0:
        forgives = f"{outcome.samples:,} queries are too few for early stopping to confirm a limit"
    return "; ".join([*over, forgives]) if _too_fast(values) else str(values.get("result_invalid_reason"))


def journal_figures(path: Path, issued: int) -> dict[str, float | None]:
    """99th percentiles, and the ratio of answers to queries in the second half of the time of issuing."""
    answers = journal.read(path).answers
    rows = np.array(
        [(line["issued_s"], line["first_s"], line["last_s"], line["n_tokens"]) for line in answers]
    ).reshape(-1, 4)
    if not len(rows):
        return dict.fromkeys(("ttft_ms_p99", "tpot_ms_p99", "second_half", "second_half_per_s"))
    issued_s, first_s, last_s, tokens = rows.T
    several = tokens > 1
    tpot = (last_s - first_s)[several] / (tokens[several] - 1)
    # The journal lacks unanswered queries; with a constant rate they are taken to be spread evenly.
    end = issued_s.max() if issued == len(rows) else last_s.max()
    half = end / 2
    answered = int(((last_s > half) & (last_s <= end)).sum())
    due = issued / 2 if issued != len(rows) else int((issued_s > half).sum())
    return {
        "ttft_ms_p99": percentile((first_s - issued_s) * 1000, 99),
        "tpot_ms_p99": percentile(tpot * 1000, 99),
        "second_half": answered / due if due else None,
        "second_half_per_s": answered / half if half > 0 else None,
    }


def next_rate(attempts: Sequence[Attempt], most: int, scenario: Scenario) -> float | None:
    """The rate of the next attempt in samples/s; None when the last is VALID, or another is not allowed or useful.

    Where a queue grew, the engines' capacity is known, and the next rate is below it. Where a limit was exceeded
    otherwise, the waiting time is assumed to grow with the load r as r / (1 - r), and the next rate is the one at which
    it would be well below its limit. Steps become larger, so that the last attempt is a safe one.
    """
    last, number = attempts[-1], len(attempts)
    if not last.repeatable or last.verdict == "VALID" or number >= most:
        return None
    factor = _factor(last, scenario)
    if last.partial and last.samples < _EARLY * last.planned_samples:
        factor *= _EARLY_STEP
    return float(f"{last.target_qps * min(factor, _ceiling(number, most)):.4g}")


def rates_at_most(most: int) -> list[float]:
    """The highest rate of each of `most` attempts, as a part of the first one's."""
    return list(accumulate((_ceiling(number, most) for number in range(1, most)), mul, initial=1.0))


def all_attempts_s(spec: Spec, first_qps: float) -> float:
    """Seconds of all the attempts that there may be, each whole and at the highest rate that it may have, and of the
    runs after the last, at its rate."""
    rates = [first_qps * factor for factor in rates_at_most(spec.rate_attempts)]
    attempts_s = (Settings.of(spec, "performance", rate).expected_samples / rate for rate in rates)
    return sum(attempts_s) + after_s(spec, rates[-1])


def after_s(spec: Spec, qps: float) -> float:
    """Seconds of the runs that follow the performance run, at a rate."""
    runs = (Settings.of(spec, mode, qps) for mode in spec.mode.runs if mode != "performance")
    return sum(settings.expected_samples for settings in runs) / qps


def _ceiling(number: int, most: int) -> float:
    """Upper limit of the rate after attempt `number`, as a part of that attempt's."""
    return _MOST_OF_LAST if number + 1 == most and most > 2 else _MOST[min(number, len(_MOST)) - 1]


def _factor(last: Attempt, scenario: Scenario) -> float:
    if last.second_half is not None and last.second_half < _OVERLOADED and last.second_half_per_s:
        return _OF_CAPACITY * last.second_half_per_s / last.target_qps
    over = max(
        1.0,
        (last.ttft_ms_p99 or 0) / (scenario.ttft_limit_ms or float("inf")),
        (last.tpot_ms_p99 or 0) / (scenario.tpot_limit_ms or float("inf")),
    )
    wait = _LOAD / (1 - _LOAD) * _AIM / over
    return wait / (1 + wait) / _LOAD
