"""The shipped choice of engines beside least requests in flight, on modelled engines in virtual time."""

from random import Random
from statistics import median

import pytest

from bench import fleets
from bench.fleets import EQUAL, SETTINGS, SHIPPED, TODAY, UNLIKE, Fleet, p99

SAMPLES = 1500


@pytest.mark.parametrize(("speeds", "most"), [(EQUAL, 1.05), (UNLIKE, 0.85)])
@pytest.mark.parametrize("name", ["2,048 tokens a step", "8,192 tokens a step, long prompts"])
def test_first_tokens_come_sooner(name: str, speeds: tuple[float, ...], most: float) -> None:
    setting = SETTINGS[name]
    rate = fleets.UTILISATION * sum(fleets.alone(setting, speed) for speed in speeds)
    ratios = []
    for seed in range(5):
        source = Random(seed)
        lengths, due_s = setting.lengths(source, SAMPLES), fleets.arrivals(source, rate, SAMPLES)
        ttft_ms = [p99(Fleet(setting, speeds, rule, seed).run(due_s, lengths).ttft_ms) for rule in (SHIPPED, TODAY)]
        ratios.append(ttft_ms[0] / ttft_ms[1])
    assert median(ratios) <= most, ratios


def test_a_fleet_in_virtual_time_repeats_itself_and_answers_everything() -> None:
    setting = SETTINGS["small engine, dear prefill"]
    runs = [Fleet(setting, UNLIKE, SHIPPED, seed=3).run([0.0] * 300, [400] * 300) for _ in range(2)]
    assert runs[0] == runs[1]
    assert min(runs[0].ttft_ms) > 24 and min(runs[0].tpot_ms) > 4  # a prompt's prefill, a step's least
    assert 0.9 < 300 / runs[0].seconds / sum(fleets.alone(setting, speed) for speed in UNLIKE) < 1.1
