"""Pictures of what was measured. A chart without data is not made, and says why."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib import style
from matplotlib.figure import Figure

from harness.report import figures, series
from harness.report.build import telemetry_files
from harness.report.record import Chart, Result
from harness.report.sources import Sources
from harness.spec import Scenario

# Okabe and Ito's palette: told apart with every common kind of colour blindness, and by lightness in grey print.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
TOGETHER, LIMIT, QUIET = "#404040", "#B00020", "#707070"
STYLE: dict[str, Any] = {
    "font.size": 11, "axes.titlesize": 13, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#DDDDDD",
    "grid.linewidth": 0.8, "axes.axisbelow": True, "figure.facecolor": "white", "savefig.facecolor": "white",
    "legend.frameon": False, "lines.linewidth": 1.8, "font.family": "DejaVu Sans",
}  # fmt: skip
DPI = 140
WIDTH = 9.0

Drawn = tuple[Figure, str] | str
"""A figure with the text that stands for it, or why there is none."""


def draw(result: Result, journal: pd.DataFrame, sources: Sources, folder: Path) -> tuple[Chart, ...]:
    """Draw every chart that has data into `folder` as PNG, and say of the others why they were not drawn."""
    mode = figures.measured(sources.issuers, journal)
    rows = journal[journal["mode"] == mode]
    span = figures.window(sources.issuers, mode)
    makers: dict[str, tuple[str, Callable[[], Drawn]]] = {
        "throughput": ("Throughput by node and together", lambda: _throughput(result)),
        "efficiency": ("Efficiency against the nodes alone", lambda: _efficiency(result)),
        "latency": ("Distribution of latency", lambda: _latency(result, rows)),
        "throughput_over_time": ("Throughput over time", lambda: _over_time(result, rows, span)),
        "utilisation": ("Utilisation over time", lambda: _utilisation(result, sources, span)),
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


def _bars(axes: Any, labels: Sequence[str], values: Sequence[float], colours: Sequence[str]) -> None:
    bars = axes.barh(labels, values, color=colours, height=0.6)
    axes.bar_label(bars, labels=[f"{value:,.2f}" for value in values], padding=5)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlim(0, max(values) * 1.16)


def _throughput(result: Result) -> Drawn:
    measured = [(n.name, n.figures.samples_per_s, colour_of(result, n.name)) for n in result.nodes]
    known = [(name, speed, colour) for name, speed, colour in measured if speed]
    if result.together.samples_per_s and len(result.nodes) > 1:
        known.append(("together", result.together.samples_per_s, TOGETHER))
    if not known:
        return "no node has a measured speed"
    names, speeds, colours = zip(*known, strict=True)
    figure, axes = _figure(height=1.5 + 0.5 * len(known))
    _bars(axes, names, speeds, colours)
    axes.set_xlabel(f"samples/s ({result.asked.scenario}, unverified)")
    axes.set_title("Samples answered per second")
    return figure, "Throughput: " + ", ".join(
        f"{name} {speed:.2f} samples/s" for name, speed in zip(names, speeds, strict=True)
    )


def _efficiency(result: Result) -> Drawn:
    together = result.together.samples_per_s
    if result.efficiency is None or together is None:
        return result.efficiency_absent or "no efficiency was measured"
    figure, axes = _figure(height=2.6)
    left = 0.0
    for node in result.nodes:
        speed = node.alone_samples_per_s or 0.0
        axes.barh(["nodes alone, summed"], [speed], left=left, color=colour_of(result, node.name), height=0.55)
        axes.text(
            left + speed / 2,
            0,
            f"{node.name}\n{speed:,.2f}",
            ha="center",
            va="center",
            color="white",
            fontweight="bold",
        )
        left += speed
    axes.barh(["together"], [together], color=TOGETHER, height=0.55)
    axes.text(together / 2, 1, f"{together:,.2f}", ha="center", va="center", color="white", fontweight="bold")
    axes.axvline(left, color=LIMIT, linestyle="--", linewidth=1.2)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlim(0, max(left, together) * 1.08)
    axes.set_xlabel("samples/s (unverified)")
    apart = "; one shared machine, so this means nothing" if result.shared_machine else ""
    axes.set_title(f"Together the nodes reach {100 * result.efficiency:.0f} % of their sum{apart}")
    return figure, f"Efficiency: {together:.2f} samples/s together, {left:.2f} as the sum of the nodes alone"


def _latency(result: Result, rows: pd.DataFrame) -> Drawn:
    scenario = Scenario(result.asked.scenario) if result.asked.scenario else None
    panels = [
        ("TTFT: time to first token", "ttft_ms", scenario.ttft_limit_ms if scenario else None),
        ("TPOT: time per output token", "tpot_ms", scenario.tpot_limit_ms if scenario else None),
        ("End to end", "e2e_ms", None),
    ]
    known = [panel for panel in panels if rows[panel[1]].notna().sum() > 1]
    if not known:
        return "the journal holds no finished samples"
    figure, grid = _figure(1, len(known), height=3.9, squeeze=False, sharey=True)
    told = []
    for axes, (title, column, limit) in zip(grid[0], known, strict=True):
        told.append(_distribution(axes, result, rows, title, column, limit))
    grid[0][0].set_ylabel("samples at or below (%)")
    if len(result.nodes) > 1:
        grid[0][-1].legend(loc="lower right", fontsize=10)
    return figure, "Latency distributions: " + "; ".join(told)


def _distribution(axes: Any, result: Result, rows: pd.DataFrame, title: str, column: str, limit: float | None) -> str:
    values = rows[column].dropna()
    for node in result.nodes:
        own = rows[rows["node"] == node.name][column].dropna().sort_values().to_numpy()
        if len(own):
            percents = [100 * (index + 1) / len(own) for index in range(len(own))]
            axes.step(own, percents, where="post", color=colour_of(result, node.name), label=node.name)
    p50, p99 = series.percentile(values, 50) or 0.0, series.percentile(values, 99) or 0.0
    axes.axhline(99, color=QUIET, linewidth=1, linestyle=":")
    right = max(float(values.max()), p99) * 1.05 or 1.0
    if limit is not None and limit <= 2 * right:
        right = max(right, limit * 1.05)
        axes.axvline(limit, color=LIMIT, linestyle="--", linewidth=1.4)
        axes.text(limit, 3, f" limit {limit:,.0f} ms ", color=LIMIT, ha="right", fontsize=9)
        beside = ""
    else:
        beside = f"\nlimit {limit:,.0f} ms, far right" if limit is not None else "\nno limit"
    axes.set_xlim(0, right)
    axes.set_ylim(0, 101)
    axes.set_xlabel("ms")
    axes.set_title(title, fontsize=11)
    told = f"p50 {_ms(p50)}\np99 {_ms(p99)}{beside}"
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85}
    axes.text(0.97, 0.5, told, transform=axes.transAxes, ha="right", va="center", fontsize=9.5, bbox=box)
    return f"{title} p50 {_ms(p50)}, p99 {_ms(p99)}"


def _ms(value: float) -> str:
    return f"{value:,.0f} ms" if value >= 100 else f"{value:,.1f} ms"


def _over_time(result: Result, rows: pd.DataFrame, span: tuple[float, float] | None) -> Drawn:
    if span is None or len(rows) < 2 or span[1] - span[0] < 2:
        return "the run was shorter than 2 s or did not finish"
    width = max(1.0, round((span[1] - span[0]) / 60))
    figure, axes = _figure(height=3.6)
    total = series.per_second(rows["done_unix"], span, width)
    if len(result.nodes) > 1:
        axes.step(total["t_s"], total["samples_per_s"], where="mid", color=TOGETHER, label="together")
    for node in result.nodes:
        own = series.per_second(rows[rows["node"] == node.name]["done_unix"], span, width)
        axes.step(own["t_s"], own["samples_per_s"], where="mid", color=colour_of(result, node.name), label=node.name)
    axes.set_xlim(0, span[1] - span[0])
    axes.set_ylim(0, max(float(total["samples_per_s"].max()) * 1.12, 1e-9))
    axes.set_xlabel("seconds since the run's start")
    axes.set_ylabel("samples/s")
    axes.set_title(f"Samples finished per second, {width:.0f} s bins")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return (
        figure,
        f"Samples finished per second over {span[1] - span[0]:.0f} s, at most {total['samples_per_s'].max():.1f}",
    )


PANELS = (
    ("cpu_percent", "processor\n(%)", 100.0),
    ("memory_used_gib", "memory\n(GiB)", None),
    ("gpu_util_percent", "GPU busy\n(%)", 100.0),
    ("gpu_power_w", "GPU power\n(W)", None),
    ("gpu_sm_clock_mhz", "GPU clock\n(MHz)", None),
    ("running", "sequences\nrunning", None),
    ("waiting", "requests\nwaiting", None),
    ("kv_cache_percent", "KV cache\n(%)", None),
)


def _utilisation(result: Result, sources: Sources, span: tuple[float, float] | None) -> Drawn:
    if span is None:
        return "the run did not finish"
    tables = {node.name: _readings(node.name, sources, span) for node in result.nodes}
    panels = [panel for panel in PANELS if any(table[panel[0]].notna().sum() > 1 for table in tables.values())]
    if not panels:
        return "telemetry has fewer than two readings during the run"
    figure, grid = _figure(len(panels), 1, height=1.1 + 1.15 * len(panels), squeeze=False, sharex=True)
    for axes, (column, label, top) in zip(grid[:, 0], panels, strict=True):
        for name, table in tables.items():
            known = table[["unix_s", column]].dropna()
            if len(known):
                axes.plot(known["unix_s"] - span[0], known[column], color=colour_of(result, name), label=name)
        highest = top or max(float(table[column].max()) for table in tables.values() if table[column].notna().any())
        axes.set_ylim(0, (highest or 1) * 1.08)
        axes.set_ylabel(label, rotation=0, ha="right", va="center")
    grid[0, 0].set_title("What the machine and the engines did during the run")
    grid[0, 0].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    grid[-1, 0].set_xlim(0, span[1] - span[0])
    grid[-1, 0].set_xlabel("seconds since the run's start")
    return figure, "Utilisation over time: " + ", ".join(label.replace("\n", " ") for _, label, _ in panels)


def _readings(node: str, sources: Sources, span: tuple[float, float]) -> pd.DataFrame:
    """One line per second of a node: engines' queues added up, GPUs averaged."""
    names = {engine.file.name for engine in sources.engines if engine.node == node}
    table = pd.concat(
        [series.between(series.telemetry(path), span) for path in telemetry_files(node, sources)]
        or [series.telemetry(Path("/nonexistent"))],
        ignore_index=True,
    )
    if names:
        table = table[table["engine"].isin(names) | table["engine"].isna()]
    table = table.assign(second=table["unix_s"].round())
    sums = table.drop_duplicates(["second", "engine"]).groupby("second")[["running", "waiting"]].sum(min_count=1)
    others = [column for column, _, _ in PANELS if column not in sums.columns]
    return table.groupby("second")[others].mean().join(sums).reset_index(names="unix_s")


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
