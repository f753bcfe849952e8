"""What must hold before an engine is started: the model's files are whole, the port is free, the disk has room."""

import errno
import json
import os
import shutil
import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from harness.engine.config import EngineConfig
from harness.engine.launch import Build, check_platform
from harness.errors import BadInput, NotReady

LOG_BYTES = 256 << 20
_MAX_HEADER_BYTES = 100 << 20


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A complete model directory: its weight files in order, their bytes together, and the weights' data type."""

    weights: tuple[Path, ...]
    weights_bytes: int
    dtype: str | None
    tokenizer: Path


def check(directory: Path, config: EngineConfig, build: Build) -> None:
    """Refuse what would fail later, with the reason.

    Raises:
        BadInput: the model's files or a setting are wrong.
        NotReady: the port is taken or the disk is full.
    """
    check_platform(config, build)
    model_files(config.model)
    assert config.port is not None
    check_port(config.host, config.port)
    check_disk(directory, LOG_BYTES, "the engine's log")


def model_files(model: Path) -> ModelFiles:
    """The files of a model directory, each looked at: weights that were cut short are noticed by their length.

    Raises:
        BadInput: something is missing, unreadable, or has not the length its header says.
    """
    if not model.is_dir():
        raise BadInput(f"model directory {model} does not exist; check the path")
    config = _object(model / "config.json")
    tokenizer = next((model / name for name in ("tokenizer.json", "tokenizer.model") if (model / name).is_file()), None)
    if tokenizer is None:
        raise BadInput(f"model directory {model} has no tokenizer.json or tokenizer.model; copy it again")
    _object(model / "tokenizer_config.json")
    weights = _weight_files(model)
    sizes = [_check_safetensors(path) for path in weights]
    dtype = config.get("dtype") or config.get("torch_dtype")
    return ModelFiles(weights, sum(sizes), str(dtype) if dtype else None, tokenizer)


def _weight_files(model: Path) -> tuple[Path, ...]:
    index = model / "model.safetensors.index.json"
    if index.exists():
        places = _object(index).get("weight_map")
        if not isinstance(places, dict) or not places:
            raise BadInput(f"{index} has no weight_map; copy it again")
        names = sorted({str(name) for name in places.values()})
    else:
        names = sorted(path.name for path in model.glob("*.safetensors"))
    if not names:
        raise BadInput(f"model directory {model} has no *.safetensors weights; copy them there")
    missing = [name for name in names if not (model / name).is_file()]
    if missing:
        raise BadInput(f"model directory {model} lacks {', '.join(missing)} named by {index.name}; copy them again")
    return tuple(model / name for name in names)


def _check_safetensors(path: Path) -> int:
    """The length of a safetensors file, which must be what its header says."""
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(length)) if length <= min(size, _MAX_HEADER_BYTES) else None
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]  # type: ignore[union-attr]
        expected = 8 + length + max(ends, default=0)
    except OSError as error:
        raise BadInput(f"weights {path} cannot be read: {error.strerror}; check its permissions") from None
    except (ValueError, struct.error, AttributeError, LookupError, TypeError):
        raise BadInput(f"weights {path} ({size} bytes) have no whole safetensors header; copy the file again") from None
    if size != expected:
        short = "cut short" if size < expected else "too long"
        raise BadInput(f"weights {path} are {short}: {size} bytes, their header says {expected}; copy the file again")
    return size


def _object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise BadInput(f"model directory {path.parent} has no {path.name}; check the path or copy it again") from None
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}; check its permissions") from None
    except ValueError as error:
        raise BadInput(f"{path} is not JSON: {error}; copy it again") from None
    if not isinstance(value, dict):
        raise BadInput(f"{path} holds no JSON object; copy it again")
    return value


def check_port(host: str, port: int) -> None:
    """Refuse a port that cannot be listened on, naming who has it when that can be seen."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As the server does it: connections of an earlier server that are still closing do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise NotReady(
                    f"port {port} on {host} is taken{_owner(host, port)}; stop that or choose another port"
                ) from None
            raise NotReady(f"port {port} on {host} cannot be used: {error.strerror}; choose another") from None


def listeners(host: str, port: int) -> set[int]:
    """The processes that listen where a server on `host` and `port` would, as far as this user can see them."""
    try:
        connections = psutil.net_connections(kind="tcp")
    except (psutil.Error, OSError):
        return set()
    listening = (entry for entry in connections if entry.status == psutil.CONN_LISTEN and entry.laddr.port == port)
    same = {host, "0.0.0.0", "::"}  # noqa: S104
    return {entry.pid for entry in listening if entry.pid and (entry.laddr.ip in same or host in ("0.0.0.0", "::"))}  # noqa: S104


def _owner(host: str, port: int) -> str:
    for pid in listeners(host, port):
        try:
            return f" by pid {pid} ({' '.join(psutil.Process(pid).cmdline())[:80]})"
        except psutil.Error:
            return f" by pid {pid}"
    return ""


def check_disk(directory: Path, needed_bytes: int, what: str) -> None:
    """Refuse a directory that cannot be written or whose disk has less than `needed_bytes` left."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NotReady(f"{directory} cannot be made: {error.strerror}; choose another root") from None
    if not os.access(directory, os.W_OK | os.X_OK):
        raise NotReady(f"{directory} is not writable; change its owner or choose another root")
    free = shutil.disk_usage(directory).free
    if free < needed_bytes:
        raise NotReady(
            f"{directory} has {free >> 20} MiB left on its disk, {what} needs {needed_bytes >> 20} MiB; free some space"
        )
