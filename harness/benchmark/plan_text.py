"""A plan for people: a line for each thing that will happen, and how long it takes."""

from collections.abc import Iterator

from harness.attempt_record import rate
from harness.benchmark.plan import NodePlan, Plan
from harness.spec import FULL_SAMPLES


def describe(plan: Plan) -> list[str]:
    """The plan for people, a line each."""
    asked = plan.asked
    *first, last = asked.mode.runs
    runs = f"{', '.join(first)} and {last}" if first else last
    target = asked.target_qps if isinstance(asked.target_qps, str) else f"{asked.target_qps:g}/s"
    return [
        f"run {plan.run_id}: {asked.samples} samples, scenario {asked.scenario}, {runs}, target rate {target}",
        f"topology {plan.topology}, launcher {plan.launcher}",
        *(f"{name}: {_describe_node(node)}; {node.why}" for name, node in plan.nodes.items()),
        *_describe_calibrations(plan),
        *_describe_time(plan),
    ]


def _describe_node(node: NodePlan) -> str:
    parts = [f"engine {engine.name} at {engine.url}" for engine in node.engines]
    if node.samples_per_s is not None:
        parts.append(f"{node.samples_per_s:.1f} samples/s")
    if node.loadgen:
        part = f" on samples {node.share.start} to {node.share.stop - 1}" if node.share else ""
        parts.append(f"LoadGen{part}" + (f" at {node.target_qps:.1f}/s" if node.target_qps else ""))
        if lower := node.attempts_qps[1:]:
            parts.append(f"then at most {', '.join(map(rate, lower))}/s as attempts fail")
    return ", ".join(parts)


def _describe_calibrations(plan: Plan) -> Iterator[str]:
    for host, speed in plan.calibration.items():
        if "uncertainty_percent" in speed:
            yield f"calibration by {host}: {speed['samples_per_s']:.1f} samples/s ± {speed['uncertainty_percent']:.1f}%"


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
        yield f"{most}; at most {_together(plan, '_longest')}, unless the engines prove far slower than calibrated"


def _together(plan: Plan, kind: str) -> str:
    """Hours of all nodes together: they run side by side."""
    here, whole = (
        max(getattr(node, f"{name}{kind}") or 0.0 for node in plan.nodes.values())
        for name in ("hours_samples", "hours_13368")
    )
    return f"{here:.2f} h for these {plan.asked.samples} samples, {whole:.2f} h for {FULL_SAMPLES}"
