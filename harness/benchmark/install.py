"""How the harness and its engine are installed on a node: the files that go there, and the commands in order."""

import hashlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

Step = dict[str, Any]
"""A command (`run`), one to try when it fails (`otherwise`), and what makes it run again when it changes (`inputs`)."""

_SCRIPTS = ("venv.sh", "deb.sh", "numa.sh", "punkt.txt")
_LOCKS = {"cpu": ("torch-cpu.txt", "engine-cpu.txt"), "cuda": ("engine-cuda.txt",)}
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

    def pinned(lock: str, *options: str, otherwise: Sequence[str] = ()) -> Step:
        command = [*pip, *options, "--require-hashes", "-r", str(staging / lock)]
        step: Step = {"run": command, "inputs": _sha256(requirements / lock)}
        return {**step, "otherwise": [*command, *otherwise]} if otherwise else step

    engine = [
        pinned(lock, otherwise=("--index-url", torch_index) if lock == "torch-cpu.txt" else ())
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
        *([pinned(_DEEPSPEED, "--no-build-isolation")] if deepspeed else []),
    ]


def _sha256(lock: Path) -> str:
    """Of the text without its last line's end, as installed environments know it: another hash would reinstall them."""
    return hashlib.sha256(lock.read_text().rstrip().encode()).hexdigest()
