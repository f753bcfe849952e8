"""Speeds of nodes, and what follows from them: how samples are shared, and how long a share takes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.benchmark.public_settings import Asked
from harness.load.loadgen import Settings
from harness.spec import OFFLINE_MARGIN, EngineRef, Limits, Scenario, least_duration_s

Engines = Mapping[str, Sequence[EngineRef]]
"""Engines of each node that takes part, by host."""


@dataclass(frozen=True, slots=True)
class Speed:
    """What a node's engines make together (samples/s), and the rate its own LoadGen should offer; None is unknown."""

    samples_per_s: float | None
    target_qps: float | None


def speeds(engines: Engines, calibration: Mapping[str, dict[str, Any]]) -> dict[str, Speed]:
    """Speeds of nodes, from the result of each host that calibrated; a node without any is unknown."""
    engine_rates = by_engine(calibration)
    known = {}
    for host, own in engines.items():
        rates = [engine_rates.get(engine.name) for engine in own]
        rate = None if None in rates or not rates else sum(value for value in rates if value)
        known[host] = Speed(rate, calibration.get(host, {}).get("target_qps"))
    return {**{host: Speed(None, record.get("target_qps")) for host, record in calibration.items()}, **known}


def by_engine(calibration: Mapping[str, dict[str, Any]]) -> dict[str, float]:
    """Speed of each engine (samples/s) by its name, from the result of each host that calibrated."""
    return {name: rate for record in calibration.values() for name, rate in record.get("by_engine", {}).items()}


def slowest_s(calibration: Mapping[str, dict[str, Any]]) -> dict[str, float]:
    """The longest request of each engine in seconds by its name, from the result of each host that calibrated."""
    return {name: seconds for record in calibration.values() for name, seconds in record.get("slowest_s", {}).items()}


def shares(samples: int, weights: Sequence[float]) -> list[int]:
    """Split `samples` in proportion to `weights`, by largest remainder; earlier ones win ties."""
    exact = [samples * weight / sum(weights) for weight in weights]
    sizes = [math.floor(value) for value in exact]
    order = sorted(range(len(weights)), key=lambda index: (sizes[index] - exact[index], index))
    for index in order[: samples - sum(sizes)]:
        sizes[index] += 1
    return sizes


def durations(
    asked: Asked, share: int, rate: float | None, target: float | None, limits: Limits | None = None
) -> tuple[float, float] | None:
    """Seconds of one performance run over a share and of the runs after it; None when their speed is unknown.

    Server paces all at `target`; Offline goes as fast as it can, `rate`, through as many passes as LoadGen expects to
    need at `target`. A run that is not asked for takes 0 s.
    """
    offline = asked.scenario is Scenario.OFFLINE
    pace = rate if offline else target
    if not pace:
        return None
    least_ms = round(least_duration_s(asked.samples, limits or Limits()) * 1000)
    expected = target or OFFLINE_MARGIN * pace
    lengths = {
        mode: Settings(asked.scenario, mode, share, expected, least_ms).expected_samples / pace
        for mode in asked.mode.runs
    }
    performance = lengths.pop("performance", 0.0)
    return performance, sum(lengths.values())
