"""What all charts share: colours, style and size, and what a chart's function returns."""

from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from harness.report.record import Result

# Okabe and Ito's palette: told apart with every common kind of colour blindness, and by lightness in grey print.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
TOGETHER, LIMIT, QUIET = "#404040", "#B00020", "#707070"
STYLE: dict[str, Any] = {
    "font.size": 11, "axes.titlesize": 13, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#DDDDDD",
    "grid.linewidth": 0.8, "axes.axisbelow": True, "figure.facecolor": "white", "savefig.facecolor": "white",
    "legend.frameon": False, "lines.linewidth": 1.8, "font.family": "DejaVu Sans",
}  # fmt: skip
GROUPED = StrMethodFormatter("{x:,g}")
WIDTH = 9.0

Drawn = tuple[Figure, str] | str
"""A figure with the text that stands for it, or why there is none."""


def new_figure(rows: int = 1, columns: int = 1, height: float = 3.6, **options: Any) -> tuple[Figure, Any]:
    """A figure of the common width, `height` inches high, with its axes."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots(rows, columns, **options)


def colour_of(result: Result, node: str) -> str:
    """A node has one colour in all charts."""
    return COLOURS[[known.name for known in result.nodes].index(node) % len(COLOURS)]


def readable_on(background: str) -> str:
    """Black or white, whichever reads better on a colour."""
    red, green, blue = (int(background[at : at + 2], 16) / 255 for at in (1, 3, 5))
    return "black" if 0.3 * red + 0.59 * green + 0.11 * blue > 0.5 else "white"
