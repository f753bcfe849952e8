"""The specification of a run: one validated, frozen record that everything else reads."""

import re
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from harness.errors import BadInput
from harness.files import sha256_json

FULL_SAMPLES = 13_368
REAL_MODEL = {"hidden_size": 4096, "layers": 32, "vocab_size": 128_256}
"""The shape of Llama-3.1-8B."""
"""Size of MLPerf's CNN/DailyMail evaluation set; QSL index = position in the list."""
MAX_INPUT_TOKENS = 2_540
MAX_MODEL_LEN = 2_668
MAX_NEW_TOKENS = 128
QUANTIZES_ON_LOAD = "fp8_per_"
"""Of the formats to which vLLM quantises 16-bit weights while it loads them; files that have a format keep theirs."""
SAMPLING_SEED = 42
RULE_MIN_DURATION_S = 600.0
LOADGEN_VERSION = "6.0.17"
EFFECTIVE_SEEDS = {
    "effective_qsl_rng_seed": 2085463073848966840,
    "effective_sample_index_rng_seed": 2747215439041700203,
    "effective_schedule_rng_seed": 16159082839903944936,
}
"""Seeds that this LoadGen carries, by their keys in its detail log: those of round v6.1; another version, or a second
run in one process, would have others."""
LOADGEN_SEEDS = tuple(EFFECTIVE_SEEDS.values())
OFFLINE_SLACK = 1.1
"""LoadGen's own: an Offline query holds 1.1 x duration x expected rate samples."""
OFFLINE_MARGIN = 1.05
"""What calibration expects of an Offline run, over what it measured: too small a rate would end the run early."""
IMAGE_VARIABLE = "HARNESS_IMAGE"
"""Environment variable of a container: the reference of its image, of which the digest is a part."""
WEIGHTS_CACHE, WEIGHTS_CACHE_VARIABLE = "runs/.weights.sha256.json", "HARNESS_WEIGHTS_CACHE"
"""Where hashes of weights are remembered below a root, since in a pod nothing else there is writable; and the variable
of a container that names another file, since each engine's pod has a root of its own."""
FEWEST_CONFIRMED = 459
"""Queries with which LoadGen's early stopping can confirm a latency limit, none of them being over it."""
DEFAULT_RATE_ATTEMPTS, MAX_RATE_ATTEMPTS = 4, 10
"""How often a performance run may be made where its rate is to be found; more would be an endless search."""
UnixSeconds = Annotated[float, Field(ge=0, le=1e11)]
"""A time that has a date; a damaged file may hold one that has none."""
RUN_ID_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"


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


RunMode = Literal["performance", "accuracy", "compliance"]
"""What one LoadGen run is for; a compliance run is that of test TEST06."""


class Mode(StrEnum):
    """The LoadGen runs of a benchmark; `both` is performance, then accuracy, and `all` compliance after them."""

    PERFORMANCE = "performance"
    ACCURACY = "accuracy"
    COMPLIANCE = "compliance"
    BOTH = "both"
    ALL = "all"

    @property
    def runs(self) -> tuple[RunMode, ...]:
        """The LoadGen runs, in order."""
        every: tuple[RunMode, ...] = ("performance", "accuracy", "compliance")
        count = {Mode.BOTH: 2, Mode.ALL: 3}.get(self)
        return every[:count] if count else tuple(run for run in every if run == self.value)


class OnEngineLoss(StrEnum):
    """What becomes of a run that loses one of several engines: it goes on with the others, or ends."""

    CONTINUE = "continue"
    FAIL = "fail"


def _absolute(path: Path) -> Path:
    return path.expanduser().absolute()


AbsolutePath = Annotated[Path, AfterValidator(_absolute)]


class Record(BaseModel):
    """Plain values, validated once: unknown keys and infinities are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


# Calibrating fills the engines, so that no request should take much longer than its slowest.
_LEAST_TIMEOUT_S, _TIMEOUT_PER_SLOWEST = 60.0, 10.0


def _base_url(url: str) -> str:
    if "@" in url:
        raise ValueError("an address with a user or password would be printed; leave them out, and name api_key_file")
    if not re.fullmatch(r"https?://[^/\s?#]+(/[^\s?#]*)?", url):
        raise ValueError("give the server's address, http://HOST:PORT or https://HOST/PREFIX")
    return url.rstrip("/").removesuffix("/v1").rstrip("/")


BaseUrl = Annotated[str, AfterValidator(_base_url)]
"""Address of an OpenAI-compatible server: what stands before /v1, without a slash at the end."""


class EngineRef(Record):
    """An engine a run may send to.

    `url` is its base address, `max_in_flight` the most requests it is given at once, `samples_per_s` its calibrated
    speed, `slowest_s` the longest request of its calibration, `tokens_per_step` the most it computes in one step; None
    where it is not known. `served_model` is the name of its model where it has several, `api_key_file` and `ca_file`
    are files here: its API key, and a certificate that it is trusted by.
    """

    name: Annotated[str, Field(pattern=f"^{RUN_ID_PATTERN}$")]
    url: BaseUrl
    served_model: Annotated[str, Field(min_length=1)] | None = None
    api_key_file: AbsolutePath | None = None
    ca_file: AbsolutePath | None = None
    node: str = "localhost"
    max_in_flight: Annotated[int, Field(ge=1, le=65_536)] = 1024
    samples_per_s: Annotated[float, Field(gt=0)] | None = None
    slowest_s: Annotated[float, Field(gt=0)] | None = None
    tokens_per_step: Annotated[int, Field(ge=1)] | None = None

    def at_speed(self, by_engine: Mapping[str, float], slowest_s: Mapping[str, float]) -> Self:
        """The same as calibrated, from samples/s and the longest request in seconds, both by engine's name."""
        calibrated = {"samples_per_s": by_engine.get(self.name) or None, "slowest_s": slowest_s.get(self.name) or None}
        return self.model_copy(update=calibrated)

    def request_timeout_s(self, most_s: float) -> float:
        """How long a request may take: many times as long as the longest of the calibration, but not over `most_s`."""
        if self.slowest_s is None:
            return most_s
        return min(most_s, max(_LEAST_TIMEOUT_S, _TIMEOUT_PER_SLOWEST * self.slowest_s))


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
    """Bounds in seconds; `min_duration_s` None means the rule's 600 s for a full run and one pass for a smaller one.

    An engine that owes answers and sends no byte for `engine_silence_s` while others do is lost.
    """

    request_timeout_s: Annotated[float, Field(gt=0)] = 600.0
    stall_timeout_s: Annotated[float, Field(gt=0)] = 120.0
    engine_silence_s: Annotated[float, Field(gt=0)] = 60.0
    decision_timeout_s: Annotated[float, Field(gt=0)] = 600.0
    calibration_s: Annotated[float, Field(gt=0, le=3600)] = 8.0
    min_duration_s: Annotated[float, Field(ge=0)] | None = None


def attempts_most(rate_attempts: int, target_qps: float | str, scenario: Scenario, mode: Mode) -> int:
    """How many performance runs there may be: several only where latency limits judge a rate that was found."""
    rate_is_found = target_qps == "auto" and scenario is not Scenario.OFFLINE
    return rate_attempts if rate_is_found and "performance" in mode.runs else 1


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
    if "performance" not in mode.runs:
        return (
            f"target_qps = peak: mode {mode} has no performance run; choose performance, both or all, or "
            "target_qps=auto"
        )
    if samples < FEWEST_CONFIRMED:
        return (
            f"target_qps = peak: LoadGen's early stopping confirms a limit with {FEWEST_CONFIRMED} queries at least, "
            f"and samples = {samples}; give more"
        )
    return None


Samples = Annotated[int, Field(strict=True, ge=1, le=FULL_SAMPLES)]
LOWEST_TARGET_QPS, HIGHEST_TARGET_QPS = 0.001, float(FULL_SAMPLES)
"""Samples/s that a benchmark may offer: one in longer than any request may take, and the whole data set in a second."""
TargetQps = Annotated[float, Field(ge=LOWEST_TARGET_QPS, le=HIGHEST_TARGET_QPS)] | Literal["auto", "peak"]
"""Samples/s to offer, or a word: the rate is then found on the running engines; `peak` is the highest that is VALID."""
PeakBudget = Annotated[float, Field(gt=0)]
"""Minutes for a search and the accuracy run after it."""
RateAttempts = Annotated[int, Field(strict=True, ge=1, le=MAX_RATE_ATTEMPTS)]


class Spec(Record):
    """One benchmark on one LoadGen. `share` None means samples [0, samples).

    `rate_attempts`: how often a performance run of Server or Interactive may be made, each at a lower rate than the
    one before, until it holds the latency limits. `attempts_together`: after each of them wait for the decision whether
    all LoadGens of this benchmark repeat theirs; without one for `limits.decision_timeout_s` after the end that a
    complete attempt would have had, decide alone.
    `replay_of`: the run that this one repeats, by its name. `metrics_address`: where `metrics_port` is listened at.
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
    on_engine_loss: OnEngineLoss = OnEngineLoss.CONTINUE
    seed: Annotated[int, Field(strict=True)] = SAMPLING_SEED
    share: Share | None = None
    reference_ids: AbsolutePath | None = None
    punkt: AbsolutePath | None = None
    limits: Limits = Limits()
    calibrate_only: bool = False
    replay_of: str | None = None
    node: str = "localhost"
    metrics_port: Annotated[int, Field(strict=True, ge=1, le=65_535)] | None = None
    metrics_address: str = "127.0.0.1"

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
    def silence_s(self) -> float | None:
        """How long an engine may be silent before the run goes on without it; None where a loss ends the run."""
        goes_on = self.on_engine_loss is OnEngineLoss.CONTINUE and len(self.engines) > 1
        return self.limits.engine_silence_s if goes_on else None

    @property
    def has_attempts(self) -> bool:
        """Whether the performance run is one of several attempts."""
        repeated = self.rate_attempts > 1 or self.target_qps == "peak"
        return repeated and self.scenario is not Scenario.OFFLINE and "performance" in self.mode.runs

    @property
    def min_duration_s(self) -> float:
        """Least length of a performance run in seconds; 0 means one pass."""
        return least_duration_s(self.samples, self.limits)

    @property
    def identity(self) -> dict[str, str]:
        """What every file of a run says about the run: its id, and the hashes of the two parts of its spec.json."""
        document = self.document()
        return {"run_id": self.run_id, **{name: document[name] for name in ("common_sha256", "node_sha256")}}

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
                "metrics_address",
            )
        }
        return {
            "schema": 1,
            "common": plain,
            "node": node,
            "common_sha256": sha256_json(plain),
            "node_sha256": sha256_json(node),
        }


def unverified(kind: str | None, dtype: str | None, verified: Mapping[str, Any]) -> list[str]:
    """Settings of an engine that the rules require or that were requested, but that its server does not show.

    Args:
        kind: of the engine; an endpoint's weights can never be verified.
        dtype: the requested one.
        verified: what the running server shows; a setting that is None there is not shown, but for `quantization`,
            which weights that are not quantized have none of.
    """
    required = ("max_model_len", "enable_prefix_caching", "speculative_decoding", "model")
    missing = [key for key in (*required, *(["dtype"] if dtype != "auto" else [])) if verified.get(key) is None]
    if kind == "endpoint":
        missing.append("weights")
    elif "quantization" not in verified:
        missing.append("quantization")
    return missing


def parse_spec(values: Any) -> Spec:
    """Validate plain values (as read from JSON) into a Spec, or a spec.json document back into one.

    Raises:
        BadInput: every wrong key in one message.
    """
    if isinstance(values, dict) and "common" in values and "node" in values:
        values = {**values["common"], **values["node"]}
    return validated(Spec, values, "spec")


Validated = TypeVar("Validated", bound=BaseModel)
_SECRETS = {"env", "api_key", "extra_args"}
"""Keys whose values may be secrets, so that no message shows them."""
_USER_OF_URL = re.compile(r"//[^/\s]*@")


def validated(model: type[Validated], values: Any, what: str) -> Validated:
    """Plain values as a model.

    Raises:
        BadInput: every wrong key in one message, which begins with `what` they are.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise BadInput(f"{what}: {explain(error)}") from None


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
    if not where or _SECRETS & set(item["loc"]):
        return f"{where}: {message}" if where else message
    shown = _USER_OF_URL.sub("//…@", repr(item["input"]))
    return f"{where} = {shown}: {message}"
