"""The table of the nodes' machines, engines and their use."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from harness.report.formats import NONE, number, short, switched, usage
from harness.report.machines import EngineSettings, Gpu
from harness.report.record import Node, Result

_Property = tuple[str, Callable[[Node], Sequence[Any]], Callable[..., str]]


def infrastructure(result: Result) -> list[list[str]]:
    """The nodes' machines and their use: the names, then a row for each property known of any node."""
    rows = [["node", *(node.name for node in result.nodes)]]
    for name, values_of, show in _PROPERTIES:
        values = [values_of(node) for node in result.nodes]
        if any(value is not None for of_node in values for value in of_node):
            rows.append([name, *(show(*of_node) for of_node in values)])
    return rows


def is_reading(label: str) -> bool:
    """Whether a row of the table is about the run, and not about what the node is."""
    return label.endswith(("mean / peak", "% of a core"))


def _machine(label: str, *names: str) -> _Property:
    return label, lambda node: [getattr(node.machine, name) for name in names], _listed


def _package(label: str, name: str) -> _Property:
    return label, lambda node: [_version(node, name)], short


def _telemetry(label: str, name: str, digits: int = 0) -> _Property:
    return f"{label}, mean / peak", lambda node: [getattr(node.telemetry, name)], lambda value: usage(value, digits)


def _listed(*values: Any) -> str:
    return ", ".join(map(short, values))


def _version(node: Node, name: str) -> str | None:
    from_engine = next((engine.version.get(name) for engine in node.engines if engine.version.get(name)), None)
    return from_engine or (None if name == "vllm" and node.engines else node.machine.versions.get(name))


def _gpus(gpus: Sequence[Gpu]) -> str:
    texts = [
        ", ".join(
            part for part in (gpu.name, f"{gpu.memory_gib:.0f} GiB" if gpu.memory_gib else None, gpu.pcie) if part
        )
        for gpu in gpus
    ]
    counts = Counter(texts)
    return "; ".join(text if count == 1 else f"{count} × {text}" for text, count in counts.items()) or "none"


def _host(host: Mapping[str, Any]) -> str:
    kind = host.get("virtual_machine")
    parts = [f"virtual machine {kind}" if kind else None, host.get("container") and f"container {host['container']}"]
    governor, nodes = host.get("cpu_governor"), host.get("numa_nodes")
    parts += [f"governor {governor}" if governor else None, f"{nodes} NUMA nodes" if nodes else None]
    return ", ".join(part for part in parts if part) or NONE


def _engines(engines: Sequence[EngineSettings] | None) -> str:
    texts = [
        f"{engine.name} ({_kind(engine)}, {_formats(engine)}max_num_seqs {short(engine.max_num_seqs)}, "
        f"context {short(engine.max_model_len)}, prefix caching {switched(engine.prefix_caching)}, "
        f"speculative decoding {switched(engine.speculative_decoding)})"
        for engine in engines or ()
    ]
    return "; ".join(texts) or NONE


def _formats(engine: EngineSettings) -> str:
    """What is set of formats and steps, ended by a comma."""
    step = engine.max_num_batched_tokens
    parts = (("weights", engine.quantization), ("KV cache", engine.kv_cache_dtype), ("tokens a step", step))
    return "".join(f"{name} {short(value)}, " for name, value in parts if value)


def _kind(engine: EngineSettings) -> str:
    if engine.kind != "deepspeed":
        return engine.kind
    return f"deepspeed {short(engine.version.get('deepspeed'))}, not tuned"


_PROPERTIES: tuple[_Property, ...] = (
    ("GPU", lambda node: [node.machine.gpus], _gpus),
    _machine("driver, CUDA", "driver", "cuda"),
    (
        "processor",
        lambda node: [node.machine.cpu_model, node.machine.cpu_count],
        lambda model, count: f"{short(model)} ({short(count)} cores)",
    ),
    ("memory GiB", lambda node: [node.machine.memory_gib], lambda value: number(value, 1)),
    _machine("system", "os", "kernel"),
    ("host", lambda node: [node.machine.host], _host),
    _machine("model", "model_name", "model_dtype"),
    ("engines", lambda node: [node.engines or None], _engines),
    _package("vLLM", "vllm"),
    _package("PyTorch", "torch"),
    _machine("Python", "python"),
    _package("LoadGen", "mlcommons-loadgen"),
    _package("harness", "harness"),
    _machine("weights sha256", "model_sha256"),
    _machine("data set sha256", "dataset_sha256"),
    _machine("samples sha256", "samples_sha256"),
    _machine("environment sha256", "environment_sha256"),
    _machine("image digest", "image_digest"),
    _telemetry("processor %", "cpu_percent"),
    _telemetry("memory GiB", "memory_used_gib", 1),
    _telemetry("GPU busy %", "gpu_util_percent"),
    _telemetry("GPU power W", "gpu_power_w"),
    _telemetry("GPU clock MHz", "gpu_sm_clock_mhz"),
    _telemetry("sequences running", "running", 1),
    _telemetry("requests waiting", "waiting", 1),
    _telemetry("KV cache %", "kv_cache_percent", 1),
    (
        "telemetry's own cost, % of a core",
        lambda node: [node.telemetry.own_cost_cpu_percent],
        lambda value: number(value, 1),
    ),
)
