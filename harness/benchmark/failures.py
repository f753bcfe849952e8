"""What failed on a host, as failures.json has it, from the result of the task that failed."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from harness.errors import BadInput
from harness.files import read_json
from harness.spec import Record
from harness.state_file import RUNNING

STOPPED = "stopped"
"""Phase of an entry that is a stop on request, and no failure."""


class Failure(Record):
    """One entry of failures.json. `log` is the file to read on the host; a `lost` one was no longer watched."""

    host: str
    phase: str
    reason: str
    log: str | None = None
    lost: bool = False


_ENTRIES = TypeAdapter(list[Failure])


def of_task(result: Mapping[str, Any], *, host: str, phase: str, end: str, unreachable: bool) -> tuple[Failure, bool]:
    """The failure, and whether the host is lost: no longer watched, and perhaps with engines that still run.

    Args:
        result: what Ansible returned for the task; of a loop, the first item that failed counts.
        host: the host of the task.
        phase: the part of the benchmark, such as `engine`.
        end: the command that ends the benchmark's run.
        unreachable: whether the host did not answer.
    """
    cause = next((item for item in result.get("results", ()) if item.get("failed")), result)
    lost = unreachable or cause.get("state") == "lost"
    reason = cause.get("reason") or cause.get("msg") or "it failed without a message"
    if lost:
        reason = f"{reason}; its engines may still run: when it is back, stop them with `{end}`"
    return Failure(host=host, phase=phase, reason=reason, log=cause.get("log") or None, lost=lost), lost


def recorded(file: Path) -> list[dict[str, Any]] | None:
    """The entries of a failures.json; None where there is no such file.

    Raises:
        BadInput: it is damaged.
    """
    if not file.exists():
        return None
    entries = read_json(file, "failures")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise BadInput(f"failures {file} is damaged: it is no list of objects; delete it and pick the run up again")
    return entries


class Merged(NamedTuple):
    """The failures of a run, and whether failures.json has to be written with them."""

    failures: list[dict[str, Any]]
    changed: bool


def merge(
    known: Sequence[dict[str, Any]] | None,
    given: Sequence[dict[str, Any]] | None,
    *,
    overruled: Sequence[dict[str, Any]] = (),
    ended: bool = False,
) -> Merged:
    """What is recorded of a run's failures, with those of this start.

    Args:
        known: the recorded ones; None where no failures.json is there.
        given: those of this start; None to leave the file as it is.
        overruled: recorded ones that a new look at the nodes has overruled.
        ended: whether the run has ended before. What failed then stays recorded, and those of this start are only
            written down where an entry is overruled.
    """
    kept = [one for one in known or [] if one not in overruled]
    both = [*kept, *(one for one in given or [] if one not in kept)]
    failures = list(given) if given is not None and not ended else both
    return Merged(failures, given is not None and (bool(overruled) or not ended) and failures != known)


def result(failures: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """`failures`, a sentence for each that was not a stop on request, and whether there was such a stop (`stopped`)."""
    return {
        "failures": [_sentence(failure) for failure in failures if failure.get("phase") != STOPPED],
        "stopped": any(failure.get("phase") == STOPPED for failure in failures),
    }


def _sentence(failure: Mapping[str, Any]) -> str:
    """Where it failed, at what and why, and the log to read."""
    return " | ".join(str(failure[key]) for key in ("host", "phase", "reason", "log") if failure.get(key))


def noted(file: Path) -> tuple[dict[str, Any], ...]:
    """The entries of a failures.json; none where there is no such file, or a damaged one, which the report names."""
    try:
        entries = _ENTRIES.validate_python(read_json(file, "failures"))
    except (BadInput, ValidationError):
        return ()
    return tuple(entry.model_dump(exclude_unset=True) for entry in entries)


def overruled(entries: Iterable[dict[str, Any]], host: str, state: str) -> list[dict[str, Any]]:
    """The noted failures of a host that a new look at it overrules, where its run is in this state now.

    A run that was given up may have gone on, or finished; what a lost host could not do can be done again.
    """
    well = state in RUNNING | {"finished"}
    return [
        entry
        for entry in entries
        if entry["host"] == host
        and ((well and entry.get("phase") == "run") or ((well or state == "absent") and entry.get("lost")))
    ]
