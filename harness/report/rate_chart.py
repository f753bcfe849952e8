"""Latency against rate: every attempt of the performance run and every probe of a search."""

from typing import Any, NamedTuple

from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from harness.report.attempts import rate
from harness.report.chart_style import GROUPED, LIMIT, Drawn, new_figure
from harness.report.record import Result, latency_limits

HELD, FAILED = "#0072B2", "#D55E00"
# The shape says whether the limits held, weight and size whether it was a whole attempt: neither needs colour.
MARKS: dict[tuple[bool, bool], tuple[str, dict[str, Any]]] = {
    (True, True): ("attempt, VALID", {"marker": "o", "s": 90, "color": HELD}),
    (True, False): ("attempt, failed", {"marker": "X", "s": 100, "color": FAILED}),
    (False, True): ("probe, limits held", {"marker": "o", "s": 45, "facecolors": "white", "edgecolors": HELD}),
    (False, False): ("probe, failed", {"marker": "x", "s": 40, "color": FAILED}),
}
MOST_LINEAR = 10.0
"""Highest over lowest figure from which on the axis is logarithmic."""


class _Point(NamedTuple):
    name: str
    whole: bool
    held: bool
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
    figure.legend(labels.values(), labels.keys(), loc="outside lower center", ncols=len(labels))
    parts = [f"{point.name} at {rate(point.rate)} samples/s {'held' if point.held else 'failed'}" for point in points]
    return figure, "99th percentiles of latency against the rate sent: " + ", ".join(parts)


def _points(result: Result) -> list[_Point]:
    several = len({attempt.node for attempt in result.attempts} | {peak.node for peak in result.peaks}) > 1
    points = [
        _Point(
            f"{a.node} {a.number}" if several else str(a.number),
            True,
            a.held,
            a.target_qps,
            a.ttft_ms_p99,
            a.tpot_ms_p99,
        )
        for a in result.attempts
    ]
    points += [
        _Point("probe", False, probe.held, probe.target_qps, probe.ttft_ms_p99, probe.tpot_ms_p99)
        for peak in result.peaks
        for probe in peak.probes
    ]
    return [point for point in points if point.ttft_ms is not None or point.tpot_ms is not None]


def _panel(axes: Any, name: str, limit_ms: float, points: list[tuple[_Point, float | None]]) -> None:
    marks = [(point, value) for point, value in points if value is not None]
    for (whole, held), (label, mark) in MARKS.items():
        own = [(point.rate, value) for point, value in marks if (point.whole, point.held) == (whole, held)]
        if own:
            axes.scatter(*zip(*own, strict=True), label=label, linewidths=1.6, zorder=3 if whole else 2, **mark)
    for point, value in marks:
        if point.whole:
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
