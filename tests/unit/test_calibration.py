"""How well calibration knows the rate that it states."""

import numpy as np
import pytest

from harness.load.calibrate_worker import Looks, uncertainty

LENGTH_S, LONGEST_S = 8.0, 32.0  # calibration_s by default, and four times that
RUNS = 500


def counted(random: np.random.Generator, rate: float) -> tuple[float, float]:
    """Rate and its relative half width, of a count of answers that come as a Poisson process."""
    times = random.exponential(1 / rate, round(2 * rate * LONGEST_S)).cumsum()
    looks, now = Looks(), LENGTH_S
    while True:
        answers = int(np.searchsorted(times, now))
        if looks.due(answers) or now >= LONGEST_S:
            uncertain = uncertainty(times[:answers])
            if looks.enough(answers, uncertain) or now >= LONGEST_S:
                return (answers - 1) / (times[answers - 1] - times[0]), uncertain
        now += 0.1


@pytest.mark.parametrize("rate", [25.0, 50.0, 100.0, 400.0])
def test_the_true_rate_lies_within_the_interval_about_as_often_as_stated(rate: float) -> None:
    random = np.random.default_rng(1)
    runs = [counted(random, rate) for _ in range(RUNS)]
    covered = float(np.mean([abs(seen - rate) <= uncertain * seen for seen, uncertain in runs]))
    print(f"{covered:.0%} of {RUNS} counts at {rate:g} answers/s")  # quoted in docs/results.md
    assert covered >= 0.9


def test_one_precise_look_is_not_enough() -> None:
    looks = Looks()
    assert looks.due(0) and not looks.enough(100, 0.01)
    assert not looks.due(124) and looks.due(125)
    assert not looks.enough(125, 0.2) and not looks.enough(160, 0.01) and looks.enough(200, 0.05)
