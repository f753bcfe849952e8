"""Energy against an NVML double whose power follows a known curve, and cost."""

import csv
import math
import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from harness import report
from harness.node.gpu import Gpus
from harness.node.telemetry import COLUMNS
from harness.report import energy, prometheus, render
from harness.report.build import build
from tests.unit.fake_nvml import FakeNvml
from tests.unit.results_tree import START, benchmark, edit

IDLE_W, MEAN_W, SWING_W, PERIOD_S = 30.0, 250.0, 60.0, 7.3
RUN = (START, START + 60.3)


def watts(at: float) -> float:
    """Idle before the run, a wave in it."""
    return IDLE_W if at < RUN[0] else MEAN_W + SWING_W * math.sin(2 * math.pi * (at - RUN[0]) / PERIOD_S)


def joules(at: float) -> float:
    """The integral of `watts` since START - 20."""
    if at < RUN[0]:
        return IDLE_W * (at - START + 20)
    wave = 2 * math.pi / PERIOD_S
    return IDLE_W * 20 + MEAN_W * (at - RUN[0]) + SWING_W / wave * (1 - math.cos(wave * (at - RUN[0])))


TRUE_J = joules(RUN[1]) - joules(RUN[0])


class Curve(FakeNvml):
    """GPUs with that power; `now` is the time that they are read at."""

    now = START

    def __getattr__(self, name: str) -> Any:
        if name not in self._broken:
            if name == "nvmlDeviceGetPowerUsage":
                return lambda _: round(1000 * watts(self.now))
            if name == "nvmlDeviceGetTotalEnergyConsumption":
                return lambda index: round(1000 * (joules(self.now) + 1e6 * index))
        return super().__getattr__(name)


def sampled(path: Path, gpus: int = 1, skip: range = range(0), **more: Any) -> Path:
    """Telemetry as the sampler writes it, a reading a second at an uneven time; in `skip` none was made."""
    nvml = Curve(gpus=gpus, **more)
    with path.open("w", newline="") as stream, Gpus(nvml) as session:
        writer = csv.DictWriter(stream, COLUMNS, restval="")
        writer.writeheader()
        for second in (second for second in range(-15, 70) if second not in skip):
            nvml.now = START + second + 0.3 * math.sin(second)
            running = {"engine": "e", "running": int(second >= -3), "waiting": 0}
            for row in session.sample():
                writer.writerow({**row, "unix_s": round(nvml.now, 3), **running})
    return path


def test_the_counter_is_within_a_ten_thousandth_of_the_true_energy(tmp_path: Path) -> None:
    node = energy.node([sampled(tmp_path / "t.csv")], RUN, ["e"])
    assert node and node.source == "counter"
    assert node.joules == pytest.approx(TRUE_J, rel=0.0001)
    assert node.idle_power_w == pytest.approx(IDLE_W)


def test_without_a_counter_power_is_integrated(tmp_path: Path) -> None:
    broken = {"nvmlDeviceGetTotalEnergyConsumption"}
    node = energy.node([sampled(tmp_path / "t.csv", broken=broken)], RUN, ["e"])
    assert node and node.source == "power"
    assert node.joules == pytest.approx(TRUE_J, rel=0.001) and node.joules != TRUE_J


def test_gpus_of_a_node_are_added_up_and_read_once(tmp_path: Path) -> None:
    files = [sampled(tmp_path / f"{name}.csv", gpus=4) for name in "ab"]  # each engine's sampler reads all GPUs
    node = energy.node(files, RUN, ["e"])
    assert node and node.joules == pytest.approx(4 * TRUE_J, rel=0.0001)
    assert node.idle_power_w == pytest.approx(4 * IDLE_W)


def test_gpus_of_pods_are_told_apart(tmp_path: Path) -> None:
    files = [sampled(tmp_path / f"{name}.csv") for name in "ab"]  # each engine's sampler reads a GPU 0 of its own
    node = energy.node(files, RUN, ["e"], {files[0]: (0,), files[1]: (1,)})
    assert node and node.joules == pytest.approx(2 * TRUE_J, rel=0.0001)


@pytest.mark.parametrize(
    ("skip", "broken", "source"),
    [
        (range(10, 40), set(), "counter"),  # a counter goes on counting
        (range(10, 40), {"nvmlDeviceGetTotalEnergyConsumption"}, None),
        (range(-15, 30), set(), None),
        (range(30, 70), set(), None),
        (range(0), {"nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetPowerUsage"}, None),
    ],
)
def test_what_was_not_read_is_not_measured(tmp_path: Path, skip: range, broken: set[str], source: str | None) -> None:
    node = energy.node([sampled(tmp_path / "t.csv", skip=skip, broken=broken)], RUN, ["e"])
    assert (node.source if node else None) == source
    assert energy.node([tmp_path / "none.csv"], RUN, ["e"]) is None


def test_a_counter_that_was_reset_is_not_believed(tmp_path: Path) -> None:
    path = sampled(tmp_path / "t.csv")
    lines = path.read_text().splitlines()
    at = COLUMNS.index("gpu_energy_j")
    fields = lines[50].split(",")
    lines[50] = ",".join([*fields[:at], "1.0", *fields[at + 1 :]])
    path.write_text("\n".join(lines) + "\n")
    node = energy.node([path], RUN, ["e"])
    assert node and node.source == "power"


def priced(folder: Path, **prices: float) -> Path:
    """A benchmark whose nodes have a GPU of constant power, with or without prices."""
    benchmark(folder)
    for number, node in enumerate(("alpha", "beta")):
        path = folder / f"nodes/{node}/engines/{node}-0/telemetry.csv"
        head, *rows = path.read_text().splitlines()
        at = head.split(",").index("gpu_power_w")
        changed = []
        for row in rows:
            fields = row.split(",")
            fields[head.split(",").index("gpu_index")], fields[at] = "0", str(100 * (number + 1))
            changed.append(",".join(fields))
        path.write_text("\n".join([head, *changed]) + "\n")
    edit(folder / "plan.json", lambda plan: [plan["nodes"][n].update(price_per_hour=p) for n, p in prices.items()])
    return folder


def test_energy_and_cost_of_unequal_nodes(tmp_path: Path) -> None:
    result = build(priced(tmp_path / "run", alpha=3.6, beta=7.2))[0]
    alpha, beta = (node.energy for node in result.nodes)
    seconds = (alpha.joules or 0) / 100
    assert 4 < seconds < 6 and beta.joules == pytest.approx(200 * seconds)
    assert result.energy.joules == pytest.approx(300 * seconds)
    assert result.energy.tokens_per_joule == pytest.approx(50 * 128 / (300 * seconds))
    assert result.energy.joules_per_sample == pytest.approx(300 * seconds / 50)
    rate = result.together.tokens_per_s
    assert rate and result.energy.cost_per_million_tokens == pytest.approx(10.8 / 3600 / rate * 1e6)
    own = result.nodes[1].figures.tokens_per_s
    assert own and beta.cost_per_million_tokens == pytest.approx(7.2 / 3600 / own * 1e6)
    assert len(render.energy_rows(result)) == 3 and "Energy and cost" in render.page(result, "md")


def test_a_node_without_a_price_leaves_the_cost_together_unknown(tmp_path: Path) -> None:
    result = build(priced(tmp_path / "run", alpha=0.0))[0]
    assert result.nodes[0].energy.cost_per_million_tokens == 0.0
    assert result.nodes[1].energy.cost_per_million_tokens is None and result.energy.price_per_hour is None
    assert render.energy_rows(build(benchmark(tmp_path / "plain"))[0]) == []


def test_prometheus_text_has_what_was_measured_and_nothing_else(tmp_path: Path) -> None:
    folder = priced(tmp_path / "run", alpha=3.6, beta=7.2)
    result = report.report(folder)
    text = (folder / "result.prom").read_text()
    families = {family.name: family.samples for family in text_string_to_metric_families(text)}
    latency = {
        tuple(sample.labels[name] for name in ("node", "kind", "quantile")): sample.value
        for sample in families["mlperf_result_latency_seconds"]
    }
    assert result.together.ttft and latency["together", "ttft", "0.99"] == result.together.ttft.p99_ms / 1e3
    assert families["mlperf_result_info"][0].labels["run_id"] == "run"
    joules_of = {sample.labels["node"]: sample.value for sample in families["mlperf_result_energy_joules"]}
    assert joules_of["together"] == result.energy.joules
    assert "mlperf_result_efficiency_ratio" not in families and "None" not in text
    dashboard = (Path(__file__).parents[2] / "roles/monitoring/files/dashboard.json").read_text()
    assert set(re.findall(r"mlperf_result_[a-z_]+", dashboard)) <= set(families)
    odd = prometheus.text(result.model_copy(update={"run_id": 'a"b\\c\nd'}))
    (info,) = [family for family in text_string_to_metric_families(odd) if family.name == "mlperf_result_info"]
    assert info.samples[0].labels["run_id"] == 'a"b\\c\nd'
