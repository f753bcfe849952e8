"""Who runs what, why, and for how long: a pure function of the request and of measured speeds."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from harness.benchmark.public_settings import Asked, Topology
from harness.benchmark.request import Request
from harness.benchmark.speeds import Engines, Speed, by_engine, durations, shares, speeds
from harness.errors import BadInput, NotReady
from harness.files import read_json, write_json
from harness.load.peak import default_budget_minutes
from harness.spec import (
    FULL_SAMPLES,
    EngineRef,
    Limits,
    Mode,
    Record,
    Share,
    explain,
)


class NodePlan(Record):
    """A node's part. `share` None means all samples; a rate or an hour that is None is not known.

    `hours_samples` are of this benchmark, `hours_13368` of one over the whole data set; the longest ones are those of
    all the attempts at a performance run that there may be, or of the whole budget of a search.
    """

    engines: tuple[EngineRef, ...] = ()
    loadgen: bool = False
    share: Share | None = None
    target_qps: float | None = None
    samples_per_s: float | None = None
    hours_samples: float | None = None
    hours_samples_longest: float | None = None
    hours_13368: float | None = None
    hours_13368_longest: float | None = None
    why: str


class Plan(Record):
    """The content of plan.json. `measured` is all that rates depend on: those of a plan hold for another with the same.

    `calibration` is what was found by each host that calibrated; `rates` says where it is from, when not from this run.
    """

    run_id: str
    topology: Topology
    launcher: str
    asked: Asked
    nodes: dict[str, NodePlan]
    loadgens: tuple[str, ...]
    created_unix: float = 0.0
    shared_machine: bool = False
    measured: dict[str, Any] = Field(default_factory=dict)
    calibration: dict[str, dict[str, Any]] = Field(default_factory=dict)
    rates: str | None = None

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        return {"schema": 1, **self.model_dump(mode="json", exclude={"rates"} if self.rates is None else None)}


@dataclass(frozen=True, slots=True)
class Basis:
    """What a plan is made from, beside speeds.

    `settings` is a hash of what each node's speed depends on; `loadgen_host` drives LoadGen in a fleet.
    """

    request: Request
    engines: Engines
    settings: Mapping[str, str]
    loadgen_host: str
    limits: Limits
    shared_machine: bool = False

    @property
    def measured(self) -> dict[str, Any]:
        """All that rates depend on."""
        return {
            "topology": self.request.topology.value,
            "scenario": self.request.asked.scenario.value,
            "samples": self.request.asked.samples,
            "engines": {host: [[one.name, one.url] for one in engines] for host, engines in self.engines.items()},
            "settings": dict(self.settings),
        }


def load(file: Path) -> Plan | None:
    """The plan in a file; None when there is none.

    Raises:
        BadInput: the file is damaged.
    """
    if not file.exists():
        return None
    try:
        document = read_json(file, "plan")
        return Plan.model_validate({key: document[key] for key in document if key != "schema"})
    except ValidationError as error:
        raise BadInput(f"plan {file} is damaged: {explain(error)}") from None


def keep(plan: Plan, file: Path) -> None:
    """Write plan.json."""
    write_json(file, plan.document())


def make(basis: Basis, calibration: Mapping[str, dict[str, Any]]) -> Plan:
    """A new plan.

    Args:
        basis: request, engines and the like.
        calibration: what was found by each host that calibrated. Without any, that of the newest earlier run is taken,
            and named, that measured the same.

    Raises:
        NotReady: no node has an engine, or one was found to make nothing.
    """
    rates = None
    if not calibration:
        earlier = _comparable(basis.request.directory.parent, basis.measured)
        calibration = earlier.calibration if earlier else {}
        rates = f"speeds taken from run {earlier.run_id}" if earlier else "no comparable earlier run"
    request = basis.request
    nodes = _nodes(basis, speeds(basis.engines, calibration))
    found = by_engine(calibration)
    nodes = {
        host: node.model_copy(update={"engines": tuple(engine.at_speed(found) for engine in node.engines)})
        for host, node in nodes.items()
    }
    return Plan(
        run_id=request.run_id,
        topology=request.topology,
        launcher=request.asked.launcher,
        asked=request.asked,
        nodes=nodes,
        loadgens=tuple(name for name, node in nodes.items() if node.loadgen),
        created_unix=time.time(),
        shared_machine=basis.shared_machine,
        measured=basis.measured,
        calibration=dict(calibration),
        rates=rates,
    )


def describe(plan: Plan) -> list[str]:
    """The plan for people, a line each."""
    asked = plan.asked
    runs = "performance and accuracy" if asked.mode is Mode.BOTH else asked.mode
    rate = asked.target_qps if isinstance(asked.target_qps, str) else f"{asked.target_qps:g}/s"
    return [
        f"run {plan.run_id}: {asked.samples} samples, scenario {asked.scenario}, {runs}, target rate {rate}",
        f"topology {plan.topology}, launcher {plan.launcher}",
        *(f"{name}: {_describe_node(node)}; {node.why}" for name, node in plan.nodes.items()),
        *_describe_calibrations(plan),
        *_describe_time(plan),
    ]


def _comparable(results: Path, measured: Mapping[str, Any]) -> Plan | None:
    """The newest plan of an earlier run that calibrated what would be measured now."""

    def plans() -> Iterator[Plan]:
        for file in results.glob("*/plan.json"):
            try:
                plan = load(file)
            except BadInput:
                continue  # a damaged plan of another run is nothing to compare with
            if plan and plan.calibration and plan.measured == measured:
                yield plan

    return max(plans(), key=lambda plan: plan.created_unix, default=None)


def _nodes(basis: Basis, known: Mapping[str, Speed]) -> dict[str, NodePlan]:
    if not basis.engines:
        raise NotReady("no node has an engine that is ready; see the reasons above")
    idle = [name for name in basis.engines if known[name].samples_per_s == 0]
    if idle:
        raise NotReady(
            f"calibrating saw no sample finish on {', '.join(idle)}: see the engine's log, or give it longer with "
            "harness_limits.calibration_s"
        )
    return _fleet(basis, known) if basis.request.topology is Topology.FLEET else _per_node(basis, known)


def _fleet(basis: Basis, known: Mapping[str, Speed]) -> dict[str, NodePlan]:
    asked, host = basis.request.asked, basis.loadgen_host
    rates = [known[name].samples_per_s for name in basis.engines]
    total = None if None in rates else sum(rate for rate in rates if rate)
    target = asked.target_qps if isinstance(asked.target_qps, float) else known.get(host, Speed(None, None)).target_qps
    hours = _hours(basis, 1.0, asked.samples, total, target)
    whys = {name: _why_in_fleet(rate, total) for name, rate in zip(basis.engines, rates, strict=True)}
    drives = f"drives the one LoadGen over the engines of {len(basis.engines)} nodes"
    whys[host] = f"{drives}; {whys[host]}" if host in whys else drives
    return {
        name: NodePlan(
            engines=tuple(basis.engines.get(name, ())),
            samples_per_s=known[name].samples_per_s if name in basis.engines else None,
            loadgen=name == host,
            target_qps=target if name == host else None,
            why=why,
        ).model_copy(update=hours)
        for name, why in whys.items()
    }


def _why_in_fleet(rate: float | None, total: float | None) -> str:
    if not rate or not total:
        return "takes each sample when it is the least loaded; its speed is not known yet"
    return f"takes each sample when it is the least loaded, about {100 * rate / total:.0f}% of them at its speed"


def _per_node(basis: Basis, known: Mapping[str, Speed]) -> dict[str, NodePlan]:
    names, asked = list(basis.engines), basis.request.asked
    rates = [known[name].samples_per_s for name in names]
    if len(names) > 1 and not all(rates):
        why = "its share follows from its speed, not known yet"
        return {name: NodePlan(engines=tuple(basis.engines[name]), loadgen=True, why=why) for name in names}
    weights = [rate or 1.0 for rate in rates]
    # Everybody gets one sample, the rest goes by speed: an empty share is not a run.
    sizes = [1 + more for more in shares(asked.samples - len(names), weights)]
    nodes, start = {}, 0
    for name, size, weight, rate in zip(names, sizes, weights, rates, strict=True):
        fraction = weight / sum(weights)
        target = asked.target_qps * fraction if isinstance(asked.target_qps, float) else known[name].target_qps
        nodes[name] = NodePlan(
            engines=tuple(basis.engines[name]),
            share=Share(start=start, stop=start + size),
            target_qps=target,
            samples_per_s=rate,
            loadgen=True,
            why=_why_of_share(size, asked.samples, rate, rates),
        ).model_copy(update=_hours(basis, fraction, size, rate, target))
        start += size
    return nodes


def _why_of_share(size: int, samples: int, rate: float | None, rates: Sequence[float | None]) -> str:
    if len(rates) == 1:
        return "the only node in this play runs everything itself"
    total = sum(value for value in rates if value)
    return f"{size} of {samples} samples, since it makes {rate:.1f} of {total:.1f} samples/s measured just now"


def _hours(
    basis: Basis, fraction: float, share: int, rate: float | None, target: float | None
) -> dict[str, float | None]:
    asked = basis.request.asked
    whole = asked.model_copy(update={"samples": FULL_SAMPLES})
    found: dict[str, float | None] = {}
    for name, each, size in (
        ("hours_samples", asked, share),
        ("hours_13368", whole, max(1, round(FULL_SAMPLES * fraction))),
    ):
        lengths = durations(each, size, rate, target, basis.limits)
        performance, accuracy = lengths or (0.0, 0.0)
        found[name] = (performance + accuracy) / 3600 if lengths else None
        longest_s = performance * asked.attempts_most + accuracy
        if asked.target_qps == "peak":
            longest_s = 60 * (asked.peak_budget_minutes or default_budget_minutes(performance, accuracy))
        found[f"{name}_longest"] = longest_s / 3600 if lengths else None
    return found


def _describe_node(node: NodePlan) -> str:
    parts = [f"engine {engine.name} at {engine.url}" for engine in node.engines]
    if node.samples_per_s is not None:
        parts.append(f"{node.samples_per_s:.1f} samples/s")
    if node.loadgen:
        part = f" on samples {node.share.start} to {node.share.stop - 1}" if node.share else ""
        parts.append(f"LoadGen{part}" + (f" at {node.target_qps:.1f}/s" if node.target_qps else ""))
    return ", ".join(parts)


def _describe_calibrations(plan: Plan) -> Iterator[str]:
    for host, found in plan.calibration.items():
        if "uncertainty_percent" in found:
            yield f"calibration by {host}: {found['samples_per_s']:.1f} samples/s ± {found['uncertainty_percent']:.1f}%"


def _describe_time(plan: Plan) -> Iterator[str]:
    nodes, attempts = plan.nodes.values(), plan.asked.attempts_most
    most = f"attempts: up to {attempts} performance runs, until one holds the latency limits, each at a lower rate"
    if search := plan.asked.target_qps == "peak":
        most = "search: probes, then performance runs at falling rates until one is VALID"
    if any(node.hours_samples is None for node in nodes):
        yield f"time: not known before the engines are calibrated ({plan.rates or 'no comparable earlier run'})"
        if attempts > 1 or search:
            yield most
        return
    source = f" ({plan.rates})" if plan.rates else ""
    yield f"time: {_together(plan, '')}{source}"
    if attempts > 1 or search:
        yield f"{most}; at most {_together(plan, '_longest')}"


def _together(plan: Plan, kind: str) -> str:
    """Hours of all nodes together: they run side by side."""
    here, whole = (
        max(getattr(node, f"{name}{kind}") or 0.0 for node in plan.nodes.values())
        for name in ("hours_samples", "hours_13368")
    )
    return f"{here:.2f} h for these {plan.asked.samples} samples, {whole:.2f} h for {FULL_SAMPLES}"
