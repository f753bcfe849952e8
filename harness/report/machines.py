"""Records of what a node is made of and what it was doing."""

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """Frozen; unknown keys are refused, so a result of another schema version is noticed."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Gpu(Record):
    """One GPU."""

    name: str | None
    memory_gib: float | None
    power_limit_w: float | None
    sm_clock_max_mhz: float | None
    pcie: str | None


class EngineSettings(Record):
    """One engine: what was asked and what the running server showed (None: it did not show it).

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
    """What one node is made of, with the hashes that say whether two nodes ran the same.

    `samples_sha256` is of the samples asked for, `dataset_sha256` of the whole file they came from.
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


class Used(Record):
    """Mean and peak of one reading during the performance run; `seconds` is how many seconds were read."""

    mean: float
    peak: float
    seconds: int


class Telemetry(Record):
    """What a node did during the performance run (the accuracy run where there was no performance run).

    `gap_s` is the longest time without a reading, `throttled_percent` the part of readings in which a GPU was held
    back.
    """

    cpu_percent: Used | None
    memory_used_gib: Used | None
    memory_total_gib: float | None
    gpu_util_percent: Used | None
    gpu_memory_used_gib: Used | None
    gpu_power_w: Used | None
    gpu_sm_clock_mhz: Used | None
    gpu_temperature_c: Used | None
    throttled_percent: float | None
    throttle_reasons: tuple[str, ...]
    running: Used | None
    waiting: Used | None
    kv_cache_percent: Used | None
    gap_s: float | None
    own_cost_cpu_percent: float | None
