"""Every collected file is the one that was collected."""

from collections.abc import Iterator
from pathlib import Path

from harness import checksums
from harness.errors import BadInput
from harness.report.load_inputs import Inputs
from harness.report.record import Reason
from harness.report.rules import Rule


def reasons(inputs: Inputs) -> Iterator[Reason]:
    """Files that differ from SHA256SUMS, that it lists and that are missing, and that it does not list."""
    homes = sorted(path for path in (inputs.path / "nodes").glob("*") if path.is_dir())
    if (inputs.path / checksums.FILE).exists():
        homes.append(inputs.path)
    for home in homes:
        for name, what in _changed(home):
            yield Rule.FILE_SUMS.reason(file=inputs.shown(home / name), what=what)


def _changed(home: Path) -> Iterator[tuple[str, str]]:
    if not (home / checksums.FILE).is_file():
        yield checksums.FILE, "does not exist, so nothing says that the files beside it are those that were collected"
        return
    try:
        sums = checksums.read(home)
    except BadInput as error:
        yield checksums.FILE, f"cannot be read: {error}"
        return
    for name, sha256 in sums.items():
        path = home / name
        if not path.is_file():
            yield name, f"is listed in {checksums.FILE} and missing"
        elif not checksums.matches(path, sha256):
            yield name, f"is not the file that was collected: its SHA-256 is not that in {checksums.FILE}"
    there = {path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file() and _counts(path, home)}
    for name in sorted(there - set(sums)):
        yield name, f"was not collected: {checksums.FILE} does not list it"


def _counts(path: Path, home: Path) -> bool:
    """Whether a file would have been collected; hidden ones are working files, and report/ is made from the others."""
    relative = path.relative_to(home)
    ours = relative.as_posix() == checksums.FILE or relative.parts[0] == "report"
    return not ours and not any(part.startswith(".") for part in relative.parts)
