"""Verdict, figures and report as pure functions of a benchmark's files: years later, on a laptop, they are the same."""

from pathlib import Path

from harness.errors import BadInput
from harness.files import write_atomic, write_json
from harness.report.load_inputs import output_directory
from harness.report.record import Result, schema

__all__ = ["Result", "output_directory", "report", "schema", "summary"]

FORMATS = ("md", "html", "json")


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
    from harness.report import charts, history, render  # pandas and matplotlib take a second to import
    from harness.report.build import build

    out = output_directory(results)
    built = build(results)
    drawn = charts.draw(built.result, built.journal, built.inputs, out / "charts")
    result = built.result.model_copy(update={"charts": drawn})
    for page_form in FORMATS if form is None else (form,):
        if page_form == "json":
            write_json(out / "result.json", result.model_dump(mode="json"))
        else:
            write_atomic(out / f"report.{page_form}", render.page(result, page_form))
    if form is None:
        write_atomic(out / "junit.xml", render.junit(result))
        history.keep(out / history.BASELINES, built.past, result)
    return result


def summary(result: Result) -> str:
    """The report in a terminal: verdict with reasons, table, findings."""
    from harness.report import render

    return render.summary(result)
