"""What earlier starts of benchmarks left in the folder of results: their requests, their plans, and how they ended."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field, ValidationError

from harness.benchmark.origin import Origin
from harness.benchmark.public_settings import Asked
from harness.errors import BadInput
from harness.files import read_json
from harness.spec import Record, explain

_WRITTEN_DURING_A_RUN = {"progress.jsonl", "nodes", "plan.json"}


class Recorded(Record):
    """What a later start needs of request.json."""

    model_config = ConfigDict(extra="ignore")
    nodes: tuple[str, ...]
    asked: dict[str, Any]
    replay_of: str | None = None
    repeat_of: str | None = None
    origin: Origin = Origin()


def recorded(directory: Path) -> Recorded:
    """The content of a run's request.json; BadInput when it cannot be read."""
    file = directory / "request.json"
    content = read_json(file, "request")
    try:
        request = Recorded.model_validate(content)
        Asked.model_validate({name: request.asked[name] for name in request.asked if name in Asked.model_fields})
    except ValidationError as error:
        raise BadInput(f"request {file} is damaged ({explain(error)}); choose another run_id") from None
    return request


class _KeptPlan(Record):
    """What every plan.json has, of whatever version."""

    model_config = ConfigDict(extra="ignore")
    loadgens: tuple[str, ...] = ()
    nodes: dict[str, dict[str, Any]] = Field(default_factory=dict)


def kept_plan(file: Path) -> dict[str, Any]:
    """The content of plan.json, empty when there is none; BadInput when it is damaged."""
    content: dict[str, Any] = read_json(file, "plan") if file.exists() else {}
    try:
        _KeptPlan.model_validate(content)
    except ValidationError as error:
        raise BadInput(f"plan {file} is damaged ({explain(error)}); choose another run_id") from None
    return content


def earlier_settings(directory: Path, nodes: Sequence[str]) -> dict[str, Any]:
    """The public settings of an earlier start of the run; empty when there was none.

    A folder that was deleted during a run has what was written since, and counts as none.
    """
    if not (directory / "request.json").exists():
        others = {entry.name for entry in directory.iterdir()} - _WRITTEN_DURING_A_RUN if directory.is_dir() else set()
        if others:
            raise BadInput(f"run_id {directory.name}: {directory} holds files of something else; choose another run_id")
        return {}
    request = recorded(directory)
    if request.nodes != tuple(nodes):
        raise BadInput(
            f"run_id {directory.name} was begun on other nodes (it has {', '.join(request.nodes)}, this play has "
            f"{', '.join(nodes)}); choose another run_id or the same --limit"
        )
    return {name: request.asked[name] for name in request.asked if name in Asked.model_fields}


def unfinished(results: Path) -> tuple[dict[str, Recorded], list[str]]:
    """The runs that were begun and not brought to their end, by name; and a sentence for each that cannot be read."""
    runs, unreadable = {}, []
    for folder in sorted(results.iterdir()) if results.is_dir() else []:
        if (folder / "request.json").is_file() and not (folder / "failures.json").is_file():
            try:
                runs[folder.name] = recorded(folder)
            except BadInput as error:
                unreadable.append(f"{error}; it is skipped: look into {folder}")
    return runs, unreadable


def how_to_resume(directory: Path) -> str:
    """What to do about a run that ended without a result; empty for any other."""
    if not (directory / "failures.json").is_file() or has_result(directory):
        return ""
    command = _origin(directory).commands(directory.name).resume
    return f"run {directory.name} ended without a result: choose another run_id, or resume it with `{command}`"


def how_to_repeat(directory: Path, run_id: str) -> str:
    """The command that repeats a finished run; with a placeholder where no request says what it was started with."""
    try:
        return recorded(directory).origin.repeat(run_id)
    except BadInput:
        return Origin(inventory=("INVENTORY",)).repeat(run_id)


def _origin(directory: Path) -> Origin:
    """Where a run was started from; unknown where request.json cannot be read."""
    try:
        return recorded(directory).origin
    except BadInput:
        return Origin()


def has_result(directory: Path) -> bool:
    """Whether all LoadGens of a plan have finished, by what was collected of them; BadInput when it is damaged."""
    hosts = kept_plan(directory / "plan.json").get("loadgens") or ()
    return bool(hosts) and all(_has_finished(directory / "nodes" / host) for host in hosts)


def _has_finished(run: Path) -> bool:
    try:
        return bool(read_json(run / "status.json", "run status")["state"] == "finished")
    except (BadInput, KeyError, TypeError):
        return False
