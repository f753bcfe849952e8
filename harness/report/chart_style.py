"""What all charts share: colours, style and size, what a chart's function returns, and a figure as SVG text."""

import io
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from harness.report.record import Result

# Okabe and Ito's palette: told apart with every common kind of colour blindness, and by lightness in grey print.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
DASHES: tuple[Any, ...] = ("-", (0, (6, 2)), (0, (2, 1.5)), (0, (6, 2, 1.5, 2)), (0, (10, 3)), (0, (1, 1)))
"""Lines that coincide stay visible through each other's gaps."""
TOGETHER, LIMIT, QUIET, INK, GRID = "#404040", "#B00020", "#707070", "#1C1C1C", "#DDDDDD"
STYLE: dict[str, Any] = {
    "font.size": 11, "axes.titlesize": 13, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": GRID,
    "text.color": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK, "axes.edgecolor": INK,
    "grid.linewidth": 0.8, "axes.axisbelow": True, "figure.facecolor": "white", "savefig.facecolor": "white",
    "legend.frameon": False, "axes.facecolor": "none", "lines.linewidth": 1.8, "font.family": "DejaVu Sans",
}  # fmt: skip
GROUPED = StrMethodFormatter("{x:,g}")
WIDTH = 9.0

Drawn = tuple[Figure, str] | str
"""A figure with the text that stands for it, or why there is none."""


def new_figure(rows: int = 1, columns: int = 1, height: float = 3.6, **options: Any) -> tuple[Figure, Any]:
    """A figure of the common width, `height` inches high, with its axes."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots(rows, columns, **options)


MOST_COLOURED = len(COLOURS)
"""With more nodes than colours their lines become a shaded range and a median."""


def colour_of(result: Result, node: str) -> str:
    """A node has one colour in all charts; with more nodes than colours all have the same."""
    if len(result.nodes) > MOST_COLOURED:
        return COLOURS[0]
    return COLOURS[[known.name for known in result.nodes].index(node)]


Line = tuple[Any, Any]
"""x and y of a line, equally long arrays; NaN where there is a gap."""


def draw_nodes(axes: Any, result: Result, lines: Mapping[str, Line], marker: str = "") -> None:
    """Draw a line for each node; of more nodes than colours the median and the range from lowest to highest."""
    if len(lines) <= MOST_COLOURED:
        for at, (name, (x, y)) in enumerate(lines.items()):
            style = {"color": colour_of(result, name), "linestyle": DASHES[at], "marker": marker}
            axes.plot(x, y, **style, label=name, alpha=0.9)
        return
    places = np.unique(np.concatenate([np.asarray(x, dtype=float) for x, _ in lines.values()]))
    table = np.full((len(lines), len(places)), np.nan)
    for row, (x, y) in zip(table, lines.values(), strict=True):
        row[np.searchsorted(places, x)] = y
    known = ~np.isnan(table).all(axis=0)
    low, middle, high = np.full((3, len(places)), np.nan)
    for line, function in ((low, np.nanmin), (middle, np.nanmedian), (high, np.nanmax)):
        line[known] = function(table[:, known], axis=0)
    axes.fill_between(places, low, high, color=COLOURS[0], alpha=0.25, linewidth=0, label="lowest to highest")
    axes.plot(places, middle, color=COLOURS[0], marker=marker, label=f"median of {len(lines)} nodes")


MOST_POINTS = 2000
"""Of more points than these, each pixel's minimum, median, p99 and maximum are drawn."""
_PIXELS = 700


class Pixels(NamedTuple):
    """Many points as a few: of each column of pixels that has points its place and what lies in it."""

    x: Any
    low: Any
    median: Any
    p99: Any
    high: Any


def pixels(x: Any, y: Any) -> Pixels:
    """Group points, equally long arrays without NaN, by the column of pixels that they fall into."""
    edges = np.linspace(float(np.min(x)), float(np.max(x)), _PIXELS + 1)
    column = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, _PIXELS - 1)
    order = np.argsort(column, kind="stable")
    columns, starts = np.unique(column[order], return_index=True)
    groups = np.split(np.asarray(y)[order], starts[1:])
    rows = [(group.min(), np.median(group), np.percentile(group, 99, method="higher"), group.max()) for group in groups]
    return Pixels((edges[columns] + edges[columns + 1]) / 2, *np.array(rows).T)


# A page shows these in its own colours, which follow the reader's choice of light or dark.
_THEME = {INK: "ink", GRID: "line", QUIET: "quiet", LIMIT: "limit", TOGETHER: "together"} | {
    colour: f"c{number}" for number, colour in enumerate(COLOURS)
}


def svg(figure: Figure, title: str) -> str:
    """A figure as SVG that goes into a page: text is text, `title` is what a screen reader says."""
    stream = io.StringIO()
    with style.context({"svg.fonttype": "none", "svg.hashsalt": title}):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None}, facecolor="none")
    text = re.sub(r"<metadata>.*?</metadata>", "", stream.getvalue(), flags=re.S)
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text)  # known inside HTML
    text = re.sub(r"<!--.*?-->\s*", "", text)
    text = re.sub(r'<g id="[^"]*">', "<g>", text)  # the same in every chart, and used by none
    for colour, name in _THEME.items():
        text = text.replace(colour.lower(), f"var(--{name})")
    escaped = title.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    start = re.compile(r'<svg ([^>]*?)width="[^"]*" height="[^"]*"([^>]*)>')
    return start.sub(rf'<svg role="img" \1\2><title>{escaped}</title>', text[text.index("<svg") :], count=1)
