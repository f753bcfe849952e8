"""A node's machine, engines and telemetry, as its files describe them and as the result holds them."""

from typing import Any

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """Frozen, and strict about its keys, so that a result of another schema version is noticed."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Gpu(Record):
    """One GPU; `numa_node` is the one that it is attached to, None where the machine has only one."""

    name: str | None
    uuid: str | None = None
    memory_gib: float | None
    power_limit_w: float | None
    sm_clock_max_mhz: float | None
    sm_clock_set_mhz: float | None
    pcie: str | None
    ecc: bool | None = None
    mig: bool | None = None
    numa_node: int | None = None


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
    kv_cache_dtype: str | None = None
    max_num_batched_tokens: int | None = None
    unverified: tuple[str, ...]
    settings_sha256: str


class Machine(Record):
    """Hardware and software of one node, with the hashes that say whether two nodes ran the same.

    `samples_sha256` is of the samples of the run, `dataset_sha256` of the whole file they came from. `host` has more of
    the hardware: processors, kind of virtual machine and container, governor, NUMA nodes. `variables` are the
    environment variables that change what an engine does.
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
    host: dict[str, Any]
    versions: dict[str, str | None]
    variables: dict[str, str]
    environment_sha256: str | None
    image_digest: str | None
    model_name: str | None
    model_sha256: str | None
    model_dtype: str | None
    model_quantization: str | None
    dataset_sha256: str | None
    samples_sha256: str | None
    tokenizer_sha256: str | None = None
    punkt_sha256: str | None = None


def machine_fields(manifest: Any) -> Any:
    """The fields of a `Machine` out of manifest.json, which nests model and data set and holds more besides."""
    if not isinstance(manifest, dict):
        return manifest
    parts = {name: part if isinstance(part := manifest.get(name), dict) else {} for name in ("model", "dataset")}
    fields = {name: manifest.get(name) for name in Machine.model_fields}
    fields |= {f"model_{name}": parts["model"].get(name) for name in ("name", "sha256", "dtype", "quantization")}
    fields |= {"dataset_sha256": parts["dataset"].get("sha256")}
    fields |= {"samples_sha256": parts["dataset"].get("samples_sha256")}
    fields |= {name: manifest.get(name) or {} for name in ("host", "versions", "variables")}
    gpus = manifest.get("gpus") or []
    fields |= {"gpus": [_gpu_fields(gpu) for gpu in gpus] if isinstance(gpus, list) else gpus}
    return fields


def _gpu_fields(gpu: Any) -> Any:
    if not isinstance(gpu, dict):
        return gpu
    # The width in use: a card in a narrow slot is slower. The generation in use falls while a GPU idles.
    generation, width = gpu.get("pcie_gen"), gpu.get("pcie_width_now") or gpu.get("pcie_width")
    pcie = f"gen {generation} ×{width}" if generation and width else None
    return {name: gpu.get(name) for name in Gpu.model_fields} | {"pcie": pcie}


class Usage(Record):
    """Mean and peak of one reading during the performance run, and the number of seconds with a reading."""

    mean: float
    peak: float
    seconds: int


class FullBatch(Record):
    """The seconds in which all sequences of a node's engines ran, and what else was seen in them."""

    seconds: int
    waiting_mean: float | None
    kv_cache_percent_peak: float | None


class FullestCache(Record):
    """The engine whose KV cache was the fullest, and how many sequences it ran on average."""

    engine: str
    percent_peak: float
    running_mean: float


class Telemetry(Record):
    """A node's use during the performance run (the accuracy run where there was no performance run).

    `gap_s` is the longest time without a reading, `throttled_percent` the percentage of readings in which a GPU was
    throttled. `running` and `waiting` are sums over the node's engines, `kv_cache_percent` is that of the fullest one.
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
    full: FullBatch | None
    fullest_cache: FullestCache | None = None
    gap_s: float | None
    own_cost_cpu_percent: float | None


class GpuUse(Record):
    """What one GPU of a node did in the performance run; `number` is its place among those of the node's machine.

    Speed is that of its `engines`; of one that is spread over several GPUs, the whole engine's.
    """

    number: int
    name: str | None
    engines: tuple[str, ...]
    samples_per_s: float | None
    tokens_per_s: float | None
    util_percent: Usage | None
    memory_used_gib: Usage | None
    power_w: Usage | None
    sm_clock_mhz: Usage | None
    temperature_c: Usage | None
    throttled_percent: float | None
    throttle_reasons: tuple[str, ...]
