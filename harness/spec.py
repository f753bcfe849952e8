"""The specification of a run: one validated, frozen record that everything else reads."""

import re
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from harness.errors import BadInput
from harness.files import sha256_json

FULL_SAMPLES = 13_368
"""Size of MLPerf's CNN/DailyMail evaluation set; QSL index = position in the list."""
MAX_INPUT_TOKENS = 2_540
MAX_MODEL_LEN = 2_668
MAX_NEW_TOKENS = 128
SAMPLING_SEED = 42
RULE_MIN_DURATION_S = 600.0
LOADGEN_VERSION = "6.0.17"
LOADGEN_SEEDS = (2085463073848966840, 2747215439041700203, 16159082839903944936)
"""Seeds of QSL, sample index and schedule that this LoadGen carries, those of round v6.1; another version, or a second
run in one process, would have others."""
OFFLINE_SLACK = 1.1
"""LoadGen's own: an Offline query holds 1.1 x duration x expected rate samples."""
OFFLINE_MARGIN = 1.05
"""What calibration expects of an Offline run, over what it measured: too small a rate would end the run early."""
IMAGE_VARIABLE = "HARNESS_IMAGE"
"""Environment variable of a container: the reference of its image, of which the digest is a part."""
FEWEST_CONFIRMED = 459
"""Queries with which LoadGen's early stopping can confirm a latency limit, none of them being over it."""
DEFAULT_RATE_ATTEMPTS, MAX_RATE_ATTEMPTS = 4, 10
"""How often a performance run may be made where its rate is to be found; more would be an endless search."""
RUN_ID_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
CALIBRATION_SUFFIX = ".calibration"
"""Calibrating is a run of its own, called by the name of its benchmark and this."""


class Scenario(StrEnum):
    """LoadGen's scenarios; Interactive is Server under tighter limits."""

    SERVER = "server"
    OFFLINE = "offline"
    INTERACTIVE = "interactive"

    @property
    def model_name(self) -> str:
        """The model name LoadGen's built-in rules are filed under."""
        return "llama3_1-8b-interactive" if self is Scenario.INTERACTIVE else "llama3_1-8b"

    @property
    def ttft_limit_ms(self) -> float | None:
        """99th-percentile limit of the time to first token; None when there is none."""
        return {Scenario.SERVER: 2000.0, Scenario.INTERACTIVE: 500.0}.get(self)

    @property
    def tpot_limit_ms(self) -> float | None:
        """99th-percentile limit of the time per output token; None when there is none."""
        return {Scenario.SERVER: 100.0, Scenario.INTERACTIVE: 30.0}.get(self)


class Mode(StrEnum):
    """What LoadGen measures; `both` is a performance run, then an accuracy run."""

    PERFORMANCE = "performance"
    ACCURACY = "accuracy"
    BOTH = "both"


class Record(BaseModel):
    """Plain values, validated once: unknown keys and infinities are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class EngineRef(Record):
    """An engine a run may send to.

    `url` is its base address, `max_in_flight` the most requests it is given at once, `samples_per_s` its calibrated
    speed; None where it is not known.
    """

    name: Annotated[str, Field(pattern=f"^{RUN_ID_PATTERN}$")]
    url: Annotated[str, Field(pattern=r"^https?://[^/\s]+$")]
    node: str = "localhost"
    max_in_flight: Annotated[int, Field(ge=1, le=65_536)] = 1024
    samples_per_s: Annotated[float, Field(gt=0)] | None = None

    def at_speed(self, by_engine: Mapping[str, float]) -> Self:
        """The same with its speed, from samples/s by engine's name."""
        return self.model_copy(update={"samples_per_s": by_engine.get(self.name) or None})


class Share(Record):
    """The samples this LoadGen issues: positions [start, stop) of the data set."""

    start: Annotated[int, Field(ge=0)]
    stop: Annotated[int, Field(ge=1)]

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.stop <= self.start:
            raise ValueError(f"share [{self.start}, {self.stop}) is empty")
        return self


class Limits(Record):
    """Bounds in seconds; `min_duration_s` None means the rule's 600 s for a full run and one pass for a smaller one."""

    request_timeout_s: Annotated[float, Field(gt=0)] = 600.0
    stall_timeout_s: Annotated[float, Field(gt=0)] = 120.0
    decision_timeout_s: Annotated[float, Field(gt=0)] = 600.0
    calibration_s: Annotated[float, Field(gt=0, le=3600)] = 8.0
    min_duration_s: Annotated[float, Field(ge=0)] | None = None


def least_duration_s(samples: int, limits: Limits) -> float:
    """Least length of a performance run of a benchmark of `samples`, in seconds; 0 means one pass."""
    if limits.min_duration_s is not None:
        return limits.min_duration_s
    return RULE_MIN_DURATION_S if samples == FULL_SAMPLES else 0.0


def why_no_peak(target_qps: float | str, scenario: Scenario, mode: Mode, samples: int) -> str | None:
    """Why the highest VALID rate cannot be searched for, and what to do; None when it can, or is not asked for."""
    if target_qps != "peak":
        return None
    if scenario is Scenario.OFFLINE:
        return (
            "target_qps = peak: scenario offline has no latency limit; choose server or interactive, or target_qps=auto"
        )
    if mode is Mode.ACCURACY:
        return "target_qps = peak: mode accuracy has no performance run; choose performance or both, or target_qps=auto"
    if samples < FEWEST_CONFIRMED:
        return (
            f"target_qps = peak: LoadGen's early stopping confirms a limit with {FEWEST_CONFIRMED} queries at least, "
            f"and samples = {samples}; give more"
        )
    return None


def _absolute(path: Path) -> Path:
    return path.expanduser().absolute()


AbsolutePath = Annotated[Path, AfterValidator(_absolute)]
Samples = Annotated[int, Field(strict=True, ge=1, le=FULL_SAMPLES)]
TargetQps = Annotated[float, Field(gt=0)] | Literal["auto", "peak"]
"""Samples/s to offer, or a word: the rate is then found on the running engines; `peak` is the highest that is VALID."""
PeakBudget = Annotated[float, Field(gt=0)]
"""Minutes for a search and the accuracy run after it."""
RateAttempts = Annotated[int, Field(strict=True, ge=1, le=MAX_RATE_ATTEMPTS)]


class Spec(Record):
    """One benchmark on one LoadGen. `share` None means samples [0, samples).

    `rate_attempts`: how often a performance run of Server or Interactive may be made, each at a lower rate than the
    one before, until it holds the latency limits. `attempts_together`: after each of them wait to be told whether all
    LoadGens of this benchmark repeat theirs; without word for `limits.decision_timeout_s` after the end that a
    complete attempt would have had, decide alone.
    `peak_from_qps`: the rate from which the highest is searched for, calibrated before; None calibrates here.
    """

    run_id: Annotated[str, Field(pattern=f"^{RUN_ID_PATTERN}$")]
    model: AbsolutePath
    dataset: AbsolutePath
    samples: Samples
    engines: Annotated[tuple[EngineRef, ...], Field(min_length=1)]
    scenario: Scenario = Scenario.SERVER
    mode: Mode = Mode.BOTH
    target_qps: TargetQps = "auto"
    rate_attempts: RateAttempts = 1
    attempts_together: bool = False
    peak_budget_minutes: PeakBudget | None = None
    peak_from_qps: Annotated[float, Field(gt=0)] | None = None
    seed: Annotated[int, Field(strict=True)] = SAMPLING_SEED
    share: Share | None = None
    reference_ids: AbsolutePath | None = None
    punkt: AbsolutePath | None = None
    limits: Limits = Limits()
    calibrate_only: bool = False
    node: str = "localhost"
    metrics_port: Annotated[int, Field(strict=True, ge=1, le=65_535)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.share and self.share.stop > self.samples:
            raise ValueError(f"share.stop {self.share.stop} is beyond samples {self.samples}")
        names = [engine.name for engine in self.engines]
        if len(set(names)) != len(names):
            raise ValueError(f"engines: names must differ, got {', '.join(names)}")
        if reason := why_no_peak(self.target_qps, self.scenario, self.mode, self.samples):
            raise ValueError(reason)
        if self.target_qps != "peak" and (self.peak_budget_minutes or self.peak_from_qps):
            raise ValueError("peak_budget_minutes and peak_from_qps are for target_qps = peak; leave them out")
        return self

    @property
    def window(self) -> Share:
        """The share this LoadGen issues, whole data set included."""
        return self.share or Share(start=0, stop=self.samples)

    @property
    def speeds(self) -> dict[str, float] | None:
        """Samples/s of every engine by name; None unless all are known."""
        known = {engine.name: engine.samples_per_s for engine in self.engines if engine.samples_per_s}
        return known if len(known) == len(self.engines) else None

    @property
    def has_attempts(self) -> bool:
        """Whether the performance run is one of several attempts."""
        repeated = self.rate_attempts > 1 or self.target_qps == "peak"
        return repeated and self.scenario is not Scenario.OFFLINE and self.mode is not Mode.ACCURACY

    @property
    def min_duration_s(self) -> float:
        """Least length of a performance run in seconds; 0 means one pass."""
        return least_duration_s(self.samples, self.limits)

    def document(self) -> dict[str, Any]:
        """The content of spec.json: what all nodes share, what is this node's own, and a hash of each."""
        plain = self.model_dump(mode="json")
        node = {
            key: plain.pop(key)
            for key in (
                "node",
                "share",
                "engines",
                "target_qps",
                "peak_from_qps",
                "model",
                "dataset",
                "reference_ids",
                "punkt",
                "metrics_port",
            )
        }
        return {
            "schema": 1,
            "common": plain,
            "node": node,
            "common_sha256": sha256_json(plain),
            "node_sha256": sha256_json(node),
        }


def parse_spec(values: Any) -> Spec:
    """Validate plain values (as read from JSON) into a Spec, or a spec.json document back into one.

    Raises:
        BadInput: every wrong key in one message.
    """
    if isinstance(values, dict) and "common" in values and "node" in values:
        values = {**values["common"], **values["node"]}
    try:
        return Spec.model_validate(values)
    except ValidationError as error:
        raise BadInput(f"spec: {explain(error)}") from None


def explain(error: ValidationError) -> str:
    """A pydantic error as one line: each wrong key with its value and what would be right."""
    return "; ".join(_sentence(item) for item in error.errors())


def _sentence(item: Any) -> str:
    where = ".".join(str(part) for part in item["loc"] if not str(part).startswith(("function-", "constrained-")))
    if item["type"] == "extra_forbidden":
        return f"unknown key {where!r}; remove it or check its spelling"
    if item["type"] == "missing":
        return f"{where} is missing; give it"
    message = re.sub(r"^(Value error|Assertion failed), ", "", item["msg"])
    return f"{where} = {item['input']!r}: {message}" if where else message
