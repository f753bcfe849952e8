"""The report's charts. One without data is not drawn, and the report says why."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib import style
from matplotlib.ticker import MaxNLocator

from harness.report import figures, rate_chart, time_charts
from harness.report.chart_style import (
    COLOURS,
    GROUPED,
    LIMIT,
    QUIET,
    STYLE,
    TOGETHER,
    Drawn,
    colour_of,
    new_figure,
    readable_on,
)
from harness.report.load_inputs import Inputs
from harness.report.record import Chart, Result
from harness.spec import Scenario

CENTRED: dict[str, Any] = {"ha": "center", "va": "center", "fontweight": "bold"}
DPI = 140


def draw(result: Result, journal: pd.DataFrame, inputs: Inputs, folder: Path) -> tuple[Chart, ...]:
    """Draw every chart that has data into `folder` as PNG, and say of the others why they were not drawn."""
    mode = figures.measured(inputs.loadgens, journal)
    rows = journal[journal["mode"] == mode]
    span = figures.window(inputs.loadgens, mode)
    makers: dict[str, tuple[str, Callable[[], Drawn]]] = {
        "throughput": ("Throughput by node and together", lambda: _throughput(result)),
        "efficiency": ("Efficiency against the nodes alone", lambda: _efficiency(result)),
        "latency": ("Distribution of latency", lambda: _latency(result, rows)),
        "latency_against_rate": ("Latency against rate", lambda: rate_chart.latency_against_rate(result)),
        "throughput_over_time": ("Throughput over time", lambda: time_charts.throughput(result, rows, span)),
        "utilisation": ("Utilisation over time", lambda: time_charts.utilisation(result, inputs, span)),
        "past_runs": ("Duration and throughput over past runs", lambda: _past(result)),
    }
    folder.mkdir(parents=True, exist_ok=True)
    with style.context(["default", STYLE]):
        return tuple(_save(folder, name, title, make()) for name, (title, make) in makers.items())


def _save(folder: Path, name: str, title: str, drawn: Drawn) -> Chart:
    path = folder / f"{name}.png"
    path.unlink(missing_ok=True)
    if isinstance(drawn, str):
        return Chart(name=name, title=title, alt="", file=None, absent=drawn)
    figure, alt = drawn
    figure.savefig(path, dpi=DPI, metadata={"Software": None})
    return Chart(name=name, title=title, alt=alt, file=f"charts/{name}.png", absent=None)


def _throughput(result: Result) -> Drawn:
    nodes = [(n.name, n.figures.samples_per_s, colour_of(result, n.name)) for n in result.nodes]
    bars = [(name, speed, colour) for name, speed, colour in nodes if speed]
    if result.together.samples_per_s and len(result.nodes) > 1:
        bars.append(("together", result.together.samples_per_s, TOGETHER))
    if not bars:
        return "no node has a measured speed"
    names, speeds, colours = zip(*bars, strict=True)
    figure, axes = new_figure(height=1.5 + 0.5 * len(bars))
    drawn = axes.barh(names, speeds, color=colours, height=0.6)
    axes.bar_label(drawn, labels=[f"{speed:,.2f}" for speed in speeds], padding=5)
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
    figure, axes = new_figure(height=2.7)
    total = 0.0
    for node in result.nodes:
        speed, colour = node.alone_samples_per_s or 0.0, colour_of(result, node.name)
        axes.barh(["sum of the nodes alone"], [speed], left=total, color=colour, height=0.6)
        axes.text(total + speed / 2, 0, f"{node.name}\n{speed:,.2f}", color=readable_on(colour), **CENTRED)
        total += speed
    axes.barh(["together"], [together], color=TOGETHER, height=0.6)
    axes.text(together / 2, 1, f"{together:,.2f}", color=readable_on(TOGETHER), **CENTRED)
    axes.axvline(total, color=LIMIT, linestyle="--", linewidth=1.2)
    axes.text(total, 0.5, f"100 % = {total:,.2f}  ", color=LIMIT, ha="right", va="center", fontsize=10)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlim(0, max(total, together) * 1.05)
    axes.set_xlabel("samples/s (unverified)")
    apart = " (one shared machine: means nothing)" if result.shared_machine else ""
    axes.set_title(f"Together {100 * result.efficiency:.0f} % of the sum of the nodes alone{apart}")
    return figure, f"Efficiency: {together:.2f} samples/s together, {total:.2f} as the sum of the nodes alone"


def _latency(result: Result, rows: pd.DataFrame) -> Drawn:
    scenario = Scenario(result.asked.scenario) if result.asked.scenario else None
    panels = [
        ("Time to first token", "ttft_ms", scenario.ttft_limit_ms if scenario else None, result.together.ttft),
        ("Time per output token", "tpot_ms", scenario.tpot_limit_ms if scenario else None, result.together.tpot),
        ("End to end", "e2e_ms", None, result.together.end_to_end),
    ]
    panels = [panel for panel in panels if rows[panel[1]].notna().sum() > 1]
    if not panels:
        return "the journal holds no finished samples"
    figure, grid = new_figure(1, len(panels), height=4.2, squeeze=False, sharey=True)
    texts = []
    for axes, (title, column, limit, figures_) in zip(grid[0], panels, strict=True):
        _distribution(axes, result, rows, column, limit)
        text = f"p50 {_ms(figures_.p50_ms)}, p99 {_ms(figures_.p99_ms)}" if figures_ else "together not measured"
        axes.set_title(f"{title}\n{text}", fontsize=11)
        texts.append(f"{title} {text}")
    grid[0][0].set_ylabel("samples at or below (%)")
    grid[0][0].set_yticks([0, 25, 50, 75, 99])
    if len(result.nodes) > 1:
        figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=len(result.nodes))
    return figure, "Latency distributions: " + "; ".join(texts)


def _distribution(axes: Any, result: Result, rows: pd.DataFrame, column: str, limit: float | None) -> None:
    """Cumulative distribution of each node's samples in percent; a limit far off the axis is named at its edge."""
    for node in result.nodes:
        own = rows[rows["node"] == node.name][column].dropna()
        if len(own):
            axes.ecdf(own, complementary=False, color=colour_of(result, node.name), label=node.name)
            axes.lines[-1].set_ydata(axes.lines[-1].get_ydata() * 100)
    axes.axhline(99, color=QUIET, linewidth=1, linestyle=":")
    right = float(rows[column].max()) * 1.08 or 1.0
    if limit is not None and limit <= 2 * right:
        right = max(right, limit * 1.05)
        axes.axvline(limit, color=LIMIT, linestyle="--", linewidth=1.4)
        side = "left" if limit < right / 2 else "right"
        axes.text(limit, 4, f" limit {limit:,.0f} ms ", color=LIMIT, ha=side, fontsize=9.5)
    elif limit is not None:
        axes.text(right, 4, f"limit {limit:,.0f} ms → ", color=LIMIT, ha="right", fontsize=9.5)
    axes.set_xlim(0, right)
    axes.set_ylim(0, 102)
    axes.set_xlabel("ms")
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(GROUPED)


def _ms(value: float) -> str:
    return f"{value:,.0f} ms" if value >= 100 else f"{value:,.1f} ms"


def _past(result: Result) -> Drawn:
    runs = result.history
    if len(runs) < 2:
        return "there is no comparable earlier run"
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
    speed.set_title(f"Throughput and duration of {len(runs)} comparable runs, this one in blue")
    step = max(1, len(runs) // 10)
    duration.set_xticks(list(at)[::step], labels[::step])
    duration.set_xlabel("started (UTC)")
    duration.set_xlim(-0.5, len(runs) - 0.5)
    return (
        figure,
        f"{len(runs)} comparable runs, from {runs[0].samples_per_s:.2f} to {runs[-1].samples_per_s:.2f} samples/s",
    )
