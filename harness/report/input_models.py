"""The JSON files of a benchmark as frozen records: what the report reads of them; None is what a file does not say."""

from typing import Any

from pydantic import BaseModel, ConfigDict


class File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class Part(File):
    """One LoadGen run as its harness saw it (a half of outcome.json); times in unix seconds."""

    started_unix: float
    finished_unix: float
    samples: int
    tokens: int
    issued: int
    one_token_answers: tuple[int, ...] = ()
    client_cpu_s: float | None = None


class Cost(File):
    """What telemetry itself used."""

    cpu_s: float
    samples: int
    wall_s: float


class Calibration(File):
    """The short measurement that chose the target rate."""

    samples_per_s: float
    by_engine: dict[str, float] = {}
    target_qps: float | None = None
    tried: tuple[dict[str, Any], ...] = ()
    seconds: float | None = None
    samples: int | None = None


class OutcomeFile(File):
    """outcome.json."""

    performance: Part | None = None
    accuracy: Part | None = None
    calibration: Calibration | None = None
    telemetry_cost: Cost | None = None
    target_qps: float | None = None
    failures: tuple[dict[str, Any], ...] = ()


class StatusFile(File):
    """status.json, the parts a judge needs."""

    state: str
    phase: str | None = None
    reason: str | None = None
    log: str | None = None
    started_unix: float | None = None
    elapsed_s: float | None = None


class ModelFacts(File):
    """The weights a node served. `sandbox` and the sizes come from the model's directory."""

    name: str | None = None
    sha256: str | None = None
    weights_bytes: int | None = None
    dtype: str | None = None
    hidden_size: int | None = None
    layers: int | None = None
    vocab_size: int | None = None
    sandbox: bool | None = None


class DatasetFacts(File):
    """The data set a node read: the whole file, and prompts and targets of the samples asked for."""

    sha256: str | None = None
    samples_sha256: str | None = None


class Gpu(File):
    """One GPU as the node's driver describes it."""

    index: int | None = None
    name: str | None = None
    memory_gib: float | None = None
    power_limit_w: float | None = None
    sm_clock_max_mhz: float | None = None
    pcie_gen: int | None = None
    pcie_width: int | None = None


class ManifestFile(File):
    """manifest.json: what a node's run ran on."""

    node: str | None = None
    hostname: str | None = None
    os: str | None = None
    kernel: str | None = None
    python: str | None = None
    cpu_model: str | None = None
    cpu_count: int | None = None
    memory_gib: float | None = None
    versions: dict[str, str | None] = {}
    environment_sha256: str | None = None
    image_digest: str | None = None
    model: ModelFacts = ModelFacts()
    dataset: DatasetFacts = DatasetFacts()
    tokenizer_sha256: str | None = None
    gpus: tuple[Gpu, ...] = ()
    driver: str | None = None
    cuda: str | None = None
    engines: tuple[dict[str, Any], ...] = ()


class EngineFile(File):
    """engine.json: one engine, what was asked of it and what the running server showed."""

    name: str
    kind: str = "vllm"
    state: str
    reason: str | None = None
    model: str | None = None
    config: dict[str, Any] = {}
    asked: dict[str, Any] = {}
    verified: dict[str, Any] = {}
    unverified: tuple[str, ...] = ()
    version: dict[str, str | None] = {}
    machine: ManifestFile | None = None
    telemetry_cost: Cost | None = None


class PlanFile(File):
    """plan.json: what Ansible decided before the run."""

    run_id: str
    created_unix: float | None = None
    topology: str | None = None
    launcher: str | None = None
    asked: dict[str, Any] = {}
    nodes: dict[str, dict[str, Any]] = {}
    loadgens: tuple[str, ...] = ()
    shared_machine: bool = False


class FailureFile(File):
    """One entry of failures.json: what Ansible saw fail."""

    host: str
    phase: str | None = None
    reason: str
    log: str | None = None
