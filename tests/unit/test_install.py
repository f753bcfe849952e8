"""Locks are installed by uv where it can, else by pip, always by their hashes."""

import os
import subprocess
from pathlib import Path, PurePosixPath

import pytest

from harness.benchmark import install
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


def steps(tmp_path: Path, build: str, *, deepspeed: bool) -> tuple[list[str], list[install.Step]]:
    """Files and commands of an installation below /n."""
    files = install.files(build, deepspeed=deepspeed)
    for name in files:
        (tmp_path / name).write_text(f"{name}==1\n")
    given = {"python": "python3.12", "torch_index": "http://torch"}
    places = (PurePosixPath("/n/env"), PurePosixPath("/n/env.install"), "pkg.tar.gz", tmp_path)
    return files, install.steps(*places, build=build, deepspeed=deepspeed, **given)


def test_nodes_steps_run_again_for_what_has_changed(tmp_path: Path) -> None:
    files, before = steps(tmp_path, "cpu", deepspeed=True)
    assert {"venv.sh", "install.sh", "torch-cpu.txt", "engine-cpu.txt", "deepspeed.txt"} <= set(files)
    assert before[0]["run"] == ["sh", "/n/env.install/venv.sh", "python3.12", "/n/env"]
    assert before[1]["otherwise"] == [*before[1]["run"], "--index-url", "http://torch"]
    # DeepSpeed is built with the engine's PyTorch, and the package needs nothing of it.
    assert [step["run"][-1].rpartition("/")[2] for step in before[1:]] == [
        "torch-cpu.txt", "engine-cpu.txt", "env", "pkg.tar.gz", "punkt.txt", "deepspeed.txt",
    ]  # fmt: skip
    (tmp_path / "engine-cpu.txt").write_text("vllm==2\n")
    changed = install.steps(
        PurePosixPath("/n/env"), PurePosixPath("/n/env.install"), "pkg.tar.gz", tmp_path,
        build="cpu", deepspeed=True, python="python3.12", torch_index="http://torch",
    )  # fmt: skip
    assert [old == new for old, new in zip(before, changed, strict=True)] == [True, True, False, True, True, True, True]


def test_cuda_nodes_need_one_lock_and_no_libnuma(tmp_path: Path) -> None:
    files, found = steps(tmp_path, "cuda", deepspeed=False)
    assert [name for name in files if name.endswith(".txt")] == ["punkt.txt", "engine-cuda.txt"]
    assert not any("numa.sh" in word for step in found for word in step["run"])
