"""A node's GPUs, each once, whoever has read it: which engines it had, and what it did in the performance run."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from harness.report import figures, tables
from harness.report.journals import Table
from harness.report.load_inputs import Engine
from harness.report.machines import Gpu, GpuUse, Machine
from harness.report.record import Figures


def of_machines(machines: Sequence[Machine]) -> tuple[Gpu, ...]:
    """The GPUs that the engines of a node describe, each once. In pods every engine sees its own ones only, so that
    they are told apart by their UUIDs; where one has none, the first engine's stand for all."""
    cards = [gpu for machine in machines for gpu in machine.gpus]
    if any(gpu.uuid is None for gpu in cards):
        return machines[0].gpus
    return tuple({gpu.uuid: gpu for gpu in reversed(cards)}[uuid] for uuid in dict.fromkeys(gpu.uuid for gpu in cards))


def numbers(machine: Machine | None, cards: Sequence[Gpu]) -> tuple[int, ...]:
    """The numbers among `cards` of the GPUs that a machine's description has; empty for its own numbers."""
    place = {gpu.uuid: number for number, gpu in enumerate(cards) if gpu.uuid is not None}
    known = [place.get(gpu.uuid or "") for gpu in machine.gpus] if machine else []
    return () if None in known else tuple(number for number in known if number is not None)


def by_file(engines: Iterable[Engine], cards: Sequence[Gpu]) -> dict[Path, tuple[int, ...]]:
    """For each telemetry file the numbers among `cards` of the GPUs that its reader saw."""
    return {engine.telemetry: numbers(engine.file.machine, cards) for engine in engines if engine.telemetry}


def of_engines(engines: Iterable[Engine], cards: Sequence[Gpu]) -> dict[int, tuple[str, ...]]:
    """The engines that a GPU's number among `cards` had; none for servers that others run."""
    users: dict[int, tuple[str, ...]] = {}
    for file in (engine.file for engine in engines if engine.file.kind != "endpoint"):
        own = numbers(file.machine, cards) or tuple(range(len(cards)))
        uuids = {gpu.uuid: number for number, gpu in enumerate(cards)}
        wanted = str(file.config.get("gpus") or "")
        width = int(file.config.get("tensor_parallel") or 1)
        chosen = (
            [own[int(one)] if one.isdecimal() and int(one) < len(own) else uuids.get(one) for one in wanted.split(",")]
            if wanted
            else own[:width]
        )
        for number in chosen:
            if number is not None:
                users[number] = (*users.get(number, ()), file.name)
    return users


def uses(
    readings: Table, cards: Sequence[Gpu], users: Mapping[int, tuple[str, ...]], answered: Table, speed: Figures
) -> tuple[GpuUse, ...]:
    """What each GPU of a node did.

    Args:
        readings: the node's telemetry in the performance run, with numbers among `cards`.
        cards: the node's GPUs.
        users: the engines on each.
        answered: the samples that the node's engines answered, of which an engine's part is its part of the speed.
        speed: the node's.
    """
    measured = readings[~np.isnan(readings["gpu_index"])]
    every = sorted({*range(len(cards)), *(int(number) for number in np.unique(measured["gpu_index"]))})
    parts = []
    for number in every:
        own = measured[measured["gpu_index"] == number]
        engines = users.get(number, ())
        share = float(np.isin(answered["engine"], engines).mean()) if engines and len(answered) else None
        throttled, why = figures.throttling(own[~np.isnan(own["gpu_util_percent"])])
        columns = {
            name: figures.usage(tables.by_second(own, f"gpu_{name}")[1])
            for name in ("util_percent", "memory_used_gib", "power_w", "sm_clock_mhz", "temperature_c")
        }
        parts.append(
            GpuUse(
                number=number,
                name=cards[number].name if number < len(cards) else None,
                engines=engines,
                samples_per_s=_part(speed.samples_per_s, share),
                tokens_per_s=_part(speed.tokens_per_s, share),
                throttled_percent=throttled,
                throttle_reasons=why,
                **columns,
            )
        )
    return tuple(parts)


def _part(speed: float | None, share: float | None) -> float | None:
    return None if speed is None or share is None else speed * share
