"""Earlier results: which are comparable, their speeds, and the copy of these that a report keeps."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from harness.errors import BadInput
from harness.files import read_json, sha256_json, write_json
from harness.report.input_models import EarlierResult
from harness.report.machines import EngineSettings, Machine, Record
from harness.report.record import Level, Node, PastRun, Request, Result
from harness.spec import explain

BASELINES = "baselines.json"


def comparable(request: Request, machine: Machine, engines: Sequence[EngineSettings]) -> str | None:
    """Fingerprint of what makes two speeds of one node comparable; None when something needed is unknown.

    Same scenario, samples, way of choosing the rate, weights, environment, engine settings, CPU, GPUs and driver; and
    the speed taken from the same mode. A rate given as a number is part of it, since the rate then bounds the speed.
    """
    hashes = (machine.model_sha256, machine.samples_sha256, machine.environment_sha256)
    if None in hashes or not engines:
        return None
    settings = [(engine.kind, engine.settings_sha256, engine.version) for engine in engines]
    rate = None if request.scenario == "offline" else request.target_qps
    hardware = (machine.cpu_model, machine.cpu_count, [gpu.model_dump() for gpu in machine.gpus], machine.driver)
    return sha256_json(
        [request.scenario, request.mode == "accuracy", request.samples, rate, hashes, settings, hardware]
    )


class Baseline(Record):
    """An earlier run to compare with: its speed, and the fingerprint of each of its nodes."""

    run: PastRun
    topology: str | None
    comparable: dict[str, str | None]


_KEPT = TypeAdapter(tuple[Baseline, ...])


def earlier(candidates: Iterable[Path], kept: Path, created_unix: float | None) -> list[Baseline]:
    """Runs created before `created_unix`, oldest first, from other results and from the copy in baselines.json.

    Args:
        candidates: result.json files. They replace what was kept of the same run. INVALID ones are left out, and files
            that cannot be read, since a report does not fail for its history.
        kept: baselines.json of an earlier report on the same run, for results that were deleted since.
        created_unix: when the run that is reported was created; None gives no earlier runs.

    Raises:
        BadInput: `kept` is there and broken.
    """
    by_run = {baseline.run.run_id: baseline for baseline in _kept(kept)}
    for path in candidates:
        try:
            result = EarlierResult.model_validate(read_json(path, "result"))
        except (BadInput, ValidationError):
            continue
        by_run.pop(result.run_id, None)
        speed = result.together
        run = point(result.run_id, result.created_unix, len(result.nodes), speed.samples_per_s, speed.seconds)
        if run and result.verdict.level != Level.INVALID:
            comparables = {node.name: node.comparable for node in result.nodes}
            by_run[run.run_id] = Baseline(run=run, topology=result.asked.topology, comparable=comparables)
    past = [baseline for baseline in by_run.values() if baseline.run.created_unix < (created_unix or 0.0)]
    return sorted(past, key=lambda baseline: (baseline.run.created_unix, baseline.run.run_id))


def _kept(path: Path) -> tuple[Baseline, ...]:
    if not path.exists():
        return ()
    try:
        return _KEPT.validate_python(read_json(path, "baselines"))
    except ValidationError as error:
        raise BadInput(f"baselines {path}: {explain(error)}; delete it to report without them") from None


def keep(path: Path, past: Sequence[Baseline], result: Result) -> None:
    """Write those of `past` that `result` is compared with, so that it can be reported again without their results."""
    named = {run.run_id for run in result.history} | {node.alone_run_id for node in result.nodes}
    write_json(path, [baseline.model_dump(mode="json") for baseline in past if baseline.run.run_id in named])


def alone(past: Sequence[Baseline], fingerprint: str | None, name: str) -> PastRun | None:
    """The latest comparable run on this node alone; None when there is none."""
    same = (baseline.run for baseline in reversed(past) if baseline.comparable == {name: fingerprint})
    return next(same, None) if fingerprint else None


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
        unmeasured = ", ".join(node.name for node in nodes if node.alone_samples_per_s is None)
        return None, f"no comparable earlier run of {unmeasured} alone; run the benchmark with --limit for each"
    if together is None:
        return None, "no speed together was measured"
    return together / total, None


def past_runs(past: Sequence[Baseline], nodes: Sequence[Node], topology: str | None) -> list[PastRun]:
    """Earlier runs of the same nodes, topology and settings, oldest first."""
    fingerprints = {node.name: node.comparable for node in nodes}
    if None in fingerprints.values():
        return []
    return [b.run for b in past if b.comparable == fingerprints and b.topology == topology]


def point(
    run_id: str, created_unix: float | None, nodes: int, samples_per_s: float | None, seconds: float | None
) -> PastRun | None:
    """One run as a point of the history chart; None when it measured no speed."""
    if created_unix is None or samples_per_s is None or seconds is None:
        return None
    return PastRun(run_id=run_id, created_unix=created_unix, nodes=nodes, samples_per_s=samples_per_s, seconds=seconds)
