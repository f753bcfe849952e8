"""systems/<system>.json: what the runs measured of their machines, and the answers to what they could not."""

from collections.abc import Mapping, Sequence
from typing import Any

from harness.report import EngineSettings, Machine
from harness.submission.rules import SYSTEM_KEYS, SYSTEM_TYPE

NONE = "N/A"
"""What a system has of what it lacks: accelerators, a link between them, a network between hosts."""
UNQUANTIZED = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}


def measured(machines: Sequence[Machine], engines: Sequence[EngineSettings]) -> tuple[dict[str, str], dict[str, str]]:
    """What the runs recorded of the system's keys; and the keys that they should have recorded, with what was seen.

    Where nodes differ a text names each value; a number is then not known.
    """
    host = [machine.host for machine in machines]
    gpus = [machine.gpus for machine in machines]
    values: dict[str, list[Any]] = {
        "host_processor_model_name": [machine.cpu_model for machine in machines],
        "host_processor_frequency": [_mhz(facts.get("cpu_mhz_max")) for facts in host],
        "host_processor_caches": [facts.get("cpu_caches") for facts in host],
        "host_memory_capacity": [_gb(machine.memory_gib) for machine in machines],
        "host_storage_capacity": [_storage(facts.get("disks"), "gb") for facts in host],
        "host_storage_type": [_storage(facts.get("disks"), "kind") for facts in host],
        "host_network_card_count": [_cards(facts.get("network_cards")) for facts in host],
        "accelerator_model_name": [_each(own, lambda gpu: gpu.name) for own in gpus],
        "accelerator_memory_capacity": [_each(own, lambda gpu: _gb(gpu.memory_gib)) for own in gpus],
        "accelerator_frequency": [_each(own, lambda gpu: _mhz(gpu.sm_clock_max_mhz)) for own in gpus],
        "accelerator_host_interconnect": [_each(own, lambda gpu: gpu.pcie and f"PCIe {gpu.pcie}") for own in gpus],
        "framework": [_framework(engine) for engine in engines],
        "operating_system": [machine.os and f"{machine.os} (Linux {machine.kernel or '?'})" for machine in machines],
        "other_software_stack": [_stack(machine) for machine in machines],
    }
    numbers: dict[str, list[Any]] = {
        "host_processors_per_node": [facts.get("cpu_sockets") for facts in host],
        "host_processor_core_count": [facts.get("cpu_cores_per_socket") for facts in host],
        "accelerators_per_node": [len(own) for own in gpus],
    }
    facts = {"number_of_nodes": str(len(machines)), "system_type": SYSTEM_TYPE}
    unmeasured = {}
    for key, seen in {**values, **numbers}.items():
        different = list(dict.fromkeys(str(value) for value in seen if value is not None))
        whole = different and None not in seen and (key in values or len(different) == 1)
        if whole:
            facts[key] = " and ".join(different)
        else:
            shown = ("not known" if value is None else str(value) for value in seen)
            unmeasured[key] = f"on the nodes it is {', '.join(shown)}"
    if not any(gpus):
        facts |= dict.fromkeys(("accelerator_memory_configuration", "accelerator_on-chip_memories"), NONE)
    if all(len(own) <= 1 for own in gpus):
        facts |= dict.fromkeys(("accelerator_interconnect", "accelerator_interconnect_topology"), NONE)
    if len(machines) == 1:
        facts["host_networking_topology"] = NONE
    return facts, unmeasured


def system_json(facts: Mapping[str, str], answers: Mapping[str, str], submitter: str, division: str) -> dict[str, str]:
    """The content of the file, every key in the same order.

    `facts` were measured and `answers` those of the submitter; nothing else is filled in.
    """
    known = {**answers, **facts, "submitter": submitter, "division": division}
    known["sw_notes"] = ". ".join(filter(None, [facts.get("sw_notes"), answers.get("sw_notes")]))
    return {key: known.get(key, "") for key in sorted(SYSTEM_KEYS)}


def notes(machines: Sequence[Machine], engines: Sequence[EngineSettings], unofficial: bool) -> str:
    """What sw_notes say: how the nodes work as one system, and whether the tree is no submission."""
    text = f"One LoadGen drives {counted(len(engines), 'engine')} on {counted(len(machines), 'node')} over HTTP"
    if len(engines) > 1:
        text += "; each sample goes to the engine that is least loaded at its measured speed"
    return f"UNOFFICIAL: not every rule was met. {text}" if unofficial else text


def weight_type(machines: Sequence[Machine], engines: Sequence[EngineSettings]) -> str:
    """The type of the weights: as they are stored where they are quantized, else as the engines hold them."""
    stored = [machine.model_quantization for machine in machines] + [engine.quantization for engine in engines]
    held = [engine.dtype for engine in engines if engine.dtype != "auto"]
    loaded = [machine.model_dtype for machine in machines]
    kinds = next((types for kinds in (stored, held, loaded) if (types := list(filter(None, kinds)))), [])
    return " and ".join(dict.fromkeys(UNQUANTIZED.get(kind, kind.partition("_per_")[0]) for kind in kinds))


def quantized(machines: Sequence[Machine], engines: Sequence[EngineSettings]) -> bool:
    """Whether any node's weights are quantized."""
    return any(machine.model_quantization for machine in machines) or any(engine.quantization for engine in engines)


def counted(count: int, noun: str) -> str:
    """A count and its noun."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _each(gpus: Sequence[Any], value: Any) -> str | None:
    """The value of a node's GPUs, several where they differ; N/A without GPUs, None where one is not known."""
    values = [value(gpu) for gpu in gpus]
    if not values:
        return NONE
    return None if None in values else " and ".join(dict.fromkeys(values))


def _storage(disks: Sequence[Mapping[str, Any]] | None, name: str) -> str | None:
    """Sizes or kinds of a host's disks, the largest first; None where one is not known."""
    values: list[Any] = [disk.get(name) for disk in disks or ()]
    if not values or None in values:
        return None
    if name == "kind":
        return " and ".join(dict.fromkeys(values))
    return " + ".join(f"{values.count(gb)}x {gb} GB" for gb in sorted(set(values), reverse=True))


def _cards(cards: Sequence[Sequence[int | None]] | None) -> str | None:
    """A host's network cards by the speeds of their links, a link that is down without one; None where none is seen."""
    if not cards:
        return None
    kinds = [" + ".join("link down" if mbit is None else f"{mbit / 1000:g} Gbit/s" for mbit in card) for card in cards]
    return " and ".join(f"{kinds.count(kind)}x {kind}" for kind in dict.fromkeys(kinds))


def _mhz(value: float | None) -> str | None:
    return None if value is None else f"{value:.0f} MHz"


def _gb(value: float | None) -> str | None:
    return None if value is None else f"{value:.0f} GiB"


def _framework(engine: EngineSettings) -> str | None:
    versions = [f"{name} {version}" for name, version in sorted(engine.version.items()) if version]
    return ", ".join(versions) or None


def _stack(machine: Machine) -> str | None:
    parts = {
        "NVIDIA driver": machine.driver,
        "CUDA": machine.cuda if machine.driver else None,
        "Python": machine.python,
        "mlperf-distributed": machine.versions.get("harness"),
        "LoadGen": machine.versions.get("mlcommons-loadgen"),
    }
    return ", ".join(f"{name} {version}" for name, version in parts.items() if version) or None
