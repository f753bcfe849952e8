"""One LoadGen run: its settings, the process it runs in, and the check that its logs match the settings."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import compliance, mllog
from harness.accuracy_parts import Part
from harness.dataset import Dataset
from harness.errors import BadInput, RunFailed
from harness.load.progress import Progress
from harness.load.worker import Failure, SamplesFailed, run_job
from harness.spec import EFFECTIVE_SEEDS, OFFLINE_SLACK, RunMode, Scenario, Spec

__all__ = ["Failure", "Outcome", "Progress", "RunMode", "SamplesFailed", "Settings", "run_loadgen", "warm_up"]

_TOGETHER = ("engine_losses", "resent")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A finished LoadGen run.

    `samples` of `issued` queries were answered, with `tokens` tokens. `one_token_answers` are the global indices of
    answers with one token, which LoadGen counts as errors. `client_cpu_s` is the CPU time of issuing, dispatching and
    receiving in seconds. `ended_early` says why the run was ended before its end (LoadGen's logs then have no result).
    Queries over the latency limits are counted in scenarios with limits; early stopping forgives `forgiven` of them.
    `engine_losses` are the engines that were lost (`EngineLoss.document`), `resent` counts by engine the requests that
    were sent again without a loss (`Dispatcher.resent`), `connect_ms` has how long connections took to open at least.
    """

    mode: str
    started_unix: float
    finished_unix: float
    samples: int
    tokens: int
    client_cpu_s: float
    issued: int
    one_token_answers: tuple[int, ...] = ()
    ended_early: str | None = None
    over_ttft: int = 0
    over_tpot: int = 0
    forgiven: int = -1
    engine_losses: tuple[dict[str, Any], ...] = ()
    resent: dict[str, int] = dataclasses.field(default_factory=dict)
    connect_ms: dict[str, float] = dataclasses.field(default_factory=dict)

    def part(self) -> dict[str, Any]:
        """Its part of outcome.json, which lists losses and requests sent again for all LoadGen runs together."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in _TOGETHER}

    @property
    def engines_lost(self) -> str | None:
        """The engines that were lost, in words; None when none was."""
        lost = [f"engine {loss['engine']} was lost after {loss['at_s']:.0f} s" for loss in self.engine_losses]
        return "; ".join(lost) or None


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of a LoadGen run, and the values that its detail log must then have."""

    scenario: Scenario
    mode: RunMode
    samples: int
    target_qps: float
    min_duration_ms: int

    @classmethod
    def of(cls, spec: Spec, mode: RunMode, target_qps: float | None, samples: int | None = None) -> "Settings":
        """The settings of one run of a spec, over so many of its samples (None is all of its share).

        Raises:
            BadInput: a rate is required but missing.
        """
        offline = spec.scenario is Scenario.OFFLINE
        if target_qps is None and not (offline and (mode != "performance" or spec.min_duration_s == 0)):
            raise BadInput(f"target_qps is missing for {spec.scenario} {mode}; set a number or auto")
        share = spec.window.stop - spec.window.start
        duration_ms = round(spec.min_duration_s * 1000)
        return cls(spec.scenario, mode, samples or share, target_qps or 1.0, duration_ms)

    @property
    def scenario_name(self) -> str:
        """LoadGen's name of the scenario; Interactive is Server with another model name."""
        return "Offline" if self.scenario is Scenario.OFFLINE else "Server"

    @property
    def user_conf(self) -> str:
        """The content of user.conf. The two counts make a pass as long as the share, not as the whole data set."""
        values = {
            "target_qps": repr(self.target_qps),
            "min_duration": self.min_duration_ms,
            "min_query_count": self.samples,
            "performance_sample_count_override": self.samples,
        }
        prefix = f"{self.scenario.model_name}.{self.scenario_name}"
        return "".join(f"{prefix}.{key} = {value}\n" for key, value in values.items())

    @property
    def audit_config(self) -> str | None:
        """The content of the audit file, which changes the settings of user.conf; None where there is none."""
        return compliance.audit_config() if self.mode == "compliance" else None

    @property
    def pass_samples(self) -> int:
        """The number of samples in one pass: those of the share, but in a compliance run as many as it logs."""
        return compliance.ANSWERS if self.mode == "compliance" else self.samples

    @property
    def expected_samples(self) -> int:
        """The number of samples that LoadGen will issue: as many whole passes as the duration requires at this rate."""
        return self._whole_passes(self._needed)

    @property
    def most_samples(self) -> int:
        """The most samples that LoadGen may issue: Server's issue times are random, so another pass may be needed."""
        return self._whole_passes(self._needed + 4 * math.sqrt(self._needed))

    @property
    def _needed(self) -> float:
        """The number of samples for the minimum duration at the target rate."""
        if self.mode != "performance":
            return 1.0
        slack = OFFLINE_SLACK if self.scenario is Scenario.OFFLINE else 1.0
        return slack * self.target_qps * self.min_duration_ms / 1000

    def _whole_passes(self, needed: float) -> int:
        return max(1, math.ceil(needed / self.pass_samples)) * self.pass_samples

    @property
    def effective(self) -> dict[str, Any]:
        """Keys of mlperf_log_detail.txt with the required values."""
        required: dict[str, Any] = {
            "requested_use_token_latencies": True,  # false when LoadGen does not know the model
            **EFFECTIVE_SEEDS,
            "effective_scenario": self.scenario_name,
            "effective_test_mode": "AccuracyOnly" if self.mode == "accuracy" else "PerformanceOnly",
            "effective_target_qps": self.target_qps,
            "effective_min_duration_ms": self.min_duration_ms,
            "effective_performance_sample_count": self.samples,
            "effective_accuracy_sample_count": self.samples,
            "effective_sample_concatenate_permutation": True,
            "requested_min_query_count": self.pass_samples,
        }
        if self.mode == "compliance":
            required |= compliance.EFFECTIVE
        if self.scenario_name == "Server":
            required["effective_min_query_count"] = self.pass_samples
            required["requested_server_ttft_latency"] = round((self.scenario.ttft_limit_ms or 0) * 1e6)
            required["requested_server_tpot_latency"] = round((self.scenario.tpot_limit_ms or 0) * 1e6)
        return required


def run_loadgen(
    spec: Spec,
    samples: Dataset,
    mode: RunMode,
    run_dir: Path,
    target_qps: float | None,
    on_progress: Callable[[Progress], None],
    *,
    folder: Path | None = None,
    part: Part | None = None,
    ends_early: bool = False,
    ends_after: int | None = None,
) -> Outcome:
    """Run LoadGen once, in a process of its own, with the spec's engines and the samples of its share.

    Writes `<folder>/<mode>/` (LoadGen's files and user.conf), appends to `<folder>/journal.jsonl` and to
    `<run_dir>/harness.log`; `folder` is the run directory unless another is given. With `part` LoadGen gets only that
    part's samples, and its files go into the part's folder. `target_qps` in samples/s: Server's rate, Offline's
    expected rate; None only where LoadGen needs none. `on_progress` is called about once a second from this thread.
    With `ends_early` a run that cannot become VALID any more is ended at once, and the outcome says why; with
    `ends_after` it is ended at the latest once so many samples are answered.

    Raises:
        SamplesFailed: samples failed, as they do with the last engine; within 5 s of the first.
        RunFailed: no sample finished for `limits.stall_timeout_s`, the process died, or LoadGen's logs do not match.
        BadInput, NotReady: the model is invalid or an engine is not available.
    """
    folder = folder or run_dir
    part = part or Part(folder / mode, range(samples.start, samples.start + len(samples)))
    settings = Settings.of(spec, mode, target_qps, len(part.qsl_idx))
    payload = {
        "spec": spec.model_dump(mode="json"),
        "prompts": [samples.inputs[index - samples.start] for index in part.qsl_idx],
        "qsl_idx": list(part.qsl_idx),
        "settings": dataclasses.asdict(settings),
        "directory": str(part.folder),
        "journal": str(folder / "journal.jsonl"),
        "log": str(run_dir / "harness.log"),
        "ends_early": ends_early,
        "ends_after": ends_after,
    }
    result = run_job("loadgen", payload, run_dir / "harness.log", on_progress, spec.limits.stall_timeout_s)
    tuples = {name: tuple(result[name]) for name in ("one_token_answers", "engine_losses")}
    outcome = Outcome(**{**result, **tuples})
    if not outcome.ended_early:
        _check(part.folder, settings, outcome)
    return outcome


def warm_up(spec: Spec, samples: Dataset, run_dir: Path) -> bool:
    """Send a few samples to each engine before a performance run, until they are answered no faster than before.

    Returns:
        Whether that was so; False where they still became faster at the end of the longest time.

    Raises:
        SamplesFailed, RunFailed, BadInput, NotReady: as `run_loadgen`.
    """
    payload = {"spec": spec.model_dump(mode="json"), "prompts": samples.inputs}
    ended = run_job("warm_up", payload, run_dir / "harness.log", lambda progress: None, spec.limits.stall_timeout_s)
    return bool(ended["steady"])


def _check(directory: Path, settings: Settings, outcome: Outcome) -> None:
    """Compare LoadGen's logs with the settings and the answers, since LoadGen itself reports few errors."""
    log = directory / "mlperf_log_detail.txt"
    try:
        values, _ = mllog.read(log)
    except BadInput as error:
        raise RunFailed(str(error)) from None
    for key, required in settings.effective.items():
        value = values.get(key)
        if not _same(value, required):
            raise RunFailed(f"LoadGen ran with {key} = {value!r} instead of {required!r} ({log}); the run is invalid")
    if outcome.samples != outcome.issued or outcome.issued % settings.pass_samples:
        raise RunFailed(
            f"LoadGen issued {outcome.issued} samples in passes of {settings.pass_samples} and {outcome.samples} were "
            f"answered ({log}); whole passes, all answered, were expected"
        )
    logged = (directory / "mlperf_log_accuracy.json").read_bytes().rstrip().endswith(b"]")
    judged = "result_validity" in values and b"Result is :" in (directory / "mlperf_log_summary.txt").read_bytes()
    if not {"performance": judged, "accuracy": logged, "compliance": judged and logged}[settings.mode]:
        raise RunFailed(f"LoadGen's logs in {directory} are truncated; check whether the disk is full and run again")


def _same(value: Any, required: Any) -> bool:
    """Whether the values are equal, to the six digits with which LoadGen logs a float."""
    if isinstance(required, float) and isinstance(value, int | float):
        return math.isclose(value, required, rel_tol=1e-4)
    return bool(value == required)
