"""Energy of a node's GPUs during the performance run, and what it cost."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from harness.report import tables
from harness.report.journals import Table
from harness.report.machines import Record
from harness.report.record import Energy, Figures

_EDGE_S = 5.0
"""A reading that is farther than this from the run's start or end does not say what was used until then; nor does power
say what was used in a gap that is longer."""


class Node(Record):
    """A node's GPUs in one run: joules, how they were measured, mean watts of all together before it."""

    joules: float
    source: Literal["counter", "power"]
    idle_power_w: float | None


def node(
    paths: Iterable[Path],
    span: tuple[float, float] | None,
    engines: Iterable[str],
    numbers: Mapping[Path, Sequence[int]] | None = None,
) -> Node | None:
    """The energy of all GPUs of a node in `span` (unix seconds); None where it was not measured.

    Args:
        paths: telemetry files of the node.
        span: the performance run.
        numbers: the numbers of the GPUs in each file, where they are not the node's.
        engines: the node's engines; before the run they were idle in the seconds in which none had a request.
    """
    if span is None:
        return None
    readings = tables.readings(paths, None, numbers)
    gpus = [_gpu(readings, index) for index in np.unique(readings["gpu_index"][~np.isnan(readings["gpu_index"])])]
    source: Literal["counter", "power"] = "counter"
    joules = _sum([_counted(gpu, span) for gpu in gpus])
    if joules is None:
        source, joules = "power", _sum([_integrated(gpu, span) for gpu in gpus])
    if joules is None:
        return None
    return Node(joules=joules, source=source, idle_power_w=_idle(readings, gpus, span[0], engines))


def _gpu(readings: Table, index: float) -> Table:
    """One GPU's readings in order of time; each time once."""
    own = readings[readings["gpu_index"] == index]
    _, first = np.unique(own["unix_s"], return_index=True)
    one: Table = own[first]
    return one


def _counted(gpu: Table, span: tuple[float, float]) -> float | None:
    """Joules by the GPU's counter, interpolated at the span's edges; None without it, or where it was reset."""
    known = gpu[~np.isnan(gpu["gpu_energy_j"])]
    near = known[(known["unix_s"] >= span[0] - _EDGE_S) & (known["unix_s"] <= span[1] + _EDGE_S)]
    if not _covers(near["unix_s"], span) or (np.diff(near["gpu_energy_j"]) < 0).any():
        return None
    start, stop = np.interp(span, near["unix_s"], near["gpu_energy_j"])
    return float(stop - start)


def _integrated(gpu: Table, span: tuple[float, float]) -> float | None:
    """Joules as power over time, by trapezoids; None where a gap in the readings hides too much of it."""
    known = gpu[~np.isnan(gpu["gpu_power_w"])]
    near = known[(known["unix_s"] >= span[0] - _EDGE_S) & (known["unix_s"] <= span[1] + _EDGE_S)]
    times, watts = near["unix_s"], near["gpu_power_w"]
    if not _covers(times, span) or np.diff(times).max() > _EDGE_S:
        return None
    at = np.concatenate(([span[0]], times[(times > span[0]) & (times < span[1])], [span[1]]))
    return float(np.trapezoid(np.interp(at, times, watts), at))


def _covers(times: tables.Floats, span: tuple[float, float]) -> bool:
    """Whether there are readings near both edges of the span."""
    return len(times) > 1 and times[0] <= span[0] + _EDGE_S and times[-1] >= span[1] - _EDGE_S


def _idle(readings: Table, gpus: Sequence[Table], start: float, engines: Iterable[str]) -> float | None:
    """Mean watts of all GPUs before the run, in the seconds in which no engine had a request."""
    queues = tables.queues(readings, engines)
    quiet = queues.seconds[(queues.running == 0) & (queues.waiting == 0) & (queues.seconds < start)]
    means = []
    for gpu in gpus:
        own = gpu[np.isin(np.round(gpu["unix_s"]), quiet) & ~np.isnan(gpu["gpu_power_w"])]
        if not len(own):
            return None
        means.append(float(own["gpu_power_w"].mean()))
    return sum(means) if means else None


def of(used: Node | None, price: float | None, figures: Figures) -> Energy:
    """Energy and cost of a node that had these figures; what was not measured is None."""
    joules, rate = used.joules if used else None, figures.tokens_per_s
    return Energy(
        joules=joules,
        source=used.source if used else None,
        tokens_per_joule=figures.tokens / joules if joules and figures.tokens is not None else None,
        joules_per_sample=joules / figures.samples if joules is not None and figures.samples else None,
        idle_power_w=used.idle_power_w if used else None,
        price_per_hour=price,
        cost_per_million_tokens=price / 3600 / rate * 1e6 if price is not None and rate else None,
    )


def together(nodes: Sequence[Energy], figures: Figures) -> Energy:
    """Energy and cost of nodes that had these figures together; what a node lacks is not known of all."""
    joules = _sum([node.joules for node in nodes])
    source: Literal["counter", "power"] = "power" if any(node.source == "power" for node in nodes) else "counter"
    idle = _sum([node.idle_power_w for node in nodes])
    used = None if joules is None else Node(joules=joules, source=source, idle_power_w=idle)
    return of(used, _sum([node.price_per_hour for node in nodes]), figures)


def _sum(values: Sequence[float | None]) -> float | None:
    """The sum of values that are all known; None of none."""
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None
