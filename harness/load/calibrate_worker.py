"""Load without LoadGen: warm engines up, and measure the rate that they hold."""

import dataclasses
import itertools
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, cast

import numpy as np

from harness.dataset import vocab_size
from harness.errors import RunFailed
from harness.load.answer import Answer
from harness.load.dispatch import Dispatcher
from harness.load.progress import Tally
from harness.load.worker import Report
from harness.percentiles import percentile
from harness.spec import OFFLINE_MARGIN, EngineRef, Scenario, Spec, parse_spec

WARM_UP_PER_ENGINE = 4
_STEADY = 0.1  # a warm-up round that is faster by at least this part than the one before is repeated
_WARM_UP_LONGEST_S = 30.0
_RAMP = 0.25  # part of calibration_s in which load is added, so that answers do not arrive in waves
_TURN_MOST = 4  # times calibration_s: the longest wait until an engine has answered max_in_flight requests
_LEAST_PER_ENGINE = 10
_PRECISE = 0.05  # relative half width of the rate's 95 % confidence interval at which counting ends
_PRECISE_LOOKS = 2  # in a row that must find it: of many looks, one finds it by chance too early
_GROWTH = 1.25  # answers at a look over those at the one before
_LONG = 4  # times calibration_s: the longest count to reach that precision
_LONGEST = 12  # times calibration_s: the longest measurement of the closed-loop rate
_BATCHES = 8
_T_BATCHES = 2.365  # Student's t for 95 % and _BATCHES - 1 degrees of freedom
_MARGINS = (0.8, 0.7, 0.6, 0.5, 0.35)  # parts of the closed-loop rate, tried in this order
_PROBE = 0.5  # length of a probe as a part of calibration_s
_LEAST_PER_PROBE = 20


def warm_up(payload: dict[str, Any], report: Report) -> dict[str, Any]:
    """Send a few samples to every engine at once, repeated until a round is no faster than the one before.

    An engine that is lost here is not waited for: the run that follows looks for it again, and tells of its loss.
    """
    spec = parse_spec(payload["spec"])
    load = _Load(spec, payload["prompts"], report, silence_s=spec.silence_s)
    end, before_s, now_s = time.perf_counter() + _WARM_UP_LONGEST_S, float("inf"), time.perf_counter()
    with load.dispatcher:
        while True:
            started_s = now_s
            load.issue(WARM_UP_PER_ENGINE * len(spec.engines))
            load.drain()
            now_s = time.perf_counter()
            steady = now_s - started_s > (1 - _STEADY) * before_s
            if steady or now_s > end:
                return {"samples": load.tally.done, "steady": steady}
            before_s = now_s - started_s


def calibrate(payload: dict[str, Any], report: Report) -> dict[str, Any]:
    """Measure the closed-loop rate, then choose a target rate; returns the values of a Calibration."""
    spec = parse_spec(payload["spec"])
    started = time.perf_counter()
    load = _Load(spec, payload["prompts"], report)
    with load.dispatcher:
        rates, uncertain = _closed_loop(spec, load)
        total = sum(rates.values())
        load.drain()
        load.dispatcher.set_speeds(rates)
        target, tried = total * OFFLINE_MARGIN, list[dict[str, Any]]()
        if spec.scenario is not Scenario.OFFLINE:
            target, tried = choose(total * (1 - min(uncertain, 0.5)), lambda rate: _probe(spec, load, rate))
    return {
        "samples_per_s": total,
        "uncertainty_percent": 100 * uncertain,
        "by_engine": rates,
        "target_qps": float(f"{target:.4g}"),
        "tried": tried,
        "seconds": time.perf_counter() - started,
        "samples": load.tally.done,
        "slowest_s": load.slowest_s(),
    }


def choose(total: float, probe: Callable[[float], dict[str, Any]]) -> tuple[float, list[dict[str, Any]]]:
    """The highest of a few rates below `total` whose probe held the limits, or the lowest rate; and all probes."""
    tried: list[dict[str, Any]] = []
    for margin in _MARGINS:
        tried.append(probe(total * margin))
        if tried[-1]["held"]:
            break
    return tried[-1]["target_qps"], tried


@dataclasses.dataclass(frozen=True, slots=True)
class _Done:
    engine: str
    issued_s: float
    answer: Answer


class _Load:
    """Issues samples of the share in shuffled cycles and keeps all answers. A Listener; keys are issue times."""

    def __init__(self, spec: Spec, prompts: list[list[int]], report: Report, *, silence_s: float | None = None) -> None:
        self._first_index, self._report = spec.window.start, report
        self._order: Iterator[int] = itertools.cycle(
            np.random.default_rng(spec.seed).permutation(len(prompts)).tolist()
        )
        self._started_s = time.perf_counter()
        self._reported_s = self._started_s
        self._finished = threading.Condition()
        self.issued = 0
        self.tally = Tally()
        self.done: list[_Done] = []
        self._answered = dict.fromkeys((engine.name for engine in spec.engines), 0)
        self.dispatcher = Dispatcher(
            spec.engines,
            prompts,
            self,
            vocab_size=vocab_size(spec.model),
            seed=spec.seed,
            timeout_s=spec.limits.request_timeout_s,
            silence_s=silence_s,
        )

    def issue(self, count: int) -> None:
        """Issue `count` samples now."""
        now = time.perf_counter()
        self.issued += count
        self.dispatcher.submit([(now, next(self._order)) for _ in range(count)])

    def wait(self, until_s: float) -> None:
        """Wait until a monotonic time or the next answer, whichever comes first; reports progress."""
        now = time.perf_counter()
        with self._finished:
            if until_s > now:
                self._finished.wait(min(until_s - now, 0.5))
        if time.perf_counter() - self._reported_s >= 1:
            self.report_progress()

    def report_progress(self) -> None:
        """Report progress to the parent process."""
        self._reported_s = time.perf_counter()
        elapsed_s = self._reported_s - self._started_s
        progress = self.tally.progress(self._reported_s, elapsed_s, None, self.dispatcher.in_flight)
        self._report({"progress": dataclasses.asdict(progress), "owed": self.owed > 0, "idle_s": 0.0})

    def slowest_s(self) -> dict[str, float]:
        """The longest request of each engine so far, in seconds."""
        slowest: dict[str, float] = {}
        for done in self.done:
            slowest[done.engine] = max(slowest.get(done.engine, 0.0), done.answer.last_s - done.answer.sent_s)
        return slowest

    def counts(self) -> dict[str, int]:
        """Number of answers from each engine so far."""
        return self._answered.copy()

    @property
    def owed(self) -> int:
        """Number of samples issued and not yet answered."""
        return self.issued - self.tally.done

    def drain(self) -> None:
        """Wait for all answers; the parent's watchdog handles those that never arrive."""
        while self.owed:
            self.wait(time.perf_counter() + 0.5)

    def on_first(self, key: Hashable, sample: int, token_ids: list[int]) -> None:
        """Does nothing: the answer has the timestamp."""

    def on_done(self, key: Hashable, sample: int, engine: str, answer: Answer) -> None:
        """Store the answer."""
        issued_s = cast(float, key)
        self.done.append(_Done(engine, issued_s, answer))
        self._answered[engine] += 1
        with self._finished:
            self.tally.add(issued_s, answer)
            self._finished.notify()

    def on_failed(self, key: Hashable, sample: int, engine: str, reason: str) -> None:
        """Report the failed sample; the parent then ends this process."""
        self._report({"failed": {"qsl_idx": self._first_index + sample, "engine": engine, "reason": reason}})

    def on_crash(self, reason: str) -> None:
        """Report an internal error."""
        self._report({"error": f"the dispatcher failed: {reason}", "kind": "RunFailed"})


def uncertainty(times: Sequence[float]) -> float:
    """Relative half width of the 95 % confidence interval of the rate of answers.

    From the means of 8 batches with equal counts, which are long compared to the correlation of successive answers. At
    most 1 (100 %), which is also the value with too few answers for batches of two.

    Args:
        times: arrival times of answers in seconds, ascending.
    """
    size = (len(times) - 1) // _BATCHES
    if size < 2:
        return 1.0
    spans = np.diff(np.asarray(times)[-1 - size * _BATCHES :: size])
    return min(1.0, float(_T_BATCHES * spans.std(ddof=1) / np.sqrt(_BATCHES) / spans.mean()))


@dataclasses.dataclass(slots=True)
class Looks:
    """When to look at the precision of a rate, and when it suffices.

    Looking often and stopping at the first precise value would favour moments at which answers come evenly by chance,
    and the interval would miss the true rate more often than it says.
    """

    answers: int = 0
    precise: int = 0

    def due(self, answers: int) -> bool:
        """Whether enough answers have been added since the last look."""
        return answers >= _GROWTH * self.answers

    def enough(self, answers: int, uncertain: float) -> bool:
        """Take a look's relative half width; whether the rate is known."""
        self.answers, self.precise = answers, self.precise + 1 if uncertain <= _PRECISE else 0
        return self.precise >= _PRECISE_LOOKS


def _closed_loop(spec: Spec, load: _Load) -> tuple[dict[str, float], float]:
    """Samples/s of each engine with `max_in_flight` requests always in flight, and the uncertainty of their sum.

    Counting starts when every engine has answered `max_in_flight` requests, since the first ones pay for one-time work,
    and lasts at least until each has answered as many again: requests that start together end together, so whole waves
    are counted. It continues until the rate is precise enough, or the time limit is reached.
    """
    length = spec.limits.calibration_s
    full = sum(engine.max_in_flight for engine in spec.engines)
    start = time.perf_counter()
    count_start, longest, counting, looks = start, start + _LONGEST * length, False, Looks()
    before = dict.fromkeys((engine.name for engine in spec.engines), 0)
    while (now := time.perf_counter()) < longest:
        counts = load.counts()
        turned = all(counts[engine.name] - before[engine.name] >= engine.max_in_flight for engine in spec.engines)
        enough = min(counts[name] - before[name] for name in before) >= _LEAST_PER_ENGINE
        turned = turned or now > count_start + _TURN_MOST * length
        if turned and not counting:
            count_start, before, counting = now, counts, True
        elif turned and enough and now >= count_start + length:
            answers, over = load.done[sum(before.values()) :], now >= count_start + _LONG * length
            if over or looks.due(len(answers)):
                uncertain = uncertainty(sorted(one.answer.last_s for one in answers))
                if looks.enough(len(answers), uncertain) or over:
                    return {one.name: _rate(one, answers, count_start, now) for one in spec.engines}, uncertain
        wanted = min(full, max(len(spec.engines), int(full * (now - start) / (_RAMP * length))))
        if wanted > load.owed:
            load.issue(wanted - load.owed)
        load.wait(now + 0.02)
    counts = load.counts()
    slowest = min(before, key=lambda name: counts[name] - before[name])
    raise RunFailed(
        f"calibration: engine {slowest} finished {counts[slowest] - before[slowest]} samples in "
        f"{longest - count_start:.0f} s, too few for a rate; raise limits.calibration_s or set target_qps "
        "to a number"
    )


def _rate(engine: EngineRef, answers: Sequence[_Done], start: float, now: float) -> float:
    """Samples/s of an engine since `start`, over whole multiples of `max_in_flight` answers."""
    times = sorted(one.answer.last_s for one in answers if one.engine == engine.name)
    whole = len(times) // engine.max_in_flight * engine.max_in_flight
    return whole / (times[whole - 1] - start) if whole else len(times) / (now - start)


def _probe(spec: Spec, load: _Load, rate: float) -> dict[str, Any]:
    """Issue samples as a Poisson process for a short time and compare the 99th percentiles with the limits."""
    count = max(_LEAST_PER_PROBE, round(rate * _PROBE * spec.limits.calibration_s))
    before, now = len(load.done), time.perf_counter()
    for due in now + np.random.default_rng(spec.seed).exponential(1 / rate, count).cumsum():
        while time.perf_counter() < due:
            load.wait(float(due))
        load.issue(1)
    load.drain()
    answers = load.done[before:]
    ttft_ms = percentile(np.array([(one.answer.first_s - one.issued_s) * 1000 for one in answers]), 99) or 0.0
    tpots = [
        (one.answer.last_s - one.answer.first_s) * 1000 / (len(one.answer.token_ids) - 1)
        for one in answers
        if len(one.answer.token_ids) > 1
    ]
    tpot_ms = percentile(np.array(tpots), 99) or 0.0
    limits = spec.scenario
    held = ttft_ms <= (limits.ttft_limit_ms or 0) and tpot_ms <= (limits.tpot_limit_ms or 0)
    return {"target_qps": rate, "ttft_ms_p99": ttft_ms, "tpot_ms_p99": tpot_ms, "samples": len(answers), "held": held}
