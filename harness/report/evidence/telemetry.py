"""Telemetry holds readings. No verdict rests on them, but figures do."""

import csv
import math
from collections.abc import Iterator
from pathlib import Path

from harness.report.load_inputs import Inputs
from harness.report.record import Reason
from harness.report.rules import Rule
from harness.report.tables import TELEMETRY_NUMBERS


def reasons(inputs: Inputs) -> Iterator[Reason]:
    """Telemetry files that are damaged."""
    files = [engine.telemetry for engine in inputs.engines if engine.telemetry]
    files += [run.path / "telemetry.csv" for run in inputs.loadgens]
    for path in files:
        if path.is_file() and (what := _damage(path)):
            yield Rule.FILES_WHOLE.reason(what=f"{inputs.shown(path)} {what}; fetch it again from its node")


def _damage(path: Path) -> str | None:
    """What is wrong, in words. A last line without its end is that of a process that was killed."""
    try:
        text = path.read_bytes().decode()
    except UnicodeDecodeError:
        return "is not UTF-8"
    names: list[str] = []
    reader = csv.reader(text[: text.rfind("\n") + 1].splitlines())
    try:
        for row in reader:
            if not names and "unix_s" not in row:
                return "does not begin with the names of its columns"
            if names and not _is_reading(dict(zip(names, row, strict=True))):
                return f"line {reader.line_num} is damaged"
            names = names or row
    except (csv.Error, ValueError):
        return f"line {reader.line_num} is damaged"
    return None


def _is_reading(line: dict[str, str]) -> bool:
    """Whether its time is a number, and every other figure is, where there is one; ValueError means no, too."""
    numbers = {name: float(line[name]) for name in TELEMETRY_NUMBERS if line.get(name)}
    return math.isfinite(numbers.get("unix_s", math.nan))
