"""Earlier results beside this one: which are comparable, and what they measured."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import ValidationError

from harness.errors import BadInput
from harness.files import read_json, sha256_json
from harness.report.machines import EngineSettings, Machine
from harness.report.record import SCHEMA_VERSION, Asked, Level, Node, PastRun, Result


def comparable(asked: Asked, machine: Machine, engines: Sequence[EngineSettings]) -> str | None:
    """Fingerprint of what makes two speeds of one node comparable; None when something needed is unknown.

    Same scenario, number of samples, way of choosing the rate, weights, data set, environment, engine settings, CPU,
    GPUs and driver; and the speed taken from the same mode. A rate that the asker chose is part of it, since the rate
    then bounds the speed.
    """
    known = (machine.model_sha256, machine.dataset_sha256, machine.environment_sha256)
    if None in known or not engines:
        return None
    settings = [(engine.kind, engine.settings_sha256, engine.version) for engine in engines]
    rate = None if asked.scenario == "offline" else asked.target_qps
    hardware = (machine.cpu_model, machine.cpu_count, [gpu.model_dump() for gpu in machine.gpus], machine.driver)
    return sha256_json([asked.scenario, asked.mode == "accuracy", asked.samples, rate, known, settings, hardware])


def earlier(candidates: Iterable[Path], created_unix: float | None) -> list[Result]:
    """Results of this schema among `candidates` (result.json files) made before `created_unix`, oldest first.

    INVALID ones are left out, and so is what cannot be read: history is beside the point of a report.
    """
    found = []
    for path in candidates:
        try:
            content = read_json(path, "result")
            if content.get("schema_version") == SCHEMA_VERSION:
                found.append(Result.model_validate(content))
        except (BadInput, ValidationError, AttributeError):
            continue
    limit = created_unix if created_unix is not None else 0.0
    past = [
        r for r in found if r.created_unix is not None and r.created_unix < limit and r.verdict.level != Level.INVALID
    ]
    return sorted(past, key=lambda result: (result.created_unix or 0.0, result.run_id))


def alone(past: Sequence[Result], fingerprint: str | None, name: str) -> tuple[float, str] | None:
    """(samples/s, run id) of the latest comparable run that had this node alone; None when there is none."""
    for result in reversed(past):
        only = result.nodes[0] if len(result.nodes) == 1 else None
        speed = only.figures.samples_per_s if only else None
        if only and speed and fingerprint and only.name == name and only.comparable == fingerprint:
            return speed, result.run_id
    return None


def efficiency(together: float | None, nodes: Sequence[Node]) -> tuple[float | None, str | None]:
    """Speed together over the sum of the nodes' speeds alone, or the reason why there is none."""
    if len(nodes) < 2:
        return None, "one node has no pair to be compared with"
    unmeasured = [node.name for node in nodes if node.alone_samples_per_s is None]
    if unmeasured:
        return (
            None,
            f"no comparable earlier run of {', '.join(unmeasured)} alone; run the benchmark with --limit for each",
        )
    if together is None:
        return None, "no speed together was measured"
    return together / sum(node.alone_samples_per_s or 0.0 for node in nodes), None


def past_runs(past: Sequence[Result], nodes: Sequence[Node], topology: str | None) -> list[PastRun]:
    """Earlier runs of the same nodes, topology and settings, oldest first."""
    fingerprints = {node.name: node.comparable for node in nodes}
    if None in fingerprints.values():
        return []
    return [
        run
        for result in past
        if {node.name: node.comparable for node in result.nodes} == fingerprints and result.asked.topology == topology
        if (
            run := point(
                result.run_id, result.created_unix, result.nodes, result.together.samples_per_s, result.together.seconds
            )
        )
    ]


def point(
    run_id: str, created_unix: float | None, nodes: Sequence[Node], samples_per_s: float | None, seconds: float | None
) -> PastRun | None:
    """One run as a point of the history chart; None when it measured no speed."""
    if created_unix is None or samples_per_s is None or seconds is None:
        return None
    return PastRun(
        run_id=run_id, created_unix=created_unix, nodes=len(nodes), samples_per_s=samples_per_s, seconds=seconds
    )
