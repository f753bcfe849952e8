"""The shipped choice of engines against least requests in flight, on modelled engines in virtual time."""

from random import Random
from statistics import median

import pytest

from bench import fleets, hundred
from bench.fleets import EQUAL, LEAST_REQUESTS, SETTINGS, SHIPPED, UNLIKE, Fleet, p99
from harness.spec import FULL_SAMPLES

SAMPLES = 1500


@pytest.mark.parametrize(("speeds", "most"), [(EQUAL, 1.05), (UNLIKE, 0.85)])
@pytest.mark.parametrize("name", SETTINGS)
def test_first_tokens_come_sooner(name: str, speeds: tuple[float, ...], most: float) -> None:
    setting = SETTINGS[name]
    rate = fleets.UTILISATION * sum(fleets.alone(setting, speed) for speed in speeds)
    ratios = []
    for seed in range(5):
        source = Random(seed)
        lengths, due_s = setting.lengths(source, SAMPLES), fleets.arrivals(source, rate, SAMPLES)
        ttft_ms = [
            p99(Fleet(setting, speeds, rule, seed).run(due_s, lengths).ttft_ms) for rule in (SHIPPED, LEAST_REQUESTS)
        ]
        ratios.append(ttft_ms[0] / ttft_ms[1])
    assert median(ratios) <= most, ratios


@pytest.mark.parametrize("speeds", [EQUAL, UNLIKE])
@pytest.mark.parametrize("name", SETTINGS)
def test_an_offline_fleet_is_as_fast_as_its_engines_together(name: str, speeds: tuple[float, ...]) -> None:
    assert fleets.of_sum(SETTINGS[name], speeds, SHIPPED, seed=1, samples=FULL_SAMPLES) >= 0.99


def test_a_fleet_in_virtual_time_repeats_itself_and_answers_everything() -> None:
    setting = SETTINGS["small engine, dear prefill"]
    runs = [Fleet(setting, UNLIKE, SHIPPED, seed=3).run([0.0] * 300, [400] * 300) for _ in range(2)]
    assert runs[0] == runs[1]
    assert min(runs[0].ttft_ms) > 24 and min(runs[0].tpot_ms) > 4  # a prompt's prefill, a step's least
    assert 0.9 < 300 / runs[0].seconds / sum(fleets.alone(setting, speed) for speed in UNLIKE) < 1.1


def test_a_report_without_a_node_is_found() -> None:
    names = ["node001", "node002", "node003"]
    assert hundred.unreported("| node001 | node002 | node003 |", names) == []
    assert hundred.unreported("| node002, slowest of 3 | node001, fastest |", names) == []
    assert hundred.unreported("| node002, slowest of 2 |", names) == ["report.md: 2 of 3 are missing"]
