"""A clock that can be stepped: the wall clock of every Python process that a scene starts, and of no other."""

from pathlib import Path

_SHIM = """
import pathlib, time
_clock, _step = time.time, pathlib.Path({step!r})
def stepped():
    try:
        return _clock() + float(_step.read_text())
    except (OSError, ValueError):
        return _clock()
time.time = stepped
"""


def install(folder: Path) -> Path:
    """Write the shim, which Python imports when it starts; returns the folder for PYTHONPATH."""
    shim = folder / "clock"
    shim.mkdir()
    (shim / "sitecustomize.py").write_text(_SHIM.format(step=str(folder / "clock" / "step")))
    return shim


def step(folder: Path, seconds: float) -> None:
    """Step the clock."""
    (folder / "clock" / "step").write_text(str(seconds))
