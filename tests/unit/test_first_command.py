"""The script that tries the first command: which runs have ended well, all of one commit."""

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from bench.first_command import EXPECTED, _call, _commit, _ended_well, _rows

WELL: dict[str, Any] = {
    "run": "idle 1",
    "exit": 0,
    "verdict": "UNOFFICIAL",
    "reasons": sorted(EXPECTED),
    "seconds": 239,
}


@pytest.mark.parametrize(
    ("changes", "well"),
    [
        ({}, True),
        ({"exit": 2}, False),
        ({"exit": None}, False),
        ({"verdict": "INVALID"}, False),
        ({"verdict": None}, False),
        ({"reasons": [*EXPECTED, "NO_ATTEMPT_HELD"]}, False),
        ({"reasons": sorted(EXPECTED)[1:]}, False),
        ({"seconds": 240.0}, False),
        ({"seconds": 240.0, "run": "noise, seed 1"}, True),
    ],
)
def test_a_run_has_ended_well_by_exit_code_verdict_reasons_and_time(changes: dict[str, Any], well: bool) -> None:
    assert _ended_well(WELL | changes) is well


def test_changed_files_are_no_commit(tmp_path: Path) -> None:
    def git(*words: str) -> None:
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@example", *words], cwd=tmp_path, check=True)

    git("init", "-q")
    (tmp_path / "tracked").write_text("1")
    git("add", "tracked")
    git("commit", "-q", "-m", "one")
    (tmp_path / "untracked").write_text("1")
    assert len(_commit(tmp_path)) == 40
    (tmp_path / "tracked").write_text("2")
    with pytest.raises(SystemExit, match="tracked files differ from the commit"):
        _commit(tmp_path)


def test_a_command_that_takes_too_long_is_killed_with_its_processes() -> None:
    start = time.monotonic()
    assert _call(["sh", "-c", "echo begun; sleep 60 & sleep 60"], 1.0) == (None, "begun\n")
    assert time.monotonic() - start < 30
    assert _call(["sh", "-c", "echo ended; exit 2"], 60.0) == (2, "ended\n")


def test_runs_of_another_commit_are_not_counted(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    assert _rows(file, "abc") == {}
    file.write_text(json.dumps({"run": "idle 1", "commit": "abc"}) + "\n")
    assert list(_rows(file, "abc")) == ["idle 1"]
    with pytest.raises(SystemExit, match="idle 1 ran at commit abc, and this is def"):
        _rows(file, "def")
    file.write_text(json.dumps({"run": "idle 1"}) + "\n")
    with pytest.raises(SystemExit, match="at commit unknown"):
        _rows(file, "abc")
