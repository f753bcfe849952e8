"""Verdict, figures and report as pure functions of a benchmark's files: years later, on a laptop, they are the same."""

from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import BadInput
from harness.files import read_json, write_atomic, write_json
from harness.printable import printable
from harness.report.accuracy_rules import GATE, REFERENCE_CHARACTERS, REFERENCE_ROUGE
from harness.report.input_models import EngineFile
from harness.report.journals import Table
from harness.report.load_inputs import Inputs, output_directory
from harness.report.load_inputs import load as files
from harness.report.machines import EngineSettings, Machine, machine_fields
from harness.report.record import Chart, Reason, Result, schema

if TYPE_CHECKING:
    from harness.report.build import Built

__all__ = [
    "COMPARISON",
    "GATE",
    "REFERENCE_CHARACTERS",
    "REFERENCE_ROUGE",
    "REPEATS",
    "EngineFile",
    "EngineSettings",
    "Inputs",
    "Machine",
    "Reason",
    "Result",
    "Table",
    "files",
    "judged",
    "machine_fields",
    "measured_samples",
    "output_directory",
    "report",
    "schema",
    "summary",
    "write_junit",
]

FORMATS = ("md", "html", "json")
COMPARISON, REPEATS = "compare.json", "repeats.json"


def report(results: Path, form: str | None = None) -> Result:
    """Judge a benchmark from its files and write its report.

    Args:
        results: `results/<run_id>`, or the run directory of a lone `harness run`.
        form: "md", "html" or "json" for that page alone (with the charts it shows); None for everything.

    Raises:
        BadInput: `results` holds no benchmark, or `form` is unknown.
    """
    if form not in (None, *FORMATS):
        raise BadInput(f"format {form!r} is unknown; choose {', '.join(FORMATS)}")
    from harness.report import history, prometheus, render
    from harness.report.build import build

    out = output_directory(results)
    built = build(results)
    charts, pictures = _drawn(built, out / "charts")
    result = built.result.model_copy(update={"charts": charts})
    for page_form in FORMATS if form is None else (form,):
        if page_form == "json":
            write_json(out / "result.json", result.model_dump(mode="json"))
        else:
            write_atomic(out / f"report.{page_form}", render.page(result, page_form, pictures))
    if form is None:
        write_junit(out)
        write_atomic(out / "result.prom", prometheus.text(result))
        history.keep(out / history.BASELINES, built.past, result)
    return result


def write_junit(folder: Path) -> None:
    """Write junit.xml from result.json and, where the run was compared with a baseline, from compare.json.

    Raises:
        BadInput: one of them is damaged.
    """
    from harness.report import render

    # Another run's names come with a comparison.
    result = Result.model_validate(printable(read_json(folder / "result.json", "result")))
    compared = printable(read_json(folder / COMPARISON, "comparison")) if (folder / COMPARISON).exists() else {}
    write_atomic(folder / "junit.xml", render.junit(result, compared if isinstance(compared, dict) else {}))


def judged(results: Path) -> tuple[Result, Inputs]:
    """The record of a benchmark without charts, and the files it was made from; writes nothing. Raises as `report`."""
    from harness.report.build import build

    built = build(results)
    return built.result, built.inputs


def measured_samples(results: Path) -> Table:
    """The answered samples of the run that was measured (performance where there was one), see `tables.journal`.

    Raises:
        BadInput: as `report`.
    """
    from harness.report import figures, tables
    from harness.report.load_inputs import load

    loadgens = load(results).loadgens
    rows = tables.journal(loadgens)
    measured: Table = rows[rows["mode"] == figures.measured(loadgens, rows)]
    return measured


def _drawn(built: "Built", folder: Path) -> tuple[tuple[Chart, ...], dict[str, str]]:
    """The charts and their SVG texts; on a node, which has no matplotlib, what they need."""
    try:
        from harness.report import charts  # matplotlib takes a second to import
    except ModuleNotFoundError as missing:
        why = f"{missing.name} is not installed here; `harness report` on the controller draws it from a copy"
        return (Chart(name="all", title="of any kind", alt="", file=None, absent=why),), {}
    return charts.draw(built.result, built.journal, built.inputs, folder)


def summary(result: Result) -> str:
    """The report in a terminal: verdict with reasons, table, findings."""
    from harness.report import render

    return render.summary(result)
