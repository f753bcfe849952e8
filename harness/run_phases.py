"""Execute a run, phase by phase, in the process that owns it.

preparing ─► [starting engine] ─► [calibrating] ─► warming up ─► performance ─► accuracy ─► compliance ─►
                                                                 ▲    │ a limit is broken: at a lower rate
                                                                 └ draining                    scoring ─► finished
A search for the highest rate has "probing", each after "draining", before performance.
"""

import contextlib
import copy
import json
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness import accuracy_parts, compliance, dataset, engine, resume, run_store
from harness.errors import HarnessError, RunFailed, Stopped
from harness.files import Reserve, read_json, write_json
from harness.linux import stoppable, stops_held
from harness.load.attempts import Attempt, all_attempts_s, attempt, drain, next_rate
from harness.load.calibrate import Calibration, calibrate
from harness.load.loadgen import Outcome, SamplesFailed, run_loadgen, warm_up
from harness.load.others import OthersWatch, other_requests
from harness.load.peak import Search
from harness.load.progress import Progress
from harness.manifest import manifest
from harness.metrics import RunMetrics, served
from harness.node.telemetry import Sampler
from harness.scoring import accuracy, punkt
from harness.spec import RunMode, Scenario, Spec, parse_spec
from harness.status import Heartbeat


def execute(
    spec: Spec,
    root: Path,
    samples: dataset.Dataset,
    *,
    own_engine: engine.EngineConfig | None = None,
    resumed: bool = False,
    keys: Mapping[str, str] | None = None,
    on_status: Callable[[dict[str, Any]], None] = lambda status: None,
    on_line: Callable[[str], None] = lambda line: None,
) -> Path:
    """Execute all phases of a created run in this process; returns its directory.

    Args:
        samples: the return value of `run_store.validate` for this spec.
        own_engine: an engine to start for this run and to stop after it.
        resumed: whether the run ended before without a result: what it finished is not done again.
        keys: API keys of engines by their names; those of engines under `root` are known.
        on_status: called with the content of status.json about once a second.
        on_line: called with lines about attempts, the engine's start and scoring.

    Raises:
        HarnessError: the error that ended the run, also recorded in status.json and outcome.json.
    """
    engine.introduce_all(root, spec.engines, keys or {})
    left = resume.interrupted(spec, run_store.run_directory(root, spec.run_id)) if resumed else None
    # From its first status to its last a run can be found and asked to stop, which it must always record.
    with stops_held():
        execution = _Execution(spec, root, own_engine, left, on_status, on_line)
        state, reason = "failed", None
        try:
            with stoppable(), served(execution.metrics, spec.metrics_port, spec.metrics_address):
                execution.phases(samples)
            state = "finished"
        except Stopped:
            state, reason = "stopped", "stopped on request"
            raise
        except OSError as error:
            reason = f"{error.filename or 'a file'}: {error.strerror}; check whether the disk is full"
            raise RunFailed(reason) from error
        except Exception as error:
            known = isinstance(error, HarnessError)
            reason = str(error) if known else f"internal error: {type(error).__name__}: {error}"
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
        left: resume.Interrupted | None,
        on_status: Callable[[dict[str, Any]], None],
        on_line: Callable[[str], None],
    ) -> None:
        self.run_dir = run_store.run_directory(root, spec.run_id)
        self._spec, self._root, self._own_engine, self._left = spec, root, own_engine, left
        self._identity = spec.identity
        self._on_status, self._on_line = on_status, on_line
        self.metrics = RunMetrics(spec)
        self._warned: set[str] = set()
        self._others = OthersWatch()
        self._sampler = Sampler(self.run_dir / "telemetry.csv", {ref.name: ref.url for ref in spec.engines})
        self._heartbeat = Heartbeat(
            self.run_dir, self._identity, self.run_dir / "harness.log", lambda: self._sampler.engines
        )
        self._reserve = Reserve(self.run_dir / ".reserve.outcome")
        self._outcome: dict[str, Any] = {
            "schema": 1,
            **self._identity,
            "performance": None,
            "attempts": [],
            "peak": None,
            "accuracy": None,
            "compliance": None,
            "calibration": None,
            "telemetry_cost": None,
            "failures": [],
            "engine_losses": [],
            "resent": {},
            "warnings": [],
            "target_qps": None,
            "target_qps_asked": spec.target_qps,
            "resumed": [],
            # The same names, of what an interrupted run had finished.
            **(left.finished if left else {}),
        }
        for attempted in self._outcome["attempts"]:
            self._heartbeat.attempted(attempted)
        self._losses_shown = len(self._outcome["engine_losses"])

    def phases(self, samples: dataset.Dataset) -> None:
        """Execute all phases in order; stops what it started, also after an error."""
        with ExitStack() as cleanup:
            if self._own_engine:
                self._enter("starting engine")
                self._start_engine(self._own_engine, cleanup)
            self._describe(samples)
            self._sampler.start()
            cleanup.callback(lambda: self._outcome.update(telemetry_cost=asdict(self._sampler.stop())))
            self._warn_of_others()
            target_qps = self._target_qps(samples)
            if self._spec.calibrate_only:
                return
            last = self._spec.mode.runs[-1]
            if last == "performance" or not self._outcome[last]:
                self._enter("warming up")
                if not warm_up(self._spec, samples, self.run_dir):
                    self._warn(
                        "warming up reached its time limit before the engines were steady, so the performance run may "
                        "begin slowly"
                    )
                self._measure(samples, target_qps)
        if "accuracy" in self._spec.mode.runs:
            self._score(samples)

    def close(self, state: str, reason: str | None) -> None:
        """Write outcome.json, then the last status, so that a reader of the last status finds the outcome."""
        with contextlib.suppress(OSError):
            self._reserve.write_json(self.run_dir / "outcome.json", self._outcome)
        self._heartbeat.finish(state, reason)
        self._on_status(self._heartbeat.snapshot())

    def _save(self) -> None:
        """Write what is finished, so that it need not be done again if this run is interrupted."""
        write_json(self.run_dir / "outcome.json", self._outcome)

    def _describe(self, samples: dataset.Dataset) -> None:
        """Write what the run runs on; a resumed run must run on the same, and only then is anything moved."""
        described = manifest(self._spec, self._root, samples)
        if self._left:
            self._left.check_same(described)
            entry = self._left.keep()
            self._outcome["resumed"] = [*self._outcome["resumed"], entry]
            self._save()
            self._on_line(
                f"resumed in phase {entry['phase']}: {entry['kept']} answers kept, {entry['missing']} missing"
            )
        write_json(self.run_dir / "manifest.json", described)

    def _warn_of_others(self) -> None:
        """Warn of requests on the engines while this run has none there."""
        for name, sentence in other_requests(self._spec).items():
            if name not in self._warned:
                self._warned.add(name)
                self._warn(sentence)

    def _warn(self, sentence: str) -> None:
        """Put a warning into outcome, status and output; the report has it among its findings."""
        self._outcome["warnings"] = [*self._outcome["warnings"], sentence]
        self._heartbeat.warn(sentence)
        self._on_line(sentence)

    def _enter(self, phase: str, folder: str | None = None) -> None:
        """Begin a phase; `folder` is that of its LoadGen run where it is not named like the phase."""
        self._folder, self._others = folder or phase, OthersWatch()
        self._before = {name: copy.copy(self._outcome[name]) for name in ("engine_losses", "resent")}
        self.metrics.enter(phase)
        self._heartbeat.phase(phase)
        self._on_status(self._heartbeat.snapshot())

    def _report(self, progress: Progress) -> None:
        self.metrics.note(progress)
        self._heartbeat.progress(progress)
        self._note_losses(progress)
        # The server of a lost engine may still count requests that were given up.
        sentence = self._others.look(progress.in_flight, self._sampler.requests)
        if sentence and not progress.engine_losses and not self._warned:
            self._warned.add("others")
            self._warn(sentence)
        self._on_status(self._heartbeat.snapshot())

    def _note_losses(self, progress: Progress) -> None:
        """Add the losses of the present phase to those of the phases before."""
        own = [{**loss, "folder": self._folder} for loss in progress.engine_losses]
        losses = [*self._before["engine_losses"], *own]
        resent = dict(Counter(self._before["resent"]) + Counter(progress.resent))
        self._outcome.update(engine_losses=losses, resent=resent)
        for loss in losses[self._losses_shown :]:
            self._on_line(f"engine {loss['engine']} on {loss['node']} lost: {loss['reason']}")
        self._losses_shown = len(losses)
        self._heartbeat.lost(losses)

    def _start_engine(self, config: engine.EngineConfig, cleanup: ExitStack) -> None:
        """Start the run's own engine, which ends with the run; one that was running already outlives it."""
        if engine.up(self._root, config, wait=False, die_with_parent=True).changed:
            cleanup.callback(engine.down, self._root, config.name)
        engine.up(self._root, config, wait=True, on_progress=self._on_line)
        engine.introduce_all(self._root, self._spec.engines, {})

    def _target_qps(self, samples: dataset.Dataset) -> float:
        target_qps = self._spec.target_qps
        if target_qps == "peak" and self._spec.peak_from_qps:
            target_qps = self._spec.peak_from_qps
        if self._spec.calibrate_only or isinstance(target_qps, str):
            calibration = self._calibration(samples)
            speeds = calibration.by_engine, calibration.slowest_s
            engines = tuple(ref.at_speed(*speeds) for ref in self._spec.engines)
            self._spec = self._spec.model_copy(update={"engines": engines})
            target_qps = calibration.target_qps
            rate = f"{calibration.samples_per_s:.3g} samples/s ± {calibration.uncertainty_percent:.1f}%"
            self._on_line(f"calibration: {rate} with the engines full; offering {target_qps:g} samples/s")
        self._outcome["target_qps"] = self._outcome["target_qps"] or target_qps
        self._save()
        return target_qps

    def _calibration(self, samples: dataset.Dataset) -> Calibration:
        """That of an earlier part of this run, or a new one."""
        values = self._outcome["calibration"]
        if not values:
            self._enter("calibrating")
            values = self._outcome["calibration"] = asdict(calibrate(self._spec, samples, self.run_dir, self._report))
        self._heartbeat.calibrated(values)
        return Calibration(**{**values, "tried": tuple(values["tried"])})

    def _measure(self, samples: dataset.Dataset, target_qps: float) -> None:
        for mode in self._spec.mode.runs:
            try:
                if mode == "performance" and self._spec.has_attempts:
                    find = self._find_peak if self._spec.target_qps == "peak" else self._find_rate
                    target_qps = find(samples, target_qps)
                    if mode != self._spec.mode.runs[-1] and self._outcome["performance"]["ended_early"]:
                        self._drain()  # of what was given up, which is no other client's
                    continue
                if self._outcome[mode]:
                    continue  # finished before the run was interrupted
                self._warn_of_others()
                self._enter(mode)
                self._outcome[mode] = self._run(mode, samples, target_qps)
                self._save()
            except SamplesFailed as error:
                self._outcome["failures"] = [{"mode": mode, **asdict(failure)} for failure in error.failures]
                raise

    def _run(self, mode: RunMode, samples: dataset.Dataset, target_qps: float) -> dict[str, Any]:
        """One LoadGen run; returns its outcome."""
        if mode == "accuracy":
            return self._accuracy(samples, target_qps)
        outcome = run_loadgen(self._spec, samples, mode, self.run_dir, target_qps, self._report)
        if mode == "compliance":
            self._verify_compliance()
        return outcome.part()

    def _accuracy(self, samples: dataset.Dataset, target_qps: float) -> dict[str, Any]:
        """Issue the samples whose answers the journal lacks: all, unless this run was interrupted."""
        kept = resume.answers(self.run_dir) if self._left else {}
        window = self._spec.window
        missing = [index for index in range(window.start, window.stop) if index not in kept]
        outcome = None
        if missing:
            part = accuracy_parts.begin(self.run_dir, window, missing)
            run = run_loadgen(self._spec, samples, "accuracy", self.run_dir, target_qps, self._report, part=part)
            outcome = run.part()
        return resume.together(kept.values(), outcome)

    def _find_rate(self, samples: dataset.Dataset, target_qps: float) -> float:
        """Run attempts at decreasing rates until one is VALID or none may follow; returns the last one's rate."""
        attempts = [Attempt(**made) for made in self._outcome["attempts"]]
        rate = self._next_rate(attempts) if attempts else target_qps
        if not attempts:
            minutes = all_attempts_s(self._spec, target_qps) / 60
            self._on_line(
                f"up to {self._spec.rate_attempts} attempts at decreasing rates: about {minutes:.1f} minutes if all of "
                "them are made, with the runs after them"
            )
        while rate is not None:
            self._drain()
            self._heartbeat.attempt(len(attempts) + 1, self._spec.rate_attempts)
            self._enter("performance", f"attempts/{len(attempts) + 1}")
            made, outcome = attempt(self._spec, samples, self.run_dir, len(attempts) + 1, rate, self._report)
            attempts.append(made)
            self._attempted(made, outcome)
            rate = self._next_rate(attempts)
        return attempts[-1].target_qps

    def _drain(self) -> None:
        self._enter("draining")
        drain(self._spec)

    def _next_rate(self, attempts: Sequence[Attempt]) -> float | None:
        """The rate of the next attempt; None when there is none."""
        rate, made = next_rate(attempts, self._spec.rate_attempts, self._spec.scenario), attempts[-1]
        if self._spec.attempts_together and made.number < self._spec.rate_attempts:
            self._heartbeat.attempt(made.number, self._spec.rate_attempts)
            return self._agreed(made, rate)
        return rate

    def _find_peak(self, samples: dataset.Dataset, start_qps: float) -> float:
        """The highest rate that is VALID, with probes and attempts; the rate of the last attempt.

        Raises:
            BadInput: the budget is shorter than one whole run takes.
            RunFailed: the budget is over before the first attempt.
        """
        search = Search(self._spec, samples, self.run_dir, start_qps, self._report)
        search.take_up([Attempt(**made) for made in self._outcome["attempts"]])
        if not (search.probes or search.attempts):
            search.check_budget()
        self._on_line(f"searching from {start_qps:g} samples/s for at most {search.budget_minutes:.1f} minutes")
        while step := search.next():
            self._drain()
            if step.kind == "attempt":
                self._heartbeat.attempt(len(search.attempts) + 1, None)
            self._enter("performance" if step.kind == "attempt" else "probing", search.next_folder(step))
            outcome = search.make(step)
            self._outcome["peak"] = search.result().model_dump()
            if step.kind == "attempt":
                self._attempted(search.attempts[-1], outcome)
            else:
                self._save()
                self._heartbeat.probed(search.last_probe())
                self._on_line(search.last_probe())
        if not search.attempts:
            tried = search.last_probe() if search.probes else "nothing was tried"
            raise RunFailed(
                f"peak_budget_minutes = {search.budget_minutes:.1f} is over before a whole performance run could be "
                f"made ({tried}); give more minutes, or target_qps=auto"
            )
        return search.attempts[-1].target_qps

    def _attempted(self, made: Attempt, outcome: Outcome) -> None:
        attempts = [*self._outcome["attempts"], made.model_dump()]
        self._outcome.update(performance=outcome.part(), target_qps=made.target_qps, attempts=attempts)
        self._save()
        self._heartbeat.attempted(made.model_dump())
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
            self._warn(
                f"attempt {made.number}: no decision about the other nodes' attempts, so this node decides alone"
            )
            return rate
        return (rate or self._outcome["target_qps"]) if repeat else None

    def _verify_compliance(self) -> None:
        streams = self._spec.scenario is not Scenario.OFFLINE
        ends = dataset.end_tokens(self._spec.model)
        result = compliance.verify(self.run_dir / "compliance", streams, ends, self._identity)
        failed = "; ".join(result.failures())
        self._on_line(f"{compliance.TEST}: {f'not passed: {failed}' if failed else 'passed'}")

    def _score(self, samples: dataset.Dataset) -> None:
        self._enter("scoring")
        kept = resume.answers(self.run_dir) if self._left else {}
        accuracy.score(
            accuracy_parts.parts(self.run_dir, self._spec.window),
            samples,
            self._spec.model,
            reference_ids=self._spec.reference_ids,
            punkt_dir=punkt.find(self._spec.punkt, self._root),
            out_dir=self.run_dir / accuracy_parts.FIRST,
            kept={index: line["token_ids"] for index, line in kept.items()},
            identity=self._identity,
            on_progress=self._on_line,
        )


def main(arguments: Sequence[str]) -> int:
    """Entry point of the detached process; the arguments are run directory, root, and `--resume` for a resumed run.

    Its standard input is a JSON object with API keys of engines by their names.
    """
    run_dir, root = map(Path, arguments[:2])
    try:
        keys = json.loads(sys.stdin.read() or "{}")
        spec = parse_spec(read_json(run_dir / "spec.json", "spec"))
        execute(spec, root, run_store.validate(spec, root), resumed="--resume" in arguments, keys=keys)
    except HarnessError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
