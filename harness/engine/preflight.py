"""What must hold before an engine is started: the model's files are whole, the port is free, the disk has room."""

import errno
import os
import shutil
import socket
from pathlib import Path

import psutil

from harness.engine.config import EngineConfig
from harness.engine.launch import Build, check_libraries, check_platform
from harness.errors import NotReady
from harness.node.model import model_files

LOG_BYTES = 256 << 20


def check(directory: Path, config: EngineConfig, build: Build) -> None:
    """Refuse what would fail later, with the reason.

    Raises:
        BadInput: the model's files or a setting are wrong.
        NotReady: the port is taken or the disk is full.
    """
    check_platform(config, build)
    check_libraries(build)
    model_files(config.model)
    assert config.port is not None
    check_port(config.host, config.port)
    check_disk(directory, LOG_BYTES, "the engine's log")


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
