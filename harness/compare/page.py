"""The pages of a comparison."""

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, select_autoescape

from harness.compare.comparison import Comparison, Row, needed_runs
from harness.compare.history import Entry, History
from harness.compare.spread import Repeats, Spread
from harness.printable import printable
from harness.report.formats import NONE, cell, moment, number
from harness.report.work import Run, work

INDEX_HEAD = ("run", "verdict", "started", "samples/s", "tokens/s", "TTFT p99 ms", "TPOT p99 ms", "ROUGE-L")
REPEATS_HEAD = ("figure", "median", "standard deviation", "95 % interval of the mean")
HEAD = (
    "figure", "base", "new", "difference", "95 % interval", "result", "smallest difference it would find",
    "runs a side that would tell",
)  # fmt: skip


def page(comparison: Comparison, form: str, charts: tuple[str, ...] = ()) -> str:
    """The comparison as `md` or `html`; `charts` are SVG texts for the latter."""
    values: dict[str, Any] = {"comparison": comparison, "head": HEAD, "rows": _rows(comparison)}
    text: str = _environment(form).get_template(f"compare.{form}.j2").render(**values, charts=charts)
    return text


def _rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """The table; how much runs differ is known by repeats of either side."""
    known = max(len(comparison.base), len(comparison.new)) > 1
    return [(*cells(row), needed_runs(row) if known else NONE) for row in comparison.rows]


def short(comparison: Comparison) -> str:
    """The comparison as short Markdown, for a page on which a CI service shows what came of a job."""
    text: str = (
        _environment("md")
        .get_template("summary.md.j2")
        .render(comparison=comparison, head=HEAD, rows=[cells(row) for row in comparison.rows if row.judged])
    )
    return text


def repeats_page(repeats: Repeats, form: str, charts: tuple[str, ...] = ()) -> str:
    """The repeats of a run as `md` or `html`."""
    values: dict[str, Any] = {
        "repeats": repeats, "head": (*REPEATS_HEAD, *(f"run {at + 1}" for at in range(len(repeats.runs)))),
        "rows": list(map(_spread_cells, repeats.rows)), "charts": charts,
    }  # fmt: skip
    text: str = _environment(form).get_template(f"repeats.{form}.j2").render(**values)
    return text


def _spread_cells(row: Spread) -> tuple[str, ...]:
    digits = _digits(row.unit, row.median)
    return (
        f"{row.metric} (ms)" if row.unit == "ms" else row.metric,
        number(row.median, digits),
        f"{row.deviation_percent:.2f} %",
        f"{number(row.low, digits)} to {number(row.high, digits)}",
        *(number(value, digits) for value in row.values),
    )


def _at_most(percent: float) -> str:
    return f"{percent:.1f} %" if percent < 100 else "over 100 %"


def _digits(unit: str, value: float) -> int:
    return 0 if unit == "ms" and value >= 100 else 2


def _environment(form: str) -> Environment:
    environment = Environment(
        loader=ChoiceLoader([PackageLoader("harness.compare"), PackageLoader("harness.report")]),
        autoescape=select_autoescape((), (), default=form == "html", default_for_string=form == "html"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["cell"] = cell
    return environment


def index(history: History, charts: Sequence[str]) -> str:
    """The page of all runs of a folder; `charts` has an SVG text, or nothing, for each of its groups."""
    groups = [
        {"title": _title(group[0].run), "chart": chart, "rows": list(map(_index_row, reversed(group)))}
        for group, chart in zip(history.groups, charts, strict=True)
    ]
    values = {"groups": groups, "head": INDEX_HEAD, "problems": history.problems, "count": len(history.entries)}
    text: str = _environment("html").get_template("index.html.j2").render(**values)
    return text


def _title(run: Run) -> str:
    same = work(run)
    samples = number(run.asked.samples, 0)
    parts = [
        same["scenario"],
        f"{samples} samples",
        f"mode {same['mode']}",
        f"topology {same['topology']}",
        f"GPUs: {same['GPUs']}",
    ]
    title = str(printable(", ".join(parts)))
    return title[:1].upper() + title[1:]


def _index_row(entry: Entry) -> dict[str, Any]:
    run, document = entry.run, printable(entry.document())
    reports = [f"{run.folder.name}/report.html", f"{run.folder.name}/report/report.html"]
    return {
        "run": document["run_id"],
        "link": next((link for link in reports if (run.folder.parent / link).is_file()), None),
        "more": [
            (name, f"{run.folder.name}/{name}.html")
            for name in ("repeats", "compare")
            if (run.folder / f"{name}.html").is_file()
        ],
        "verdict": document["verdict"],
        "cells": [moment(run.created_unix), *history_cells(document)],
        "changed": changed(entry),
    }


def history_cells(document: Mapping[str, Any]) -> list[str]:
    """Figures of a run of the history: samples/s, tokens/s, TTFT and TPOT p99, ROUGE-L."""
    digits = {"samples_per_s": 2, "tokens_per_s": 0, "ttft_p99_ms": 0, "tpot_p99_ms": 1, "rougeL": 2}
    return [number(document[name], places) for name, places in digits.items()]


def changed(entry: Entry) -> str:
    """What changed since the run before, in a line."""
    if entry.changes is None:
        return "first of this work"
    texts = [f"{one.what}: {one.base[:40]} → {one.new[:40]}" for one in entry.changes]
    return str(printable("; ".join(texts))) or NONE


def table(history: History) -> str:
    """The history in a terminal, oldest first."""
    rows = [(*INDEX_HEAD, "changed since the run before of the same work")]
    for entry in history.entries:
        document = printable(entry.document())
        cells = (moment(entry.run.created_unix), *history_cells(document))
        rows.append((document["run_id"], document["verdict"], *cells, changed(entry)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    lines = [
        "  ".join([*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[-1]]).rstrip()
        for row in rows
    ]
    return "\n".join([*lines, *(f"not readable: {problem}" for problem in history.problems)])


def cells(row: Row) -> tuple[str, ...]:
    """A metric's row of the table, without the number of runs that would tell."""
    interval = NONE
    if row.low_percent is not None and row.high_percent is not None:
        interval = f"{row.low_percent:+.2f} to {row.high_percent:+.2f} %"
    digits = _digits(row.unit, row.base)
    return (
        f"{row.metric}{f' ({row.unit})' if row.unit == 'ms' else ''}{'' if row.judged else ' *'}",
        number(row.base, digits),
        number(row.new, digits),
        f"{row.difference_percent:+.2f} %",
        interval,
        str(row.word),
        NONE if row.smallest_percent is None else _at_most(row.smallest_percent),
    )


def summary(comparison: Comparison) -> str:
    """The comparison in a terminal."""
    table = [HEAD, *_rows(comparison)]
    widths = [max(len(row[column]) for row in table) for column in range(len(HEAD))]
    gate = comparison.gate
    lines = [comparison.sentence, *([f"{'' if gate.certain else 'warning: '}{gate.sentence}"] if gate else []), ""]
    for row in table:
        texts = [
            text.ljust(width) if not at else text.rjust(width)
            for at, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(texts).rstrip())
    lines += ["", f"* {comparison.meaningful}", ""]
    lines += [f"changed: {change.what}: {change.base} → {change.new}" for change in comparison.changes]
    return "\n".join([*lines, *(f"warning: {warning}" for warning in comparison.warnings)]).rstrip()
