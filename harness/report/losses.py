"""Engines that were lost during a run: when, why, how many samples moved, and the speed before and after."""

from collections.abc import Iterator, Sequence

from harness.report import input_models, journals, tables
from harness.report.load_inputs import Inputs, LoadGenRun
from harness.report.record import EngineLoss, Level, Reason
from harness.report.rules import Rule
from harness.report.tables import Floats

_CAUSE_S = 120.0  # between a server's death and its supervisor's or a run's notice of it


def losses(inputs: Inputs) -> Iterator[EngineLoss]:
    """Every loss of every LoadGen's run, in order, those of probes included.

    The speeds are those of all engines, from the change before to the loss and from the loss to the next change: a
    run's start, another loss, an engine's return, the last answer.
    """
    for loadgen in inputs.loadgens:
        for loss in loadgen.outcome.engine_losses:
            judged, run = loss in loadgen.judged_losses, (loss.mode, loss.folder)
            same_run = [other for other in loadgen.outcome.engine_losses if (other.mode, other.folder) == run]
            rows = (loadgen.journal if judged else _journal_beside(loadgen, loss)).of(loss.mode)
            done = tables.done_unix(rows)
            moments = [moment for other in same_run for moment in (other.at_unix, other.rejoined_unix) if moment]
            moments += [float(rows["issued_unix"].min()), float(done.max())] if len(rows) else []
            before = max((moment for moment in moments if moment < loss.at_unix), default=None)
            after = min((moment for moment in moments if moment > loss.at_unix), default=None)
            yield EngineLoss(
                **loss.model_dump(),
                loadgen=loadgen.host,
                judged=judged,
                cause=_cause(loss, inputs),
                samples_per_s_before=_speed(done, before, loss.at_unix),
                samples_per_s_after=_speed(done, loss.at_unix, after),
            )


def _journal_beside(loadgen: LoadGenRun, loss: input_models.EngineLoss) -> journals.Journal:
    """The journal of the probe or attempt in which an engine was lost."""
    return journals.read([loadgen.path / (loss.folder or "") / "journal.jsonl"])[0]


def _cause(loss: input_models.EngineLoss, inputs: Inputs) -> str | None:
    for engine in inputs.engines:
        if (engine.node, engine.file.name) == (loss.node, loss.engine):
            restarts = [one for one in engine.file.restarts if abs(one.unix - loss.at_unix) < _CAUSE_S]
            return restarts[0].reason if restarts else engine.file.reason if engine.file.state == "failed" else None
    return None


def _speed(done_unix: Floats, start: float | None, stop: float | None) -> float | None:
    if start is None or stop is None or stop <= start:
        return None
    return float(((done_unix > start) & (done_unix <= stop)).sum()) / (stop - start)


def reasons(lost: Sequence[EngineLoss]) -> Iterator[Reason]:
    """The verdict's reason for each loss in what is judged: a performance run measured less than the system, an
    accuracy run did not."""
    for loss in (loss for loss in lost if loss.judged):
        level = Level.INVALID if loss.mode == "performance" else Level.UNOFFICIAL
        yield Rule.ENGINE_ALIVE.reason(level=level, engine=f"{loss.node}/{loss.engine}", what=_describe(loss))


def _describe(loss: EngineLoss) -> str:
    samples = "1 sample was" if loss.moved == 1 else f"{loss.moved:,} samples were"
    cause = f" ({loss.cause})" if loss.cause else ""
    run = f"the {loss.mode} run" if loss.lost_in == loss.mode else loss.lost_in
    parts = [
        f"the engine was lost after {loss.at_s:.0f} s of {run}: {loss.reason}{cause}",
        f"{samples} moved to other engines",
    ]
    if loss.samples_per_s_before is not None and loss.samples_per_s_after is not None:
        parts.append(f"{loss.samples_per_s_before:.3g} samples/s before, {loss.samples_per_s_after:.3g} after")
    if loss.rejoined_unix is not None:
        parts.append(f"it was back {loss.rejoined_unix - loss.at_unix:.0f} s later")
    return "; ".join(parts)


def lost_nodes(inputs: Inputs) -> set[str]:
    """Nodes that finished runs went on without: all their engines were lost, and no LoadGen ran there."""
    engines = {(ref.node, ref.name) for run in inputs.loadgens if run.spec for ref in run.spec.engines}
    lost = {(loss.node, loss.engine) for run in inputs.loadgens if run.finished for loss in run.judged_losses}
    alive = {node for node, _ in engines - lost} | {run.host for run in inputs.loadgens}
    return ({node for node, _ in lost} - alive) | inputs.replaced


def taken_over(inputs: Inputs) -> Iterator[Reason]:
    """The verdict's reason for each lost node whose accuracy share others have taken over, wholly or in part."""
    runs = [run for run in inputs.loadgens if run.takes_over and run.outcome.accuracy]
    for node in dict.fromkeys(run.takes_over for run in runs):
        own = [run for run in runs if run.takes_over == node]
        failures = [failure.reason for failure in inputs.failures if failure.host == node]
        yield Rule.SHARE_TAKEN_OVER.reason(
            node=node,
            why=failures[0] if failures else "its run did not finish",
            count=sum(run.outcome.accuracy.samples for run in own if run.outcome.accuracy),
            others=" and ".join(run.host for run in own),
        )
