"""From the files of one benchmark to its record."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

from harness.errors import BadInput
from harness.printable import printable
from harness.report import energy, figures, findings, history, losses, nodes, phases, tables, verdict, work
from harness.report.journals import Table
from harness.report.load_inputs import Inputs, LoadGenRun, load, output_directory
from harness.report.published import PUBLISHED
from harness.report.record import (
    SCHEMA_VERSION,
    Figures,
    ReferenceComparison,
    Request,
    Result,
    Rouge,
)
from harness.report.rules import Rule
from harness.scoring.scores import Score, merge

NOTICE = "Result not verified by MLCommons Association."


class Built(NamedTuple):
    """A benchmark's record without its charts, and the data behind it."""

    result: Result
    journal: Table
    inputs: Inputs
    past: list[history.Baseline]


def build(path: Path) -> Built:
    """Read the benchmark in `path` and judge it.

    Raises:
        BadInput: `path` is neither a result directory nor a run directory.
    """
    inputs = load(path)
    journal = tables.journal(inputs.loadgens)
    mode = figures.measured(inputs.loadgens, journal)
    rows = figures.timed(journal, mode)
    score, problem = _merged_score(inputs.loadgens)
    inputs = replace(inputs, problems=(*inputs.problems, *problem))
    request = _request(inputs)
    past = history.earlier(_candidates(inputs), output_directory(path) / history.BASELINES, _created(inputs))
    parts = tuple(nodes.node(name, inputs, journal, mode, request, past) for name in inputs.nodes)
    pair = figures.pair(inputs.loadgens, rows, mode)
    together = _together(inputs, rows, mode, figures.merged(score), request)
    ratio, no_ratio = history.efficiency(together.samples_per_s, parts)
    runs = tuple(phases.phases(inputs.loadgens))
    shared = bool(inputs.plan and inputs.plan.shared_machine)
    tried = tuple(phases.attempts(inputs.loadgens))
    lost = tuple(losses.losses(inputs))
    judged = verdict.judge(inputs, score, phases.loads(inputs, journal), lost)
    real = bool(inputs.loadgens) and not Rule.TINY_MODEL.broken(judged)
    asked = work.Asked.model_validate(request.model_dump())
    now = history.point(inputs.run_id, _created(inputs), len(parts), together.samples_per_s, together.seconds)
    result = Result(
        schema_version=SCHEMA_VERSION,
        run_id=inputs.run_id,
        created_unix=_created(inputs),
        asked=request,
        verdict=judged,
        notice=NOTICE,
        together=together,
        energy=energy.together([node.energy for node in parts], together),
        nodes=parts,
        pair=pair,
        efficiency=ratio,
        efficiency_absent=no_ratio,
        shared_machine=shared,
        phases=runs,
        calibration=tuple(phases.calibrations(inputs)),
        attempts=tried,
        peaks=tuple(phases.peaks(inputs.loadgens)),
        engine_losses=lost,
        resent=_resent(inputs.loadgens),
        resumed=tuple(phases.resumed(inputs.loadgens)),
        findings=(
            *findings.find(request, together, parts, pair, runs, tried, lost, shared, real_model=real),
            *(each for run in inputs.loadgens for each in findings.warned(run.host, run.outcome.warnings)),
        ),
        failures=tuple(phases.failures(inputs)),
        accuracy_reference=_compared(score),
        published=tuple(PUBLISHED.values()) if real else (),
        history=history.past_runs(past, parts, asked, now),
        charts=(),
    )
    # Names and reasons come from nodes.
    return Built(Result.model_validate(printable(result.model_dump())), journal, inputs, past)


def _merged_score(loadgens: Sequence[LoadGenRun]) -> tuple[Score | None, tuple[str, ...]]:
    """Accuracy of all shares together, and what kept it from being merged."""
    folders = [loadgen.path / "accuracy" for loadgen in loadgens if loadgen.score]
    if not folders:
        return None, ()
    try:
        return merge(folders), ()
    except BadInput as error:
        return None, (str(error),)


def _resent(loadgens: Sequence[LoadGenRun]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for loadgen in loadgens:
        counts.update(loadgen.outcome.resent)
    return dict(counts)


def _compared(score: Score | None) -> ReferenceComparison | None:
    if score is None or score.reference is None:
        return None
    content = asdict(score.reference)
    return ReferenceComparison(**{key: content[key] for key in ReferenceComparison.model_fields})


def _candidates(inputs: Inputs) -> list[Path]:
    """Where earlier results lie: beside this one; a lone run keeps its report in its own directory."""
    pattern = "*/result.json" if (inputs.path / "plan.json").exists() else "*/report/result.json"
    here = inputs.path.resolve()
    return [path for path in sorted(here.parent.glob(pattern)) if here not in path.parents]


def _created(inputs: Inputs) -> float | None:
    if inputs.plan and inputs.plan.created_unix is not None:
        return inputs.plan.created_unix
    statuses = (loadgen.status for loadgen in inputs.loadgens)
    return min((status.started_unix for status in statuses if status and status.started_unix), default=None)


def _request(inputs: Inputs) -> Request:
    spec, plan = inputs.spec, inputs.plan
    options = plan.asked if plan else inputs.request.asked if inputs.request else {}
    rate = options.get("target_qps", spec.target_qps if spec else None)
    return Request(
        scenario=spec.scenario.value if spec else options.get("scenario"),
        mode=spec.mode.value if spec else options.get("mode"),
        samples=spec.samples if spec else _integer(options.get("samples")),
        target_qps=_rate(rate),
        topology=plan.topology if plan else options.get("topology"),
        launcher=plan.launcher if plan else options.get("launcher"),
        sampling_seed=spec.seed if spec else None,
        replay_of=spec.replay_of if spec else None,
        repeat_of=inputs.request.repeat_of if inputs.request else None,
    )


def _integer(value: Any) -> int | None:
    return int(value) if str(value).isdigit() else None


def _rate(value: Any) -> float | str | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None if value is None else str(value)


def _together(inputs: Inputs, rows: Table, mode: figures.Measured, rouge: Rouge | None, request: Request) -> Figures:
    """One LoadGen: what it measured. Several: samples finished while all were running."""
    offline = request.scenario == "offline"
    if len(inputs.loadgens) == 1 and not _missing_loadgens(inputs):
        return figures.of(rows, nodes.log_of(inputs.loadgens[0], mode), rouge, offline=offline)
    span = None if _missing_loadgens(inputs) else figures.all_running(inputs.loadgens, rows, mode)
    return figures.of(rows if span else rows[:0], None, rouge, span, offline=offline)


def _missing_loadgens(inputs: Inputs) -> bool:
    planned = set(inputs.plan.loadgens) if inputs.plan else set()
    return bool(planned - {loadgen.host for loadgen in inputs.loadgens})
