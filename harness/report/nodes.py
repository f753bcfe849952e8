"""One node of a benchmark: its figures, its machine, and its engines' settings."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.files import sha256_json
from harness.percentiles import percentile
from harness.report import energy, figures, gpus, history, tables, work
from harness.report.input_models import ManifestFile
from harness.report.journals import Table
from harness.report.load_inputs import Inputs, LoadGenRun
from harness.report.logs import LoadGenLog
from harness.report.machines import EngineSettings, Machine, Telemetry
from harness.report.record import Node, Request, Share
from harness.report.steadiness import steadiness

_LOADED = re.compile(r"Loading weights took ([0-9]+(?:\.[0-9]+)?) seconds")
ADDRESS = ("name", "model", "host", "port", "url", "restarts", "served_model", "api_key_file", "api_key_env", "ca_file")
"""Settings that do not make two engines' speeds incomparable."""


def log_of(loadgen: LoadGenRun, mode: figures.Measured) -> LoadGenLog | None:
    """The log that speed and latency may be taken from; LoadGen measures neither in accuracy mode."""
    return loadgen.performance if mode == "performance" else None


def node(
    name: str,
    inputs: Inputs,
    journal: Table,
    mode: figures.Measured,
    request: Request,
    past: Sequence[history.Baseline],
) -> Node:
    """One node's record, from the samples that its engines answered.

    Args:
        name: the node's name in the inventory.
        inputs: all files.
        journal: all samples of both modes.
        mode: the one that speed and latency are taken from.
        request: the benchmark that was requested, for telling which of the `past` runs are comparable.
        past: earlier runs.
    """
    loadgen = next((loadgen for loadgen in inputs.loadgens if loadgen.host == name), None)
    timed = figures.timed(journal, mode)
    own = timed[timed["node"] == name]
    # LoadGen's log is the node's own only if all that this LoadGen issued was answered by this node.
    whole = loadgen is not None and loadgen.spec is not None and all(ref.node == name for ref in loadgen.spec.engines)
    log = log_of(loadgen, mode) if loadgen and whole else None
    answered = journal[(journal["mode"] == "accuracy") & (journal["node"] == name)]["qsl_idx"]
    rouge = figures.partial(figures.scores(inputs.loadgens), answered)
    settings = tuple(_settings(engine.file.model_dump()) for engine in inputs.engines if engine.node == name)
    machine = _machine(name, inputs)
    readings = tables.readings(
        telemetry_files(name, inputs), figures.window(inputs.loadgens, mode), _gpu_numbers(name, inputs)
    )
    users = gpus.of_engines((engine for engine in inputs.engines if engine.node == name), machine.gpus)
    seen = work.Node.model_validate(
        {"name": name, "machine": machine.model_dump(), "engines": [engine.model_dump() for engine in settings]}
    )
    fingerprint = work.node_work(work.Asked.model_validate(request.model_dump()), seen)
    single = history.alone(past, seen, fingerprint)
    speed = figures.of(own, log, rouge, offline=request.scenario == "offline")
    now = single.run if single else None
    if len(inputs.nodes) == 1:
        now = history.point(inputs.run_id, 0.0, 1, speed.samples_per_s, speed.seconds)
    planned = inputs.plan.nodes.get(name, {}) if inputs.plan else {}
    share = planned.get("share") or (loadgen.spec.window.model_dump() if loadgen and loadgen.spec and whole else None)
    load_s = _loading(name, inputs)
    size = next((engine.file.served.weights_bytes for engine in inputs.engines if engine.node == name), None)
    return Node(
        name=name,
        loadgen=loadgen is not None,
        share=Share.model_validate(share) if share else None,
        why=planned.get("why"),
        figures=speed,
        client_queue_p99_ms=percentile(own["queue_ms"], 99),
        connect_ms=_connecting(name, inputs, mode),
        weights_load_s=load_s,
        weights_load_mb_per_s=size / 1e6 / load_s if load_s and size else None,
        alone_samples_per_s=single.run.samples_per_s if single else None,
        alone_run_id=single.run.run_id if single else None,
        alone_changes=single.changes if single else (),
        energy=energy.of(_gpu_energy(name, inputs, mode), _price(name, inputs), speed),
        inside=history.inside(past, work.Asked.model_validate(request.model_dump()), seen, now),
        comparable=fingerprint,
        machine=machine,
        engines=settings,
        telemetry=_telemetry(name, inputs, loadgen, mode),
        gpus=gpus.uses(readings, machine.gpus, users, own, speed),
        steadiness=steadiness(own) if mode == "performance" else None,
    )


def _connecting(name: str, inputs: Inputs, mode: figures.Measured) -> float | None:
    """The least time that a LoadGen took to open a connection to an engine of the node, in ms."""
    own = {engine.file.name for engine in inputs.engines if engine.node == name}
    parts = filter(None, (figures.part_of(loadgen, mode) for loadgen in inputs.loadgens))
    return min((ms for part in parts for engine, ms in part.connect_ms.items() if engine in own), default=None)


def _loading(name: str, inputs: Inputs) -> float | None:
    """Seconds that the slowest engine of the node read its weights for, by its own log."""
    folders = [engine.telemetry.parent for engine in inputs.engines if engine.node == name and engine.telemetry]
    logs = [folder / "engine.log" for folder in folders]
    texts = [log.read_text(errors="replace") for log in logs if log.is_file()]
    return max((float(text) for one in texts for text in _LOADED.findall(one)), default=None)


def _gpu_energy(name: str, inputs: Inputs, mode: figures.Measured) -> energy.Node | None:
    """What the node's GPUs used while speed was measured."""
    engines = {engine.file.name for engine in inputs.engines if engine.node == name}
    files = telemetry_files(name, inputs)
    return energy.node(files, figures.window(inputs.loadgens, mode), engines, _gpu_numbers(name, inputs))


def _gpu_numbers(name: str, inputs: Inputs) -> dict[Path, tuple[int, ...]]:
    """For each telemetry file of a node, the numbers of the GPUs in it."""
    return gpus.by_file((one for one in inputs.engines if one.node == name), _machine(name, inputs).gpus)


def _price(name: str, inputs: Inputs) -> float | None:
    """What an hour of the node costs, as the plan has it."""
    value = (inputs.plan.nodes.get(name, {}) if inputs.plan else {}).get("price_per_hour")
    return value if isinstance(value, int | float) else None


def _telemetry(name: str, inputs: Inputs, loadgen: LoadGenRun | None, mode: figures.Measured) -> Telemetry:
    span = figures.window(inputs.loadgens, mode)
    names = {engine.file.name for engine in inputs.engines if engine.node == name}
    paths = telemetry_files(name, inputs)
    costs = [engine.file.telemetry_cost for engine in inputs.engines if engine.node == name]
    costs += [loadgen.outcome.telemetry_cost] if loadgen else []
    percents = [100 * cost.cpu_s / cost.wall_s for cost in costs if cost and cost.wall_s > 0]
    sizes = [engine.file.config.get("max_num_seqs") for engine in inputs.engines if engine.node == name]
    slots = sum(size for size in sizes if size) if sizes and all(sizes) else None
    return figures.telemetry(
        paths, names or None, span, sum(percents) if percents else None, slots, _gpu_numbers(name, inputs)
    )


def telemetry_files(name: str, inputs: Inputs) -> list[Path]:
    """Paths of a node's telemetry: its engines' files, else that of the LoadGen on it."""
    own = [engine.telemetry for engine in inputs.engines if engine.node == name and engine.telemetry]
    return own or [loadgen.path / "telemetry.csv" for loadgen in inputs.loadgens if loadgen.host == name]


def _machine(name: str, inputs: Inputs) -> Machine:
    """The machine as the node's engines describe it, else its LoadGen; the data set by whoever read it."""
    manifests = {loadgen.host: loadgen.manifest.machine for loadgen in inputs.loadgens}
    described = [engine.file.machine for engine in inputs.engines if engine.node == name and engine.file.machine]
    machine = next(iter(described), manifests.get(name) or ManifestFile().machine)
    readers = [machine, *(other for other in manifests.values())]
    reader = next((other for other in readers if other.dataset_sha256), machine)
    data: dict[str, Any] = {"gpus": gpus.of_machines(described)} if described else {}
    data |= {"dataset_sha256": reader.dataset_sha256, "samples_sha256": reader.samples_sha256}
    return machine.model_copy(update=data)


def _settings(engine: dict[str, Any]) -> EngineSettings:
    config, requested, verified = engine["config"], engine["asked"], engine["verified"]
    return EngineSettings(
        name=engine["name"],
        kind=engine["kind"],
        state=engine["state"],
        version=engine["version"],
        dtype=verified.get("dtype") or config.get("dtype") or requested.get("dtype"),
        max_num_seqs=config.get("max_num_seqs"),
        max_model_len=verified.get("max_model_len"),
        prefix_caching=verified.get("enable_prefix_caching"),
        speculative_decoding=verified.get("speculative_decoding"),
        quantization=verified.get("quantization") or config.get("quantization"),
        kv_cache_dtype=verified.get("kv_cache_dtype") or config.get("kv_cache_dtype"),
        max_num_batched_tokens=config.get("max_num_batched_tokens"),
        unverified=engine["unverified"],
        settings_sha256=sha256_json({key: value for key, value in config.items() if key not in ADDRESS}),
    )
