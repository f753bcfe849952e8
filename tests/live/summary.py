"""What was measured on a GPU beside what was published of it, as text."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.files import read_json
from harness.report import published
from harness.report.build import NOTICE
from harness.report.formats import moment, number, percent
from harness.report.record import Result

_LONGEST = 400
_HEADINGS = ("weights", "scenario", "verdict", "tokens/s per GPU", "published", "of it")
_HEADINGS += ("samples/s", "tokens/J", "GPU W", "GPU %")


def text(results: Mapping[tuple[str, str], Path], labels: Sequence[str], steps: Mapping[str, Mapping[str, Any]]) -> str:
    """The page.

    Args:
        results: folders of benchmarks with a result, by weights and scenario.
        labels: sentences that say what the figures are not.
        steps: what became of each step, as `Steps` records it.
    """
    records = {
        key: Result.model_validate(read_json(folder / "result.json", "result")) for key, folder in results.items()
    }
    lines = ["# Measured", "", *_machine(records), *labels, f"All figures are unverified. {NOTICE}", ""]
    lines += _table(_HEADINGS, [_row(*key, record) for key, record in records.items()])
    lines += ["", f"Published: {', '.join(sorted(_systems(records))) or 'nothing about this GPU'}; per GPU.", ""]
    for name, step in steps.items():
        lines.append(f"- {name}: {step['state']} after {number(step['seconds'], 0)} s: {_short(step['sentence'])}")
    return "\n".join(lines) + "\n"


def _machine(records: Mapping[tuple[str, str], Result]) -> list[str]:
    """The card, its driver, the engine and the date, from the first result."""
    record = next(iter(records.values()), None)
    if record is None:
        return ["Nothing was measured.", ""]
    machine = record.nodes[0].machine
    gpus = [gpu.name or "unknown GPU" for gpu in machine.gpus]
    cards = ", ".join(f"{gpus.count(name)} × {name}" for name in dict.fromkeys(gpus)) or f"no GPU ({machine.cpu_model})"
    versions = [f"{name} {version}" for name, version in machine.versions.items() if name.startswith("vllm")]
    driver = f"driver {machine.driver}" if machine.driver else "no NVIDIA driver"
    return [f"{cards}; {driver}; {', '.join(versions)}; {moment(record.created_unix)}", ""]


def _row(weights: str, scenario: str, record: Result) -> tuple[str, ...]:
    node = record.nodes[0]
    rate = record.together.tokens_per_s
    each = rate / max(1, len(node.machine.gpus)) if rate is not None else None
    other = _published(record)
    theirs = getattr(other, f"{scenario}_tokens_per_s") if other else None
    power, use = node.telemetry.gpu_power_w, node.telemetry.gpu_util_percent
    compared = (number(each, 0), number(theirs, 0), percent(each / theirs if each is not None and theirs else None))
    others = (record.together.samples_per_s, record.energy.tokens_per_joule)
    telemetry = (number(reading.mean if reading else None, 0) for reading in (power, use))
    return weights, scenario, record.verdict.level.value, *compared, *map(number, others), *telemetry


def _published(record: Result) -> Any:
    gpus = record.nodes[0].machine.gpus
    return published.of(gpus[0].name) if gpus else None


def _systems(records: Mapping[tuple[str, str], Result]) -> set[str]:
    return {other.system for record in records.values() if (other := _published(record))}


def _short(sentence: str) -> str:
    """A sentence on one line, cut where it is very long."""
    line = " ".join(sentence.split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    padded = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in (headings, *rows)]
    lines = [f"| {' | '.join(row)} |" for row in padded]
    return [lines[0], f"|{'|'.join('-' * (width + 2) for width in widths)}|", *lines[1:]]
