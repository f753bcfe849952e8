"""What LoadGen issues in a performance run of Server or Interactive: its seeds fix samples and times, at any rate."""

import dataclasses
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.load.loadgen import Settings
from harness.load.worker import run_job
from harness.spec import LOADGEN_SEEDS, Spec


def arrivals(queries: int) -> NDArray[np.float64]:
    """When each query is due at a rate of one a second, in seconds from the first; at r a second, divide by r.

    LoadGen draws the times between them as C++'s library does from an exponential distribution: two words of a Mersenne
    Twister make a number u in [0, 1), and -log(1 - u) is the time.
    """
    words = np.random.RandomState(LOADGEN_SEEDS[2] % 2**32).randint(0, 2**32, 2 * queries, dtype=np.uint32)
    low, high = words.reshape(-1, 2).T
    gaps = -np.log1p(-(low + high * 2.0**32) / 2.0**64)
    return np.concatenate([[0.0], gaps[:-1].cumsum()])


def order(spec: Spec, run_dir: Path, queries: int) -> NDArray[np.int64]:
    """The position in the share of each query's sample, of at least so many queries, as LoadGen itself issues them.

    Raises:
        RunFailed: LoadGen did not run.
    """
    log = run_dir / "harness.log"
    settings = dataclasses.asdict(Settings.of(spec, "performance", 1.0))
    payload = {"settings": settings, "queries": queries, "log": str(log)}
    result = run_job("rehearse", payload, log, lambda progress: None, spec.limits.stall_timeout_s)
    return np.array(result["order"], dtype=np.int64)
