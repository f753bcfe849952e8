"""The right half: pure functions of a benchmark's files, so a report can be built again years later on a laptop."""

from pathlib import Path
from typing import Literal

from harness.errors import BadInput
from harness.files import write_atomic, write_json
from harness.report import charts
from harness.report.build import build
from harness.report.record import Result, schema
from harness.report.render import junit, page, summary

__all__ = ["Result", "output_directory", "report", "schema", "summary"]

Format = Literal["md", "html", "json"]


def output_directory(results: Path) -> Path:
    """Where a report goes: beside plan.json of a benchmark; into report/ of a lone run directory."""
    lone = not (results / "plan.json").exists() and (
        (results / "spec.json").exists() or (results / "status.json").exists()
    )
    return results / "report" if lone else results


def report(results: Path, form: str | None = None) -> Result:
    """Judge a benchmark from its files and write its report.

    Args:
        results: `results/<run_id>`, or the run directory of a lone `harness run`.
        form: "md", "html" or "json" for that page alone (with the charts it shows); None for everything.

    Raises:
        BadInput: `results` holds no benchmark, or `form` is unknown.
    """
    if form not in (None, "md", "html", "json"):
        raise BadInput(f"format {form!r} is unknown; choose md, html or json")
    result, journal, sources = build(results)
    out = output_directory(results)
    result = result.model_copy(update={"charts": charts.draw(result, journal, sources, out / "charts")})
    if form in (None, "json"):
        write_json(out / "result.json", result.model_dump(mode="json"))
    for page_form in ("md", "html"):
        if form in (None, page_form):
            write_atomic(out / f"report.{page_form}", page(result, page_form))
    if form is None:
        write_atomic(out / "junit.xml", junit(result))
    return result
