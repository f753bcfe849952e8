"""The report's charts. One without data is not drawn, and the report says why."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from matplotlib import style

from harness.report import figures, latency_charts, rate_chart, time_charts
from harness.report.chart_style import (
    COLOURS,
    INK,
    LIMIT,
    MOST_COLOURED,
    QUIET,
    STYLE,
    TOGETHER,
    Drawn,
    colour_of,
    draw_nodes,
    new_figure,
    svg,
)
from harness.report.groups import MANY, shown
from harness.report.journals import Table
from harness.report.load_inputs import Inputs
from harness.report.record import Chart, Result

DPI = 140
_LABELLED_BARS = 16  # more of them are thinner


class Drawing(NamedTuple):
    """What is known of each chart, and the SVG text of each that was drawn, by its name."""

    charts: tuple[Chart, ...]
    pictures: dict[str, str]


def draw(result: Result, journal: Table, inputs: Inputs, folder: Path) -> Drawing:
    """Draw every chart that has data, as SVG and into `folder` as PNG; say of the others why they were not drawn."""
    mode = figures.measured(inputs.loadgens, journal)
    rows = figures.timed(journal, mode)
    span = figures.window(inputs.loadgens, mode)
    makers: dict[str, tuple[str, Callable[[], Drawn]]] = {
        "throughput": ("Throughput by node and together", lambda: _throughput(result)),
        "efficiency": ("Efficiency against the nodes alone", lambda: _efficiency(result)),
        "efficiency_inside": ("Efficiency inside the nodes", lambda: _inside(result)),
        "latency": ("Distribution of latency", lambda: latency_charts.distributions(result, rows)),
        "latency_against_rate": ("Latency against rate", lambda: rate_chart.latency_against_rate(result)),
        "throughput_over_time": ("Throughput over time", lambda: time_charts.throughput(result, rows, span)),
        "ttft_over_time": ("Time to first token over time", lambda: latency_charts.over_time(result, rows, span)),
        "in_flight": ("Requests in flight and in the client", lambda: time_charts.in_flight(rows, span)),
        "latency_by_input": ("Latency by length of the input", lambda: latency_charts.by_input(rows)),
        "utilisation": ("Utilisation over time", lambda: time_charts.utilisation(result, inputs, span)),
        "past_runs": ("Duration and throughput over past runs", lambda: _past(result)),
    }
    folder.mkdir(parents=True, exist_ok=True)
    pictures: dict[str, str] = {}
    with style.context(["default", STYLE]):
        charts = tuple(_save(folder, name, title, make(), pictures) for name, (title, make) in makers.items())
    return Drawing(charts, pictures)


def _save(folder: Path, name: str, title: str, drawn: Drawn, pictures: dict[str, str]) -> Chart:
    path = folder / f"{name}.png"
    path.unlink(missing_ok=True)
    if isinstance(drawn, str):
        return Chart(name=name, title=title, alt="", file=None, absent=drawn)
    figure, alt = drawn
    figure.savefig(path, dpi=DPI, metadata={"Software": None})
    figure.set_layout_engine("none")  # both pictures have one layout
    pictures[name] = svg(figure, alt)
    return Chart(name=name, title=title, alt=alt, file=f"charts/{name}.png", absent=None)


def _throughput(result: Result) -> Drawn:
    nodes = [(name, n.figures.samples_per_s, colour_of(result, n.name)) for name, n in shown(result.nodes)]
    bars = [(name, speed, colour) for name, speed, colour in nodes if speed]
    if result.together.samples_per_s and len(result.nodes) > 1:
        bars.append(("together", result.together.samples_per_s, TOGETHER))
    if not bars:
        return "no node has a measured speed"
    names, speeds, colours = zip(*bars, strict=True)
    each = 0.5 if len(bars) <= _LABELLED_BARS else 0.2
    figure, axes = new_figure(height=1.5 + each * len(bars))
    drawn = axes.barh(names, speeds, color=colours, height=0.6)
    axes.bar_label(drawn, labels=[f"{speed:,.2f}" for speed in speeds], padding=5, fontsize=22 * each)
    axes.tick_params(axis="y", labelsize=22 * each)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlim(0, max(speeds) * 1.16)
    axes.set_xlabel("samples/s (unverified)")
    axes.set_title(f"{speeds[-1]:,.2f} samples/s, {names[-1]} ({result.asked.scenario})")
    listed = ", ".join(f"{name} {speed:.2f} samples/s" for name, speed in zip(names, speeds, strict=True))
    return figure, f"Throughput: {listed}"


def _efficiency(result: Result) -> Drawn:
    together = result.together.samples_per_s
    if result.efficiency is None or together is None:
        return result.efficiency_absent or "no efficiency was measured"
    figure, axes = new_figure(height=3.2)
    total = 0.0
    for node in result.nodes:
        speed, colour = node.alone_samples_per_s or 0.0, colour_of(result, node.name)
        axes.barh(["sum of the nodes alone"], [speed], left=total, color=colour, height=0.6)
        if len(result.nodes) < MANY:
            text = f"{node.name}\n{speed:,.2f}"
            axes.text(total + speed / 2, -0.35, text, color=INK, ha="center", va="bottom", fontsize=10)
        total += speed
    axes.barh(["together"], [together], color=TOGETHER, height=0.6)
    axes.text(together, 1, f" {together:,.2f}", color=INK, ha="left", va="center", fontweight="bold")
    axes.set_ylim(-0.95, 1.4)
    axes.axvline(total, color=LIMIT, linestyle="--", linewidth=1.2)
    axes.text(total, 0.5, f"100 % = {total:,.2f}  ", color=LIMIT, ha="right", va="center", fontsize=10)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlim(0, max(total, together) * 1.16)
    axes.set_xlabel("samples/s (unverified)")
    apart = " (one shared machine: means nothing)" if result.shared_machine else ""
    axes.set_title(f"Together {100 * result.efficiency:.0f} % of the sum of the nodes alone{apart}")
    return figure, f"Efficiency: {together:.2f} samples/s together, {total:.2f} as the sum of the nodes alone"


def _inside(result: Result) -> Drawn:
    nodes = [node for node in result.nodes if len(node.inside) > 1]
    if not nodes:
        return "no node with several engines was measured with one of them alone"
    figure, axes = new_figure(height=3.4)
    most = max(point.engines for node in nodes for point in node.inside)
    lines = {
        node.name: ([point.engines for point in node.inside], [100 * point.efficiency for point in node.inside])
        for node in nodes
    }
    draw_nodes(axes, result, lines, marker="o")
    for x, y in lines.values() if len(lines) <= MOST_COLOURED else ():
        for place, value in zip(x, y, strict=True):
            above = {"textcoords": "offset points", "xytext": (0, 7), "ha": "center", "fontsize": 9.5}
            axes.annotate(f"{value:.0f} %", (place, value), **above)
    axes.axhline(100, color=LIMIT, linestyle="--", linewidth=1.2)
    axes.set_ylim(0, max(118, 100 * max(point.efficiency for node in nodes for point in node.inside) + 15))
    axes.set_xticks(range(1, most + 1))
    axes.set_xlim(0.7, most + 0.3)
    axes.set_xlabel("engines of the node")
    axes.set_ylabel("% of one engine × number")
    axes.set_title("Efficiency inside a node, each measured alone")
    if len(nodes) > 1:
        figure.legend(loc="outside lower center", ncols=6)
    points = [(node.name, point) for node in nodes for point in node.inside]
    listed = ", ".join(f"{name} {point.engines} engines {100 * point.efficiency:.0f} %" for name, point in points)
    return figure, f"Efficiency inside the nodes: {listed}"


def _past(result: Result) -> Drawn:
    runs = result.history
    if len(runs) < 2:
        return "there is no earlier run of the same work"
    figure, (speed, duration) = new_figure(2, 1, height=4.6, sharex=True)
    labels = [datetime.fromtimestamp(run.created_unix, UTC).strftime("%Y-%m-%d\n%H:%M") for run in runs]
    at = range(len(runs))
    colours = [QUIET] * (len(runs) - 1) + [COLOURS[0]]
    for axes, values, unit in (
        (speed, [r.samples_per_s for r in runs], "samples/s"),
        (duration, [r.seconds for r in runs], "seconds"),
    ):
        axes.plot(at, values, color="#BBBBBB", zorder=1)
        axes.scatter(at, values, color=colours, zorder=2, s=50)
        axes.set_ylim(0, max(values) * 1.25)
        axes.set_ylabel(unit)
        for x, value in list(zip(at, values, strict=True))[-12:]:
            axes.annotate(
                f"{value:,.1f}", (x, value), textcoords="offset points", xytext=(0, 8), ha="center", fontsize=9
            )
        for x, run in enumerate(runs):
            if run.changes:
                axes.axvline(x - 0.5, color=QUIET, linestyle=":", linewidth=1)
    speed.set_title(f"Throughput and duration of {len(runs)} runs of the same work, this one in blue")
    step = max(1, len(runs) // 10)
    duration.set_xticks(list(at)[::step], labels[::step])
    duration.set_xlabel("started (UTC); dotted: something changed before this run")
    duration.set_xlim(-0.5, len(runs) - 0.5)
    return (
        figure,
        f"{len(runs)} runs of the same work: {runs[0].samples_per_s:.2f} to {runs[-1].samples_per_s:.2f}",
    )
