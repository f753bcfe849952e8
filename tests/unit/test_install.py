"""Locks are installed by uv where it works, else by pip, always by their hashes."""

import os
import re
import subprocess
import sys
from pathlib import Path, PurePosixPath

import pytest

from harness import doctor, host_survey
from harness.benchmark import install
from tests.conftest import REPOSITORY
from tests.unit.ansible_modules import call as call_plugin

LOCKS = ["--no-deps", "--require-hashes", "--requirement", "a.txt", "--requirement", "b.txt"]


def installed_by(folder: Path, uv: int | None, **variables: str) -> list[list[str]]:
    """Command lines of the called programs, with a uv of exit code `uv`, or without one."""
    commands = {"python": 0} if uv is None else {"python": 0, "uv": uv}
    for name, code in commands.items():
        (folder / name).write_text(f'#!/bin/sh\necho "{name} $*" >> {folder}/calls\nexit {code}\n')
        (folder / name).chmod(0o755)
    environment = {"PATH": f"{folder}:{os.defpath}", **variables}
    script = [REPOSITORY / "requirements" / "install.sh", folder / "python", "a.txt", "b.txt"]
    subprocess.run(script, env=environment, check=True, timeout=30)
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


def test_a_failure_says_its_cause_after_pips_words(tmp_path: Path) -> None:
    error = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device"
    (tmp_path / "python").write_text(
        f'#!/bin/sh\ncase "$*" in\n*pip_failure*) exec {sys.executable} "$@";;\n*) echo "{error}" >&2; exit 7;;\nesac\n'
    )
    (tmp_path / "python").chmod(0o755)
    script = [REPOSITORY / "requirements" / "install.sh", tmp_path / "python", "a.txt"]
    environment = {"PATH": os.defpath, "PIP_NO_INDEX": "1"}
    done = subprocess.run(script, env=environment, check=False, timeout=60, capture_output=True, text=True)
    assert done.returncode == 7
    first, last = done.stderr.splitlines()
    assert first == error and "is full: free some space there" in last


def steps(tmp_path: Path, build: str, *, deepspeed: bool) -> tuple[list[str], list[install.Step]]:
    """Files and commands of an installation below /n."""
    files = install.files(build, deepspeed=deepspeed)
    for name in files:
        (tmp_path / name).write_text(f"{name}==1\n")
    settings = {"python": "python3.12", "torch_index": "http://torch"}
    places = (PurePosixPath("/n/env"), PurePosixPath("/n/env.install"), "pkg.tar.gz", tmp_path)
    return files, install.steps(*places, build=build, deepspeed=deepspeed, **settings)


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


def test_vllm_is_installed_again_for_its_lock_and_not_for_the_harness(tmp_path: Path) -> None:
    for build, first_of_harness in (("cpu", 4), ("cuda", 2)):
        _, commands = steps(tmp_path, build, deepspeed=True)
        assert commands[first_of_harness]["run"][-1].endswith("pkg.tar.gz")
        assert [install.installs_engine(commands[first:]) for first in (0, 1, first_of_harness)] == [True, True, False]
    assert not install.installs_engine([])


def test_what_compiles_kernels_is_of_the_cuda_of_the_oldest_driver() -> None:
    """A driver of branch 580 loads no PTX of a CUDA after 13.0."""
    lock = (REPOSITORY / "requirements" / "engine-cuda.txt").read_text()
    for name in ("nvidia-cuda-nvcc", "nvidia-nvjitlink", "nvidia-nvvm"):
        assert re.findall(rf"^{name}==(\d+\.\d+)\.", lock, re.MULTILINE) == ["13.0"], name


def test_all_places_name_the_same_pythons() -> None:
    (oldest, newest), script = host_survey.PYTHONS, (REPOSITORY / "requirements" / "venv.sh").read_text()
    beyond = (newest[0], newest[1] + 1)
    assert f"{oldest} <= sys.version_info < {beyond}" in script
    assert f"the pins are for {oldest[0]}.{oldest[1]} to {newest[0]}.{newest[1]}" in script
    assert oldest == doctor.OLDEST_PYTHON


def test_cuda_nodes_need_one_lock_and_no_libnuma(tmp_path: Path) -> None:
    files, commands = steps(tmp_path, "cuda", deepspeed=False)
    assert [name for name in files if name.endswith(".txt")] == ["punkt.txt", "engine-cuda.txt"]
    assert not any("numa.sh" in word for step in commands for word in step["run"])


def test_what_is_pending_on_a_host_is_counted_with_an_archive_that_was_packed_before(tmp_path: Path) -> None:
    environment = {
        "path": str(tmp_path / "env"), "staging": str(tmp_path / "env.install"), "build": "cpu",
        "requirements": str(REPOSITORY / "requirements"),
    }  # fmt: skip
    archive = call_plugin("mlperf_package", {"source": str(REPOSITORY), "path": str(tmp_path / "package")})
    compared = call_plugin("mlperf_package", {"archive": archive, "environment": environment}, check=True)
    assert (compared["changed"], compared["file"]) == (False, archive["file"])
    assert compared["pending"] == len(compared["steps"]) > 3
    assert compared["installs_engine"] is True
    assert not (tmp_path / "env.install").exists()
