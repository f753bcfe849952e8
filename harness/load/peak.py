"""The highest rate that is VALID, found on the running engines: probes, then attempts, as `search` says."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import TypeAdapter, ValidationError

from harness import journal
from harness.attempt_record import PeakRecord, ProbeRecord, bracket, bracket_sentence, rate, why_failed
from harness.dataset import Dataset
from harness.errors import BadInput
from harness.files import read_json, write_json
from harness.load.attempts import Attempt, after_s, attempt, journal_figures
from harness.load.forecast import TOKENS_PER_STEP, Trace, Workload
from harness.load.loadgen import Outcome, Settings, run_loadgen
from harness.load.progress import Progress
from harness.load.schedule import arrivals, order
from harness.load.search import Question, Run, Step, next_step
from harness.spec import Spec, explain

LENGTHS = 2.5
"""Lengths of a whole performance run that the default budget has for probes and attempts."""
_HIGHEST = 3.0  # over the rate that the search starts from: none is tried above


def default_budget_minutes(performance_s: float, accuracy_s: float) -> float:
    """What a search may take by default, of the length of a performance and of an accuracy run at the rate it starts
    from."""
    return (LENGTHS * performance_s + accuracy_s) / 60


def check_budget(minutes: float | None, least_minutes: float) -> None:
    """Raise BadInput when the minutes asked for are fewer than a whole run and those after it take."""
    if minutes is not None and minutes < least_minutes:
        raise BadInput(
            f"peak_budget_minutes = {minutes:g}: a whole performance run at the calibrated rate and the runs after it "
            f"take {math.ceil(10 * least_minutes) / 10:.1f} minutes; give at least as many"
        )


def budget_minutes(spec: Spec, start_qps: float) -> float:
    """The minutes a search of this spec may take: those asked for, or the default."""
    queries = Settings.of(spec, "performance", start_qps).expected_samples
    return spec.peak_budget_minutes or default_budget_minutes(queries / start_qps, after_s(spec, start_qps))


_TIME = TypeAdapter(float)


class Search:
    """A search under way: `next` says what to do, `make` does it.

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
        self._ended: list[Attempt | ProbeRecord] = []
        self._runs: list[Run] = []  # of those that lost no engine
        self._start_qps = start_qps
        self._limits_ms = spec.scenario.ttft_limit_ms or 0.0, spec.scenario.tpot_limit_ms or 0.0
        self.budget_minutes = budget_minutes(spec, start_qps)
        samples_issued = order(spec, run_dir, self._queries(_HIGHEST * start_qps))
        self._question = Question(
            workload=Workload(
                arrivals(len(samples_issued)),
                self._prompt_tokens[samples_issued],
                sum(engine.tokens_per_step or TOKENS_PER_STEP for engine in spec.engines),
                sum(engine.max_in_flight for engine in spec.engines),
            ),
            ttft_limit_s=self._limits_ms[0] / 1000,
            tpot_limit_s=self._limits_ms[1] / 1000,
            queries=self._queries,
            start_qps=start_qps,
            highest_qps=_HIGHEST * start_qps,
            budget_s=self.budget_minutes * 60 - after_s(spec, start_qps),
        )

    @property
    def attempts(self) -> list[Attempt]:
        """Those that have ended, in order."""
        return [one for one in self._ended if isinstance(one, Attempt)]

    @property
    def probes(self) -> list[ProbeRecord]:
        """Those that have ended, in order."""
        return [one for one in self._ended if isinstance(one, ProbeRecord)]

    def take_up(self, attempts: Sequence[Attempt]) -> None:
        """Go on from the probes that have ended in the run directory and these attempts.

        Raises:
            BadInput: the record of a probe is damaged.
        """
        runs: list[tuple[float, ProbeRecord | Attempt, Path]] = []
        for file in (self._run_dir / "probes").glob("*/probe.json"):
            started_unix, probe = _read(file)
            runs.append((started_unix, probe, file.parent))
        for made in attempts:
            runs.append((made.started_unix, made, self._run_dir / "attempts" / str(made.number)))
        for _, ended, folder in sorted(runs, key=lambda run: run[0]):
            self._add(ended, folder)

    def _add(self, ended: ProbeRecord | Attempt, folder: Path) -> None:
        self._ended.append(ended)
        if ended.engine_lost:
            return
        kind: Literal["probe", "attempt"] = "probe" if isinstance(ended, ProbeRecord) else "attempt"
        seconds = ended.seconds if isinstance(ended, ProbeRecord) else ended.finished_unix - ended.started_unix
        self._runs.append(Run(kind, ended.target_qps, seconds, ended.held, self._trace(folder)))

    def check_budget(self) -> None:
        """Raise BadInput when not even one whole run fits into the budget."""
        start_qps = self._start_qps
        least_s = self._queries(start_qps) / start_qps + after_s(self._spec, start_qps)
        check_budget(self._spec.peak_budget_minutes, least_s / 60)

    def next(self) -> Step | None:
        """What is to be done next; None when the search is over.

        It is once an engine was lost; where that was before the first attempt, one is made, so that there is a result.
        """
        if any(one.engine_lost for one in self._ended):
            return None if self.attempts else Step("attempt", self._start_qps, self._queries(self._start_qps))
        return next_step(self._question, self._runs)

    def next_folder(self, step: Step) -> str:
        """The folder of the next probe or attempt, from the run directory on."""
        return f"attempts/{len(self.attempts) + 1}" if step.kind == "attempt" else f"probes/{len(self.probes) + 1}"

    def make(self, step: Step) -> Outcome:
        """Make a probe or an attempt, on engines that are idle.

        Raises:
            SamplesFailed, RunFailed, BadInput, NotReady: as `run_loadgen`.
        """
        folder = self._run_dir / self.next_folder(step)
        if step.kind == "attempt":
            made, outcome = attempt(
                self._spec, self._samples, self._run_dir, len(self.attempts) + 1, step.target_qps, self._on_progress
            )
            self._add(made, folder)
        else:
            probe, outcome = self._probe(step, folder)
            self._add(probe, folder)
        return outcome

    def _probe(self, step: Step, folder: Path) -> tuple[ProbeRecord, Outcome]:
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
        figures = journal_figures(folder / "journal.jsonl", outcome.issued)
        probe = ProbeRecord(
            target_qps=step.target_qps,
            seconds=outcome.finished_unix - outcome.started_unix,
            samples=outcome.samples,
            ttft_ms_p99=figures["ttft_ms_p99"],
            tpot_ms_p99=figures["tpot_ms_p99"],
            over_ttft=outcome.over_ttft,
            over_tpot=outcome.over_tpot,
            held=max(outcome.over_ttft, outcome.over_tpot) <= outcome.forgiven,
            engine_lost=bool(outcome.engine_losses),
        )
        record = {**probe.model_dump(), "started_unix": outcome.started_unix, "chance": step.chance}
        write_json(folder / "probe.json", {"schema": 1, **record})
        return probe, outcome

    def _queries(self, qps: float) -> int:
        return Settings.of(self._spec, "performance", qps).expected_samples

    def _trace(self, folder: Path) -> Trace:
        answers = journal.read(folder / "journal.jsonl").answers
        names = ("issued_s", "first_s", "last_s", "qsl_idx", "n_tokens")
        rows = np.array(sorted([line[name] for name in names] for line in answers)).reshape(-1, 5)
        issued, first, last, sample, tokens = rows.T
        position = sample.astype(np.int64) - self._spec.window.start
        return Trace(issued, first, last, self._prompt_tokens[position], tokens.astype(np.int64))

    def last_probe(self) -> str:
        """How the last probe ended."""
        probe = self.probes[-1]
        ended = "could be VALID" if probe.held else why_failed(probe, self._limits_ms)
        return f"probe {len(self.probes)} at {rate(probe.target_qps)} samples/s, {probe.seconds:.0f} s: {ended}"

    def result(self) -> PeakRecord:
        """The bracket so far."""
        valid, failed = bracket(self._ended)
        return PeakRecord(
            probes=tuple(self.probes),
            highest_valid_qps=valid.target_qps if valid else None,
            lowest_failed_qps=failed.target_qps if failed else None,
            distance_percent=100 * (failed.target_qps / valid.target_qps - 1) if valid and failed else None,
            sentence=bracket_sentence(valid, failed, self._limits_ms),
            budget_minutes=self.budget_minutes,
        )


def _read(file: Path) -> tuple[float, ProbeRecord]:
    """When a probe that has ended was begun, and its figures, of its probe.json."""
    record = read_json(file, "probe")
    try:
        return _TIME.validate_python(record["started_unix"]), ProbeRecord.model_validate(record)
    except (LookupError, TypeError, ValueError) as error:
        what = explain(error) if isinstance(error, ValidationError) else f"{type(error).__name__} {error}"
        raise BadInput(f"probe {file} is damaged ({what}); choose another run_id") from None
