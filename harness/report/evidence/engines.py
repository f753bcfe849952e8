"""The engines of the specifications, of the plan and of the files are the same ones."""

from collections.abc import Iterator, Mapping

from harness.report import losses, tables
from harness.report.input_models import PlanFile
from harness.report.load_inputs import Inputs
from harness.report.record import Reason
from harness.report.rules import Rule


def reasons(inputs: Inputs) -> Iterator[Reason]:
    """Engines that were removed, added or renamed in one of the places that name them."""
    runs = [run for run in inputs.loadgens if run.spec]
    if not runs:
        return
    refs = {(ref.node, ref.name): ref.url for run in runs if run.spec for ref in run.spec.engines}
    named = set(refs)
    failed = {failure.host for failure in inputs.failures} | losses.lost_nodes(inputs)
    failed |= {run.host for run in inputs.loadgens if not run.finished}
    if inputs.plan:
        planned = {
            (node, one["name"] if isinstance(one, dict) and "name" in one else str(one))
            for node, settings in inputs.plan.nodes.items()
            for one in settings.get("engines") or ()
        }
        yield from _addresses(inputs.plan, refs)
        here = {one for one in planned if one in named or one[0] not in failed}
        if named != here:
            yield Rule.SAME_RUN.reason(file="plan.json", what="engines", value=_list(planned), rule=_list(named))
    collected = {(engine.node, engine.file.name) for engine in inputs.engines if not engine.observed}
    # Of engines that run on after a run that was picked up late, only the manifest tells.
    there = collected or {(engine.node, engine.file.name) for engine in inputs.engines}
    for node, name in sorted(named - there):
        if node not in failed:
            yield Rule.NODES_PRESENT.reason(node=f"engine {name} of {node}")
    if inputs.plan and there != collected:
        for engine in inputs.engines:
            yield Rule.UNVERIFIED.reason(engine=f"{engine.node}/{engine.file.name}", what="how it ended")
    yield from _restarted(inputs)
    if foreign := {one for one in there - named if one[0] not in inputs.replaced}:
        yield Rule.SAME_RUN.reason(file="engine.json", what="engines", value=_list(foreign), rule=_list(named))
    for run in runs:
        if run.spec and not run.unreadable("manifest.json"):
            own = {(ref.node, ref.name) for ref in run.spec.engines}
            names = [engine.name for engine in run.manifest.engines]
            described = {(run.nodes.get(name, "–"), name) for name in names}
            if described != own:
                file = inputs.shown(run.path / "manifest.json")
                yield Rule.SAME_RUN.reason(file=file, what="engines", value=_list(described), rule=_list(own))


def _addresses(plan: PlanFile, refs: Mapping[tuple[str, str], str]) -> Iterator[Reason]:
    """Engines that were planned on another node or at another address than the runs used."""
    for node, settings in plan.nodes.items():
        for one in (each for each in settings.get("engines") or () if isinstance(each, dict)):
            rules = {"node": node, "url": refs.get((node, str(one.get("name"))))}
            for key, rule in rules.items():
                if rule is not None and one.get(key) != rule:
                    name = f"{key} of {node}/{one.get('name')}"
                    yield Rule.SAME_RUN.reason(file="plan.json", what=name, value=one.get(key), rule=rule)


def _restarted(inputs: Inputs) -> Iterator[Reason]:
    """Engines whose servers were started again in a performance run that says that it lost none."""
    for run in inputs.loadgens:
        rows = run.journal.of("performance")
        noted = {(loss.node, loss.engine) for loss in run.losses_in(run.judged)}
        own = {(node, name) for name, node in run.nodes.items()} - noted
        for engine in inputs.engines:
            times = [restart.unix for restart in engine.file.restarts if (engine.node, engine.file.name) in own]
            if len(rows) and any(rows["issued_unix"].min() < unix < tables.done_unix(rows).max() for unix in times):
                yield Rule.ENGINE_ALIVE.reason(
                    engine=f"{engine.node}/{engine.file.name}",
                    what="its server died in the performance run and was started again, which no run has noted",
                )


def _list(engines: set[tuple[str, str]]) -> str:
    return ", ".join(f"{node}/{name}" for node, name in sorted(engines, key=str)) or "none"
