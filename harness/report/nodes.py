"""One node of a benchmark: its figures, its machine, and its engines' settings."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from harness.files import sha256_json
from harness.report import figures, history, tables
from harness.report.input_models import ManifestFile
from harness.report.load_inputs import Inputs, LoadGenRun
from harness.report.logs import LoadGenLog
from harness.report.machines import EngineSettings, Machine, Telemetry
from harness.report.record import Node, Request, Share
from harness.report.steadiness import steadiness

ADDRESS = ("name", "model", "host", "port", "url")
"""Settings that do not make two engines' speeds incomparable."""


def log_of(loadgen: LoadGenRun, mode: figures.Measured) -> LoadGenLog | None:
    """The log that speed and latency may be taken from; LoadGen measures neither in accuracy mode."""
    return loadgen.performance if mode == "performance" else None


def node(
    name: str,
    inputs: Inputs,
    journal: pd.DataFrame,
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
    own = journal[(journal["mode"] == mode) & (journal["node"] == name)]
    # LoadGen's log is the node's own only if all that this LoadGen issued was answered by this node.
    whole = loadgen is not None and loadgen.spec is not None and all(ref.node == name for ref in loadgen.spec.engines)
    log = log_of(loadgen, mode) if loadgen and whole else None
    answered = journal[(journal["mode"] == "accuracy") & (journal["node"] == name)]["qsl_idx"]
    rouge = figures.partial(figures.scores(inputs.loadgens), answered)
    settings = tuple(_settings(engine.file.model_dump()) for engine in inputs.engines if engine.node == name)
    machine = _machine(name, inputs)
    fingerprint = history.comparable(request, machine, settings)
    single = history.alone(past, fingerprint, name)
    planned = inputs.plan.nodes.get(name, {}) if inputs.plan else {}
    share = planned.get("share") or (loadgen.spec.window.model_dump() if loadgen and loadgen.spec and whole else None)
    return Node(
        name=name,
        loadgen=loadgen is not None,
        share=Share.model_validate(share) if share else None,
        why=planned.get("why"),
        figures=figures.of(own, log, rouge, offline=request.scenario == "offline"),
        client_queue_p99_ms=tables.percentile(own["queue_ms"], 99),
        alone_samples_per_s=single.samples_per_s if single else None,
        alone_run_id=single.run_id if single else None,
        comparable=fingerprint,
        machine=machine,
        engines=settings,
        telemetry=_telemetry(name, inputs, loadgen, mode),
        steadiness=steadiness(own) if mode == "performance" else None,
    )


def _telemetry(name: str, inputs: Inputs, loadgen: LoadGenRun | None, mode: figures.Measured) -> Telemetry:
    span = figures.window(inputs.loadgens, mode)
    names = {engine.file.name for engine in inputs.engines if engine.node == name}
    paths = telemetry_files(name, inputs)
    costs = [engine.file.telemetry_cost for engine in inputs.engines if engine.node == name]
    costs += [loadgen.outcome.telemetry_cost] if loadgen else []
    percents = [100 * cost.cpu_s / cost.wall_s for cost in costs if cost and cost.wall_s > 0]
    return figures.telemetry(paths, names or None, span, sum(percents) if percents else None)


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
    data = {"dataset_sha256": reader.dataset_sha256, "samples_sha256": reader.samples_sha256}
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
        unverified=engine["unverified"],
        settings_sha256=sha256_json({key: value for key, value in config.items() if key not in ADDRESS}),
    )
