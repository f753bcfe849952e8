"""Who runs what, why, and for how long: a pure function of the request and of measured speeds."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from harness.benchmark.public_settings import Asked, Topology, refuse_long
from harness.benchmark.request import Request
from harness.benchmark.speeds import Engines, Speed, by_engine, durations, shares, slowest_s, speeds
from harness.errors import BadInput, NotReady
from harness.files import read_json, write_json
from harness.load.attempts import rates_at_most
from harness.load.peak import check_budget, default_budget_minutes
from harness.spec import FULL_SAMPLES, EngineRef, Limits, Record, Share, explain


class NodePlan(Record):
    """A node's part. `share` None means all samples; a rate or an hour that is None is not known.

    `hours_samples` are of this benchmark, `hours_13368` of one over the whole data set; the longest ones are those of
    all the attempts at a performance run that there may be, or of the whole budget of a search. `attempts_qps` is the
    highest rate of each of these attempts if every one before it breaks a limit.
    """

    engines: tuple[EngineRef, ...] = ()
    loadgen: bool = False
    share: Share | None = None
    target_qps: float | None = None
    attempts_qps: tuple[float, ...] = ()
    samples_per_s: float | None = None
    hours_samples: float | None = None
    hours_samples_longest: float | None = None
    hours_13368: float | None = None
    hours_13368_longest: float | None = None
    price_per_hour: float | None = None
    why: str


class Plan(Record):
    """The content of plan.json. `measured` is all that rates depend on: those of a plan hold for another with the same.

    `calibration` is the result of each host that calibrated; `rates` says where it is from, when not from this run.
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

    `settings` is a hash of what each node's speed depends on; `loadgen_host` drives LoadGen in a fleet; `prices` are
    what an hour of each node costs, where that is known.
    """

    request: Request
    engines: Engines
    settings: Mapping[str, str]
    loadgen_host: str
    limits: Limits
    shared_machine: bool = False
    prices: Mapping[str, float | None] = field(default_factory=dict)

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
    document = read_json(file, "plan")
    if not isinstance(document, dict):
        raise BadInput(f"plan {file} is damaged: it is no JSON object; choose another run_id")
    try:
        return Plan.model_validate({key: document[key] for key in document if key != "schema"})
    except ValidationError as error:
        raise BadInput(f"plan {file} is damaged: {explain(error)}; choose another run_id") from None


def keep(plan: Plan, file: Path) -> None:
    """Write plan.json."""
    write_json(file, plan.document())


def make(basis: Basis, calibration: Mapping[str, dict[str, Any]], earlier: Plan | None = None) -> Plan:
    """A new plan.

    Args:
        basis: request, engines and the like.
        calibration: the result of each host that calibrated.
        earlier: the plan of a run that measured the same, whose speeds are taken, and named, where none calibrated.

    Raises:
        NotReady: no node has an engine, or one finished no sample.
        BadInput: it takes more than a day, and nobody has allowed it; or a search's budget is too short.
    """
    rates = None
    if not calibration:
        calibration = earlier.calibration if earlier else {}
        rates = f"speeds taken from run {earlier.run_id}" if earlier else "no comparable earlier run"
    request = basis.request
    nodes = _nodes(basis, speeds(basis.engines, calibration))
    calibrated = by_engine(calibration), slowest_s(calibration)
    nodes = {
        host: node.model_copy(
            update={
                "engines": tuple(engine.at_speed(*calibrated) for engine in node.engines),
                "attempts_qps": _attempts_qps(request.asked, node.target_qps),
                "price_per_hour": basis.prices.get(host),
            }
        )
        for host, node in nodes.items()
    }
    _refuse_short_budget(request.asked, nodes)
    longest = max((node.hours_samples_longest or 0.0 for node in nodes.values()), default=0.0)
    refuse_long(request.asked, request.asked.repeats * longest)
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


def _attempts_qps(asked: Asked, target_qps: float | None) -> tuple[float, ...]:
    if not target_qps or asked.attempts_most == 1:
        return ()
    return tuple(float(f"{factor * target_qps:.4g}") for factor in rates_at_most(asked.attempts_most))


def _refuse_short_budget(asked: Asked, nodes: Mapping[str, NodePlan]) -> None:
    if asked.target_qps == "peak":
        least_minutes = 60 * max((node.hours_samples or 0.0 for node in nodes.values()), default=0.0)
        check_budget(asked.peak_budget_minutes, least_minutes)


def comparable(results: Path, measured: Mapping[str, Any]) -> tuple[Plan | None, list[str]]:
    """The newest plan of an earlier run that calibrated what would be measured now; and a sentence for each plan that
    cannot be read."""
    plans, unreadable = [], []
    for file in sorted(results.glob("*/plan.json")):
        try:
            plan = load(file)
        except BadInput as error:
            unreadable.append(f"{error}; it is skipped: look into {file.parent}")
        else:
            plans += [plan] if plan and plan.calibration and plan.measured == measured else []
    return max(plans, key=lambda plan: plan.created_unix, default=None), unreadable


def _nodes(basis: Basis, known: Mapping[str, Speed]) -> dict[str, NodePlan]:
    if not basis.engines:
        raise NotReady("no node has an engine that is ready; see the reasons above")
    idle = [name for name in basis.engines if known[name].samples_per_s == 0]
    if idle:
        raise NotReady(
            f"no sample finished on {', '.join(idle)} during the calibration: see the engine's log, or raise "
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
    hours: dict[str, float | None] = {}
    for name, each, size in (
        ("hours_samples", asked, share),
        ("hours_13368", whole, max(1, round(FULL_SAMPLES * fraction))),
    ):
        lengths = durations(each, size, rate, target, basis.limits)
        performance, accuracy = lengths or (0.0, 0.0)
        hours[name] = (performance + accuracy) / 3600 if lengths else None
        longest_s = _longest_s(basis, each, size, rate, target)
        if asked.target_qps == "peak":
            longest_s = 60 * (asked.peak_budget_minutes or default_budget_minutes(performance, accuracy))
        hours[f"{name}_longest"] = longest_s / 3600 if lengths else None
    return hours


def _longest_s(basis: Basis, asked: Asked, share: int, rate: float | None, target: float | None) -> float:
    """Seconds of all the attempts that there may be, each whole and at the highest rate that it may have, and of the
    runs after the last, at its rate."""
    factors = rates_at_most(basis.request.asked.attempts_most)
    lengths = [durations(asked, share, rate, target and target * factor, basis.limits) for factor in factors]
    performance, after = zip(*((one or (0.0, 0.0)) for one in lengths), strict=True)
    return float(sum(performance) + after[-1])
