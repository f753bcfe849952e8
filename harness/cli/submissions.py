"""harness submission and harness check-submission."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli.common import PATH, json_option, show
from harness.errors import FINISHED_BUT_INVALID

if TYPE_CHECKING:
    from harness.submission import Line


@click.command()
@click.argument("runs", type=PATH, nargs=-1, required=True)
@click.option("--submitter", required=True, help="The organisation's name, as it stands in paths.")
@click.option("--out", type=PATH, help="Directory of the tree and of its answers.  [default: submissions/SUBMITTER]")
@click.option("--unofficial", is_flag=True, help="Take runs that no division allows; the tree says so in its name.")
@json_option
def submission(runs: tuple[Path, ...], submitter: str, out: Path | None, unofficial: bool, as_json: bool) -> int:
    """Write a submission's tree from RUNS (results/<run_id>): Offline, and Server or Interactive."""
    from harness import submission as submissions

    made = submissions.submission(runs, submitter, out or Path("submissions") / submitter, unofficial=unofficial)
    value = {"changed": made.changed, "division": made.division, "open_because": list(made.open_because)}
    return _show(made.lines, made.path, value, f"{made.summary}\n", as_json)


@click.command("check-submission")
@click.argument("tree", type=PATH)
@json_option
def check_submission(tree: Path, as_json: bool) -> int:
    """Check a submission's TREE, which holds closed/ or open/: one line for each rule."""
    from harness import submission as submissions

    return _show(tuple(submissions.check(tree)), tree, {"changed": False}, "", as_json)


def _show(lines: "Sequence[Line]", tree: Path, more: dict[str, Any], head: str, as_json: bool) -> int:
    broken = [line for line in lines if line.problem]
    texts = [str(line) for line in lines]
    value = {"tree": str(tree), **more, "lines": texts, "broken": len(broken)}
    verdict = f"{len(broken)} of {len(lines)} rules are not met" if broken else f"all {len(lines)} rules are met"
    show(value, as_json, head + "\n".join([*texts, f"{tree}: {verdict}"]))
    return FINISHED_BUT_INVALID if broken else 0
