"""What tests of engines share: a free port, a model directory, an engine's processes, and waiting for something."""

import json
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path

from harness.engine import processes

FAKE = Path(__file__).with_name("unit") / "fake_vllm.py"


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
    found = processes.marked(processes.ENGINE_MARK, directory) | processes.marked(processes.SUPERVISOR_MARK, directory)
    return found | processes.marked("HIDDEN", directory)


def until(holds: Callable[[], object], within_s: float) -> bool:
    """Whether `holds` becomes true in time."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if holds():
            return True
        time.sleep(0.02)
    return False
