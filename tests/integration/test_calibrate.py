"""Calibration against fake engines whose speed is known, and against engines that fail or are too slow."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.errors import RunFailed
from harness.load.calibrate import calibrate
from harness.load.calibrate_worker import choose
from harness.load.loadgen import Progress, SamplesFailed
from tests.fake_server import FakeServer
from tests.unit.load import make_spec, samples, worker_path

pytestmark = pytest.mark.usefixtures(worker_path.__name__)

__all__ = ["worker_path"]


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[FakeServer, FakeServer]]:
    """16 slots x 200 ms an answer = 80 samples/s, and an engine of half that speed."""
    pace = {"ms_per_token": 10, "tokens": 20, "slots": 16}
    with FakeServer(**pace) as full, FakeServer(**pace, speed=0.5) as half:
        yield full, half


def test_rates_are_those_of_the_engines_and_the_server_rate_lies_below(
    tmp_path: Path, pair: tuple[FakeServer, FakeServer]
) -> None:
    reports: list[Progress] = []
    spec = make_spec(tmp_path, *pair, limits={"calibration_s": 4.0}, share={"start": 0, "stop": 7})
    calibration = calibrate(spec, samples(spec), tmp_path, reports.append)
    assert abs(calibration.by_engine["engine0"] / 80 - 1) < 0.15
    assert abs(calibration.by_engine["engine1"] / 40 - 1) < 0.15
    assert calibration.samples_per_s == pytest.approx(sum(calibration.by_engine.values()))
    assert [probe["held"] for probe in calibration.tried] == [True]
    lower = calibration.samples_per_s * (1 - calibration.uncertainty_percent / 100)
    assert calibration.target_qps == pytest.approx(0.8 * lower, rel=1e-3)
    assert 4 < calibration.seconds < 24 and calibration.samples > 400
    assert json.loads((tmp_path / "calibration.json").read_text())["target_qps"] == calibration.target_qps
    assert len(reports) >= 4 and reports[-1].done > reports[0].done


def test_slow_first_answers_do_not_lower_the_rate(tmp_path: Path) -> None:
    with FakeServer(ms_per_token=10, tokens=20, slots=16, speed=0.1) as server:  # 2 s for each of the first
        spec = make_spec(tmp_path, server, max_in_flight=16, limits={"calibration_s": 2.0}, scenario="offline")
        calibration = calibrate(spec, samples(spec), tmp_path, lambda progress: server.set(speed=1.0))
    assert abs(calibration.samples_per_s / 80 - 1) < 0.15


def test_answers_that_come_in_waves_are_counted_in_whole_waves(tmp_path: Path) -> None:
    with FakeServer(ms_per_token=150, tokens=20, slots=64) as server:  # 64 answers together, every 3 s
        spec = make_spec(tmp_path, server, max_in_flight=64, limits={"calibration_s": 1.0}, scenario="offline")
        calibration = calibrate(spec, samples(spec), tmp_path, lambda progress: None)
    assert abs(calibration.samples_per_s / (64 / 3) - 1) < 0.1


def test_offline_expects_a_little_more_than_was_measured(tmp_path: Path, pair: tuple[FakeServer, FakeServer]) -> None:
    spec = make_spec(tmp_path, *pair, limits={"calibration_s": 2.0}, scenario="offline")
    calibration = calibrate(spec, samples(spec), tmp_path, lambda progress: None)
    assert calibration.tried == ()
    assert calibration.target_qps == pytest.approx(1.05 * calibration.samples_per_s, rel=1e-3)


def test_where_no_rate_holds_a_latency_limit_the_lowest_is_taken(tmp_path: Path) -> None:
    with FakeServer(ms_per_token=40, tokens=3) as server:  # Interactive allows 30 ms
        spec = make_spec(tmp_path, server, limits={"calibration_s": 1.0}, scenario="interactive")
        calibration = calibrate(spec, samples(spec), tmp_path, lambda progress: None)
    assert [probe["held"] for probe in calibration.tried] == [False] * 5
    assert all(probe["tpot_ms_p99"] > 38 for probe in calibration.tried)
    assert calibration.target_qps == pytest.approx(calibration.tried[-1]["target_qps"], rel=1e-3)


def test_the_rate_steps_down_until_the_limits_hold() -> None:
    def probe(rate: float) -> dict[str, Any]:
        return {"target_qps": rate, "held": rate < 65}

    rate, probes = choose(100.0, probe)
    assert rate == 60 and [one["held"] for one in probes] == [False, False, True]


def test_failed_samples_end_calibration(tmp_path: Path) -> None:
    with FakeServer(ms_per_token=1, faults={"http500": 30}) as server:
        spec = make_spec(tmp_path, server)
        with pytest.raises(SamplesFailed, match="on engine0: HTTP 500"):
            calibrate(spec, samples(spec), tmp_path, lambda progress: None)


def test_an_engine_too_slow_to_measure_is_an_error(tmp_path: Path) -> None:
    with FakeServer(ms_per_token=10, tokens=100, slots=1) as slow, FakeServer(tokens=2) as quick:
        spec = make_spec(tmp_path, slow, quick, max_in_flight=1, limits={"calibration_s": 0.3})
        with pytest.raises(RunFailed, match=r"engine0 finished \d samples in 3 s, too few for a rate"):
            calibrate(spec, samples(spec), tmp_path, lambda progress: None)
