"""How figures are written, on every page and in the terminal."""

from datetime import UTC, datetime
from typing import Any

from harness.printable import printable
from harness.report.machines import Usage
from harness.report.record import Latency

NONE = "–"


def number(value: float | None, digits: int = 2) -> str:
    """A figure with thousands separated; None, not measured, is a dash and never a zero."""
    return NONE if value is None else f"{value:,.{digits}f}"


def percent(value: float | None) -> str:
    """A ratio as a percentage."""
    return NONE if value is None else f"{100 * value:.0f} %"


def milliseconds(latency: Latency | None) -> str:
    """Median, 90th and 99th percentile."""
    if latency is None:
        return NONE
    values = (latency.p50_ms, latency.p90_ms, latency.p99_ms)
    return " / ".join(number(value, 0 if value >= 100 else 1) for value in values)


def hours(value: float | None) -> str:
    """Hours with two digits below ten, one above."""
    return NONE if value is None else number(value, 2 if value < 10 else 1)


def moment(unix: float | None) -> str:
    """Unix seconds as UTC."""
    return NONE if unix is None else datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def usage(value: Usage | None, digits: int = 0) -> str:
    """Mean and peak."""
    return NONE if value is None else f"{number(value.mean, digits)} / {number(value.peak, digits)}"


def short(value: Any) -> str:
    """A hash by its first twelve digits, anything else as it is, None as a dash."""
    if value is None or value in ("", (), {}):
        return NONE
    text = str(value)
    return text[:12] if len(text) == 64 else text


def switched(value: bool | None) -> str:
    """On, off, or a dash for a setting that the running server did not show."""
    return NONE if value is None else "on" if value else "off"


def cell(text: str) -> str:
    """Text inside a Markdown table or list: one line, no bar that would end the cell, no HTML, no link or image."""
    line = " ".join(str(printable(text)).split()).replace("|", "\\|")
    return line.replace("&", "&amp;").replace("<", "&lt;").replace("](", "]\\(")
