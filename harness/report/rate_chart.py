"""Latency against rate: every attempt of the performance run and every probe of a search."""

from typing import Any, NamedTuple

from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from harness.attempt_record import rate
from harness.report.chart_style import GROUPED, LIMIT, Drawn, new_figure
from harness.report.record import Result, latency_limits

HELD, FAILED = "#0072B2", "#D55E00"
# The shape says how it went, weight and size whether it was an attempt or a probe: neither needs colour.
MARKS: dict[str, dict[str, Any]] = {
    "attempt, VALID": {"marker": "o", "s": 90, "color": HELD},
    "attempt, failed": {"marker": "X", "s": 100, "color": FAILED},
    # Queries that still waited for their first token are not in the figures of what ended early, so these are too low.
    "attempt, ended early: at least": {"marker": "^", "s": 90, "color": FAILED},
    "probe, could still be VALID": {"marker": "o", "s": 45, "facecolors": "white", "edgecolors": HELD},
    "probe, failed: at least": {"marker": "x", "s": 40, "color": FAILED},
}
_LEGEND_COLUMNS = 3  # more would not fit into the width
MOST_LINEAR = 10.0
"""Highest over lowest figure from which on the axis is logarithmic."""


class _Point(NamedTuple):
    name: str | None
    mark: str
    rate: float
    ttft_ms: float | None
    tpot_ms: float | None


def latency_against_rate(result: Result) -> Drawn:
    """99th percentiles of TTFT and TPOT over the rate sent, with the limits as lines."""
    points = _points(result)
    limits = latency_limits(result.asked)
    if limits is None:
        return "the scenario has no rate"
    if len(points) < 2:
        return "there was one rate only"
    figure, (left, right) = new_figure(1, 2, height=4.5)
    _panel(left, "TTFT", limits[0], [(point, point.ttft_ms) for point in points])
    _panel(right, "TPOT", limits[1], [(point, point.tpot_ms) for point in points])
    labels = {
        text: handle for axes in (left, right) for handle, text in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.suptitle("Latency at the 99th percentile against the rate sent", x=0.01, ha="left", fontweight="bold")
    figure.legend(labels.values(), labels.keys(), loc="outside lower center", ncols=_LEGEND_COLUMNS)
    parts = [f"{rate(point.rate)} samples/s ({point.mark})" for point in points]
    return figure, "99th percentiles of latency against the rate sent: " + ", ".join(parts)


def _points(result: Result) -> list[_Point]:
    several = len({attempt.node for attempt in result.attempts} | {peak.node for peak in result.peaks}) > 1
    points = []
    for attempt in (attempt for attempt in result.attempts if not attempt.engine_lost):
        name = f"{attempt.node} {attempt.number}" if several else str(attempt.number)
        mark = "VALID" if attempt.held else "ended early: at least" if attempt.ended_early else "failed"
        figures = (attempt.target_qps, attempt.ttft_ms_p99, attempt.tpot_ms_p99)
        points.append(_Point(name, f"attempt, {mark}", *figures))
    probes = (probe for peak in result.peaks for probe in peak.probes)
    for probe in (probe for probe in probes if not probe.engine_lost):
        mark = "could still be VALID" if probe.held else "failed: at least"
        points.append(_Point(None, f"probe, {mark}", probe.target_qps, probe.ttft_ms_p99, probe.tpot_ms_p99))
    return [point for point in points if point.ttft_ms is not None or point.tpot_ms is not None]


def _panel(axes: Any, name: str, limit_ms: float, points: list[tuple[_Point, float | None]]) -> None:
    marks = [(point, value) for point, value in points if value is not None]
    for label, mark in MARKS.items():
        own = [(point.rate, value) for point, value in marks if point.mark == label]
        if own:
            axes.scatter(*zip(*own, strict=True), label=label, linewidths=1.6, zorder=3, **mark)
    for point, value in marks:
        if point.name:
            # Latency grows with the rate, so the upper left of a point is the emptiest corner.
            place = {"textcoords": "offset points", "xytext": (-8, 4), "ha": "right"}
            axes.annotate(point.name, (point.rate, value), fontsize=9.5, **place)
    axes.axhline(limit_ms, color=LIMIT, linestyle="--", linewidth=1.4)
    rates, values = [point.rate for point, _ in marks], [limit_ms, *(value for _, value in marks)]
    if min(values) > 0 and max(values) > MOST_LINEAR * min(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_ylim(min(values) / 1.6, max(values) * 1.8)
    else:
        axes.set_ylim(0, max(values) * 1.15)
    axes.text(
        0.01,
        limit_ms,
        f"limit {limit_ms:,.0f} ms",
        color=LIMIT,
        va="bottom",
        fontsize=9.5,
        transform=axes.get_yaxis_transform(),
    )
    if rates:
        margin = (max(rates) - min(rates)) * 0.12 or max(rates) * 0.1
        axes.set_xlim(min(rates) - margin, max(rates) + margin)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.yaxis.set_major_formatter(GROUPED)
    axes.set_title(f"{name} (ms)", fontsize=11, fontweight="normal")
    axes.set_xlabel("samples/s sent")
