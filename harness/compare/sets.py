"""Sets of runs: a run with its repeats, and which set a benchmark is compared with."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.errors import BadInput
from harness.files import read_json, write_json
from harness.report.work import Run, is_same_work, load, read, weights_known

PINNED = "pinned.json"
CHOICES = ("latest", "pinned")
_ASKED = ("scenario", "mode", "samples", "topology")


def expand(places: Sequence[str], results: Path) -> list[Run]:
    """The runs at these places (ids in `results`, or folders), each with its repeats that have figures.

    Raises:
        BadInput: one is not there, or has no figures.
    """
    named = [load(place, results) for place in places]
    known = {run.run_id for run in named}
    repeats = [[other for other in _repeats(run) if other.run_id not in known] for run in named]
    return [one for run, more in zip(named, repeats, strict=True) for one in (run, *more)]


def _repeats(run: Run) -> list[Run]:
    if run.asked.repeat_of:
        return []
    repeats = _readable(run.folder.parent, f"{run.folder.name}-*")
    own = [
        other for other in repeats if other.asked.repeat_of == run.run_id and other.together.samples_per_s is not None
    ]
    return sorted(own, key=lambda other: (other.created_unix or 0.0, other.run_id))


def _readable(results: Path, pattern: str = "*") -> list[Run]:
    runs = []
    for folder in sorted(results.glob(pattern)):
        try:
            runs.append(read(folder))
        except BadInput:
            continue  # the history lists what is damaged
    return runs


def baseline(choice: str, new: Run, results: Path) -> list[Run]:
    """The runs that a benchmark is compared with; empty where `latest` or `pinned` has none of the same work.

    Args:
        choice: a run, or `latest` (the last one before `new`, not INVALID), or `pinned` (the last that was pinned).
        new: the first run of the benchmark.
        results: the folder of all runs.

    Raises:
        BadInput: the run that is named is not there or has no figures.
    """
    if choice not in CHOICES:
        return expand([choice], results)
    pinned = pins(results)
    before = [
        run
        for run in _readable(results)
        if run.asked.repeat_of is None
        and run.run_id != new.run_id
        and run.together.samples_per_s is not None
        and (run.created_unix or 0.0) < (new.created_unix or 0.0)
        and is_same_work(run, new)
        and weights_known(run)
        and (run.run_id in pinned if choice == "pinned" else run.verdict.level != "INVALID")
    ]
    last = max(before, key=lambda run: (run.created_unix or 0.0, run.run_id), default=None)
    return expand([str(last.folder)], results) if last else []


def pins(results: Path) -> list[str]:
    """The runs that were pinned. Raises BadInput where their list is damaged."""
    file = results / PINNED
    if not file.exists():
        return []
    content: Any = read_json(file, "list of pinned runs")
    if not isinstance(content, list) or not all(isinstance(one, str) for one in content):
        raise BadInput(f"list of pinned runs {file} is damaged: delete it, and pin the runs again")
    return content


def pin(run_id: str, results: Path) -> Run:
    """Pin a run as the baseline of its work, in the place of one that was pinned before.

    Raises:
        BadInput: it is not there or has no figures, or the list is damaged.
    """
    run = load(run_id, results)
    others = [other for other in _readable(results) if other.run_id in pins(results) and not is_same_work(other, run)]
    write_json(results / PINNED, [*(other.run_id for other in others), run.run_id])
    return run


def refuse_unfit(choice: str, asked: Mapping[str, Any], results: Path) -> None:
    """Refuse a baseline that a benchmark with these settings cannot be compared with, before anything is started.

    Raises:
        BadInput: the run is not there, has no figures or is other work, or none was pinned.
    """
    if choice == "pinned" and not pins(results):
        raise BadInput(
            "baseline = pinned: no run is pinned; pin one with `harness pin RUN_ID`, or give baseline=latest"
        )
    if choice in CHOICES:
        return
    before = load(choice, results).asked.model_dump()
    if other := [name for name in _ASKED if str(before[name]) != str(asked[name])]:
        listed = "; ".join(f"{name}: {before[name]} against {asked[name]}" for name in other)
        raise BadInput(
            f"baseline = {choice}: that run is not the same work ({listed}); give the same, or another baseline"
        )
