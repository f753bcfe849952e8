"""A node's machine, engines and telemetry, as its files describe them and as the result holds them."""

from typing import Any

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """Frozen, and strict about its keys, so that a result of another schema version is noticed."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Gpu(Record):
    """One GPU."""

    name: str | None
    memory_gib: float | None
    power_limit_w: float | None
    sm_clock_max_mhz: float | None
    pcie: str | None


class EngineSettings(Record):
    """One engine's settings as the running server showed them, else as it was configured; None where neither says.

    `settings_sha256` is over all its settings but its name and address.
    """

    name: str
    kind: str
    state: str
    version: dict[str, str | None]
    dtype: str | None
    max_num_seqs: int | None
    max_model_len: int | None
    prefix_caching: bool | None
    speculative_decoding: bool | None
    quantization: str | None
    unverified: tuple[str, ...]
    settings_sha256: str


class Machine(Record):
    """Hardware and software of one node, with the hashes that say whether two nodes ran the same.

    `samples_sha256` is of the samples of the run, `dataset_sha256` of the whole file they came from.
    """

    os: str | None
    kernel: str | None
    python: str | None
    cpu_model: str | None
    cpu_count: int | None
    memory_gib: float | None
    gpus: tuple[Gpu, ...]
    driver: str | None
    cuda: str | None
    versions: dict[str, str | None]
    environment_sha256: str | None
    image_digest: str | None
    model_name: str | None
    model_sha256: str | None
    model_dtype: str | None
    dataset_sha256: str | None
    samples_sha256: str | None


def machine_fields(manifest: Any) -> Any:
    """The fields of a `Machine` out of manifest.json, which nests model and data set and holds more besides."""
    if not isinstance(manifest, dict):
        return manifest
    parts = {name: part if isinstance(part := manifest.get(name), dict) else {} for name in ("model", "dataset")}
    fields = {name: manifest.get(name) for name in Machine.model_fields}
    fields |= {f"model_{name}": parts["model"].get(name) for name in ("name", "sha256", "dtype")}
    fields |= {"dataset_sha256": parts["dataset"].get("sha256")}
    fields |= {"samples_sha256": parts["dataset"].get("samples_sha256")}
    fields |= {"versions": manifest.get("versions") or {}}
    gpus = manifest.get("gpus") or []
    fields |= {"gpus": [_gpu_fields(gpu) for gpu in gpus] if isinstance(gpus, list) else gpus}
    return fields


def _gpu_fields(gpu: Any) -> Any:
    if not isinstance(gpu, dict):
        return gpu
    generation, width = gpu.get("pcie_gen"), gpu.get("pcie_width")
    pcie = f"gen {generation} ×{width}" if generation and width else None
    return {name: gpu.get(name) for name in Gpu.model_fields} | {"pcie": pcie}


class Usage(Record):
    """Mean and peak of one reading during the performance run, and the number of seconds with a reading."""

    mean: float
    peak: float
    seconds: int


class Telemetry(Record):
    """A node's use during the performance run (the accuracy run where there was no performance run).

    `gap_s` is the longest time without a reading, `throttled_percent` the percentage of readings in which a GPU was
    throttled.
    """

    cpu_percent: Usage | None
    memory_used_gib: Usage | None
    memory_total_gib: float | None
    gpu_util_percent: Usage | None
    gpu_memory_used_gib: Usage | None
    gpu_power_w: Usage | None
    gpu_sm_clock_mhz: Usage | None
    gpu_temperature_c: Usage | None
    throttled_percent: float | None
    throttle_reasons: tuple[str, ...]
    running: Usage | None
    waiting: Usage | None
    kv_cache_percent: Usage | None
    gap_s: float | None
    own_cost_cpu_percent: float | None
