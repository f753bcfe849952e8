"""Shared by tests of engines: a free port, a model directory, an engine's processes, and waiting."""

import json
import os
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any

from harness.engine import processes
from tests.conftest import REPOSITORY

FAKE = Path(__file__).with_name("unit") / "fake_vllm.py"


# Long enough for a vLLM to start on a machine that is busy with something else.
MAX_S = 400.0


def harness(python: Path, *words: object, text: str | None = None, codes: Container[int] = (0,)) -> Any:
    """The JSON output of a command of a node's harness; its exit code must be one of `codes`."""
    result = subprocess.run(
        [str(python), "-m", "harness", *map(str, words), "--json"],
        input=text,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=MAX_S,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert result.returncode in codes, result.stdout[-3000:] + result.stderr[-3000:]
    return json.loads(result.stdout)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def write_model(path: Path, *, shards: int = 0, payload: bytes = b"\0" * 64) -> Path:
    """A model directory that is complete, with one weight file or several under an index."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text('{"vocab_size": 512, "torch_dtype": "float32"}')
    (path / "tokenizer.json").write_text("{}")
    (path / "tokenizer_config.json").write_text("{}")
    header = json.dumps({"w": {"dtype": "F32", "shape": [16], "data_offsets": [0, len(payload)]}}).encode()
    whole = struct.pack("<Q", len(header)) + header + payload
    names = [f"model-{i + 1:05}-of-{shards:05}.safetensors" for i in range(shards)] or ["model.safetensors"]
    for name in names:
        (path / name).write_bytes(whole)
    if shards:
        index = {"weight_map": {f"w{i}": name for i, name in enumerate(names)}}
        (path / "model.safetensors.index.json").write_text(json.dumps(index))
    return path


def everything_of(root: Path, name: str) -> set[int]:
    """Every live process of an engine: marked ones, and the fake's hidden child."""
    directory = root / "engines" / name
    pids = processes.marked(processes.ENGINE_MARK, directory) | processes.marked(processes.SUPERVISOR_MARK, directory)
    return pids | processes.marked("HIDDEN", directory)


def until(holds: Callable[[], object], within_s: float = 30) -> bool:
    """Whether `holds` becomes true in time; the time is long, for busy machines."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if holds():
            return True
        time.sleep(0.02)
    return False
