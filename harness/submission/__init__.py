"""A submission for MLPerf Inference from finished runs: its tree, and an own check of every rule it must meet."""

import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import BadInput
from harness.submission import tree
from harness.submission.answers import answers
from harness.submission.check import Line, check
from harness.submission.runs import division, read_runs
from harness.submission.system import measured, notes, quantized, system_json

__all__ = ["Line", "Submission", "check", "submission"]

_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
UNOFFICIAL = "UNOFFICIAL"


@dataclass(frozen=True)
class Submission:
    """A written tree: its root, which holds `closed/` or `open/`, whether it is new, and the check's lines.

    `open_because` says for each run why it is not Closed.
    """

    path: Path
    changed: bool
    division: str
    open_because: tuple[str, ...]
    lines: tuple[Line, ...]

    @property
    def good(self) -> bool:
        """Whether every rule is met."""
        return all(line.problem is None for line in self.lines)

    @property
    def summary(self) -> str:
        """Where it is and its division, and why it is not Closed, a line each."""
        because = (f"Open because of {reasons}" for reasons in self.open_because)
        return "\n".join([f"Submission: {self.path}, division {self.division}", *because])


def submission(
    paths: Sequence[Path], submitter: str, out: Path, *, unofficial: bool = False, write: bool = True
) -> Submission:
    """Write the submission of the runs in `paths` below `out`, and check it.

    `<out>/system.yml` asks for what cannot be measured. The tree goes to `<out>/submission`, or to
    `<out>/submission-UNOFFICIAL`; where one lies there already, it must be the same.

    Args:
        paths: `results/<run_id>` of an Offline run and of a Server or Interactive run, or both.
        submitter: the organisation's name, as it stands in paths.
        out: directory of the tree and its answers.
        unofficial: whether runs are taken that no division allows; the tree then says so in its name and its system's.
        write: whether anything is written; without, the tree is made, checked and thrown away.

    Raises:
        BadInput: a run cannot be submitted, answers are missing, or another tree lies there.
    """
    if not re.fullmatch(_NAME, submitter):
        raise BadInput(f"submitter = {submitter!r}: give letters, digits, dot, dash and underscore, as in a path")
    runs = read_runs(paths, unofficial)
    machines, engines = runs[0].machines, [engine for run in runs for engine in run.engines]
    facts, unmeasured = measured(machines, runs[0].engines)
    given = answers(out / "system.yml", facts, unmeasured, quantized(machines, engines), write=write)
    facts["sw_notes"] = notes(machines, runs[0].engines, unofficial)
    system = re.sub(r"[^A-Za-z0-9]+", "_", given["system_name"]).strip("_")
    if unofficial:
        system = f"{UNOFFICIAL}_{system}"
    target = out / (f"submission-{UNOFFICIAL}" if unofficial else "submission")
    description = system_json(facts, given, submitter, division(runs))
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder)
        tree.write(made, runs, system, description, given)
        changed = not target.exists()
        if not changed and _contents(made) != _contents(target):
            raise BadInput(f"{target} holds another tree; delete it, or choose another directory")
        lines = tuple(check(made))
        if changed and write:
            shutil.copytree(made, target)
    because = tuple(f"run {run.result.run_id}: {' '.join(run.open_reasons)}" for run in runs if run.open_reasons)
    return Submission(target, changed, description["division"], because, lines)


def _contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
