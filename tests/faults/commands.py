"""Commands of the harness that a scene starts."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from harness.linux import STOP_SIGNALS
from tests.conftest import REPOSITORY
from tests.faults.ending import environment

END_S = 240.0
"""Longer than any command of a scene takes on a busy machine."""


def harness(
    folder: Path, words: list[str], text: str, *, prefix: tuple[str, ...] = (), **variables: str
) -> "subprocess.Popen[str]":
    """Start a command of the harness that is marked as the scene's; it prints to `folder`/output.N."""
    number = len(list(folder.glob("output.*")))
    with (folder / f"output.{number}").open("w") as output:
        process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "harness", *words],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            env=_environment(folder, **variables),
            preexec_fn=_heed_signals,
        )
    assert process.stdin
    process.stdin.write(text)
    process.stdin.close()
    return process


def clock_of(folder: Path) -> float:
    """The time, in unix seconds, that commands of the scene have."""
    words = [sys.executable, "-c", "import time; print(time.time())"]
    return float(subprocess.check_output(words, env=_environment(folder), text=True))


def _environment(folder: Path, **more: str) -> dict[str, str]:
    paths = os.pathsep.join([str(folder / "clock"), str(REPOSITORY), *sys.path])
    return environment(folder, **{"PYTHONPATH": paths, **more})


def _heed_signals() -> None:
    """A shell that runs in the background has its commands ignore some signals."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_DFL)


def output_of(folder: Path) -> str:
    """What all commands of the scene have printed, in the order of their starts."""
    files = sorted(folder.glob("output.*"), key=lambda file: int(file.suffix[1:]))
    return "".join(file.read_text() for file in files)
