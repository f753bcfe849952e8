"""Every run of a results folder, with what changed since the one before of the same work."""

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.compare.comparison import Change, changes
from harness.errors import BadInput
from harness.files import write_atomic
from harness.report.work import Run, read, work

INDEX = "index.html"
_QUIET = ("target_qps",)  # of itself no change of what a run ran on


@dataclass(frozen=True, slots=True)
class Entry:
    """One run, and what changed since the run before of the same work (None for the first)."""

    run: Run
    changes: tuple[Change, ...] | None

    def document(self) -> dict[str, Any]:
        """The same as plain values."""
        run, figures = self.run, self.run.together
        return {
            "run_id": run.run_id,
            "created_unix": run.created_unix,
            "verdict": run.verdict.level,
            "scenario": run.asked.scenario,
            "samples": run.asked.samples,
            "samples_per_s": figures.samples_per_s,
            "tokens_per_s": figures.tokens_per_s,
            "ttft_p99_ms": figures.ttft.p99_ms if figures.ttft else None,
            "tpot_p99_ms": figures.tpot.p99_ms if figures.tpot else None,
            "rougeL": (figures.rouge or {}).get("rougeL"),
            "changed": None if self.changes is None else {one.what: [one.base, one.new] for one in self.changes},
        }


@dataclass(frozen=True, slots=True)
class History:
    """The runs of a folder: those of the same work together, the newest work first; and what could not be read."""

    groups: tuple[tuple[Entry, ...], ...]
    problems: tuple[str, ...]

    @property
    def entries(self) -> list[Entry]:
        """All runs, oldest first."""
        return sorted((entry for group in self.groups for entry in group), key=lambda entry: _age(entry.run))


def history(results: Path, scenario: str | None = None, verdict: str | None = None) -> History:
    """The history of a results folder.

    Args:
        results: the folder that holds a folder for each run.
        scenario, verdict: only runs with these; None for all.

    Raises:
        BadInput: there is no such folder.
    """
    if not results.is_dir():
        raise BadInput(f"results {results} is not a directory; give the folder that holds one for each run")
    by_work: dict[tuple[str, ...], list[Run]] = defaultdict(list)
    problems = []
    for folder in sorted(entry for entry in results.iterdir() if entry.is_dir() and not entry.name.startswith(".")):
        try:
            run = read(folder)
        except BadInput as error:
            problems.append(str(error))
            continue
        if scenario in (None, run.asked.scenario) and verdict in (None, run.verdict.level):
            by_work[tuple(work(run).values())].append(run)
    groups = [_group(sorted(runs, key=_age)) for runs in by_work.values()]
    return History(tuple(sorted(groups, key=lambda group: _age(group[-1].run), reverse=True)), tuple(problems))


def _group(runs: Sequence[Run]) -> tuple[Entry, ...]:
    entries = [Entry(runs[0], None)]
    for before, run in itertools.pairwise(runs):
        changed = changes([before], [run])
        entries.append(Entry(run, tuple(change for change in changed if change.what not in _QUIET)))
    return tuple(entries)


def _age(run: Run) -> tuple[float, str]:
    return run.created_unix or 0.0, run.run_id


def write_index(results: Path) -> Path:
    """Write `results`/index.html from the files that are there; returns its path. Raises BadInput as `history`."""
    from harness.compare.charts import over_time  # matplotlib takes a second to import
    from harness.compare.page import index

    runs = history(results)
    charts = [over_time(group) for group in runs.groups]
    write_atomic(results / INDEX, index(runs, charts))
    return results / INDEX
