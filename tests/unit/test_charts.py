"""Charts show what was measured, and are not made of nothing."""

from pathlib import Path

import pandas as pd
import pytest
from matplotlib.image import imread

from harness.report import charts, rate_chart, tables, time_charts
from harness.report.build import build
from harness.report.chart_style import readable_on
from harness.report.record import Chart, Result
from tests.unit import results_tree
from tests.unit.results_tree import START, benchmark, edit


def drawn(folder: Path) -> tuple[Result, dict[str, Chart]]:
    result, journal, inputs, _ = build(folder)
    return result, {chart.name: chart for chart in charts.draw(result, journal, inputs, folder / "charts")}


def test_charts_of_a_fleet(tmp_path: Path) -> None:
    folder = benchmark(tmp_path / "run", speeds={"alpha": 4, "beta": 1})
    _, found = drawn(folder)
    assert {name for name, chart in found.items() if chart.file} == {
        "throughput", "latency", "throughput_over_time", "utilisation"}  # fmt: skip
    assert found["efficiency"].absent and "no comparable earlier run of alpha, beta alone" in found["efficiency"].absent
    assert found["past_runs"].absent == "there is no comparable earlier run"
    assert sorted(path.stem for path in (folder / "charts").iterdir()) == [
        "latency", "throughput", "throughput_over_time", "utilisation"]  # fmt: skip
    assert "alpha 8.09 samples/s, beta" in found["throughput"].alt
    for path in (folder / "charts").iterdir():
        picture = imread(path)
        assert picture.shape[1] == 1260 and picture.std() > 0.05


def test_latency_against_rate_shows_attempts_and_probes_with_their_limits(tmp_path: Path) -> None:
    folder = benchmark(tmp_path / "run")
    over = {"verdict": "INVALID", "target_qps": 50.0, "ttft_ms_p99": 2310.0}
    results_tree.attempts(folder, over | {"verdict": "ENDED EARLY", "target_qps": 60.0}, over, {"target_qps": 42.0})
    probe = {
        "target_qps": 45.0,
        "seconds": 9.0,
        "samples": 400,
        "ttft_ms_p99": 900.0,
        "tpot_ms_p99": None,
        "held": True,
    }
    probes = [probe, probe | {"target_qps": 60.0, "tpot_ms_p99": 130.0, "held": False}]
    edit(folder / "nodes/alpha/outcome.json", lambda outcome: outcome.update(peak={"probes": probes}))
    result = build(folder).result
    assert drawn(folder)[1]["latency_against_rate"].file
    chart = rate_chart.latency_against_rate(result)
    assert not isinstance(chart, str)
    figure, alt = chart
    assert alt.endswith(
        ": 60.0 samples/s (attempt, ended early: at least), 50.0 samples/s (attempt, failed), 42.0 samples/s (attempt, "
        "VALID), 45.0 samples/s (probe, limits held), 60.0 samples/s (probe, failed)"
    )
    ttft, tpot = figure.axes
    assert [[*axes.lines[0].get_ydata()] for axes in figure.axes] == [[2000, 2000], [100, 100]]
    points = {c.get_label(): [tuple(point) for point in c.get_offsets()] for c in ttft.collections}
    assert points == {
        "attempt, VALID": [(42.0, 20.0)],
        "attempt, failed": [(50.0, 2310.0)],
        "attempt, ended early: at least": [(60.0, 2310.0)],
        "probe, limits held": [(45.0, 900.0)],
        "probe, failed": [(60.0, 900.0)],
    }
    assert "probe, limits held" not in [c.get_label() for c in tpot.collections]
    shapes = {c.get_label(): c.get_paths()[0].vertices.tobytes() for c in ttft.collections}
    assert shapes.pop("attempt, VALID") == shapes.pop("probe, limits held") and len(set(shapes.values())) == 3


@pytest.mark.parametrize(
    ("scenario", "absent"), [("server", "there was one rate only"), ("offline", "the scenario has no rate")]
)
def test_one_rate_makes_no_chart_of_rates(tmp_path: Path, scenario: str, absent: str) -> None:
    folder = benchmark(tmp_path / "run", scenario=scenario, performance=f"{scenario}_50")
    if scenario == "server":
        results_tree.attempts(folder, {})
    assert drawn(folder)[1]["latency_against_rate"].absent == absent


def test_a_chart_of_an_earlier_report_does_not_outlive_its_data(tmp_path: Path) -> None:
    folder = benchmark(tmp_path / "run")
    (folder / "charts").mkdir()
    (folder / "charts/efficiency.png").write_bytes(b"old")
    drawn(folder)
    assert not (folder / "charts/efficiency.png").exists()


def test_panels_follow_what_telemetry_measured(tmp_path: Path) -> None:
    folder = benchmark(tmp_path / "run")
    assert "GPU" not in drawn(folder)[1]["utilisation"].alt
    path = folder / "nodes/alpha/engines/alpha-0/telemetry.csv"
    path.write_text(path.read_text().replace(",24.0,,,,,,,,", ",24.0,0,95,20.1,150.0,1400,60,none,"))
    assert "GPU busy (%), GPU power (W), GPU clock (MHz)" in drawn(folder)[1]["utilisation"].alt


def test_utilisation_without_telemetry_says_why(tmp_path: Path) -> None:
    folder = benchmark(tmp_path / "run")
    for path in folder.glob("nodes/*/engines/*/telemetry.csv"):
        path.unlink()
    assert drawn(folder)[1]["utilisation"].absent == "telemetry has fewer than two readings during the run"


def test_unfinished_run_has_no_charts_over_time(tmp_path: Path) -> None:
    folder = benchmark(tmp_path / "run")
    edit(folder / "nodes/alpha/outcome.json", lambda outcome: outcome.update(performance=None, accuracy=None))
    _, found = drawn(folder)
    assert found["throughput_over_time"].absent and found["utilisation"].absent == "the run did not finish"


def test_throughput_over_time_counts_each_sample_once() -> None:
    done = pd.Series([START + 0.5, START + 1.5, START + 1.6, START + 4.9, START + 5.2])
    rates, edges = tables.per_second(done, (START, START + 5.5), 2.0)
    assert edges == pytest.approx([0, 2.75, 5.5])
    assert rates * 2.75 == pytest.approx([3, 2])


def test_readings_add_engines_up_and_average_over_time(tmp_path: Path) -> None:
    folder = benchmark(tmp_path / "run")
    path = folder / "nodes/alpha/engines/alpha-0/telemetry.csv"
    head, *_ = path.read_text().splitlines()
    rows = [f"{START + second},{40 + 10 * second},4.0,24.0,,,,,,,,alpha-0,{second},0,10.0" for second in range(4)]
    path.write_text("\n".join([head, *rows]) + "\n")
    inputs = build(folder).inputs
    seen = time_charts.readings("alpha", inputs, (START, START + 5), 2.0)
    assert list(seen["t_s"]) == [0, 2]
    assert list(seen["cpu_percent"]) == [45, 65]
    assert list(seen["running"]) == [0.5, 2.5]


@pytest.mark.parametrize(("colour", "text"), [("#0072B2", "white"), ("#E69F00", "black"), ("#404040", "white")])
def test_text_on_bars_can_be_read(colour: str, text: str) -> None:
    assert readable_on(colour) == text
