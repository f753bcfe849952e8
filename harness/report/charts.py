"""Pictures of what was measured. A chart without data is not made, and says why."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, StrMethodFormatter

from harness.report import figures, tables
from harness.report.load_inputs import Inputs
from harness.report.nodes import telemetry_files
from harness.report.record import Chart, Result
from harness.spec import Scenario

# Okabe and Ito's palette: told apart with every common kind of colour blindness, and by lightness in grey print.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
CENTRED: dict[str, Any] = {"ha": "center", "va": "center", "fontweight": "bold"}
TOGETHER, LIMIT, QUIET = "#404040", "#B00020", "#707070"
STYLE: dict[str, Any] = {
    "font.size": 11, "axes.titlesize": 13, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#DDDDDD",
    "grid.linewidth": 0.8, "axes.axisbelow": True, "figure.facecolor": "white", "savefig.facecolor": "white",
    "legend.frameon": False, "lines.linewidth": 1.8, "font.family": "DejaVu Sans",
}  # fmt: skip
GROUPED = StrMethodFormatter("{x:,g}")
DPI = 140
WIDTH = 9.0

Drawn = tuple[Figure, str] | str
"""A figure with the text that stands for it, or why there is none."""


def draw(result: Result, journal: pd.DataFrame, inputs: Inputs, folder: Path) -> tuple[Chart, ...]:
    """Draw every chart that has data into `folder` as PNG, and say of the others why they were not drawn."""
    mode = figures.measured(inputs.loadgens, journal)
    rows = journal[journal["mode"] == mode]
    span = figures.window(inputs.loadgens, mode)
    makers: dict[str, tuple[str, Callable[[], Drawn]]] = {
        "throughput": ("Throughput by node and together", lambda: _throughput(result)),
        "efficiency": ("Efficiency against the nodes alone", lambda: _efficiency(result)),
        "latency": ("Distribution of latency", lambda: _latency(result, rows)),
        "throughput_over_time": ("Throughput over time", lambda: _over_time(result, rows, span)),
        "utilisation": ("Utilisation over time", lambda: _utilisation(result, inputs, span)),
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


def _figure(rows: int = 1, columns: int = 1, height: float = 3.6, **options: Any) -> tuple[Figure, Any]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots(rows, columns, **options)


def colour_of(result: Result, node: str) -> str:
    """A node has one colour in all charts."""
    return COLOURS[[known.name for known in result.nodes].index(node) % len(COLOURS)]


def _throughput(result: Result) -> Drawn:
    measured = [(n.name, n.figures.samples_per_s, colour_of(result, n.name)) for n in result.nodes]
    known = [(name, speed, colour) for name, speed, colour in measured if speed]
    if result.together.samples_per_s and len(result.nodes) > 1:
        known.append(("together", result.together.samples_per_s, TOGETHER))
    if not known:
        return "no node has a measured speed"
    names, speeds, colours = zip(*known, strict=True)
    figure, axes = _figure(height=1.5 + 0.5 * len(known))
    bars = axes.barh(names, speeds, color=colours, height=0.6)
    axes.bar_label(bars, labels=[f"{speed:,.2f}" for speed in speeds], padding=5)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlim(0, max(speeds) * 1.16)
    axes.set_xlabel("samples/s (unverified)")
    axes.set_title(f"{speeds[-1]:,.2f} samples/s, {names[-1]} ({result.asked.scenario})")
    told = ", ".join(f"{name} {speed:.2f} samples/s" for name, speed in zip(names, speeds, strict=True))
    return figure, f"Throughput: {told}"


def _efficiency(result: Result) -> Drawn:
    together = result.together.samples_per_s
    if result.efficiency is None or together is None:
        return result.efficiency_absent or "no efficiency was measured"
    figure, axes = _figure(height=2.7)
    total = 0.0
    for node in result.nodes:
        speed, colour = node.alone_samples_per_s or 0.0, colour_of(result, node.name)
        axes.barh(["sum of the nodes alone"], [speed], left=total, color=colour, height=0.6)
        axes.text(total + speed / 2, 0, f"{node.name}\n{speed:,.2f}", color=_readable(colour), **CENTRED)
        total += speed
    axes.barh(["together"], [together], color=TOGETHER, height=0.6)
    axes.text(together / 2, 1, f"{together:,.2f}", color=_readable(TOGETHER), **CENTRED)
    axes.axvline(total, color=LIMIT, linestyle="--", linewidth=1.2)
    axes.text(total, 0.5, f"100 % = {total:,.2f}  ", color=LIMIT, ha="right", va="center", fontsize=10)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlim(0, max(total, together) * 1.05)
    axes.set_xlabel("samples/s (unverified)")
    apart = " (one shared machine: means nothing)" if result.shared_machine else ""
    axes.set_title(f"Together {100 * result.efficiency:.0f} % of the sum of the nodes alone{apart}")
    return figure, f"Efficiency: {together:.2f} samples/s together, {total:.2f} as the sum of the nodes alone"


def _readable(background: str) -> str:
    """Black or white, whichever reads better on a colour."""
    red, green, blue = (int(background[at : at + 2], 16) / 255 for at in (1, 3, 5))
    return "black" if 0.3 * red + 0.59 * green + 0.11 * blue > 0.5 else "white"


def _latency(result: Result, rows: pd.DataFrame) -> Drawn:
    scenario = Scenario(result.asked.scenario) if result.asked.scenario else None
    panels = [
        ("Time to first token", "ttft_ms", scenario.ttft_limit_ms if scenario else None, result.together.ttft),
        ("Time per output token", "tpot_ms", scenario.tpot_limit_ms if scenario else None, result.together.tpot),
        ("End to end", "e2e_ms", None, result.together.end_to_end),
    ]
    known = [panel for panel in panels if rows[panel[1]].notna().sum() > 1]
    if not known:
        return "the journal holds no finished samples"
    figure, grid = _figure(1, len(known), height=4.2, squeeze=False, sharey=True)
    told = []
    for axes, (title, column, limit, figures_) in zip(grid[0], known, strict=True):
        _distribution(axes, result, rows, column, limit)
        seen = f"p50 {_ms(figures_.p50_ms)}, p99 {_ms(figures_.p99_ms)}" if figures_ else "together not measured"
        axes.set_title(f"{title}\n{seen}", fontsize=11)
        told.append(f"{title} {seen}")
    grid[0][0].set_ylabel("samples at or below (%)")
    grid[0][0].set_yticks([0, 25, 50, 75, 99])
    if len(result.nodes) > 1:
        figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=len(result.nodes))
    return figure, "Latency distributions: " + "; ".join(told)


def _distribution(axes: Any, result: Result, rows: pd.DataFrame, column: str, limit: float | None) -> None:
    """How many percent of a node's samples took at most so long; the limit is drawn, or named where it is far off."""
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
        axes.text(limit, 4, f"limit {limit:,.0f} ms ", color=LIMIT, ha="right", fontsize=9.5)
    elif limit is not None:
        axes.text(right, 4, f"limit {limit:,.0f} ms → ", color=LIMIT, ha="right", fontsize=9.5)
    axes.set_xlim(0, right)
    axes.set_ylim(0, 102)
    axes.set_xlabel("ms")
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(GROUPED)


def _ms(value: float) -> str:
    return f"{value:,.0f} ms" if value >= 100 else f"{value:,.1f} ms"


def _over_time(result: Result, rows: pd.DataFrame, span: tuple[float, float] | None) -> Drawn:
    if span is None or len(rows) < 2 or span[1] - span[0] < 2:
        return "the run was shorter than 2 s or did not finish"
    width = max(1.0, round((span[1] - span[0]) / 60))
    figure, axes = _figure(height=3.6)
    lines = [(node.name, rows[rows["node"] == node.name], colour_of(result, node.name)) for node in result.nodes]
    if len(lines) > 1:
        lines.insert(0, ("together", rows, TOGETHER))
    highest = 0.0
    for name, own, colour in lines:
        rates, edges = tables.per_second(own["done_unix"], span, width)
        axes.stairs(rates, edges, color=colour, label=name, linewidth=1.8)
        highest = max(highest, float(rates.max()))
    axes.set_xlim(0, span[1] - span[0])
    axes.set_ylim(0, highest * 1.12 or 1)
    axes.set_xlabel("seconds since the run's start")
    axes.set_ylabel("samples/s")
    axes.set_title(f"Samples finished per second, up to {highest:,.1f} (means of {width:.0f} s)")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure, f"Samples finished per second over {span[1] - span[0]:.0f} s, at most {highest:.1f}"


PANELS = (
    ("cpu_percent", "processor\n(%)", 100.0),
    ("memory_used_gib", "memory\n(GiB)", None),
    ("gpu_util_percent", "GPU busy\n(%)", 100.0),
    ("gpu_power_w", "GPU power\n(W)", None),
    ("gpu_sm_clock_mhz", "GPU clock\n(MHz)", None),
    ("running", "sequences\nrunning", None),
    ("waiting", "requests\nwaiting", None),
    ("kv_cache_percent", "KV cache\n(%)", 100.0),
)


def _utilisation(result: Result, inputs: Inputs, span: tuple[float, float] | None) -> Drawn:
    if span is None:
        return "the run did not finish"
    width = max(1.0, round((span[1] - span[0]) / 150))
    tables = {node.name: _readings(node.name, inputs, span, width) for node in result.nodes}
    panels = [panel for panel in PANELS if any(table[panel[0]].notna().sum() > 1 for table in tables.values())]
    if not panels:
        return "telemetry has fewer than two readings during the run"
    figure, grid = _figure(len(panels), 1, height=1.1 + 1.15 * len(panels), squeeze=False, sharex=True)
    for axes, (column, label, top) in zip(grid[:, 0], panels, strict=True):
        for name, table in tables.items():
            known = table[["t_s", column]].dropna()
            if len(known):
                axes.plot(
                    known["t_s"], known[column], color=colour_of(result, name), label=name, alpha=0.85, clip_on=False
                )
        highest = top or max(float(table[column].max()) for table in tables.values() if table[column].notna().any())
        axes.set_ylim(0, (highest or 1) * 1.08)
        axes.yaxis.set_major_locator(FixedLocator([0, 50, 100]) if top else MaxNLocator(3, integer=True))
        axes.yaxis.set_major_formatter(GROUPED)
        axes.set_ylabel(label, rotation=0, ha="right", va="center")
        axes.yaxis.set_label_coords(-0.09, 0.5)
    grid[0, 0].set_title(f"What the nodes and their engines did (means of {width:.0f} s)")
    grid[0, 0].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    grid[-1, 0].set_xlim(0, span[1] - span[0])
    grid[-1, 0].set_xlabel("seconds since the run's start")
    return figure, "Utilisation over time: " + ", ".join(label.replace("\n", " ") for _, label, _ in panels)


def _readings(node: str, inputs: Inputs, span: tuple[float, float], width_s: float) -> pd.DataFrame:
    """A node's means over `width_s` seconds, with `t_s` from the span's start; engines' queues are added up."""
    names = {engine.file.name for engine in inputs.engines if engine.node == node}
    table = tables.readings(telemetry_files(node, inputs), span)
    second = (table["unix_s"] - span[0]).round()
    own = table["engine"].isin(names) if names else table["engine"].notna()
    queues = table[own].groupby([second, "engine"])[["running", "waiting"]].first().groupby(level=0).sum(min_count=1)
    others = [column for column, _, _ in PANELS if column not in queues.columns]
    seconds = table.groupby(second)[others].mean().join(queues)
    means = seconds.groupby((seconds.index // width_s) * width_s).mean()
    return means.rename_axis("t_s").reset_index()


def _past(result: Result) -> Drawn:
    runs = result.history
    if len(runs) < 2:
        return "there is no comparable earlier run"
    figure, (speed, duration) = _figure(2, 1, height=4.6, sharex=True)
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
