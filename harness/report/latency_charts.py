"""Charts of latency: distributions with a tail that can be read, each request over time, and by length of the input."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from harness.percentiles import percentile
from harness.report.chart_style import (
    COLOURS,
    GROUPED,
    LIMIT,
    MOST_COLOURED,
    MOST_POINTS,
    TOGETHER,
    Drawn,
    draw_nodes,
    new_figure,
    pixels,
)
from harness.report.journals import Table
from harness.report.record import Latency, Result, latency_limits

_CURVE = 400  # points of one distribution
_BINS = 12
_SHARES = {1: "all", 0.5: "p50", 0.1: "p90", 0.01: "p99", 0.001: "p99.9", 0.0001: "p99.99"}


def curve(values: Any) -> tuple[Any, Any]:
    """A distribution as a line: latencies, and the share of samples that are at least as slow. The shares are spaced
    evenly on a logarithmic scale, so that the slowest hundredth has as many points as the rest."""
    ordered = np.sort(values)
    shares = np.geomspace(1, 1 / len(ordered), min(_CURVE, len(ordered)))
    at = np.minimum(((1 - shares) * len(ordered)).round().astype(int), len(ordered) - 1)
    return ordered[at], shares


def share_axis(axes: Any, most: int) -> None:
    """A vertical axis on which p99 and p99.9 lie as far apart as p90 and p99; of `most` samples, what they can show."""
    axes.set_yscale("log")
    axes.set_ylim(1.15, max(0.8 / most, 0.00005))
    shown = {share: name for share, name in _SHARES.items() if share * most >= 1 or share == 1}
    axes.set_yticks(list(shown), list(shown.values()))
    axes.minorticks_off()


def distributions(result: Result, rows: Table) -> Drawn:
    """How TTFT, TPOT and end to end are spread over the samples, of each node and together."""
    limits = latency_limits(result.asked) or (None, None)
    figures = result.together
    panels = [
        ("Time to first token", "ttft_ms", limits[0], figures.ttft),
        ("Time per output token", "tpot_ms", limits[1], figures.tpot),
        ("End to end", "e2e_ms", None, figures.end_to_end),
    ]
    panels = [panel for panel in panels if (~np.isnan(rows[panel[1]])).sum() > 1]
    if not panels:
        return "the journal holds no finished samples"
    figure, grid = new_figure(1, len(panels), height=4.6, squeeze=False, sharey=True)
    texts = []
    for axes, (title, column, limit, logged) in zip(grid[0], panels, strict=True):
        _distribution(axes, result, rows, column, limit)
        text = _percentiles(rows[column], logged)
        axes.set_title(f"{title}\n{text}", fontsize=10.5)
        texts.append(f"{title} {text}".replace("\n", ", "))
    share_axis(grid[0][0], len(rows))
    handles, labels = grid[0][0].get_legend_handles_labels()
    if len(labels) > 1:
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 4))
    return figure, "Latency distributions: " + "; ".join(texts)


def _percentiles(values: Any, logged: Latency | None) -> str:
    """The percentiles of the curve, and LoadGen's where it counts from another moment."""
    parts = [f"p{percent} {ms(percentile(values, percent))}" for percent in (50, 99)]
    loadgen = f"\nLoadGen’s p99 {ms(logged.p99_ms)}" if logged and logged.source == "LoadGen" else "\n"
    return ", ".join(parts) + loadgen


def _distribution(axes: Any, result: Result, rows: Table, column: str, limit: float | None) -> None:
    known = rows[~np.isnan(rows[column])]
    if len(result.nodes) > 1:
        axes.plot(*curve(known[column]), color=TOGETHER, linewidth=3, alpha=0.45, label="together")
    own = {node.name: known[column][known["node"] == node.name] for node in result.nodes}
    lines = {name: curve(values) for name, values in own.items() if len(values)}
    if len(lines) <= MOST_COLOURED:
        draw_nodes(axes, result, lines)
    else:
        _range(axes, own)
    right = float(np.max(known[column])) * 1.08 or 1.0
    if limit is not None and limit <= 2 * right:
        right = max(right, limit * 1.05)
        axes.axvline(limit, color=LIMIT, linestyle="--", linewidth=1.4)
        side = "left" if limit < right / 2 else "right"
        axes.text(limit, 0.95, f" limit {limit:,.0f} ms ", color=LIMIT, ha=side, va="top", fontsize=9.5)
    elif limit is not None:
        axes.text(right, 0.95, f"limit {limit:,.0f} ms → ", color=LIMIT, ha="right", va="top", fontsize=9.5)
    axes.set_xlim(0, right)
    axes.set_xlabel("ms")
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(GROUPED)


def _range(axes: Any, own: Mapping[str, Any]) -> None:
    """Many nodes: from the fastest to the slowest at each share."""
    shares = np.geomspace(1, 0.001, 100)
    table = np.array([np.quantile(values, 1 - shares) for values in own.values() if len(values)])
    axes.fill_betweenx(
        shares, table.min(axis=0), table.max(axis=0), color=COLOURS[0], alpha=0.25, linewidth=0,
        label=f"fastest to slowest of {len(own)} nodes",
    )  # fmt: skip


def over_time(result: Result, rows: Table, span: tuple[float, float] | None) -> Drawn:
    """TTFT of each request over `span` (unix seconds), with its limit; of many requests each pixel's range."""
    if span is None or len(rows) < 2:
        return "the run did not finish"
    x, y = rows["issued_unix"] - span[0], rows["ttft_ms"]
    figure, axes = new_figure(height=3.6)
    if len(rows) <= MOST_POINTS:
        axes.plot(x, y, "o", color=COLOURS[0], markersize=3, alpha=0.6, markeredgewidth=0, label="a request")
    else:
        seen = pixels(x, y)
        axes.fill_between(
            seen.x, seen.low, seen.high, color=COLOURS[0], alpha=0.25, linewidth=0, label="lowest to highest"
        )
        axes.plot(seen.x, seen.p99, color=COLOURS[5], linewidth=1, label="p99")
        axes.plot(seen.x, seen.median, color=COLOURS[0], linewidth=1.2, label="median")
    top = float(np.max(y)) * 1.12 or 1.0
    limit = (latency_limits(result.asked) or (None,))[0]
    if limit is not None and limit < 3 * top:
        top = max(top, limit * 1.12)
        axes.axhline(limit, color=LIMIT, linestyle="--", linewidth=1.4)
        axes.text(0, limit, f" limit {limit:,.0f} ms", color=LIMIT, va="bottom", fontsize=9.5)
    axes.set_ylim(0, top)
    axes.set_xlim(0, span[1] - span[0])
    axes.yaxis.set_major_formatter(GROUPED)
    axes.set_xlabel("seconds since the run's start, when the request was issued")
    axes.set_ylabel("TTFT (ms)")
    text = f"p50 {ms(percentile(y, 50))}, p99 {ms(percentile(y, 99))}, longest {ms(float(np.max(y)))}"
    far = f"; limit {limit:,.0f} ms" if limit else ""
    axes.set_title(f"TTFT of each request: {text}{far}", fontsize=11.5)
    if len(rows) > MOST_POINTS:
        figure.legend(loc="outside lower center", ncols=3)
    return figure, f"Time to first token of {len(rows):,} requests over time: {text}{far}"


def by_input(rows: Table) -> Drawn:
    """TTFT and TPOT by the length of the input: median and 99th percentile of bins with equally many requests."""
    known = rows[(rows["n_input"] > 0) & ~np.isnan(rows["ttft_ms"])]
    if len(np.unique(known["n_input"])) < 2:
        return "the journal holds no lengths of inputs"
    known = known[np.argsort(known["n_input"], kind="stable")]
    bins = np.array_split(known, max(2, min(_BINS, len(known) // 10)))
    figure, grid = new_figure(1, 2, height=3.8)
    for axes, title, column in zip(grid, ("TTFT", "TPOT"), ("ttft_ms", "tpot_ms"), strict=True):
        x = [float(np.median(group["n_input"])) for group in bins]
        for percent, colour, mark, dash in ((99, COLOURS[5], "s", DASH), (50, COLOURS[0], "o", "-")):
            y = [percentile(group[column][~np.isnan(group[column])], percent) for group in bins]
            axes.plot(
                x, y, mark, linestyle=dash, color=colour, markersize=5, label="median" if percent == 50 else "p99"
            )
        axes.set_ylim(0, None)
        axes.set_xlim(0, None)
        axes.set_title(f"{title} (ms)", fontsize=11)
        axes.set_xlabel("tokens of the input")
        axes.xaxis.set_major_formatter(GROUPED)
        axes.yaxis.set_major_formatter(GROUPED)
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure, (
        f"Latency by length of the input, from {known['n_input'].min():,} to {known['n_input'].max():,} tokens, in "
        f"{len(bins)} bins with equally many requests"
    )


DASH = (0, (5, 2))


def ms(value: float | None) -> str:
    """Milliseconds, with one decimal below 100."""
    return "–" if value is None else f"{value:,.0f} ms" if value >= 100 else f"{value:,.1f} ms"
