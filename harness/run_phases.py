"""Execute a run, phase by phase, in the process that owns it.

preparing ─► [starting engine] ─► [calibrating] ─► warming up ─► performance ─► accuracy ─► scoring ─► finished
                                                                 ▲    │ a limit is broken: at a lower rate
                                                                 └ draining
"""

import contextlib
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness import dataset, engine, run_store
from harness.errors import HarnessError, RunFailed, Stopped
from harness.files import read_json, write_json
from harness.linux import stoppable
from harness.load.attempts import Attempt, attempt, drain, next_rate
from harness.load.calibrate import calibrate
from harness.load.loadgen import Outcome, RunMode, SamplesFailed, run_loadgen, warm_up
from harness.load.peak import Search
from harness.load.progress import Progress
from harness.load.search import ATTEMPTS_MOST
from harness.manifest import manifest
from harness.metrics import RunMetrics, served
from harness.node.telemetry import Sampler
from harness.scoring import accuracy, punkt
from harness.spec import Mode, Spec, parse_spec
from harness.status import Heartbeat


def execute(
    spec: Spec,
    root: Path,
    samples: dataset.Dataset,
    *,
    own_engine: engine.EngineConfig | None = None,
    on_status: Callable[[dict[str, Any]], None] = lambda status: None,
    on_line: Callable[[str], None] = lambda line: None,
) -> Path:
    """Execute all phases of a created run in this process; returns its directory.

    Args:
        samples: the return value of `run_store.validate` for this spec.
        own_engine: an engine to start for this run and to stop after it.
        on_status: called with the content of status.json about once a second.
        on_line: called with lines about attempts, the engine's start and scoring.

    Raises:
        HarnessError: the error that ended the run, also recorded in status.json and outcome.json.
    """
    execution = _Execution(spec, root, own_engine, on_status, on_line)
    state, reason = "failed", None
    try:
        with stoppable(), served(execution.metrics, spec.metrics_port):
            execution.phases(samples)
        state = "finished"
    except Stopped:
        state, reason = "stopped", "stopped on request"
        raise
    except OSError as error:
        reason = f"{error.filename or 'a file'}: {error.strerror}; check whether the disk is full"
        raise RunFailed(reason) from error
    except Exception as error:
        reason = str(error) if isinstance(error, HarnessError) else f"internal error: {type(error).__name__}: {error}"
        raise
    finally:
        execution.close(state, reason)
    return execution.run_dir


class _Execution:
    """A running run: its heartbeat, its outcome so far, and its phases."""

    def __init__(
        self,
        spec: Spec,
        root: Path,
        own_engine: engine.EngineConfig | None,
        on_status: Callable[[dict[str, Any]], None],
        on_line: Callable[[str], None],
    ) -> None:
        self.run_dir = run_store.run_directory(root, spec.run_id)
        self._spec, self._root, self._own_engine = spec, root, own_engine
        self._on_status, self._on_line = on_status, on_line
        self.metrics = RunMetrics(spec)
        self._heartbeat = Heartbeat(self.run_dir, spec.run_id, self.run_dir / "harness.log")
        self._outcome: dict[str, Any] = {
            "schema": 1,
            "performance": None,
            "attempts": [],
            "peak": None,
            "accuracy": None,
            "calibration": None,
            "telemetry_cost": None,
            "failures": [],
            "target_qps": None,
            "target_qps_asked": spec.target_qps,
        }

    def phases(self, samples: dataset.Dataset) -> None:
        """Execute all phases in order; stops what it started, also after an error."""
        with ExitStack() as cleanup:
            if self._own_engine:
                self._enter("starting engine")
                self._start_engine(self._own_engine, cleanup)
            write_json(self.run_dir / "manifest.json", manifest(self._spec, self._root, samples))
            sampler = Sampler(self.run_dir / "telemetry.csv", {ref.name: ref.url for ref in self._spec.engines})
            sampler.start()
            cleanup.callback(lambda: self._outcome.update(telemetry_cost=asdict(sampler.stop())))
            target_qps = self._target_qps(samples)
            if self._spec.calibrate_only:
                return
            self._enter("warming up")
            warm_up(self._spec, samples, self.run_dir)
            self._measure(samples, target_qps)
        if self._spec.mode in (Mode.ACCURACY, Mode.BOTH):
            self._score(samples)

    def close(self, state: str, reason: str | None) -> None:
        """Write outcome.json, then the last status, so that a reader of the last status finds the outcome."""
        with contextlib.suppress(OSError):
            write_json(self.run_dir / "outcome.json", self._outcome)
        self._heartbeat.finish(state, reason)
        self._on_status(self._heartbeat.snapshot())

    def _enter(self, phase: str) -> None:
        self.metrics.enter(phase)
        self._heartbeat.phase(phase)
        self._on_status(self._heartbeat.snapshot())

    def _report(self, progress: Progress) -> None:
        self.metrics.note(progress)
        self._heartbeat.progress(progress)
        self._on_status(self._heartbeat.snapshot())

    def _start_engine(self, config: engine.EngineConfig, cleanup: ExitStack) -> None:
        """Start the run's own engine, which ends with the run; one that was running already outlives it."""
        if engine.up(self._root, config, wait=False, die_with_parent=True).changed:
            cleanup.callback(engine.down, self._root, config.name)
        engine.up(self._root, config, wait=True, on_progress=self._on_line)

    def _target_qps(self, samples: dataset.Dataset) -> float:
        target_qps = self._spec.target_qps
        if target_qps == "peak" and self._spec.peak_from_qps:
            target_qps = self._spec.peak_from_qps
        if self._spec.calibrate_only or isinstance(target_qps, str):
            self._enter("calibrating")
            calibration = calibrate(self._spec, samples, self.run_dir, self._report)
            self._outcome["calibration"] = asdict(calibration)
            self._heartbeat.calibrated(asdict(calibration))
            engines = tuple(ref.at_speed(calibration.by_engine) for ref in self._spec.engines)
            self._spec = self._spec.model_copy(update={"engines": engines})
            target_qps = calibration.target_qps
            rate = f"{calibration.samples_per_s:.3g} samples/s ± {calibration.uncertainty_percent:.1f}%"
            self._on_line(f"calibration: {rate} with the engines full; offering {target_qps:g} samples/s")
        self._outcome["target_qps"] = target_qps
        return target_qps

    def _measure(self, samples: dataset.Dataset, target_qps: float) -> None:
        modes: tuple[RunMode, ...] = ("performance", "accuracy")
        for mode in modes:
            if self._spec.mode not in (mode, Mode.BOTH):
                continue
            try:
                if mode == "performance" and self._spec.has_attempts:
                    find = self._find_peak if self._spec.target_qps == "peak" else self._find_rate
                    target_qps = find(samples, target_qps)
                    continue
                self._enter(mode)
                outcome = run_loadgen(self._spec, samples, mode, self.run_dir, target_qps, self._report)
                self._outcome[mode] = asdict(outcome)
            except SamplesFailed as error:
                self._outcome["failures"] = [{"mode": mode, **asdict(failure)} for failure in error.failures]
                raise

    def _find_rate(self, samples: dataset.Dataset, target_qps: float) -> float:
        """Run attempts at decreasing rates until one is VALID or none may follow; returns the last one's rate."""
        attempts: list[Attempt] = []
        rate: float | None = target_qps
        while rate is not None:
            target_qps = rate
            self._enter("draining")
            drain(self._spec)
            self._heartbeat.attempt(len(attempts) + 1, self._spec.rate_attempts)
            self._enter("performance")
            made, outcome = attempt(self._spec, samples, self.run_dir, len(attempts) + 1, target_qps, self._report)
            attempts.append(made)
            self._attempted(made, outcome)
            rate = next_rate(attempts, self._spec.rate_attempts, self._spec.scenario)
            if self._spec.attempts_together and made.number < self._spec.rate_attempts:
                rate = self._agreed(made, rate)
        return target_qps

    def _find_peak(self, samples: dataset.Dataset, start_qps: float) -> float:
        """The highest rate that is VALID, with probes and attempts; the rate of the last attempt.

        Raises:
            RunFailed: the budget is over before the first attempt.
        """
        search = Search(self._spec, samples, self.run_dir, start_qps, self._report)
        self._on_line(f"searching from {start_qps:g} samples/s for at most {search.budget_minutes:.0f} minutes")
        while step := search.next():
            self._enter("draining")
            drain(self._spec)
            if step.kind == "attempt":
                self._heartbeat.attempt(len(search.attempts) + 1, ATTEMPTS_MOST)
            self._enter("performance" if step.kind == "attempt" else "probing")
            outcome = search.make(step)
            self._outcome["peak"] = asdict(search.found())
            if step.kind == "attempt":
                self._attempted(search.attempts[-1], outcome)
            else:
                self._on_line(search.last_probe())
        if not search.attempts:
            raise RunFailed(
                f"peak_budget_minutes = {search.budget_minutes:.1f} is over before a whole performance run could be "
                "made; give more, or target_qps=auto"
            )
        return search.attempts[-1].target_qps

    def _attempted(self, made: Attempt, outcome: Outcome) -> None:
        attempts = [*self._outcome["attempts"], asdict(made)]
        self._outcome.update(performance=asdict(outcome), target_qps=made.target_qps, attempts=attempts)
        self._heartbeat.attempted(asdict(made))
        self._on_line(f"attempt {made.number} at {made.target_qps:g} samples/s: {made.verdict}")

    def _agreed(self, made: Attempt, rate: float | None) -> float | None:
        """Wait for the decision whether all LoadGens repeat their attempts; returns the next attempt's rate, or None.

        A LoadGen whose own attempt was VALID repeats it at the same rate.
        """
        self._heartbeat.wait_for_others()
        self._on_status(self._heartbeat.snapshot())
        timeout_s = self._spec.limits.decision_timeout_s + made.left_s
        repeat = run_store.decision(self.run_dir, made.number, timeout_s)
        if repeat is None:
            self._on_line(
                f"attempt {made.number}: no decision about the other nodes' attempts, so this node decides alone"
            )
            return rate
        return (rate or self._outcome["target_qps"]) if repeat else None

    def _score(self, samples: dataset.Dataset) -> None:
        self._enter("scoring")
        folder = self.run_dir / "accuracy"
        accuracy.score(
            folder / "mlperf_log_accuracy.json",
            samples,
            self._spec.model,
            reference_ids=self._spec.reference_ids,
            punkt_dir=punkt.find(self._spec.punkt, self._root),
            out_dir=folder,
            on_progress=self._on_line,
        )


def main(arguments: Sequence[str]) -> int:
    """Entry point of the detached process; the arguments are run directory and root."""
    run_dir, root = map(Path, arguments)
    try:
        spec = parse_spec(read_json(run_dir / "spec.json", "spec"))
        execute(spec, root, run_store.validate(spec, root))
    except HarnessError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
