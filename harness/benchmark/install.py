"""How the harness and its engine are installed on a node: the files that go there, and the commands in order."""

import hashlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

Step = dict[str, Any]
"""A command (`run`), one to try when it fails (`otherwise`), and what makes it run again when it changes (`inputs`)."""

_SCRIPTS = ("venv.sh", "deb.sh", "install.sh", "numa.sh", "punkt.txt")
_TORCH = "torch-cpu.txt"
_LOCKS = {"cpu": (_TORCH, "engine-cpu.txt"), "cuda": ("engine-cuda.txt",)}
_DEEPSPEED = "deepspeed.txt"
_FETCH_PUNKT = "import sys, pathlib; from harness.scoring import punkt; punkt.fetch(*map(pathlib.Path, sys.argv[1:]))"


def files(build: str, *, deepspeed: bool) -> list[str]:
    """Names of the files of requirements/ that the commands need on the node."""
    return [*_SCRIPTS, *_LOCKS[build], *([_DEEPSPEED] if deepspeed else [])]


def steps(
    environment: PurePosixPath,
    staging: PurePosixPath,
    archive: str,
    requirements: Path,
    *,
    build: str,
    deepspeed: bool,
    python: str,
    torch_index: str,
) -> list[Step]:
    """The commands that make a node's environment.

    Args:
        environment: the virtual environment.
        staging: the folder on the node in which `files` and the archive lie.
        archive: name of this package's source archive.
        requirements: the folder of the pins here.
        build: which build of vLLM, `cpu` or `cuda`.
        deepspeed: whether DeepSpeed is installed beside it.
        python: the Python that the environment is made with.
        torch_index: index of PyTorch's CPU wheels, asked for torch alone when the configured sources have none.
    """
    interpreter = str(environment / "bin" / "python")
    pip = [interpreter, "-m", "pip", "install", "--no-deps", "--disable-pip-version-check", "--progress-bar", "off"]

    def locked(lock: str, command: Sequence[str], *fallback: str) -> Step:
        run = [*command, str(staging / lock)]
        otherwise = {"otherwise": [*run, *fallback]} if fallback else {}
        return {"run": run, "inputs": _sha256(requirements / lock), **otherwise}

    hashed = ("--require-hashes", "-r")
    script = ("sh", str(staging / "install.sh"), interpreter)
    engine = [
        # PyTorch's CPU wheels are on their own index only; it is asked after the configured sources.
        locked(lock, [*pip, *hashed], "--index-url", torch_index) if lock == _TORCH else locked(lock, script)
        for lock in _LOCKS[build]
    ]
    if build == "cpu":
        engine.append({"run": ["sh", str(staging / "numa.sh"), str(environment)]})
    punkt = [str(environment / "share" / "punkt"), str(staging / "punkt.txt")]
    return [
        {"run": ["sh", str(staging / "venv.sh"), python, str(environment)]},
        *engine,
        {"run": [*pip, "--no-build-isolation", "--force-reinstall", str(staging / archive)]},
        {"run": [interpreter, "-c", _FETCH_PUNKT, *punkt]},
        # Built where it is installed, with what the engine's step has brought.
        *([locked(_DEEPSPEED, [*pip, "--no-build-isolation", *hashed])] if deepspeed else []),
    ]


def installs_engine(pending: Sequence[Step]) -> bool:
    """Whether vLLM and its packages, which take most of the space and time, are among these steps."""
    locks = {lock for build in _LOCKS.values() for lock in build}
    return any(PurePosixPath(step["run"][-1]).name in locks for step in pending)


def _sha256(lock: Path) -> str:
    """Of the text without its last line's end, as installed environments know it: another hash would reinstall them."""
    return hashlib.sha256(lock.read_text().rstrip().encode()).hexdigest()
