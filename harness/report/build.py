"""From the files of one benchmark to its record."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from harness.errors import BadInput
from harness.report import BASELINES, figures, findings, history, nodes, output_directory, series, verdict
from harness.report.record import (
    SCHEMA_VERSION,
    Asked,
    Calibrated,
    Compared,
    Failure,
    Figures,
    Phase,
    Published,
    Result,
    Rouge,
)
from harness.report.rules import Rule
from harness.report.sources import Issuer, Sources, read
from harness.scoring.scores import Score, merge

NOTICE = "Result not verified by MLCommons Association."
PUBLISHED = (
    Published(system="1×H100 SXM, vLLM FP8 (v5.1, Red Hat)", offline_tokens_per_s=5777, server_tokens_per_s=5104),
    Published(system="1×L40S, vLLM FP8 (v5.1, Red Hat)", offline_tokens_per_s=1642, server_tokens_per_s=1207),
    Published(system="one of 8×H200 (v5.1, HPE)", offline_tokens_per_s=8255, server_tokens_per_s=8114),
)


class Built(NamedTuple):
    """A benchmark's record (no charts yet), and what it was made from."""

    result: Result
    journal: pd.DataFrame
    sources: Sources
    past: list[history.Baseline]


def build(path: Path) -> Built:
    """Read `path` and judge it.

    Raises:
        BadInput: `path` is neither a result directory nor a run directory, or its baselines.json is broken.
    """
    sources = read(path)
    journal = series.journal(sources.issuers)
    mode = figures.measured(sources.issuers, journal)
    rows = journal[journal["mode"] == mode]
    score, trouble = _merged_score(sources.issuers)
    sources = replace(sources, troubles=(*sources.troubles, *trouble))
    asked = _asked(sources)
    past = history.earlier(_candidates(sources), output_directory(path) / BASELINES, _created(sources))
    parts = tuple(nodes.node(name, sources, journal, mode, asked, past) for name in sources.nodes)
    pair = figures.pair(sources.issuers, rows, mode)
    together = _together(sources, rows, mode, figures.merged(score), asked)
    ratio, no_ratio = history.efficiency(together.samples_per_s, parts)
    phases = tuple(_phases(sources.issuers))
    shared = bool(sources.plan and sources.plan.shared_machine)
    used = {
        host: int(group["qsl_idx"].nunique())
        for host, group in journal[journal["mode"] == "performance"].groupby("issuer")
    }
    judged = verdict.judge(sources, score, used)
    now = history.point(sources.run_id, _created(sources), parts, together.samples_per_s, together.seconds)
    result = Result(
        schema_version=SCHEMA_VERSION,
        run_id=sources.run_id,
        created_unix=_created(sources),
        asked=asked,
        verdict=judged,
        notice=NOTICE,
        together=together,
        nodes=parts,
        pair=pair,
        efficiency=ratio,
        efficiency_absent=no_ratio,
        shared_machine=shared,
        phases=phases,
        calibration=_calibration(sources.issuers),
        findings=findings.find(asked, together, parts, pair, phases, shared),
        failures=_failures(sources),
        accuracy_reference=_compared(score),
        published=() if Rule.TINY_MODEL.broken(judged) or not sources.issuers else PUBLISHED,
        history=(*history.past_runs(past, parts, asked.topology), *([now] if now else [])),
        charts=(),
    )
    return Built(result, journal, sources, past)


def _merged_score(issuers: Sequence[Issuer]) -> tuple[Score | None, tuple[str, ...]]:
    """Accuracy of all shares together, and what kept it from being merged."""
    folders = [issuer.path / "accuracy" for issuer in issuers if issuer.score]
    if not folders:
        return None, ()
    try:
        return merge(folders), ()
    except BadInput as error:
        return None, (str(error),)


def _compared(score: Score | None) -> Compared | None:
    if score is None or score.reference is None:
        return None
    plain = asdict(score.reference)
    return Compared(**{key: plain[key] for key in Compared.model_fields})


def _candidates(sources: Sources) -> list[Path]:
    """Where earlier results lie: beside this one; a lone run keeps its report in its own directory."""
    pattern = "*/result.json" if (sources.path / "plan.json").exists() else "*/report/result.json"
    here = sources.path.resolve()
    return [path for path in sorted(here.parent.glob(pattern)) if here not in path.parents]


def _created(sources: Sources) -> float | None:
    if sources.plan and sources.plan.created_unix is not None:
        return sources.plan.created_unix
    starts = [issuer.status.started_unix for issuer in sources.issuers if issuer.status and issuer.status.started_unix]
    return min(starts, default=None)


def _asked(sources: Sources) -> Asked:
    spec, plan = sources.spec, sources.plan
    public = plan.asked if plan else {}
    rate = public.get("target_qps") if plan else spec.target_qps if spec else None
    return Asked(
        scenario=spec.scenario.value if spec else public.get("scenario"),
        mode=spec.mode.value if spec else public.get("mode"),
        samples=spec.samples if spec else _integer(public.get("samples")),
        target_qps=_rate(rate),
        topology=plan.topology if plan else None,
        launcher=plan.launcher if plan else None,
        sampling_seed=spec.seed if spec else None,
    )


def _integer(value: Any) -> int | None:
    return int(value) if str(value).isdigit() else None


def _rate(value: Any) -> float | str | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None if value is None else str(value)


def _together(
    sources: Sources, rows: pd.DataFrame, mode: figures.Measured, rouge: Rouge | None, asked: Asked
) -> Figures:
    """One LoadGen: what it measured. Several: samples finished while all were running."""
    offline = asked.scenario == "offline"
    if len(sources.issuers) == 1 and not _missing_loadgens(sources):
        return figures.of(rows, nodes.log_of(sources.issuers[0], mode), rouge, offline=offline)
    span = None if _missing_loadgens(sources) else figures.all_running(sources.issuers, rows, mode)
    return figures.of(rows if span else rows.iloc[:0], None, rouge, span, offline=offline)


def _missing_loadgens(sources: Sources) -> bool:
    planned = set(sources.plan.loadgens) if sources.plan else set()
    return bool(planned - {issuer.host for issuer in sources.issuers})


def _phases(issuers: Sequence[Issuer]) -> list[Phase]:
    found = []
    for issuer in issuers:
        for mode in figures.MODES:
            if part := figures.part_of(issuer, mode):
                seconds = part.finished_unix - part.started_unix
                found.append(
                    Phase(
                        mode=mode,
                        node=issuer.host,
                        seconds=seconds,
                        samples=part.samples,
                        target_qps=issuer.outcome.target_qps,
                        client_cpu_cores=part.client_cpu_s / seconds
                        if part.client_cpu_s is not None and seconds > 0
                        else None,
                    )
                )
    return found


def _calibration(issuers: Sequence[Issuer]) -> tuple[Calibrated, ...]:
    return tuple(
        Calibrated(node=issuer.host, **found.model_dump(exclude={"tried"}))
        for issuer in issuers
        if (found := issuer.outcome.calibration)
    )


def _failures(sources: Sources) -> tuple[Failure, ...]:
    seen = {failure.host for failure in sources.failures}
    told = [Failure(node=f.host, phase=f.phase, reason=f.reason, log=f.log) for f in sources.failures]
    for issuer in sources.issuers:
        status = issuer.status
        if status and status.state != "finished" and issuer.host not in seen:
            told.append(
                Failure(node=issuer.host, phase=status.phase, reason=status.reason or status.state, log=status.log)
            )
    return tuple(told)
