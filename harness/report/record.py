"""The one record that every page, chart and test prints from: each figure once, None where it was not measured."""

from enum import StrEnum
from typing import Any, Literal

from pydantic import ConfigDict

from harness.attempt_record import AttemptRecord, PeakRecord, ProbeRecord
from harness.report import input_models
from harness.report.machines import EngineSettings, GpuUse, Machine, Record, Telemetry
from harness.spec import Scenario, UnixSeconds

SCHEMA_VERSION = 4


class Level(StrEnum):
    """INVALID outranks UNOFFICIAL, which outranks VALID."""

    VALID = "VALID"
    UNOFFICIAL = "UNOFFICIAL"
    INVALID = "INVALID"


class Reason(Record):
    """Why the verdict is not VALID: a stable `code`, and a `sentence` for people."""

    code: str
    level: Level
    sentence: str


class Verdict(Record):
    """The verdict with all its reasons, the most severe first."""

    level: Level
    reasons: tuple[Reason, ...]


class Request(Record):
    """The benchmark that was requested; `target_qps` is a number, "auto" or "peak", `replay_of` the run it replays.

    `repeat_of` is the first run of the same benchmark, where that made several."""

    scenario: str | None
    mode: str | None
    samples: int | None
    target_qps: float | str | None
    topology: str | None
    launcher: str | None
    sampling_seed: int | None
    replay_of: str | None
    repeat_of: str | None


def latency_limits(request: Request) -> tuple[float, float] | None:
    """The scenario's limits of TTFT and TPOT in ms at the 99th percentile; None where it has none."""
    scenario = Scenario(request.scenario) if request.scenario else None
    if scenario is None or scenario.ttft_limit_ms is None or scenario.tpot_limit_ms is None:
        return None
    return scenario.ttft_limit_ms, scenario.tpot_limit_ms


class Latency(Record):
    """Percentiles in milliseconds, and whether LoadGen or the journal measured them."""

    p50_ms: float
    p90_ms: float
    p99_ms: float
    source: Literal["LoadGen", "journal"]


class Rouge(Record):
    """ROUGE F-measures times 100. Lsum and characters need Punkt's data."""

    rouge1: float
    rouge2: float
    rougeL: float  # noqa: N815 - the published name of the metric
    rougeLsum: float | None  # noqa: N815
    gen_len_characters: int | None
    gen_num: int


class Figures(Record):
    """Speed, latency and accuracy of one node or of all together.

    `samples` and `tokens` were answered, `source` says who measured. `samples_per_s` is `samples_in_rate` ÷ `seconds`
    and `tokens_per_s` is `tokens` ÷ `seconds`; in Server LoadGen leaves one sample out of its rate of samples.
    `scheduled_samples_per_s` is the rate at which LoadGen sent (Server and Interactive).
    Hours are for one performance run at the rule's length and one accuracy run of 13,368 samples at this speed.
    """

    samples: int | None
    tokens: int | None
    seconds: float | None
    samples_in_rate: int | None
    samples_per_s: float | None
    tokens_per_s: float | None
    source: Literal["LoadGen", "journal"] | None
    scheduled_samples_per_s: float | None
    ttft: Latency | None
    tpot: Latency | None
    end_to_end: Latency | None
    rouge: Rouge | None
    full_performance_hours: float | None
    full_accuracy_hours: float | None

    @property
    def full_hours(self) -> float | None:
        """Projected hours for 13,368 samples, performance and accuracy together."""
        if self.full_performance_hours is None or self.full_accuracy_hours is None:
            return None
        return self.full_performance_hours + self.full_accuracy_hours


class Share(Record):
    """Samples [start, stop) of the data set."""

    start: int
    stop: int


class Steadiness(Record):
    """Time per output token at equal load in both halves of the performance run (`report/steadiness.py`).

    `change_percent` is positive where the second half was slower. `steady` is false for a change of more than 5 % that
    chance does not explain.
    """

    first_half_tpot_ms: float
    second_half_tpot_ms: float
    change_percent: float
    steady: bool


class Energy(Record):
    """What the GPUs of a node, or of all together, used in the performance run, and what the nodes cost.

    `joules` by the GPUs' own counters, or as power over time (`source`). `idle_power_w` is of before the run, and in
    none of the others. `price_per_hour` of the nodes is in whatever currency the inventory gave it in.
    """

    joules: float | None
    source: Literal["counter", "power"] | None
    tokens_per_joule: float | None
    joules_per_sample: float | None
    idle_power_w: float | None
    price_per_hour: float | None
    cost_per_million_tokens: float | None


class Inside(Record):
    """A node's speed alone with so many engines, and that over as many times the speed with one."""

    engines: int
    samples_per_s: float
    efficiency: float
    run_id: str


class Node(Record):
    """One node.

    `alone_samples_per_s` is its speed in an earlier run of the same work on this node alone, that with the fewest
    differences (`alone_changes`: what has changed since); `comparable` is a fingerprint of that work. `inside` has its
    speed with fewer engines, where it was measured with one. `client_queue_p99_ms` is how long samples waited between
    LoadGen's issue and the request leaving, `connect_ms` what opening a connection to its engines took at least;
    `weights_load_s` is how long the slowest of these read its weights.
    """

    name: str
    loadgen: bool
    share: Share | None
    why: str | None
    figures: Figures
    client_queue_p99_ms: float | None
    connect_ms: float | None
    weights_load_s: float | None
    weights_load_mb_per_s: float | None
    alone_samples_per_s: float | None
    alone_run_id: str | None
    alone_changes: tuple[str, ...]
    inside: tuple[Inside, ...]
    energy: Energy
    comparable: str | None
    machine: Machine
    engines: tuple[EngineSettings, ...]
    telemetry: Telemetry
    gpus: tuple[GpuUse, ...] = ()
    steadiness: Steadiness | None


class Pair(Record):
    """Several LoadGens side by side, each from its first issue to its last answer.

    `all_running_s`: how long all of them ran at once; only samples finished then count for the speed together.
    `makespan_s`: from the first start to the last end, with the speed over it.
    """

    all_running_s: float
    makespan_s: float
    makespan_samples_per_s: float
    finished_apart_s: float


class Attempt(AttemptRecord):
    """One attempt of the performance run of the LoadGen on `node`; the last one of each LoadGen is judged."""

    model_config = ConfigDict(extra="forbid")

    node: str


class Probe(ProbeRecord):
    """One probe of the search for the highest rate."""

    model_config = ConfigDict(extra="forbid")


class Peak(PeakRecord):
    """Result of the search for the highest VALID rate with the LoadGen on `node`."""

    model_config = ConfigDict(extra="forbid")

    node: str
    probes: tuple[Probe, ...]


class EngineLoss(input_models.EngineLoss):
    """An engine that the run of the LoadGen on `loadgen` lost, with the speed of all engines before and after.

    `judged`: not in a probe. `cause` is why its server died, as far as the engine's own supervisor knows.
    """

    model_config = ConfigDict(extra="forbid")

    loadgen: str
    judged: bool = True
    cause: str | None
    samples_per_s_before: float | None
    samples_per_s_after: float | None


class Resumed(input_models.Resumed):
    """One time that the run of the LoadGen on `node` was resumed."""

    model_config = ConfigDict(extra="forbid")

    node: str


class Phase(Record):
    """How long one phase of one LoadGen's run took."""

    mode: Literal["performance", "accuracy"]
    node: str
    seconds: float
    samples: int
    client_cpu_cores: float | None
    target_qps: float | None


class Calibration(Record):
    """Speed measured by the calibration, and the target rate that follows from it."""

    node: str
    samples_per_s: float
    uncertainty_percent: float | None
    by_engine: dict[str, float]
    target_qps: float | None
    seconds: float | None
    samples: int | None


class Finding(Record):
    """An observation about the figures: what was measured, what it may mean, what to do. `code` is stable."""

    code: str
    node: str | None
    sentence: str


class Failure(Record):
    """A failure: the node, the phase, the reason, and the log to read."""

    node: str
    phase: str | None
    reason: str
    log: str | None


class Published(Record):
    """A published result, shown beside results of the real Llama-3.1-8B."""

    system: str
    offline_tokens_per_s: float
    server_tokens_per_s: float


class ReferenceComparison(Record):
    """How many answers equal those of an independent engine; the lists hold qsl_idx.

    `differing` are those that are not. Of these, `misplaced` are another sample's answer, `shifted` have the right ids
    one position off or cut, `decode_differing` have the right ids but another text.
    """

    compared: int
    identical: int
    differing: tuple[int, ...]
    misplaced: tuple[int, ...]
    shifted: tuple[int, ...]
    decode_differing: tuple[int, ...]


class Chart(Record):
    """A chart's PNG (`file`), or the reason why it was not drawn (`absent`)."""

    name: str
    title: str
    alt: str
    file: str | None
    absent: str | None


class PastRun(Record):
    """One earlier run of the same work, or this one, for the history chart; `changes` are since the one before."""

    run_id: str
    created_unix: UnixSeconds
    nodes: int
    samples_per_s: float
    seconds: float
    changes: tuple[str, ...] = ()


class Result(Record):
    """One benchmark. Times are unix seconds, fields carry their units, None means not measured.

    `resent`: by engine, requests sent again on a new connection without a loss (it had closed or refused one).
    """

    schema_version: int
    run_id: str
    created_unix: float | None
    asked: Request
    verdict: Verdict
    notice: str
    together: Figures
    energy: Energy
    nodes: tuple[Node, ...]
    pair: Pair | None
    efficiency: float | None
    efficiency_absent: str | None
    shared_machine: bool
    phases: tuple[Phase, ...]
    calibration: tuple[Calibration, ...]
    attempts: tuple[Attempt, ...]
    peaks: tuple[Peak, ...]
    engine_losses: tuple[EngineLoss, ...]
    resent: dict[str, int]
    resumed: tuple[Resumed, ...]
    findings: tuple[Finding, ...]
    failures: tuple[Failure, ...]
    accuracy_reference: ReferenceComparison | None
    published: tuple[Published, ...]
    history: tuple[PastRun, ...]
    charts: tuple[Chart, ...]


def schema() -> dict[str, Any]:
    """The JSON schema of result.json."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"result-v{SCHEMA_VERSION}",
        **Result.model_json_schema(mode="serialization"),
    }
