"""The highest rate that is VALID, found on the running engines: probes, then attempts, as `search` says."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import orjson

from harness.dataset import Dataset
from harness.errors import RunFailed
from harness.files import write_json
from harness.load.attempts import Attempt, attempt, journal_figures
from harness.load.forecast import Trace, Workload
from harness.load.loadgen import Outcome, Settings, run_loadgen
from harness.load.progress import Progress
from harness.load.schedule import arrivals, order
from harness.load.search import Question, Run, Step, next_step
from harness.spec import Mode, Spec

LENGTHS = 2.5
"""Lengths of a whole performance run that the default budget has for probes and attempts."""
_HIGHEST = 3.0  # over the rate that the search starts from: none is tried above


@dataclasses.dataclass(frozen=True)
class Probe:
    """The beginning of a performance run; latencies in ms, over the answered queries.

    `held`: it could still have become VALID when it ended.
    """

    target_qps: float
    seconds: float
    samples: int
    ttft_ms_p99: float | None
    tpot_ms_p99: float | None
    over_ttft: int
    over_tpot: int
    held: bool


@dataclasses.dataclass(frozen=True)
class Peak:
    """What the search has found so far; rates in samples/s.

    Attributes:
        probes: in order; the attempts are recorded with the run's.
        highest_valid_qps: of the attempts; None while none was VALID.
        lowest_failed_qps: of probes and attempts above that; None where none failed.
        distance_percent: from the first to the second, of the first.
        sentence: the same in words.
        budget_minutes: for probes, attempts and the accuracy run.
    """

    probes: tuple[Probe, ...] = ()
    highest_valid_qps: float | None = None
    lowest_failed_qps: float | None = None
    distance_percent: float | None = None
    sentence: str | None = None
    budget_minutes: float | None = None


def default_budget_minutes(performance_s: float, accuracy_s: float) -> float:
    """What a search may take by default, of the length of a performance and of an accuracy run at the rate it starts
    from."""
    return (LENGTHS * performance_s + accuracy_s) / 60


def budget_minutes(spec: Spec, start_qps: float) -> float:
    """The minutes a search of this spec may take: those asked for, or the default."""
    window, queries = spec.window, Settings.of(spec, "performance", start_qps).expected_samples
    accuracy = (window.stop - window.start) / start_qps if spec.mode is Mode.BOTH else 0.0
    return spec.peak_budget_minutes or default_budget_minutes(queries / start_qps, accuracy)


class Search:
    """A search under way; `step` makes the next probe or attempt.

    Args:
        spec: of scenario server or interactive.
        samples: of its share.
        run_dir: `probes/<number>/` and `attempts/<number>/` are made in it.
        start_qps: a rate that is believed to hold, in samples/s.
        on_progress: called about once a second while a run lasts.
    """

    def __init__(
        self, spec: Spec, samples: Dataset, run_dir: Path, start_qps: float, on_progress: Callable[[Progress], None]
    ) -> None:
        self._spec, self._samples, self._run_dir, self._on_progress = spec, samples, run_dir, on_progress
        self._prompt_tokens = np.array([len(tokens) for tokens in samples.inputs])
        self._runs: list[Run] = []
        self.attempts: list[Attempt] = []
        self.probes: list[Probe] = []
        self.budget_minutes = budget_minutes(spec, start_qps)
        window = spec.window
        accuracy_s = (window.stop - window.start) / start_qps if spec.mode is Mode.BOTH else 0.0
        samples_issued = order(spec, run_dir, self._queries(_HIGHEST * start_qps))
        self._question = Question(
            workload=Workload(
                arrivals(len(samples_issued)),
                self._prompt_tokens[samples_issued],
                len(spec.engines),
                sum(engine.max_in_flight for engine in spec.engines),
            ),
            ttft_limit_s=(spec.scenario.ttft_limit_ms or 0) / 1000,
            tpot_limit_s=(spec.scenario.tpot_limit_ms or 0) / 1000,
            queries=self._queries,
            start_qps=start_qps,
            highest_qps=_HIGHEST * start_qps,
            budget_s=self.budget_minutes * 60 - accuracy_s,
        )

    def next(self) -> Step | None:
        """What is to be done next; None when the search is over."""
        return next_step(self._question, self._runs)

    def make(self, step: Step) -> Outcome:
        """Make a probe or an attempt, on engines that are idle.

        Raises:
            SamplesFailed, RunFailed, BadInput, NotReady: as `run_loadgen`.
        """
        outcome, folder, held = self._attempt(step) if step.kind == "attempt" else self._probe(step)
        seconds = outcome.finished_unix - outcome.started_unix
        self._runs.append(Run(step.kind, step.target_qps, seconds, held, self._trace(folder)))
        return outcome

    def _probe(self, step: Step) -> tuple[Outcome, Path, bool]:
        folder = self._run_dir / "probes" / str(len(self.probes) + 1)
        outcome = run_loadgen(
            self._spec,
            self._samples,
            "performance",
            self._run_dir,
            step.target_qps,
            self._on_progress,
            folder=folder,
            ends_early=True,
            ends_after=step.samples,
        )
        held = max(outcome.over_ttft, outcome.over_tpot) <= outcome.forgiven
        figures = journal_figures(folder / "journal.jsonl", outcome.issued)
        probe = Probe(
            target_qps=step.target_qps,
            seconds=outcome.finished_unix - outcome.started_unix,
            samples=outcome.samples,
            ttft_ms_p99=figures["ttft_ms_p99"],
            tpot_ms_p99=figures["tpot_ms_p99"],
            over_ttft=outcome.over_ttft,
            over_tpot=outcome.over_tpot,
            held=held,
        )
        write_json(folder / "probe.json", {"schema": 1, **dataclasses.asdict(probe), "chance": step.chance})
        self.probes.append(probe)
        return outcome, folder, held

    def _attempt(self, step: Step) -> tuple[Outcome, Path, bool]:
        number = len(self.attempts) + 1
        made, outcome = attempt(self._spec, self._samples, self._run_dir, number, step.target_qps, self._on_progress)
        self.attempts.append(made)
        return outcome, self._run_dir / "attempts" / str(number), made.verdict == "VALID"

    def _queries(self, rate: float) -> int:
        return Settings.of(self._spec, "performance", rate).expected_samples

    def _trace(self, folder: Path) -> Trace:
        lines = [orjson.loads(line) for line in (folder / "journal.jsonl").read_bytes().splitlines()]
        names = ("issued_s", "first_s", "last_s", "qsl_idx", "n_tokens")
        rows = np.array(sorted([line[name] for name in names] for line in lines if "last_s" in line)).reshape(-1, 5)
        if not len(rows):
            raise RunFailed(f"no query was answered in {folder}; see the engines' logs")
        issued, first, last, sample, tokens = rows.T
        position = sample.astype(np.int64) - self._spec.window.start
        return Trace(issued, first, last, self._prompt_tokens[position], tokens.astype(np.int64))

    def last_probe(self) -> str:
        """How the last probe ended."""
        probe = self.probes[-1]
        ended = "could be VALID" if probe.held else self._broken(probe)
        return f"probe {len(self.probes)} at {probe.target_qps:g} samples/s, {probe.seconds:.0f} s: {ended}"

    def found(self) -> Peak:
        """The bracket so far."""
        tried: list[Attempt | Probe] = [*self.attempts, *self.probes]
        valid = max((made.target_qps for made in self.attempts if made.verdict == "VALID"), default=None)
        failed = min(
            (one for one in tried if not _held(one) and (valid is None or one.target_qps > valid)),
            key=lambda one: one.target_qps,
            default=None,
        )
        lowest = failed.target_qps if failed else None
        return Peak(
            probes=tuple(self.probes),
            highest_valid_qps=valid,
            lowest_failed_qps=lowest,
            distance_percent=100 * (lowest / valid - 1) if lowest and valid else None,
            sentence=self._sentence(valid, failed),
            budget_minutes=self.budget_minutes,
        )

    def _sentence(self, valid: float | None, failed: "Attempt | Probe | None") -> str | None:
        if valid is None and failed is None:
            return None
        found = "No rate was VALID" if valid is None else f"Highest VALID rate {valid:g} samples/s"
        return found if failed is None else f"{found}; {failed.target_qps:g} failed: {self._broken(failed)}"

    def _broken(self, failed: "Attempt | Probe") -> str:
        """The limit that a run broke by more, with its figure."""
        ttft = failed.over_ttft >= failed.over_tpot
        value, name = (failed.ttft_ms_p99, "TTFT") if ttft else (failed.tpot_ms_p99, "TPOT")
        over = max(failed.over_ttft, failed.over_tpot)
        p99 = f"{name} p99 {value:,.0f} ms, " if value is not None else ""
        return f"{p99}{over:,} of {failed.samples:,} queries over the {name} limit"


def _held(one: Attempt | Probe) -> bool:
    return one.held if isinstance(one, Probe) else one.verdict == "VALID"
