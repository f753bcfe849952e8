"""Earlier results: which are comparable, their speeds, and the copy of these that a report keeps."""

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import Field, TypeAdapter, ValidationError

from harness.errors import BadInput
from harness.files import read_json, write_json
from harness.report import work
from harness.report.groups import names
from harness.report.machines import Record
from harness.report.record import Inside, Level, Node, PastRun, Result

BASELINES = "baselines.json"


class Baseline(Record):
    """An earlier run to compare with: its speed, and each node's work (fingerprints) and what that ran on.

    `comparable` has rate and number of engines in it, `work` has not; those are in `load`. A copy of an earlier version
    lacks the last two.
    """

    run: PastRun
    topology: str | None
    comparable: dict[str, str | None]
    conditions: dict[str, dict[str, str]]
    work: dict[str, str | None] = Field(default_factory=dict)
    load: dict[str, dict[str, str]] = Field(default_factory=dict)


_KEPT = TypeAdapter(tuple[Baseline, ...])


def earlier(candidates: Iterable[Path], kept: Path, created_unix: float | None) -> list[Baseline]:
    """Runs created before `created_unix`, oldest first, from other results and from the copy in baselines.json.

    Args:
        candidates: result.json files. They replace what was kept of the same run. INVALID ones are left out, and files
            that cannot be read, since a report does not fail for its history.
        kept: baselines.json of an earlier report on the same run, for results that were deleted since.
        created_unix: when the run that is reported was created; None gives no earlier runs.

    A broken copy is taken as none, for the same reason, and the next one replaces it.
    """
    by_run = {baseline.run.run_id: baseline for baseline in _kept(kept)}
    for path in candidates:
        try:
            result = work.read(path.parent)
        except BadInput:
            continue
        by_run.pop(result.run_id, None)
        speed = result.together
        run = point(result.run_id, result.created_unix, len(result.nodes), speed.samples_per_s, speed.seconds)
        if run and result.verdict.level != Level.INVALID:
            by_run[run.run_id] = Baseline(
                run=run,
                topology=result.asked.topology,
                comparable={node.name: work.node_work(result.asked, node) for node in result.nodes},
                conditions={node.name: work.node_conditions([node]) for node in result.nodes},
                work={node.name: work.node_work(result.asked, node, any_load=True) for node in result.nodes},
                load={node.name: work.node_load(result.asked, node) for node in result.nodes},
            )
    past = [baseline for baseline in by_run.values() if baseline.run.created_unix < (created_unix or 0.0)]
    return sorted(past, key=lambda baseline: (baseline.run.created_unix, baseline.run.run_id))


def _kept(path: Path) -> tuple[Baseline, ...]:
    if not path.exists():
        return ()
    try:
        return _KEPT.validate_python(read_json(path, "baselines"))
    except (BadInput, ValidationError):
        return ()


def keep(path: Path, past: Sequence[Baseline], result: Result) -> None:
    """Write those of `past` that `result` is compared with, so that it can be reported again without their results."""
    named = {run.run_id for run in result.history} | {node.alone_run_id for node in result.nodes}
    write_json(path, [baseline.model_dump(mode="json") for baseline in past if baseline.run.run_id in named])


class Alone(NamedTuple):
    """An earlier run on one node alone, and what has changed on that node since."""

    run: PastRun
    changes: tuple[str, ...]


def alone(past: Sequence[Baseline], node: work.Node, fingerprint: str | None) -> Alone | None:
    """Of the runs of the same work on this node alone that with the fewest differences, of these the latest; None when
    there is none."""
    now = work.node_conditions([node])
    found = [
        Alone(baseline.run, tuple(work.differences(baseline.conditions[node.name], now)))
        for baseline in reversed(past)
        if baseline.comparable == {node.name: fingerprint}
    ]
    return min(found, key=lambda one: len(one.changes), default=None) if fingerprint else None


def inside(past: Sequence[Baseline], asked: work.Asked, node: work.Node, now: PastRun | None) -> tuple[Inside, ...]:
    """A node's speed alone with 1 to all of its engines, of those numbers that were measured; empty without 1 or all.

    Args:
        past: earlier runs.
        asked: the request, for telling which of them are the same work but for the engines.
        node: the node as it is now.
        now: its speed alone with all engines.
    """
    several = range(1, len(node.engines))
    fewer = {
        count: alone(past, node, work.node_work(asked, node.model_copy(update={"engines": node.engines[:count]})))
        for count in several
    }
    runs = {count: found.run for count, found in fewer.items() if found} | ({len(node.engines): now} if now else {})
    if 1 not in runs or len(node.engines) not in runs or len(runs) < 2:
        return ()
    one = runs[1].samples_per_s
    return tuple(
        Inside(engines=n, samples_per_s=r.samples_per_s, efficiency=r.samples_per_s / (n * one), run_id=r.run_id)
        for n, r in runs.items()
    )


def summed(nodes: Sequence[Node]) -> float | None:
    """Sum of the nodes' speeds alone; None while one of them was not measured."""
    speeds = [node.alone_samples_per_s for node in nodes if node.alone_samples_per_s is not None]
    return sum(speeds) if speeds and len(speeds) == len(nodes) else None


def efficiency(together: float | None, nodes: Sequence[Node]) -> tuple[float | None, str | None]:
    """Speed together over the sum of the nodes' speeds alone, or the reason why there is none."""
    if len(nodes) < 2:
        return None, "one node has no pair to be compared with"
    total = summed(nodes)
    if total is None:
        unmeasured = names([node.name for node in nodes if node.alone_samples_per_s is None])
        return None, f"no comparable earlier run of {unmeasured} alone; run the benchmark with --limit for each"
    if together is None:
        return None, "no speed together was measured"
    return together / total, None


def past_runs(
    past: Sequence[Baseline], nodes: Sequence[Node], asked: work.Asked, now: PastRun | None
) -> tuple[PastRun, ...]:
    """Runs of the same work on the same nodes, oldest first, `now` last, and what changed before each."""
    seen = [work.node(node) for node in nodes]
    fingerprints = {node.name: work.node_work(asked, node, any_load=True) for node in seen}
    known = bool(fingerprints) and None not in fingerprints.values()
    same = [b for b in past if known and b.work == fingerprints and b.topology == asked.topology]
    conditions = [
        *({name: {**b.conditions[name], **b.load[name]} for name in fingerprints} for b in same),
        {node.name: {**work.node_conditions([node]), **work.node_load(asked, node)} for node in seen},
    ]
    changes = [(), *(_changes(*pair) for pair in itertools.pairwise(conditions))]
    runs = [*(b.run for b in same), *([now] if now else [])]
    return tuple(run.model_copy(update={"changes": change}) for run, change in zip(runs, changes, strict=False))


def _changes(base: dict[str, dict[str, str]], new: dict[str, dict[str, str]]) -> tuple[str, ...]:
    """What differs on any node, each once."""
    return tuple(dict.fromkeys(one for name in new for one in work.differences(base[name], new[name])))


def point(
    run_id: str, created_unix: float | None, nodes: int, samples_per_s: float | None, seconds: float | None
) -> PastRun | None:
    """One run as a point of the history chart; None when it measured no speed."""
    if created_unix is None or samples_per_s is None or seconds is None:
        return None
    return PastRun(run_id=run_id, created_unix=created_unix, nodes=nodes, samples_per_s=samples_per_s, seconds=seconds)
