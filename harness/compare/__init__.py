"""Runs compared: whether an upgrade made the same work faster or slower, with an interval and what changed.

comparison = compare(["before"], ["after"], Path("results"), out=Path("compared"))
print(comparison.sentence)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import report
from harness.compare import comparison, sets
from harness.compare.comparison import Comparison
from harness.compare.sets import expand, pin, refuse_unfit
from harness.compare.spread import Repeats, repeats
from harness.errors import SLOWER
from harness.files import write_atomic, write_json
from harness.report.work import Run

__all__ = ["SLOWER", "Conclusion", "compare", "conclude", "pin", "refuse_unfit"]


def compare(
    base: Sequence[str],
    new: Sequence[str],
    results: Path,
    *,
    regression_percent: float | None = None,
    out: Path | None = None,
) -> Comparison:
    """Compare runs, given by their ids in the folder `results` or by their folders, each with its repeats.

    With `out`, compare.json, compare.md, compare.html and summary.md are written into that folder.

    Raises:
        BadInput: a run is not there or has no figures, or the runs are not the same work.
    """
    old_runs, new_runs = expand(base, results), expand(new, results)
    result = comparison.compare(old_runs, new_runs, regression_percent)
    if out:
        _write(result, old_runs, new_runs, out)
    return result


@dataclass(frozen=True, slots=True)
class Conclusion:
    """What several runs of one benchmark say: how much they differ, and against a baseline. `text` is for people."""

    text: str
    comparison: Comparison | None
    repeats: Repeats | None
    invalid: tuple[str, ...]

    @property
    def slower(self) -> str:
        """What the gate says where it failed, else nothing."""
        gate = self.comparison.gate if self.comparison else None
        return gate.sentence if gate and gate.failed else ""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the gate says where that is not certain."""
        gate = self.comparison.gate if self.comparison else None
        return () if gate is None or gate.certain else (gate.sentence,)


def conclude(folder: Path, baseline: str | None = None, regression_percent: float | None = None) -> Conclusion:
    """Report the repeats of the run in `folder`, and compare it with a baseline, into that folder.

    Without repeats and baseline nothing is written.

    Raises:
        BadInput: the run has no figures, or the baseline is other work.
    """
    texts, together, compared = [], None, None
    runs = expand([str(folder)], folder.parent) if baseline or list(folder.parent.glob(f"{folder.name}-*")) else []
    if len(runs) > 1:
        together = repeats(runs)
        _write_repeats(together, runs, folder)
        texts.append(f"{together.sentence}\nRepeats: {folder / 'repeats.html'}")
    if baseline:
        before = sets.baseline(baseline, runs[0], folder.parent)
        if before:
            compared = comparison.compare(before, runs, regression_percent)
            _write(compared, before, runs, folder)
            report.write_junit(folder)
            texts.append(_compared_text(compared, before, folder))
        else:
            texts.append(f"baseline = {baseline}: there is no such run of the same work, so nothing was compared.")
    invalid = tuple(run.run_id for run in runs if run.verdict.level == "INVALID")
    return Conclusion("\n\n".join(texts), compared, together, invalid)


def _compared_text(compared: Comparison, before: Sequence[Run], folder: Path) -> str:
    gate = f"\nGate: {compared.gate.sentence}." if compared.gate else ""
    return f"Against {before[0].run_id}: {compared.sentence}{gate}\nComparison: {folder / 'compare.html'}"


def _write(result: Comparison, base: Sequence[Run], new: Sequence[Run], out: Path) -> None:
    from harness.compare import charts  # matplotlib takes a second to import
    from harness.compare.page import page, short

    folders = [run.folder for run in base], [run.folder for run in new]
    drawn = charts.differences(result), charts.distributions(*folders)
    write_json(out / report.COMPARISON, result.document())
    write_atomic(out / "compare.md", page(result, "md"))
    write_atomic(out / "compare.html", page(result, "html", drawn))
    write_atomic(out / "summary.md", short(result))


def _write_repeats(result: Repeats, runs: Sequence[Run], out: Path) -> None:
    from harness.compare import charts
    from harness.compare.page import repeats_page

    drawn = charts.distributions([run.folder for run in runs], [])
    write_json(out / report.REPEATS, result.document())
    write_atomic(out / "repeats.md", repeats_page(result, "md"))
    write_atomic(out / "repeats.html", repeats_page(result, "html", (drawn,)))
