"""A result's figures as Prometheus text, for node_exporter's textfile collector."""

from collections.abc import Iterator, Mapping
from typing import Any

from harness.report.record import Energy, Figures, Level, Result
from harness.report.render import per_gpu, per_user

_HELP = {
    "info": "The run: scenario, mode, samples and verdict as labels, 1 as value.",
    "created_seconds": "When the run was created, unix seconds.",
    "valid": "1 for VALID, 0.5 for UNOFFICIAL, 0 for INVALID.",
    "samples_per_second": "Samples per second.",
    "tokens_per_second": "Tokens per second.",
    "tokens_per_second_per_gpu": "Tokens per second per GPU.",
    "tokens_per_second_per_user": "Tokens per second that a user sees arrive, at the median.",
    "latency_seconds": "Latency at a quantile of the requests.",
    "rouge": "ROUGE F-measure times 100.",
    "efficiency_ratio": "Samples per second together over the sum of the nodes alone.",
    "energy_joules": "Energy of the GPUs in the performance run.",
    "tokens_per_joule": "Tokens per joule.",
    "idle_power_watts": "Power of the GPUs before the run.",
    "cost_per_million_tokens": "Cost per million tokens, in the currency of the inventory.",
}
_VALID = {Level.VALID: 1.0, Level.UNOFFICIAL: 0.5, Level.INVALID: 0.0}


def text(result: Result) -> str:
    """Figures that were measured, of each node and together (`node="together"`); others are left out."""
    samples = list(_samples(result))
    lines = []
    for name, help_text in _HELP.items():
        own = [(labels, value) for metric, labels, value in samples if metric == name and value is not None]
        if own:
            lines += [f"# HELP mlperf_result_{name} {help_text}", f"# TYPE mlperf_result_{name} gauge"]
            lines += [f"mlperf_result_{name}{{{_labels(labels)}}} {value!r}" for labels, value in own]
    return "\n".join(lines) + "\n"


_Sample = tuple[str, Mapping[str, Any], float | None]


def _samples(result: Result) -> Iterator[_Sample]:
    asked = result.asked
    run = {"run_id": result.run_id, "scenario": asked.scenario or ""}
    described = {"mode": asked.mode or "", "samples": asked.samples or 0, "verdict": result.verdict.level.value}
    yield "info", run | described, 1.0
    yield "created_seconds", run, result.created_unix
    yield "valid", run, _VALID[result.verdict.level]
    yield "efficiency_ratio", run, result.efficiency
    for node in result.nodes:
        labels = run | {"node": node.name}
        yield "tokens_per_second_per_gpu", labels, per_gpu(node.figures, [node])
        yield from _figures(labels, node.figures, node.energy)
    labels = run | {"node": "together"}
    yield "tokens_per_second_per_gpu", labels, per_gpu(result.together, result.nodes)
    yield from _figures(labels, result.together, result.energy)


def _figures(labels: Mapping[str, Any], figures: Figures, energy: Energy) -> Iterator[_Sample]:
    yield "samples_per_second", labels, figures.samples_per_s
    yield "tokens_per_second", labels, figures.tokens_per_s
    yield "tokens_per_second_per_user", labels, per_user(figures)
    latencies = {"ttft": figures.ttft, "tpot": figures.tpot, "end_to_end": figures.end_to_end}
    for kind, latency in latencies.items():
        for quantile in (50, 90, 99) if latency else ():
            value = getattr(latency, f"p{quantile}_ms") / 1e3
            yield "latency_seconds", {**labels, "kind": kind, "quantile": f"{quantile / 100:g}"}, value
    for metric in ("rouge1", "rouge2", "rougeL", "rougeLsum") if figures.rouge else ():
        yield "rouge", {**labels, "metric": metric}, getattr(figures.rouge, metric)
    yield "energy_joules", labels, energy.joules
    yield "tokens_per_joule", labels, energy.tokens_per_joule
    yield "idle_power_watts", labels, energy.idle_power_w
    yield "cost_per_million_tokens", labels, energy.cost_per_million_tokens


def _labels(labels: Mapping[str, Any]) -> str:
    return ",".join(f'{name}="{_escaped(str(value))}"' for name, value in labels.items())


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
