"""Checks before an engine is started: the model is complete, the port is free, the disk has space."""

import errno
import os
import shutil
import socket
from pathlib import Path

import psutil

from harness.engine.config import EngineConfig
from harness.engine.launch import Build, check_libraries, check_platform
from harness.errors import NotReady
from harness.linux import check_open_files
from harness.node.model import model_files

LOG_BYTES = 256 << 20
_OWN_FILES = 512  # of a server: libraries, weights, logs, sockets between its processes


def check(directory: Path, config: EngineConfig, build: Build) -> None:
    """Check settings, libraries, model, port, disk and open files.

    Raises:
        BadInput: a setting is invalid or the model is incomplete.
        NotReady: a library is missing, the port is in use, the disk is full, or too few files may be open.
    """
    check_platform(config, build)
    check_libraries(build)
    model_files(config.model)
    assert config.port is not None
    check_port(config.host, config.port)
    check_disk(directory, LOG_BYTES, "the engine's log")
    check_open_files(config.max_in_flight + _OWN_FILES, f"an engine with {config.max_in_flight:,} requests in flight")


def check_port(host: str, port: int) -> None:
    """Raise NotReady when `port` cannot be listened on; names the process that uses it where this user can see it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As the server does: closing connections of an earlier server do not block the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise NotReady(
                    f"port {port} on {host} is in use{_owner(host, port)}; stop that process or choose another port"
                ) from None
            raise NotReady(f"cannot listen on port {port} of {host}: {error.strerror}; choose another") from None


def listeners(host: str, port: int) -> set[int]:
    """The processes that listen on this address, as far as this user can see them."""
    try:
        connections = psutil.net_connections(kind="tcp")
    except (psutil.Error, OSError):
        return set()
    listening = (entry for entry in connections if entry.status == psutil.CONN_LISTEN and entry.laddr.port == port)
    any_address = ("0.0.0.0", "::")  # noqa: S104
    matching = (entry for entry in listening if host in any_address or entry.laddr.ip in (host, *any_address))
    return {entry.pid for entry in matching if entry.pid}


def _owner(host: str, port: int) -> str:
    for pid in listeners(host, port):
        try:
            return f" by pid {pid} ({' '.join(psutil.Process(pid).cmdline())[:80]})"
        except psutil.Error:
            return f" by pid {pid}"
    return ""


def check_disk(directory: Path, needed_bytes: int, purpose: str) -> None:
    """Raise NotReady when `directory` is not writable or its disk has less than `needed_bytes` left for `purpose`."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NotReady(f"{directory} cannot be created: {error.strerror}; choose another root") from None
    if not os.access(directory, os.W_OK | os.X_OK):
        raise NotReady(f"{directory} is not writable; change its owner or choose another root")
    free = shutil.disk_usage(directory).free
    if free < needed_bytes:
        raise NotReady(
            f"{directory}: {free >> 20} MiB free on its disk, {purpose} needs {needed_bytes >> 20} MiB; free some space"
        )
