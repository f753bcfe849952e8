# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Who runs what, why, and for how long: a pure function of the request and of measured speeds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Tuple

FULL_SAMPLES = 13368
RULE_DURATION_S = 600.0
# LoadGen issues Offline samples for 1.1 times the duration at the rate it expects, which calibrating sets to 1.05 times
# what it measured.
OFFLINE_SLACK, OFFLINE_MARGIN = 1.1, 1.05

Record = Dict[str, Any]


class NoPlan(Exception):
    """The request cannot be carried out on these nodes; the message says why."""


@dataclass(frozen=True)
class Speed:
    """What a node's engines make together (samples/s), and the rate its own LoadGen should offer; None is unknown."""

    samples_per_s: Optional[float]
    target_qps: Optional[float]


def shares(samples: int, weights: List[float]) -> List[int]:
    """Split `samples` in proportion to `weights`, by largest remainder; earlier ones win ties."""
    total = sum(weights)
    exact = [samples * weight / total for weight in weights]
    whole = [math.floor(value) for value in exact]
    order = sorted(range(len(weights)), key=lambda n: (whole[n] - exact[n], n))
    for n in order[: samples - sum(whole)]:
        whole[n] += 1
    return whole


def seconds(asked: Record, samples: int, share: int, rate: Optional[float], target: Optional[float]) -> Optional[float]:
    """How long one LoadGen needs for its share of a benchmark of `samples`; None when its speed is unknown.

    Server paces both of its runs at `target`; a full performance run repeats whole passes for 600 s at least.
    Offline goes as fast as it can, `rate`, through as many passes as LoadGen expects to need at `target`.
    """
    offline = asked["scenario"] == "offline"
    pace = rate if offline else target
    if not pace:
        return None
    one_pass = share / pace
    expected = OFFLINE_SLACK * (target or OFFLINE_MARGIN * pace) if offline else pace
    passes = math.ceil(RULE_DURATION_S * expected / share) if samples == FULL_SAMPLES else 1
    modes = {"performance": passes, "accuracy": 1, "both": passes + 1}
    return one_pass * modes[asked["mode"]]


def plan(request: Record, nodes: Dict[str, List[Record]], speeds: Dict[str, Speed], loadgen_host: str) -> Record:
    """The plan: `nodes` with their engines in it, topology, shares and rates.

    Args:
        request: what mlperf_request returned.
        nodes: engines of every node that takes part.
        speeds: of every node; in `fleet` the target rate is that of `loadgen_host`.
        loadgen_host: who drives LoadGen in `fleet`.

    Raises:
        NoPlan: no nodes, fewer samples than nodes, or a node that calibrating found to make nothing.
    """
    asked = request["asked"]
    if not nodes:
        raise NoPlan("no node has an engine that is ready; see the reasons above")
    idle = [name for name in nodes if speeds[name].samples_per_s == 0]
    if idle:
        raise NoPlan(
            f"calibrating saw no sample finish on {', '.join(idle)}: see the engine's log, or give it longer with "
            "harness_limits.calibration_s"
        )
    if request["topology"] == "fleet":
        rows = _fleet(asked, nodes, speeds, loadgen_host)
    else:
        rows = _per_node(asked, nodes, speeds)
    return {
        "schema": 1,
        "run_id": request["run_id"],
        "topology": request["topology"],
        "launcher": asked["launcher"],
        "asked": asked,
        "nodes": rows,
        "loadgens": [name for name, row in rows.items() if row["loadgen"]],
    }


def _row(engines: List[Record], **more: Any) -> Record:
    empty = {"share": None, "target_qps": None, "samples_per_s": None, "hours_samples": None, "hours_13368": None}
    return {**empty, "engines": engines, "loadgen": False, **more}


def _hours(asked: Record, fraction: float, share: int, rate: Optional[float], target: Optional[float]) -> Record:
    here = seconds(asked, asked["samples"], share, rate, target)
    full = seconds(asked, FULL_SAMPLES, max(1, round(FULL_SAMPLES * fraction)), rate, target)
    return {
        "hours_samples": None if here is None else here / 3600,
        "hours_13368": None if full is None else full / 3600,
    }


def _fleet(
    asked: Record, nodes: Dict[str, List[Record]], speeds: Dict[str, Speed], loadgen_host: str
) -> Dict[str, Record]:
    known = [speeds[name].samples_per_s for name in nodes]
    total = None if None in known else sum(rate for rate in known if rate)
    driver = speeds.get(loadgen_host, Speed(None, None))
    target = driver.target_qps if asked["target_qps"] == "auto" else asked["target_qps"]
    hours = _hours(asked, 1.0, asked["samples"], total, target)
    rows = {}
    for name, engines in nodes.items():
        rate = speeds[name].samples_per_s
        rows[name] = _row(engines, samples_per_s=rate, why=_why_fleet(rate, total), **hours)
    loadgen = rows.setdefault(loadgen_host, _row([]))
    loadgen.update(hours, target_qps=target, loadgen=True)
    drives = f"drives the one LoadGen over the engines of {len(nodes)} nodes"
    loadgen["why"] = f"{drives}; {loadgen['why']}" if "why" in loadgen else drives
    return rows


def _why_fleet(rate: Optional[float], total: Optional[float]) -> str:
    if not rate or not total:
        return "takes each sample when it is the least loaded; its speed is not known yet"
    return f"takes each sample when it is the least loaded, about {100 * rate / total:.0f}% of them at its speed"


def _per_node(asked: Record, nodes: Dict[str, List[Record]], speeds: Dict[str, Speed]) -> Dict[str, Record]:
    names, samples = list(nodes), asked["samples"]
    if samples < len(names):
        raise NoPlan(f"samples = {samples}: give at least one for each of the {len(names)} nodes, or topology=fleet")
    rates = [speeds[name].samples_per_s for name in names]
    if len(names) > 1 and not all(rates):
        why = "its share follows from its speed, not known yet"
        return {name: _row(nodes[name], loadgen=True, why=why) for name in names}
    weights = [rate or 1.0 for rate in rates]
    # Everybody gets one sample, the rest goes by speed: an empty share is not a run.
    sizes = [1 + more for more in shares(samples - len(names), weights)]
    rows, start = {}, 0
    for name, size, weight in zip(names, sizes, weights):
        fraction = weight / sum(weights)
        offered = asked["target_qps"] * fraction if asked["target_qps"] != "auto" else speeds[name].target_qps
        rate = speeds[name].samples_per_s
        rows[name] = _row(
            nodes[name],
            share={"start": start, "stop": start + size},
            target_qps=offered,
            samples_per_s=rate,
            loadgen=True,
            why=_why_share(size, samples, rate, rates),
            **_hours(asked, fraction, size, rate, offered),
        )
        start += size
    return rows


def _why_share(size: int, samples: int, rate: Optional[float], rates: List[Optional[float]]) -> str:
    if len(rates) == 1:
        return "the only node in this play runs everything itself"
    total = sum(value for value in rates if value)
    return f"{size} of {samples} samples, since it makes {rate:.1f} of {total:.1f} samples/s measured just now"


def speeds_of(nodes: Dict[str, List[Record]], calibration: Dict[str, Record]) -> Dict[str, Speed]:
    """Node speeds from what calibrating found, by host that calibrated; a node without any is unknown."""
    found = {name: rate for record in calibration.values() for name, rate in record.get("by_engine", {}).items()}
    speeds = {}
    for host, engines in nodes.items():
        own = [found.get(engine["name"]) for engine in engines]
        rate = None if None in own or not own else sum(value for value in own if value)
        speeds[host] = Speed(rate, calibration.get(host, {}).get("target_qps"))
    for host, record in calibration.items():
        speeds.setdefault(host, Speed(None, record.get("target_qps")))
    return speeds


def printed(made: Record) -> List[str]:
    """The plan for people, a line each."""
    asked = made["asked"]
    runs = {"both": "performance and accuracy"}.get(asked["mode"], asked["mode"])
    qps = asked["target_qps"] if asked["target_qps"] == "auto" else f"{asked['target_qps']:g}/s"
    head = f"{asked['samples']} samples, scenario {asked['scenario']}, {runs}, target rate {qps}"
    found = [f"run {made['run_id']}: {head}", f"topology {made['topology']}, launcher {made['launcher']}"]
    for name, row in made["nodes"].items():
        found.append(f"{name}: {_tasks(row)}; {row['why']}")
    found.append(_together(made))
    return found


def _tasks(row: Record) -> str:
    parts = [f"engine {engine['name']} at {engine['url']}" for engine in row["engines"]]
    if row["samples_per_s"] is not None:
        parts.append(f"{row['samples_per_s']:.1f} samples/s")
    if row["loadgen"]:
        share = row["share"]
        part = f" on samples {share['start']} to {share['stop'] - 1}" if share else ""
        rate = f" at {row['target_qps']:.1f}/s" if row["target_qps"] else ""
        parts.append(f"LoadGen{part}{rate}")
    return ", ".join(parts)


def _together(made: Record) -> str:
    samples = made["asked"]["samples"]
    hours: List[Tuple[Any, Any]] = [(row["hours_samples"], row["hours_13368"]) for row in made["nodes"].values()]
    if any(here is None for here, _full in hours):
        return f"time: not known before the engines are calibrated ({made.get('rates', 'no comparable earlier run')})"
    here, full = (max(column) for column in zip(*hours))
    source = f" ({made['rates']})" if made.get("rates") else ""
    return f"time: {here:.2f} h for these {samples} samples, {full:.2f} h for {FULL_SAMPLES}{source}"
