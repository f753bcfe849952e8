"""Calibration: a short estimate of the engines' speed, from which `target_qps: auto` derives its rate."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.dataset import Dataset
from harness.files import write_json
from harness.load.progress import Progress
from harness.load.worker import run_job
from harness.spec import Spec


@dataclasses.dataclass(frozen=True)
class Calibration:
    """The result of a calibration, which takes seconds and estimates the rate of a longer run within some percent.

    Attributes:
        samples_per_s: closed-loop rate of all engines together, with `max_in_flight` requests in flight at each.
        uncertainty_percent: half width of its 95 % confidence interval in percent; counting lasts until this is 5, or
            for 4 times `limits.calibration_s`. Target rates are derived from the lower end of the interval.
        by_engine: samples/s of each engine.
        target_qps: for Server and Interactive the highest rate tried that held the latency limits (the lowest rate
            tried when none did: see `tried`); for Offline the expected rate, a little above `samples_per_s` so that a
            run with a minimum duration is not too short.
        tried: open-loop probes in order: target_qps, ttft_ms_p99, tpot_ms_p99, samples, held.
        seconds, samples: duration and number of samples of the whole calibration.
        slowest_s: the longest request of each engine in seconds, from sending to the last token.
    """

    samples_per_s: float
    uncertainty_percent: float
    by_engine: dict[str, float]
    target_qps: float
    tried: tuple[dict[str, Any], ...]
    seconds: float
    samples: int
    slowest_s: dict[str, float] = dataclasses.field(default_factory=dict)


def calibrate(spec: Spec, samples: Dataset, run_dir: Path, on_progress: Callable[[Progress], None]) -> Calibration:
    """Measure the engines of a spec with the samples of its share; writes `<run_dir>/calibration.json`.

    Usually takes two to six times `limits.calibration_s`. At most 12 times that for the closed-loop rate, then up to
    five probes of half of it, or of 20 samples where these take longer; and the answers still in flight.

    Raises:
        SamplesFailed, RunFailed: samples failed, or too few finished for a rate.
        BadInput, NotReady: the model is invalid or an engine is not available.
    """
    payload = {"spec": spec.model_dump(mode="json"), "prompts": samples.inputs}
    result = run_job("calibrate", payload, run_dir / "harness.log", on_progress, spec.limits.stall_timeout_s)
    calibration = Calibration(**{**result, "tried": tuple(result["tried"])})
    write_json(run_dir / "calibration.json", {"schema": 1, **dataclasses.asdict(calibration)})
    return calibration
