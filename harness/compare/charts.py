"""Charts of a comparison, as SVG text that goes into the page."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.ticker import MaxNLocator

from harness import report
from harness.compare.comparison import LATENCIES, SPEEDS, Comparison, Word
from harness.compare.history import Entry
from harness.errors import BadInput
from harness.report.chart_style import COLOURS, GROUPED, INK, LIMIT, QUIET, STYLE, new_figure, svg
from harness.report.formats import moment
from harness.report.latency_charts import curve, share_axis

_BASE, _NEW = COLOURS[0], COLOURS[1]
_LABELLED = 30  # with more runs, what changed is only in the table
_HISTORY = ("TTFT p99", "TPOT p99")
_DATES = 9  # as many fit beside each other
_PANELS = (("Time to first token", "ttft_ms"), ("Time per output token", "tpot_ms"), ("End to end", "e2e_ms"))
_MARKS = {Word.FASTER: "^", Word.SLOWER: "v", Word.HIGHER: "^", Word.LOWER: "v"}


def differences(comparison: Comparison) -> str:
    """Each metric's difference in percent with its interval."""
    rows = [row for row in comparison.rows if row.low_percent is not None]
    if not rows:
        return ""
    with style.context(["default", STYLE]):
        figure, axes = new_figure(height=1.4 + 0.34 * len(rows))
        for position, row in enumerate(rows):
            colour = {Word.SLOWER: LIMIT, Word.FASTER: COLOURS[2]}.get(row.word, QUIET)
            axes.plot([row.low_percent, row.high_percent], [position] * 2, color=colour, linewidth=2.4)
            mark = _MARKS.get(row.word, "o")
            axes.plot([row.difference_percent], [position], mark, color=colour, markersize=8, markeredgecolor="white")
        axes.axvline(0, color=INK, linewidth=1)
        axes.set_yticks(range(len(rows)), [f"{row.metric}{'' if row.judged else ' *'}" for row in rows])
        axes.invert_yaxis()
        axes.set_xlabel(
            "difference in % of the base, with its 95 % interval (* says nothing about which side is faster)"
        )
        axes.set_title("Difference by figure")
        return svg(figure, f"Differences: {', '.join(f'{r.metric} {r.difference_percent:+.1f} %' for r in rows)}")


def over_time(group: Sequence[Entry]) -> str:
    """Speed of runs of the same work in their order, and latencies where these were offered a rate, with a line at each
    run before which something changed."""
    offline = group[0].run.asked.scenario == "offline"
    metrics = [one for one in (SPEEDS[0], *LATENCIES) if one is SPEEDS[0] or (one.name in _HISTORY and not offline)]
    lines = [(one, [(at, one.value(entry.run), entry) for at, entry in enumerate(group)]) for one in metrics]
    drawn = [(one, [(at, value, entry) for at, value, entry in line if value is not None]) for one, line in lines]
    panels = [(one, points) for one, points in drawn if len(points) > 1]
    if not panels or panels[0][0] is not SPEEDS[0]:
        return ""
    measured = panels[0][1]
    with style.context(["default", STYLE]):
        figure, grid = new_figure(len(panels), 1, height=1.4 + 1.6 * len(panels), sharex=True, squeeze=False)
        for axes, (metric, points) in zip(grid[:, 0], panels, strict=True):
            labelled = axes is grid[0, 0] and len(measured) <= _LABELLED
            for at, _, entry in measured:
                if entry.changes:
                    _mark_change(axes, at - 0.5, [change.what for change in entry.changes], labelled)
            axes.plot(*zip(*[point[:2] for point in points], strict=True), "-", color=_BASE, linewidth=1, alpha=0.5)
            for name, mark, colour in ((None, "o", _BASE), ("INVALID", "x", LIMIT)):
                shown = [point[:2] for point in points if (point[2].run.verdict.level == "INVALID") is bool(name)]
                if shown:
                    axes.plot(*zip(*shown, strict=True), mark, color=colour, label=name)
                if shown and name and axes is grid[0, 0]:
                    axes.legend(loc="lower right")
            axes.set_ylim(0, max(value for _, value, _ in points) * 1.15 or 1)
            axes.set_ylabel(f"{metric.name} (ms)" if metric.unit == "ms" else f"{metric.name}\n(unverified)")
        axes.set_xticks(*_dates([(at, entry) for at, _, entry in measured]), fontsize=9)
        axes.set_xlabel("runs in their order, with their dates (UTC); dotted: something changed before this run")
        return svg(figure, f"samples/s of {len(measured)} runs, the last {measured[-1][1]:,.2f}")


def _dates(runs: Sequence[tuple[int, Entry]]) -> tuple[list[int], list[str]]:
    """Places and dates of the first run, the last, and those before which something changed, as far as they fit."""
    (first, _), (last, _) = runs[0], runs[-1]
    apart, places = (last - first) / _DATES, [first]
    for at, entry in runs:
        if entry.changes and at - places[-1] >= apart and last - at >= apart:
            places.append(at)
    started = dict(runs)
    places.append(last)
    return places, [moment(started[at].run.created_unix)[:10] for at in places]


def _mark_change(axes: Any, at: float, what: Sequence[str], labelled: bool) -> None:
    axes.axvline(at, color=QUIET, linestyle=":", linewidth=1)
    if labelled:
        label = ", ".join(what[:2]) + ("…" if len(what) > 2 else "")
        place = {"xycoords": ("data", "axes fraction"), "rotation": 90, "fontsize": 8, "color": QUIET}
        axes.annotate(label, (at, 0.02), **place)


def distributions(base: Sequence[Path], new: Sequence[Path]) -> str:
    """How latencies are spread, each run a curve; the scale shows the last hundredth as wide as the rest."""
    journals = [(_journal(folder), side) for side, folders in (("base", base), ("new", new)) for folder in folders]
    curves = [(journal, side) for journal, side in journals if journal is not None and len(journal)]
    if not curves:
        return ""
    with style.context(["default", STYLE]):
        figure, grid = new_figure(1, len(_PANELS), height=4.0, sharey=True)
        for axes, (title, column) in zip(grid, _PANELS, strict=True):
            for journal, side in curves:
                values = journal[column][~np.isnan(journal[column])]
                if len(values) > 1:
                    colour, dashes = (_BASE, "-") if side == "base" else (_NEW, "--")
                    axes.plot(*curve(values), dashes, color=colour, linewidth=1.6, alpha=0.85)
            axes.set_title(title, fontsize=11)
            axes.set_xlabel("ms")
            axes.set_xlim(0, axes.get_xlim()[1])
            axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.xaxis.set_major_formatter(GROUPED)
        share_axis(grid[0], max(len(journal) for journal, _ in curves))
        for side, colour, dashes in (("base", _BASE, "-"), ("new", _NEW, "--")):
            if new:
                grid[-1].plot([], [], dashes, color=colour, label=side)
        if new:
            figure.legend(*grid[-1].get_legend_handles_labels(), loc="outside lower center", ncols=2)
        return svg(figure, f"Distributions of latency of {len(curves)} runs")


def _journal(folder: Path) -> report.Table | None:
    try:
        return report.measured_samples(folder)
    except BadInput:
        return None  # the figures are in the result; only the curve is missing
