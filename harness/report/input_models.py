"""The JSON files of a benchmark as frozen models of the keys that the report reads; a key that is absent is None."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from harness.attempt_record import AttemptRecord, PeakRecord
from harness.report.machines import Machine, machine_fields
from harness.spec import RunMode, Scenario, UnixSeconds


class File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=(), allow_inf_nan=False)


def check_kinds(values: Any, kinds: Mapping[str, type]) -> Any:
    """A JSON object whose keys hold what they should, or null.

    Raises:
        ValueError: one holds another kind of value.
    """
    for key, kind in kinds.items():
        value = values.get(key) if isinstance(values, dict) else None
        if value is not None and type(value) is not kind:
            raise ValueError(f"{key} = {value!r} is not of type {kind.__name__}")
    return values


def _check_settings(values: Any) -> Any:
    texts, numbers = (
        dict.fromkeys(("dtype", "quantization", "kv_cache_dtype"), str),
        dict.fromkeys(("max_num_seqs", "max_model_len", "max_num_batched_tokens"), int),
    )
    return check_kinds(values, texts | numbers | dict.fromkeys(("enable_prefix_caching", "speculative_decoding"), bool))


def _check_request(values: Any) -> Any:
    check_kinds(values, dict.fromkeys(("scenario", "mode", "topology", "launcher"), str))
    if isinstance(values, dict) and values.get("scenario") is not None:
        Scenario(values["scenario"])
    return values


def _check_node(values: Any) -> Any:
    check_kinds(values, {"share": dict, "why": str, "engines": list})
    for one in (values.get("engines") if isinstance(values, dict) else None) or ():
        if isinstance(one, dict):
            check_kinds(one, dict.fromkeys(("name", "node", "url"), str))
    if isinstance(values, dict) and values.get("share"):
        check_kinds({"start": "–", "stop": "–"} | values["share"], {"start": int, "stop": int})
    return values


ServerSettings = Annotated[dict[str, Any], BeforeValidator(_check_settings)]
RequestedSettings = Annotated[dict[str, Any], BeforeValidator(_check_request)]
PlannedNode = Annotated[dict[str, Any], BeforeValidator(_check_node)]


class Part(File):
    """One LoadGen run as the harness measured it, by its mode in outcome.json; unix seconds."""

    started_unix: float
    finished_unix: float
    samples: int
    tokens: int
    issued: int
    one_token_answers: tuple[int, ...] = ()
    client_cpu_s: float | None = None
    connect_ms: dict[str, float] = {}


class Cost(File):
    """Processor time that telemetry itself used."""

    cpu_s: float
    samples: int
    wall_s: float


class Calibration(File):
    """The short measurement that chose the target rate."""

    samples_per_s: float
    uncertainty_percent: float | None = None
    by_engine: dict[str, float] = {}
    target_qps: float | None = None
    tried: tuple[dict[str, Any], ...] = ()
    seconds: float | None = None
    samples: int | None = None


class EngineLoss(File):
    """An engine that was lost while LoadGen ran in this mode (`engine_losses` in outcome.json), after `at_s` seconds of
    that run; `moved` samples went to other engines. `rejoined_unix` is None for one that did not come back.

    `folder` is that of the LoadGen run where there are several of one mode: attempts/2, probes/1.
    """

    mode: RunMode = "performance"
    folder: Annotated[str, Field(pattern=r"^([a-z ]+|(attempts|probes)/[1-9][0-9]{0,8})$")] | None = None
    engine: str
    node: str
    at_unix: float
    at_s: float
    reason: str
    moved: int
    rejoined_unix: float | None = None

    @property
    def lost_in(self) -> str:
        """The LoadGen run in words: performance, attempt 2, probe 1."""
        kind, _, number = (self.folder or "").partition("/")
        return f"{kind.removesuffix('s')} {number}" if number else self.mode


class Resumed(File):
    """One time that a run was resumed: when (unix seconds), in which phase, whether its accuracy run had finished, how
    many answers of that were kept, and how many were missing."""

    at_unix: float
    phase: str
    accuracy_finished: bool = False
    kept: int
    missing: int


class OutcomeFile(File):
    """outcome.json."""

    attempts: tuple[AttemptRecord, ...] = ()
    peak: PeakRecord | None = None
    performance: Part | None = None
    accuracy: Part | None = None
    compliance: Part | None = None
    calibration: Calibration | None = None
    telemetry_cost: Cost | None = None
    target_qps: float | None = None
    failures: tuple[dict[str, Any], ...] = ()
    engine_losses: tuple[EngineLoss, ...] = ()
    resent: dict[str, int] = {}
    resumed: tuple[Resumed, ...] = ()
    warnings: tuple[str, ...] = ()


class StatusFile(File):
    """status.json."""

    state: str
    phase: str | None = None
    reason: str | None = None
    log: str | None = None
    started_unix: float | None = None
    elapsed_s: float | None = None


DescribedMachine = Annotated[Machine, BeforeValidator(machine_fields)]


class ModelFacts(File):
    """Which model a node served, by the sizes in its directory; `sandbox` is true for the tiny model."""

    path: str | None = None
    name: str | None = None
    sha256: str | None = None
    weights_bytes: int | None = None
    hidden_size: int | None = None
    layers: int | None = None
    vocab_size: int | None = None
    sandbox: bool | None = None


class Restart(File):
    """A server that died and was started again, and why it had died."""

    unix: float
    reason: str


class EngineFile(File):
    """engine.json: one engine, the settings it was given and those that the running server showed."""

    name: str
    kind: str = "vllm"
    state: str
    reason: str | None = None
    url: str | None = None
    model: str | None = None
    command: tuple[str, ...] = ()
    config: ServerSettings = {}
    asked: ServerSettings = {}
    verified: ServerSettings = {}
    unverified: tuple[str, ...] = ()
    version: dict[str, str | None] = {}
    machine: DescribedMachine | None = None
    served: ModelFacts = ModelFacts()
    telemetry_cost: Cost | None = None
    restarts: tuple[Restart, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _name_what_it_served(cls, content: Any) -> Any:
        machine = content.get("machine") if isinstance(content, dict) else None
        return {**content, "served": machine["model"]} if isinstance(machine, dict) and "model" in machine else content


class DatasetFacts(File):
    """Which samples a run read: the file, its hash, and that of the samples that were requested."""

    path: str | None = None
    sha256: str | None = None
    samples_sha256: str | None = None


class Seeds(File):
    """The seed that was sent with each request."""

    sampling: int | None = None


class ManifestFile(File):
    """manifest.json: what a node's run ran on; its top level describes the machine."""

    machine: DescribedMachine = Machine.model_validate(machine_fields({}))
    model: ModelFacts = ModelFacts()
    dataset: DatasetFacts | None = None
    seeds: Seeds = Seeds()
    engines: tuple[EngineFile, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _name_the_machine(cls, content: Any) -> Any:
        return {**content, "machine": content} if isinstance(content, dict) else content


class PlanFile(File):
    """plan.json: which node runs what, decided before the run."""

    run_id: str
    created_unix: UnixSeconds | None = None
    topology: str | None = None
    launcher: str | None = None
    asked: RequestedSettings = {}
    nodes: dict[str, PlannedNode] = {}
    loadgens: tuple[str, ...] = ()
    shared_machine: bool = False


class RequestFile(File):
    """request.json: what was asked, written before anything was started."""

    run_id: str
    asked: RequestedSettings = {}
    repeat_of: str | None = None


class FailureFile(File):
    """One entry of failures.json: a host that failed during the play."""

    host: str
    phase: str | None = None
    reason: str
    log: str | None = None
