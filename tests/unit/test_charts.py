"""Charts show what was measured, and are left out without data."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from harness import report
from harness.report import charts, latency_charts, rate_chart, render, tables, time_charts
from harness.report.build import build
from harness.report.chart_style import draw_nodes, new_figure, pixels, svg
from harness.report.record import Chart, Inside, Result
from tests.unit import results_tree
from tests.unit.results_tree import START, benchmark, edit


def drawn(folder: Path) -> tuple[Result, dict[str, Chart]]:
    result, journal, inputs, _ = build(folder)
    return result, {chart.name: chart for chart in charts.draw(result, journal, inputs, folder / "charts").charts}


def test_charts_of_a_fleet(tmp_path: Path) -> None:
    folder = benchmark(tmp_path / "run", speeds={"alpha": 4, "beta": 1})
    _, names = drawn(folder)
    assert {name for name, chart in names.items() if chart.file} == {
        "throughput", "latency", "throughput_over_time", "ttft_over_time", "in_flight", "latency_by_input",
        "utilisation"}  # fmt: skip
    assert names["efficiency"].absent and "no comparable earlier run of alpha, beta alone" in names["efficiency"].absent
    assert names["past_runs"].absent == "there is no earlier run of the same work"
    assert sorted(path.stem for path in (folder / "charts").iterdir()) == [
        "in_flight", "latency", "latency_by_input", "throughput", "throughput_over_time", "ttft_over_time",
        "utilisation"]  # fmt: skip
    assert "alpha 8.09 samples/s, beta" in names["throughput"].alt
    for path in (folder / "charts").iterdir():
        picture = imread(path)
        assert picture.shape[1] == 1260 and picture.std() > 0.05


def test_latency_against_rate_shows_attempts_and_probes_with_their_limits(tmp_path: Path) -> None:
    folder = benchmark(tmp_path / "run")
    over = {"verdict": "INVALID", "target_qps": 50.0, "ttft_ms_p99": 2310.0}
    lost = {"verdict": "INVALID", "target_qps": 55.0, "engine_lost": True}
    early = over | {"verdict": "ENDED EARLY", "target_qps": 60.0}
    results_tree.attempts(folder, early, over, lost, {"target_qps": 42.0})
    probe = {
        "target_qps": 45.0,
        "seconds": 9.0,
        "samples": 400,
        "ttft_ms_p99": 900.0,
        "tpot_ms_p99": None,
        "over_ttft": 0,
        "over_tpot": 0,
        "held": True,
    }
    failed = probe | {"target_qps": 60.0, "tpot_ms_p99": 130.0, "held": False}
    probes = [probe, failed, failed | {"target_qps": 30.0, "engine_lost": True}]
    edit(folder / "nodes/alpha/outcome.json", lambda outcome: outcome.update(peak={"probes": probes}))
    result = build(folder).result
    assert drawn(folder)[1]["latency_against_rate"].file
    chart = rate_chart.latency_against_rate(result)
    assert not isinstance(chart, str)
    figure, alt = chart
    assert alt.endswith(
        ": 60.0 samples/s (attempt, ended early: at least), 50.0 samples/s (attempt, failed), 42.0 samples/s (attempt, "
        "VALID), 45.0 samples/s (probe, could still be VALID), 60.0 samples/s (probe, failed: at least)"
    )
    figure.canvas.draw()
    legend = figure.legends[0].get_window_extent()
    assert 0 <= legend.x0 < legend.x1 <= figure.bbox.x1, "the legend is cut"
    ttft, tpot = figure.axes
    assert [[*axes.lines[0].get_ydata()] for axes in figure.axes] == [[2000, 2000], [100, 100]]
    points = {c.get_label(): [tuple(point) for point in c.get_offsets()] for c in ttft.collections}
    assert points == {
        "attempt, VALID": [(42.0, 20.0)],
        "attempt, failed": [(50.0, 2310.0)],
        "attempt, ended early: at least": [(60.0, 2310.0)],
        "probe, could still be VALID": [(45.0, 900.0)],
        "probe, failed: at least": [(60.0, 900.0)],
    }
    assert "probe, could still be VALID" not in [c.get_label() for c in tpot.collections]
    shapes = {c.get_label(): c.get_paths()[0].vertices.tobytes() for c in ttft.collections}
    assert shapes.pop("attempt, VALID") == shapes.pop("probe, could still be VALID") and len(set(shapes.values())) == 3


@pytest.mark.parametrize(
    ("scenario", "absent"), [("server", "there was one rate only"), ("offline", "the scenario has no rate")]
)
def test_one_rate_makes_no_chart_of_rates(tmp_path: Path, scenario: str, absent: str) -> None:
    folder = benchmark(tmp_path / "run", scenario=scenario)
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
    _, names = drawn(folder)
    assert names["throughput_over_time"].absent and names["utilisation"].absent == "the run did not finish"


def test_throughput_over_time_counts_each_sample_once() -> None:
    done = np.array([START + 0.5, START + 1.5, START + 1.6, START + 4.9, START + 5.2])
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
    assert [list(column) for column in seen["cpu_percent"]] == [[0, 2], [45, 65], [40, 60], [50, 70]]
    assert [list(column) for column in seen["running"]] == [[0, 2], [0.5, 2.5], [0, 2], [1, 3]]
    second = folder / "nodes/alpha/engines/alpha-1"
    shutil.copytree(path.parent, second)
    edit(second / "engine.json", lambda engine: engine.update(name="alpha-1"))
    (second / "telemetry.csv").write_text(path.read_text().replace("alpha-0", "alpha-1"))
    seen = time_charts.readings("alpha", build(folder).inputs, (START, START + 5), 2.0)
    assert list(seen["running"].mean) == [1, 5]


def many(count: int) -> tables.Table:
    """A journal's rows of so many samples on two nodes, one of them very slow."""
    random = np.random.default_rng(1)
    rows = np.zeros(count, tables.JOURNAL)
    rows["issued_unix"] = START + np.sort(random.uniform(0, 600, count))
    rows["ttft_ms"], rows["tpot_ms"] = random.lognormal(5, 0.5, count), random.lognormal(3, 0.2, count)
    rows["ttft_ms"][count // 2] = 77_777.0
    rows["e2e_ms"] = rows["ttft_ms"] + 127 * rows["tpot_ms"]
    rows["done_unix"] = rows["issued_unix"] + rows["e2e_ms"] / 1e3
    rows["loadgen"], rows["engine"] = "alpha", "alpha-0"
    rows["node"] = np.where(np.arange(count) % 2, "alpha", "beta")
    rows["n_input"], rows["n_tokens"], rows["mode"] = random.integers(100, 2500, count), 128, "performance"
    return rows


def test_a_report_of_800_000_samples_stays_below_5_mb_and_hides_no_outlier(tmp_path: Path) -> None:
    result, _, inputs, _ = build(benchmark(tmp_path / "run"))
    rows = many(800_000)
    drawing = charts.draw(result, rows, inputs, tmp_path / "charts")
    assert {"latency", "ttft_over_time", "in_flight", "latency_by_input"} <= set(drawing.pictures)
    assert len(render.page(result.model_copy(update={"charts": drawing.charts}), "html", drawing.pictures)) < 5_000_000
    seen = pixels(rows["issued_unix"], rows["ttft_ms"])
    assert len(seen.x) <= 700 and seen.high.max() == 77_777.0
    assert (seen.low <= seen.median).all() and (seen.median <= seen.p99).all() and (seen.p99 <= seen.high).all()
    assert seen.low.min() == rows["ttft_ms"].min()


def test_each_pixel_has_what_lies_in_it() -> None:
    seen = pixels(np.array([0.0, 0.0, 0.0, 100.0]), np.array([3.0, 1.0, 2.0, 9.0]))
    assert [list(values) for values in seen[1:]] == [[1, 9], [2, 9], [3, 9], [3, 9]]


def test_the_tail_of_a_distribution_has_as_many_points_as_the_rest() -> None:
    values, shares = latency_charts.curve(np.arange(1.0, 100_001.0))
    assert (values[0], values[-1]) == (1.0, 100_000.0) and len(values) == 400
    assert values[np.argmin(abs(shares - 0.01))] == pytest.approx(99_000, rel=0.001)
    assert (shares <= 0.01).sum() > 200


def test_requests_in_flight_and_in_the_client_are_counted(tmp_path: Path) -> None:
    rows = np.zeros(3, tables.JOURNAL)
    rows["issued_unix"], rows["done_unix"], rows["queue_ms"] = START, START + np.array([4.0, 4.0, 8.0]), [0, 0, 5000]
    chart = time_charts.in_flight(rows, (START, START + 10))
    assert not isinstance(chart, str)
    flying, waiting = (
        list(zip(*(map(float, values) for values in line.get_data()), strict=True)) for line in chart[0].axes[0].lines
    )
    assert flying == [(0, 2), (4, 0), (5, 1), (8, 0), (10, 0)]
    assert waiting == [(0, 1), (5, 0), (10, 0)]


def test_the_most_in_flight_is_seen_however_short_it_lasts() -> None:
    rows = np.zeros(4000, tables.JOURNAL)
    rows["issued_unix"] = START + np.arange(4000) * 0.1
    rows["issued_unix"][1000:1050] = START + 100.0
    rows["done_unix"] = rows["issued_unix"] + 0.01
    chart = time_charts.in_flight(rows, (START, START + 400))
    assert not isinstance(chart, str) and "up to 50 in flight, up to 0 waiting" in chart[1]
    heights = [path.vertices[:, 1].max() for path in chart[0].axes[0].collections[0].get_paths()]
    assert max(heights) == 50 and chart[0].axes[0].get_ylim()[1] > 50
    p99, median = (line.get_ydata() for line in chart[0].axes[0].lines[:2])
    assert p99.max() == 50 and (p99 >= median).all() and (p99 > median).any()


def test_a_gap_in_telemetry_is_a_gap() -> None:
    seconds = np.array([0.0, 1, 2, 30, 31])
    seen = time_charts._means(seconds, np.arange(5.0), 1.0)
    for values in (seen.mean, seen.low, seen.high):
        assert np.isnan(values).tolist() == [False, False, False, True, False, False]
    assert list(seen.seconds) == [0, 1, 2, 3, 30, 31]


def test_throttled_seconds_are_marked(tmp_path: Path) -> None:
    folder = benchmark(tmp_path / "run")
    path = folder / "nodes/alpha/engines/alpha-0/telemetry.csv"
    lines = path.read_text().replace(",24.0,,,,,,,,", ",24.0,0,95,20.1,150.0,1400,60,none,").splitlines()
    lines[8] = lines[8].replace("none", "thermal")
    for other in (path, folder / "nodes/beta/engines/beta-0/telemetry.csv"):  # one second on two nodes is one
        other.write_text("\n".join(lines) + "\n")
    result, _, inputs, _ = build(folder)
    chart = time_charts.utilisation(result, inputs, (START, START + 5))
    assert not isinstance(chart, str)
    assert chart[0].axes[0].get_title().endswith("red: 1 s with a GPU throttled)")


@pytest.mark.parametrize("count", [2, 6, 7, 40])
def test_any_number_of_nodes_is_told_apart_or_shaded(tmp_path: Path, count: int) -> None:
    names = [f"n{number}" for number in range(count)]
    result, journal, _, _ = build(benchmark(tmp_path / "run", nodes=names, samples=160))
    _, axes = new_figure()
    lines = {name: (np.arange(4.0), np.full(4, float(number))) for number, name in enumerate(names)}
    draw_nodes(axes, result, lines)
    if count <= 6:
        looks = [(line.get_color(), str(line.get_linestyle())) for line in axes.lines]
        assert len(looks) == count == len({colour for colour, _ in looks})
        assert len({line._unscaled_dash_pattern for line in axes.lines}) == count
    else:
        (median,) = axes.lines
        assert list(median.get_ydata()) == [(count - 1) / 2] * 4 and len(axes.collections) == 1
    assert not isinstance(latency_charts.distributions(result, journal), str)


def test_a_gap_common_to_many_nodes_is_a_gap(tmp_path: Path) -> None:
    names = [f"n{number}" for number in range(7)]
    result = build(benchmark(tmp_path / "run", nodes=names, samples=160)).result
    _, axes = new_figure()
    draw_nodes(axes, result, {name: (np.arange(5.0), np.array([1, 2, np.nan, 4, 5])) for name in names})
    assert np.isnan(axes.lines[0].get_ydata()).tolist() == [False, False, True, False, False]
    assert len(axes.collections[0].get_paths()) == 2


def test_charts_of_many_nodes_have_a_median_and_a_range(tmp_path: Path) -> None:
    names = [f"n{number}" for number in range(8)]
    result, journal, _, _ = build(benchmark(tmp_path / "run", nodes=names, samples=160))
    points = [Inside(engines=n, samples_per_s=n, efficiency=1 - n / 100, run_id="x") for n in (1, 2)]
    nodes = [node.model_copy(update={"inside": tuple(points)}) for node in result.nodes]
    result = result.model_copy(update={"nodes": tuple(nodes)})
    drawn = charts._inside(result), time_charts.throughput(result, journal, (START, START + 16))
    for chart in drawn:
        assert not isinstance(chart, str)
        assert any(line.get_label() == "median of 8 nodes" for line in chart[0].axes[0].lines)
        assert [shade.get_label() for shade in chart[0].axes[0].collections] == ["lowest to highest"]
    assert not drawn[0][0].axes[0].texts


def test_svg_keeps_text_as_text_and_follows_the_page(tmp_path: Path) -> None:
    figure, axes = new_figure()
    axes.set_title("A & B")
    text = svg(figure, 'what "it" shows & <more>')
    assert text.startswith('<svg role="img"') and "<title>what &quot;it&quot; shows &amp; &lt;more></title>" in text
    assert "A &amp; B</text>" in text and "id=" not in text.split("<defs>")[0]
    assert "width=" not in text[: text.index(">")]


def test_latency_by_input_needs_lengths(tmp_path: Path) -> None:
    rows = many(500)
    chart = latency_charts.by_input(rows)
    assert not isinstance(chart, str) and "in 12 bins with equally many requests" in chart[1]
    rows["n_input"] = 0
    assert latency_charts.by_input(rows) == "the journal holds no lengths of inputs"


def test_efficiency_inside_a_node_is_of_measured_runs_alone(tmp_path: Path) -> None:
    for engines, interval in ((1, 0.1), (2, 0.06)):
        folder = benchmark(
            tmp_path / f"with{engines}", nodes=["alpha"], created_unix=START - 5000 + engines,
            pace=results_tree.Pace(interval_s=interval),
        )  # fmt: skip
        for number in range(1, engines):
            shutil.copytree(folder / "nodes/alpha/engines/alpha-0", folder / f"nodes/alpha/engines/alpha-{number}")
            edit(folder / f"nodes/alpha/engines/alpha-{number}/engine.json", lambda e: e.update(name="alpha-1"))
        report.report(folder)
    result = build(tmp_path / "with2")[0]
    (node,) = result.nodes
    one = build(tmp_path / "with1")[0].together.samples_per_s
    assert [(point.engines, point.run_id) for point in node.inside] == [(1, "with1"), (2, "with2")]
    assert one and node.inside[1].efficiency == pytest.approx((result.together.samples_per_s or 0) / (2 * one))
    assert build(tmp_path / "with1")[0].nodes[0].inside == ()
    assert "efficiency_inside" in charts.draw(*build(tmp_path / "with2")[:3], tmp_path / "c").pictures
    assert "Inside alpha" in render.page(result, "md")
