"""The JSON files of a benchmark as frozen models of the keys that the report reads; a key that is absent is None."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator

from harness.report.machines import Machine, machine_fields


class File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class Part(File):
    """One LoadGen run as the harness measured it (`performance` or `accuracy` in outcome.json); unix seconds."""

    started_unix: float
    finished_unix: float
    samples: int
    tokens: int
    issued: int
    one_token_answers: tuple[int, ...] = ()
    client_cpu_s: float | None = None


class Cost(File):
    """Processor time that telemetry itself used."""

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


class Attempt(File):
    """One attempt of a performance run, attempts/N/attempt.json; times in unix seconds, rates in samples/s.

    `partial` says that the attempt was ended early: LoadGen's summary is empty and the figures are the journal's.
    `forgiven` is how many queries over one limit early stopping forgives at `planned_samples`, -1 for too few queries
    to confirm anything.
    """

    number: int
    target_qps: float
    verdict: Literal["VALID", "INVALID", "ENDED EARLY"]
    reason: str | None
    partial: bool
    planned_samples: int
    samples: int
    started_unix: float
    finished_unix: float
    samples_per_s: float | None
    ttft_ms_p99: float | None
    tpot_ms_p99: float | None
    over_ttft: int
    over_tpot: int
    forgiven: int

    @property
    def held(self) -> bool:
        """Whether the limits held and LoadGen confirmed it."""
        return self.verdict == "VALID" and not self.partial

    @property
    def ended_early(self) -> bool:
        """Whether LoadGen was ended before it could write its result."""
        return self.partial or self.verdict == "ENDED EARLY"


class Probe(File):
    """One short LoadGen run of the search for the highest rate; `held` says whether the limits held."""

    target_qps: float
    seconds: float
    samples: int
    ttft_ms_p99: float | None
    tpot_ms_p99: float | None
    held: bool


class Peak(File):
    """The search for the highest VALID rate (`peak` in outcome.json); rates in samples/s."""

    probes: tuple[Probe, ...] = ()
    highest_valid_qps: float | None = None
    lowest_failed_qps: float | None = None
    distance_percent: float | None = None
    sentence: str | None = None


class OutcomeFile(File):
    """outcome.json."""

    peak: Peak | None = None
    performance: Part | None = None
    accuracy: Part | None = None
    calibration: Calibration | None = None
    telemetry_cost: Cost | None = None
    target_qps: float | None = None
    failures: tuple[dict[str, Any], ...] = ()


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

    name: str | None = None
    hidden_size: int | None = None
    layers: int | None = None
    vocab_size: int | None = None
    sandbox: bool | None = None


class ManifestFile(File):
    """manifest.json: what a node's run ran on; its top level describes the machine."""

    machine: DescribedMachine = Machine.model_validate(machine_fields({}))
    model: ModelFacts = ModelFacts()
    engines: tuple[dict[str, Any], ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _name_the_machine(cls, content: Any) -> Any:
        return {**content, "machine": content} if isinstance(content, dict) else content


class EngineFile(File):
    """engine.json: one engine, the settings it was given and those that the running server showed."""

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
    machine: DescribedMachine | None = None
    telemetry_cost: Cost | None = None


class PlanFile(File):
    """plan.json: which node runs what, decided before the run."""

    run_id: str
    created_unix: float | None = None
    topology: str | None = None
    launcher: str | None = None
    asked: dict[str, Any] = {}
    nodes: dict[str, dict[str, Any]] = {}
    loadgens: tuple[str, ...] = ()
    shared_machine: bool = False


class FailureFile(File):
    """One entry of failures.json: a host that failed during the play."""

    host: str
    phase: str | None = None
    reason: str
    log: str | None = None


class _EarlierVerdict(File):
    level: str


class _EarlierRequest(File):
    topology: str | None


class _EarlierFigures(File):
    samples_per_s: float | None
    seconds: float | None


class _EarlierNode(File):
    name: str
    comparable: str | None


class EarlierResult(File):
    """result.json of another run, of this schema version or an earlier one: what runs are compared by."""

    run_id: str
    created_unix: float | None
    verdict: _EarlierVerdict
    asked: _EarlierRequest
    together: _EarlierFigures
    nodes: tuple[_EarlierNode, ...]
