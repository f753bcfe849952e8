"""Locks are installed by uv where it can, else by pip, always by their hashes."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

LOCKS = ["--no-deps", "--require-hashes", "--requirement", "a.txt", "--requirement", "b.txt"]


def installed_by(folder: Path, uv: int | None, **variables: str) -> list[list[str]]:
    """Command lines of the programs that were called, with a uv that ends with exit code `uv`, or without one."""
    commands = {"python": 0} if uv is None else {"python": 0, "uv": uv}
    for name, code in commands.items():
        (folder / name).write_text(f'#!/bin/sh\necho "{name} $*" >> {folder}/calls\nexit {code}\n')
        (folder / name).chmod(0o755)
    given = {"PATH": f"{folder}:{os.defpath}", **variables}
    script = [REPOSITORY / "requirements" / "install.sh", folder / "python", "a.txt", "b.txt"]
    subprocess.run(script, env=given, check=True, timeout=30)
    return [line.split() for line in (folder / "calls").read_text().splitlines()]


def test_uv_installs_where_there_is_one(tmp_path: Path) -> None:
    (call,) = installed_by(tmp_path, 0)
    assert call[:3] == ["uv", "pip", "install"]
    assert call[call.index("--python") + 1 :] == [str(tmp_path / "python"), *LOCKS]


@pytest.mark.parametrize(
    ("uv", "variables", "callers"),
    [
        (None, {}, ["python"]),
        (2, {}, ["uv", "python"]),
        (0, {"PIP_INDEX_URL": "https://mirror.example.org/simple"}, ["python"]),
        (0, {"PIP_NO_INDEX": "1"}, ["python"]),
    ],
)
def test_pip_installs_otherwise(tmp_path: Path, uv: int | None, variables: dict[str, str], callers: list[str]) -> None:
    calls = installed_by(tmp_path, uv, **variables)
    assert [call[0] for call in calls] == callers
    assert calls[-1][:4] == ["python", "-m", "pip", "install"]
    assert calls[-1][-len(LOCKS) :] == LOCKS
