"""Sampling the machine, its GPUs and its engines."""

import csv
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.node import telemetry
from harness.node.gpu import Gpus
from harness.node.telemetry import COLUMNS, Sampler, queue
from tests.engines import FAKE, free_port, until
from tests.unit.fake_nvml import FakeNvml


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "Gpus", lambda: Gpus(FakeNvml(fault="NVML_ERROR_LIBRARY_NOT_FOUND")))


def test_a_line_per_second_with_cpu_memory_and_the_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_gpu(monkeypatch)
    port = free_port()
    server = subprocess.Popen([sys.executable, str(FAKE), str(port), '{"children": 0}'])
    path = tmp_path / "deep" / "telemetry.csv"
    sampler = Sampler(path, {"e1": f"http://127.0.0.1:{port}", "gone": f"http://127.0.0.1:{free_port()}"})
    began_unix, cpu_before_s = time.time(), time.process_time()
    sampler.start()
    busy_until = time.thread_time() + 1.0
    while time.thread_time() < busy_until:  # something for the CPU column to see
        pass
    assert until(lambda: path.exists() and len(rows(path)) >= 6)
    cost = sampler.stop()
    server.kill()
    server.wait()
    assert path.read_text().splitlines()[0] == ",".join(COLUMNS)
    lines = rows(path)
    live = [line for line in lines if line["engine"] == "e1"]
    assert len(live) == cost.samples >= 3
    stamps = [float(line["unix_s"]) for line in live]
    # A sample that is late delays no other.
    assert all(stamp - began_unix > number - 0.1 for number, stamp in enumerate(stamps, 1))
    assert (live[-1]["running"], live[-1]["waiting"], live[-1]["kv_cache_percent"]) == ("3", "2", "25.0")
    assert max(float(line["cpu_percent"]) for line in live) > 0
    assert 0 < float(live[0]["memory_used_gib"]) < float(live[0]["memory_total_gib"])
    dead = [line for line in lines if line["engine"] == "gone"]
    assert {line["running"] for line in dead} == {""}
    assert {line["gpu_index"] for line in lines} == {""}
    assert 0 < cost.cpu_s <= time.process_time() - cpu_before_s - 1.0  # without what this thread took
    assert cost.wall_s > 2


def test_gpus_are_sampled_and_an_unreadable_value_is_an_empty_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvml = FakeNvml(gpus=2, broken={"nvmlDeviceGetPowerUsage"})
    monkeypatch.setattr(telemetry, "Gpus", lambda: Gpus(nvml))
    sampler = Sampler(tmp_path / "t.csv", {})
    sampler.start()
    assert until(lambda: (tmp_path / "t.csv").exists() and len(rows(tmp_path / "t.csv")) >= 2)
    sampler.stop()
    first, second = rows(tmp_path / "t.csv")[:2]
    assert (first["gpu_index"], second["gpu_index"]) == ("0", "1")
    assert first["unix_s"] == second["unix_s"]
    assert (first["gpu_util_percent"], first["gpu_memory_used_gib"], first["gpu_power_w"]) == ("71", "18.0", "")
    assert (first["gpu_sm_clock_mhz"], first["gpu_temperature_c"]) == ("1440", "61")
    assert first["gpu_throttle"] == "power+thermal"
    assert nvml.shut_down


def test_a_step_of_the_clock_changes_no_stamp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fault: the clock is set an hour forward or back while samples are taken."""
    without_gpu(monkeypatch)
    path, real = tmp_path / "t.csv", time.time
    began = real()
    sampler = Sampler(path, {})
    sampler.start()
    for step_s in (3600.0, -3600.0):
        monkeypatch.setattr(time, "time", lambda step_s=step_s: real() + step_s)
        count = len(rows(path)) if path.exists() else 0
        assert until(lambda count=count: path.exists() and len(rows(path)) > count + 1)
    cost = sampler.stop()
    stamps = [float(row["unix_s"]) for row in rows(path)]
    assert stamps == sorted(stamps) and began - 1 < stamps[0] and stamps[-1] < real() + 1
    assert cost.wall_s < 100


def test_a_full_disk_stops_only_telemetry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_gpu(monkeypatch)
    sampler = Sampler(Path("/dev/full"), {})
    sampler.start()
    time.sleep(1.3)
    assert sampler.stop().samples == 0
    nowhere = Sampler(tmp_path / "file" / "t.csv", {})
    (tmp_path / "file").write_text("")
    nowhere.start()
    assert nowhere.stop().samples == 0


def test_it_appends_to_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_gpu(monkeypatch)
    path = tmp_path / "t.csv"
    for before in (0, 1):
        sampler = Sampler(path, {})
        sampler.start()
        assert until(lambda: path.exists() and len(rows(path)) > before)  # noqa: B023 (called in this turn)
        sampler.stop()
        with path.open("a") as stream:
            stream.write("1790000000.0,5")  # of a process that was killed
    lines = path.read_text().splitlines()[:-1]
    assert path.read_text().count("unix_s") == 1 and {line.count(",") for line in lines} == {len(COLUMNS) - 1}


def test_a_slow_engine_costs_seconds_not_a_burst_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_gpu(monkeypatch)
    delays = iter([2.5])

    def slow(*_: object, **__: object) -> Any:
        time.sleep(next(delays, 0))
        return SimpleNamespace(body="")

    monkeypatch.setattr(telemetry.probe, "get", slow)
    sampler = Sampler(tmp_path / "t.csv", {"e": "http://x"})
    sampler.start()
    assert until(lambda: (tmp_path / "t.csv").exists() and len(rows(tmp_path / "t.csv")) >= 3)
    cost = sampler.stop()
    stamps = [float(line["unix_s"]) for line in rows(tmp_path / "t.csv")]
    assert cost.samples == len(stamps) >= 3
    assert all(stamp - stamps[0] > number - 0.1 for number, stamp in enumerate(stamps))


def test_stop_without_start_measures_nothing(tmp_path: Path) -> None:
    assert Sampler(tmp_path / "t.csv", {}).stop().samples == 0


def test_two_cores_of_an_engine_add_up() -> None:
    page = "".join(
        f'vllm:num_requests_running{{engine="{i}"}} {n}\nvllm:kv_cache_usage_perc{{engine="{i}"}} {u}\n'
        for i, n, u in ((0, 3.0, 0.5), (1, 4.0, 0.7))
    )
    original = telemetry.probe.get
    try:
        telemetry.probe.get = lambda *_, **__: SimpleNamespace(body=page)  # type: ignore[assignment]
        row, answered, spent = telemetry._sample_engine("e", "http://x")
    finally:
        telemetry.probe.get = original
    assert row == {"engine": "e", "running": 7, "kv_cache_percent": 60.0}
    assert (answered, spent >= 0) == (True, True)


def test_the_queue_is_what_the_last_line_has_measured(tmp_path: Path) -> None:
    file = tmp_path / "telemetry.csv"
    assert queue(file) == {}
    cells = dict.fromkeys(COLUMNS, "") | {"engine": "e", "running": "31", "waiting": "0", "kv_cache_percent": "41.5"}
    file.write_text(",".join(COLUMNS) + "\n")
    assert queue(file) == {}
    file.write_text(file.read_text() + ",".join(cells.values()) + "\n")
    assert queue(file) == {"running": 31.0, "waiting": 0.0, "kv_cache_percent": 41.5}
    file.write_text(",".join(dict.fromkeys(COLUMNS, "").values()) + "\n")
    assert queue(file) == {}
