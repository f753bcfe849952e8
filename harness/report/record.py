"""The one record that every page, chart and test prints from: each figure once, None where it was not measured."""

from enum import StrEnum
from typing import Any, Literal

from pydantic import ConfigDict

from harness.report import input_models
from harness.report.machines import EngineSettings, Machine, Record, Telemetry
from harness.spec import Scenario

SCHEMA_VERSION = 2


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
    """The benchmark that was requested; `target_qps` is a number, "auto" or "peak"."""

    scenario: str | None
    mode: str | None
    samples: int | None
    target_qps: float | str | None
    topology: str | None
    launcher: str | None
    sampling_seed: int | None


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

    `samples`, `tokens` and `seconds` are those of the speed. `source` says who measured it.
    `scheduled_samples_per_s` is the rate at which LoadGen sent (Server and Interactive).
    Hours are for one performance run at the rule's length and one accuracy run of 13,368 samples at this speed.
    """

    samples: int | None
    tokens: int | None
    seconds: float | None
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


class Node(Record):
    """One node. `alone_samples_per_s` is its speed in the latest comparable earlier run on this node alone;
    `client_queue_p99_ms` is how long samples waited between LoadGen's issue and the request leaving."""

    name: str
    loadgen: bool
    share: Share | None
    why: str | None
    figures: Figures
    client_queue_p99_ms: float | None
    alone_samples_per_s: float | None
    alone_run_id: str | None
    comparable: str | None
    machine: Machine
    engines: tuple[EngineSettings, ...]
    telemetry: Telemetry
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


class Attempt(input_models.Attempt):
    """One attempt of the performance run of the LoadGen on `node`; the last one of each LoadGen is judged."""

    model_config = ConfigDict(extra="forbid")

    node: str


class Probe(input_models.Probe):
    """One probe of the search for the highest rate."""

    model_config = ConfigDict(extra="forbid")


class Peak(input_models.Peak):
    """Result of the search for the highest VALID rate with the LoadGen on `node`."""

    model_config = ConfigDict(extra="forbid")

    node: str
    probes: tuple[Probe, ...]


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
    """One earlier comparable run, or this one, for the history chart."""

    run_id: str
    created_unix: float
    nodes: int
    samples_per_s: float
    seconds: float


class Result(Record):
    """One benchmark. Times are unix seconds, fields carry their units, None means not measured."""

    schema_version: int
    run_id: str
    created_unix: float | None
    asked: Request
    verdict: Verdict
    notice: str
    together: Figures
    nodes: tuple[Node, ...]
    pair: Pair | None
    efficiency: float | None
    efficiency_absent: str | None
    shared_machine: bool
    phases: tuple[Phase, ...]
    calibration: tuple[Calibration, ...]
    attempts: tuple[Attempt, ...]
    peaks: tuple[Peak, ...]
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
