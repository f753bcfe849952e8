"""Charts over time: samples finished, and the use of nodes and engines."""

import pandas as pd
from matplotlib.ticker import FixedLocator, MaxNLocator

from harness.report import tables
from harness.report.chart_style import GROUPED, TOGETHER, Drawn, colour_of, new_figure
from harness.report.load_inputs import Inputs
from harness.report.nodes import telemetry_files
from harness.report.record import Result


def throughput(result: Result, rows: pd.DataFrame, span: tuple[float, float] | None) -> Drawn:
    """Samples finished per second, of each node and together, over `span` (unix seconds)."""
    if span is None or len(rows) < 2 or span[1] - span[0] < 2:
        return "the run was shorter than 2 s or did not finish"
    width = max(1.0, round((span[1] - span[0]) / 60))
    figure, axes = new_figure(height=3.6)
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


def utilisation(result: Result, inputs: Inputs, span: tuple[float, float] | None) -> Drawn:
    """Telemetry of the nodes and their engines over `span` (unix seconds), a panel for each reading that was taken."""
    if span is None:
        return "the run did not finish"
    width = max(1.0, round((span[1] - span[0]) / 150))
    by_node = {node.name: readings(node.name, inputs, span, width) for node in result.nodes}
    panels = [panel for panel in PANELS if any(table[panel[0]].notna().sum() > 1 for table in by_node.values())]
    if not panels:
        return "telemetry has fewer than two readings during the run"
    figure, grid = new_figure(len(panels), 1, height=1.1 + 1.15 * len(panels), squeeze=False, sharex=True)
    for axes, (column, label, top) in zip(grid[:, 0], panels, strict=True):
        for name, table in by_node.items():
            plotted = table[["t_s", column]].dropna()
            if len(plotted):
                axes.plot(
                    plotted["t_s"],
                    plotted[column],
                    color=colour_of(result, name),
                    label=name,
                    alpha=0.85,
                    clip_on=False,
                )
        highest = top or max(float(table[column].max()) for table in by_node.values() if table[column].notna().any())
        axes.set_ylim(0, (highest or 1) * 1.08)
        axes.yaxis.set_major_locator(FixedLocator([0, 50, 100]) if top else MaxNLocator(3, integer=True))
        axes.yaxis.set_major_formatter(GROUPED)
        axes.set_ylabel(label, rotation=0, ha="right", va="center")
        axes.yaxis.set_label_coords(-0.09, 0.5)
    grid[0, 0].set_title(f"Use of the nodes and their engines (means of {width:.0f} s)")
    grid[0, 0].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    grid[-1, 0].set_xlim(0, span[1] - span[0])
    grid[-1, 0].set_xlabel("seconds since the run's start")
    return figure, "Utilisation over time: " + ", ".join(label.replace("\n", " ") for _, label, _ in panels)


def readings(node: str, inputs: Inputs, span: tuple[float, float], width_s: float) -> pd.DataFrame:
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
