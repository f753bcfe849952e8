"""Load without LoadGen: warming engines up, and finding the rate they hold."""

import dataclasses
import itertools
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, cast

import numpy as np

from harness.dataset import vocab_size
from harness.errors import RunFailed
from harness.load.client import Answer
from harness.load.dispatch import Dispatcher
from harness.load.progress import Tally
from harness.load.worker import Report
from harness.spec import OFFLINE_MARGIN, EngineRef, Scenario, Spec, parse_spec

WARM_UP_PER_ENGINE = 4
_STEADY = 0.1  # a round of warming up that is this much quicker than the one before is followed by another
_WARM_UP_LONGEST_S = 30.0
_RAMP = 0.25  # of calibration_s, in which load is added, so that answers do not come in waves
_TURN_MOST = 4  # times calibration_s: the longest wait for an engine to answer as many as it is given at once
_LEAST_PER_ENGINE = 10
_PRECISE = 0.05  # half of the rate's 95 % confidence interval, as a part of it, at which counting ends
_LONG = 4  # times calibration_s: the longest count for the sake of that precision
_LONGEST = 12  # times calibration_s
_JUDGED_EVERY_S = 0.25
_BATCHES = 8
_T_BATCHES = 2.365  # Student's t for 95 % and _BATCHES - 1 degrees of freedom
_MARGINS = (0.8, 0.7, 0.6, 0.5, 0.35)  # of the closed-loop rate, tried in turn
_PROBE = 0.5  # length of a probe, of calibration_s
_LEAST_PER_PROBE = 20


def warm_up(payload: dict[str, Any], report: Report) -> dict[str, Any]:
    """Send a few samples to every engine at once, again and again until that takes no less time than before."""
    spec = parse_spec(payload["spec"])
    load = _Load(spec, payload["prompts"], report)
    end, before_s, now_s = time.perf_counter() + _WARM_UP_LONGEST_S, float("inf"), time.perf_counter()
    with load.dispatcher:
        while True:
            began_s = now_s
            load.issue(WARM_UP_PER_ENGINE * len(spec.engines))
            load.drain()
            now_s = time.perf_counter()
            if now_s - began_s > (1 - _STEADY) * before_s or now_s > end:
                return {"samples": load.tally.done}
            before_s = now_s - began_s


def calibrate(payload: dict[str, Any], report: Report) -> dict[str, Any]:
    """Measure the closed-loop rate, then choose the rate to ask for; returns the Calibration's values."""
    spec = parse_spec(payload["spec"])
    started = time.perf_counter()
    load = _Load(spec, payload["prompts"], report)
    with load.dispatcher:
        rates, uncertain = _closed_loop(spec, load)
        total = sum(rates.values())
        load.drain()
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
    }


def choose(total: float, probe: Callable[[float], dict[str, Any]]) -> tuple[float, list[dict[str, Any]]]:
    """The highest of a few rates below `total` whose probe held the limits, or the lowest of them; and all probes."""
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
    """Issues samples of the share in a shuffled cycle and keeps every answer. A Listener; keys are times of issue."""

    def __init__(self, spec: Spec, prompts: list[list[int]], report: Report) -> None:
        self._first_index, self._report = spec.window.start, report
        self._order: Iterator[int] = itertools.cycle(
            np.random.default_rng(spec.seed).permutation(len(prompts)).tolist()
        )
        self._started_s = time.perf_counter()
        self._looked_s = self._started_s
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
        )

    def issue(self, count: int) -> None:
        """Issue so many samples now."""
        now = time.perf_counter()
        self.issued += count
        self.dispatcher.submit([(now, next(self._order)) for _ in range(count)])

    def wait(self, until_s: float) -> None:
        """Rest until a monotonic time or until an answer has come, whichever is sooner; reports progress."""
        now = time.perf_counter()
        with self._finished:
            if until_s > now:
                self._finished.wait(min(until_s - now, 0.5))
        if time.perf_counter() - self._looked_s >= 1:
            self.look()

    def look(self) -> None:
        """Report progress."""
        self._looked_s = time.perf_counter()
        elapsed_s = self._looked_s - self._started_s
        progress = self.tally.progress(self._looked_s, elapsed_s, None, self.dispatcher.in_flight)
        self._report({"progress": dataclasses.asdict(progress), "owed": self.owed > 0, "idle_s": 0.0})

    def counts(self) -> dict[str, int]:
        """Answers of each engine so far."""
        return self._answered.copy()

    @property
    def owed(self) -> int:
        """Samples issued and not answered."""
        return self.issued - self.tally.done

    def drain(self) -> None:
        """Wait for every answer; one that never comes is for the watchdog of the parent."""
        while self.owed:
            self.wait(time.perf_counter() + 0.5)

    def on_first(self, key: Hashable, sample: int, token_ids: list[int]) -> None:
        """Nothing: the answer carries the stamp."""

    def on_done(self, key: Hashable, sample: int, engine: str, answer: Answer) -> None:
        """Keep the answer."""
        issued_s = cast(float, key)
        self.done.append(_Done(engine, issued_s, answer))
        self._answered[engine] += 1
        with self._finished:
            self.tally.add(issued_s, answer)
            self._finished.notify()

    def on_failed(self, key: Hashable, sample: int, engine: str, reason: str) -> None:
        """Report the sample; the parent ends this process."""
        self._report({"failed": {"qsl_idx": self._first_index + sample, "engine": engine, "reason": reason}})

    def on_crash(self, reason: str) -> None:
        """Report a defect of our own."""
        self._report({"error": f"the dispatcher failed: {reason}", "kind": "RunFailed"})


def uncertainty(times: Sequence[float]) -> float:
    """Half of the 95 % confidence interval of the rate at which answers came, as a part of the rate.

    By the means of 8 batches of equal count, which are long beside what ties one answer to the next; 1 (that is 100 %)
    at most, and while there are too few answers for batches of two.

    Args:
        times: when answers came, in seconds, rising.
    """
    size = (len(times) - 1) // _BATCHES
    if size < 2:
        return 1.0
    spans = np.diff(np.asarray(times)[-1 - size * _BATCHES :: size])
    return min(1.0, float(_T_BATCHES * spans.std(ddof=1) / np.sqrt(_BATCHES) / spans.mean()))


def _closed_loop(spec: Spec, load: _Load) -> tuple[dict[str, float], float]:
    """Samples/s of each engine with its `max_in_flight` requests always under way, and how uncertain their sum is.

    Counted from when every engine has answered as many as it is given at once (the first of them pay for whatever the
    engine does only once), and until each has answered as many again: requests that began together end together, so
    whole waves are counted. Then until the rate is known well, or for long.
    """
    length = spec.limits.calibration_s
    full = sum(engine.max_in_flight for engine in spec.engines)
    start = time.perf_counter()
    began, judged, longest, counting = start, start, start + _LONGEST * length, False
    before = dict.fromkeys((engine.name for engine in spec.engines), 0)
    while (now := time.perf_counter()) < longest:
        counts = load.counts()
        turned = all(counts[engine.name] - before[engine.name] >= engine.max_in_flight for engine in spec.engines)
        enough = min(counts[name] - before[name] for name in before) >= _LEAST_PER_ENGINE
        turned = turned or now > began + _TURN_MOST * length
        if turned and not counting:
            began, before, counting = now, counts, True
        elif turned and enough and now >= max(began + length, judged + _JUDGED_EVERY_S):
            judged = now
            answers = load.done[sum(before.values()) :]
            uncertain = uncertainty(sorted(one.answer.last_s for one in answers))
            if uncertain <= _PRECISE or now >= began + _LONG * length:
                return {engine.name: _rate(engine, answers, began, now) for engine in spec.engines}, uncertain
        wanted = min(full, max(len(spec.engines), int(full * (now - start) / (_RAMP * length))))
        if wanted > load.owed:
            load.issue(wanted - load.owed)
        load.wait(now + 0.02)
    counts = load.counts()
    slowest = min(before, key=lambda name: counts[name] - before[name])
    raise RunFailed(
        f"calibration: engine {slowest} finished {counts[slowest] - before[slowest]} samples in "
        f"{longest - began:.0f} s, too few for a rate; raise limits.calibration_s or give target_qps "
        "as a number"
    )


def _rate(engine: EngineRef, answers: Sequence[_Done], began: float, now: float) -> float:
    """Samples/s of an engine since `began`, over whole turns of as many answers as it is given at once."""
    times = sorted(one.answer.last_s for one in answers if one.engine == engine.name)
    whole = len(times) // engine.max_in_flight * engine.max_in_flight
    return whole / (times[whole - 1] - began) if whole else len(times) / (now - began)


def _probe(spec: Spec, load: _Load, rate: float) -> dict[str, Any]:
    """Issue at a Poisson rate for a short time and compare the 99th percentiles with the scenario's limits."""
    count = max(_LEAST_PER_PROBE, round(rate * _PROBE * spec.limits.calibration_s))
    before, now = len(load.done), time.perf_counter()
    for due in now + np.random.default_rng(spec.seed).exponential(1 / rate, count).cumsum():
        while time.perf_counter() < due:
            load.wait(float(due))
        load.issue(1)
    load.drain()
    answers = load.done[before:]
    ttft_ms = float(np.percentile([(one.answer.first_s - one.issued_s) * 1000 for one in answers], 99))
    tpots = [
        (one.answer.last_s - one.answer.first_s) * 1000 / (len(one.answer.token_ids) - 1)
        for one in answers
        if len(one.answer.token_ids) > 1
    ]
    tpot_ms = float(np.percentile(tpots, 99)) if tpots else 0.0
    limits = spec.scenario
    held = ttft_ms <= (limits.ttft_limit_ms or 0) and tpot_ms <= (limits.tpot_limit_ms or 0)
    return {"target_qps": rate, "ttft_ms_p99": ttft_ms, "tpot_ms_p99": tpot_ms, "samples": len(answers), "held": held}
