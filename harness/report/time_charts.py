"""Charts over time: samples sent and finished, requests in flight, and the use of nodes, engines and GPUs."""

from typing import Any, NamedTuple

import numpy as np
from matplotlib.ticker import FixedLocator, MaxNLocator

from harness.report import tables
from harness.report.chart_style import (
    COLOURS,
    GROUPED,
    LIMIT,
    MOST_COLOURED,
    MOST_POINTS,
    QUIET,
    TOGETHER,
    Drawn,
    colour_of,
    draw_nodes,
    new_figure,
    pixels,
)
from harness.report.figures import NO_THROTTLE
from harness.report.journals import Table
from harness.report.load_inputs import Inputs
from harness.report.nodes import telemetry_files
from harness.report.record import Result


def throughput(result: Result, rows: Table, span: tuple[float, float] | None) -> Drawn:
    """Samples sent and finished per second, together and of each node, over `span` (unix seconds)."""
    if span is None or len(rows) < 2 or span[1] - span[0] < 2:
        return "the run was shorter than 2 s or did not finish"
    width = max(1.0, round((span[1] - span[0]) / 60))
    figure, axes = new_figure(height=3.8)
    done, edges = tables.per_second(rows["done_unix"], span, width)
    lines = {}
    for node in result.nodes if len(result.nodes) > 1 else ():
        own, _ = tables.per_second(rows["done_unix"][rows["node"] == node.name], span, width)
        steps = np.repeat(edges, 2)[1:-1], np.repeat(own, 2)
        lines[node.name] = steps if len(result.nodes) <= MOST_COLOURED else ((edges[:-1] + edges[1:]) / 2, own)
    highest = float(done.max())
    if result.asked.scenario != "offline":  # which sends everything at once
        sent, _ = tables.per_second(rows["issued_unix"], span, width)
        axes.stairs(sent, edges, color=QUIET, linestyle="--", label="sent", linewidth=1.4)
        highest = max(highest, float(sent.max()))
    axes.stairs(done, edges, color=TOGETHER, label="answered", linewidth=2.2)
    if lines:
        draw_nodes(axes, result, lines)
    axes.set_xlim(0, span[1] - span[0])
    axes.set_ylim(0, highest * 1.12 or 1)
    axes.set_xlabel("seconds since the run's start")
    axes.set_ylabel("samples/s")
    axes.set_title(f"Samples answered per second, up to {float(done.max()):,.1f} (means of {width:.0f} s)")
    figure.legend(loc="outside lower center", ncols=6)
    return figure, f"Samples per second over {span[1] - span[0]:.0f} s, at most {float(done.max()):.1f} answered"


_ROUNDING_MS = 0.01
"""A stamp of today is known to a quarter of a microsecond, and a difference of two to less."""


def in_flight(rows: Table, span: tuple[float, float] | None) -> Drawn:
    """Requests that were sent and not yet answered, and samples that waited in the client to be sent."""
    if span is None or len(rows) < 2:
        return "the run did not finish"
    issued, done, queue_ms = rows["issued_unix"], rows["done_unix"], rows["queue_ms"]
    sent = issued + np.where(queue_ms > _ROUNDING_MS, queue_ms, 0) / 1e3
    figure, axes = new_figure(height=3.4)
    flying = _draw_count(axes, span, sent, done, "in flight", COLOURS[0], "-")
    waiting = _draw_count(axes, span, issued, sent, "waiting in the client", COLOURS[5], (0, (4, 2)))
    axes.set_xlim(0, span[1] - span[0])
    axes.set_ylim(0, max(float(flying.max()), float(waiting.max()), 1) * 1.12)
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_formatter(GROUPED)
    axes.set_xlabel("seconds since the run's start")
    axes.set_ylabel("requests")
    text = f"up to {flying.max():,.0f} in flight, up to {waiting.max():,.0f} waiting in the client"
    axes.set_title(f"Requests: {text}")
    figure.legend(loc="outside lower center", ncols=2)
    return figure, f"Requests over time: {text}"


def _draw_count(
    axes: Any, span: tuple[float, float], begin: tables.Floats, end: tables.Floats, name: str, colour: str, dashes: Any
) -> tables.Floats:
    """Draw how many were between their begin and their end (unix seconds); the counts after each of these events."""
    known = ~np.isnan(begin) & ~np.isnan(end)
    stamps = np.concatenate([begin[known], end[known], [span[1]]])
    moments, place = np.unique(np.clip(stamps, *span), return_inverse=True)
    change = np.concatenate([np.ones(known.sum()), -np.ones(known.sum()), [0.0]])
    counts = np.cumsum(np.bincount(place, change), dtype=float)
    style = {"color": colour, "linestyle": dashes, "label": name}
    if len(moments) <= MOST_POINTS:
        axes.plot(moments - span[0], counts, drawstyle="steps-post", **style)
    else:
        seen = pixels(moments - span[0], counts)
        axes.fill_between(seen.x, seen.low, seen.high, color=colour, alpha=0.25, linewidth=0)
        axes.plot(seen.x, seen.p99, color=colour, linewidth=0.8, alpha=0.7, label=f"{name}, p99")
        axes.plot(seen.x, seen.median, **style)
    return counts


PANELS = (
    ("cpu_percent", "processor\n(%)", 100.0),
    ("memory_used_gib", "memory\n(GiB)", None),
    ("gpu_util_percent", "GPU busy\n(%)", 100.0),
    ("gpu_power_w", "GPU power\n(W)", None),
    ("gpu_sm_clock_mhz", "GPU clock\n(MHz)", None),
    ("gpu_temperature_c", "GPU temp.\n(°C)", None),
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
    panels = [panel for panel in PANELS if any(len(table[panel[0]].seconds) > 1 for table in by_node.values())]
    if not panels:
        return "telemetry has fewer than two readings during the run"
    figure, grid = new_figure(len(panels), 1, height=1.6 + 1.15 * len(panels), squeeze=False, sharex=True)
    throttled = 0
    for axes, (column, label, top) in zip(grid[:, 0], panels, strict=True):
        seen = {name: table[column] for name, table in by_node.items() if len(table[column].seconds)}
        draw_nodes(axes, result, {name: (one.seconds, one.mean) for name, one in seen.items()})
        for name, one in seen.items() if len(seen) <= MOST_COLOURED else ():
            colour = colour_of(result, name)
            axes.fill_between(one.seconds, one.low, one.high, color=colour, alpha=0.2, linewidth=0)
        highest = top or max(float(np.nanmax(one.high)) for one in seen.values())
        if column == "gpu_sm_clock_mhz":
            seconds = np.unique(np.concatenate([table["throttled"].seconds for table in by_node.values()]))
            axes.plot(seconds, np.zeros(len(seconds)), "|", color=LIMIT, markersize=9, clip_on=False)
            throttled = len(seconds)
        axes.set_ylim(0, (highest or 1) * 1.08)
        axes.yaxis.set_major_locator(FixedLocator([0, 50, 100]) if top else MaxNLocator(3, integer=True))
        axes.yaxis.set_major_formatter(GROUPED)
        axes.set_ylabel(label, rotation=0, ha="right", va="center")
        axes.yaxis.set_label_coords(-0.09, 0.5)
    marked = f"; red: {throttled} s with a GPU throttled" if throttled else ""
    grid[0, 0].set_title(
        f"Use of nodes and engines (means of {width:.0f} s, shaded: lowest to highest{marked})", fontsize=11.5
    )
    if len(result.nodes) > 1:
        figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
    grid[-1, 0].set_xlim(0, span[1] - span[0])
    grid[-1, 0].set_xlabel("seconds since the run's start")
    return figure, "Utilisation over time: " + ", ".join(label.replace("\n", " ") for _, label, _ in panels)


class Readings(NamedTuple):
    """Of one reading what was measured in equal times that begin at these seconds; NaN where there is a gap."""

    seconds: tables.Floats
    mean: tables.Floats
    low: tables.Floats
    high: tables.Floats


def readings(node: str, inputs: Inputs, span: tuple[float, float], width_s: float) -> dict[str, Readings]:
    """Each panel's reading in times of `width_s` since the span's start; engines' queues are added up."""
    table = tables.readings(telemetry_files(node, inputs), span)
    engines = {engine.file.name for engine in inputs.engines if engine.node == node}
    together = tables.queues(table, engines or tables.names(table["engine"][table["engine"] != ""]))
    series = {column: tables.by_second(table, column) for column, _, _ in PANELS}
    series |= {column: (together.seconds, getattr(together, column)) for column in tables.Queues._fields[1:]}
    lines = {column: _means(seconds - span[0], values, width_s) for column, (seconds, values) in series.items()}
    slowed = np.array([str(why or "").strip().lower() not in NO_THROTTLE for why in table["gpu_throttle"]], dtype=bool)
    at = np.unique(np.round(table["unix_s"][slowed])) - span[0]
    return lines | {"throttled": Readings(at, *[np.zeros(len(at))] * 3)}


_GAP_S = 5.0
"""Without a reading for longer than this, a line has a gap."""


def _means(seconds: tables.Floats, values: tables.Floats, width_s: float) -> Readings:
    known = ~np.isnan(values)
    starts, place = np.unique((seconds[known].round() // width_s) * width_s, return_inverse=True)
    low, high = np.full(len(starts), np.inf), np.full(len(starts), -np.inf)
    np.minimum.at(low, place, values[known])
    np.maximum.at(high, place, values[known])
    means = np.bincount(place, values[known]) / np.bincount(place)
    gaps = np.flatnonzero(np.diff(starts) > max(_GAP_S, 2 * width_s)) + 1
    figures = (np.insert(one, gaps, np.nan) for one in (means, low, high))
    return Readings(np.insert(starts, gaps, (starts[gaps - 1] + width_s)), *figures)
