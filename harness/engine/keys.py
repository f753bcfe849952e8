"""API keys of engines: every start of one has its own, in <root>/keys/NAME, which nobody else may read.

The file is beside the engines' folders, which are collected, and goes with its engine. An engine whose settings name an
`api_key_file` has no other: the Secret of a pod, or the key of a server that somebody else runs.
"""

import contextlib
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from harness import servers
from harness.engine import state
from harness.engine.config import EngineConfig
from harness.engine.state import EngineState
from harness.errors import BadInput
from harness.servers import Access
from harness.spec import EngineRef


def make(directory: Path, config: EngineConfig) -> None:
    """Keep the key of an engine that is about to be started or attached.

    Raises:
        BadInput: the settings name a key that cannot be read.
    """
    key = config.key() or (None if config.kind == "endpoint" else secrets.token_urlsafe(32))
    delete(directory)
    if key and not config.api_key_file:
        file = _file(directory)
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as stream:
            stream.write(key)


def delete(directory: Path) -> None:
    """Delete the key of the engine in this directory."""
    _file(directory).unlink(missing_ok=True)


@contextlib.contextmanager
def deleted(directory: Path) -> Iterator[None]:
    """Delete the key of the engine in this directory at the end, also after an error."""
    try:
        yield
    finally:
        delete(directory)


def introduce(directory: Path, engine: EngineState) -> str | None:
    """Ask an engine that was started or attached before with its key; returns that, None where there is none."""
    config = engine.config
    files = [Path(config["api_key_file"])] if config.get("api_key_file") else [_file(directory)]
    key = next((servers.read_key(file) for file in files if file.exists()), None)
    ca_file = Path(config["ca_file"]) if config.get("ca_file") else None
    servers.know(engine.url, Access(key, ca_file, config.get("served_model")))
    return key


def introduce_all(root: Path, engines: Iterable[EngineRef], given: Mapping[str, str]) -> None:
    """Ask the engines of a run as their references say, with the keys `given` by their names, and else with those of
    the engines that run here at the same address.

    Raises:
        BadInput: a key cannot be read.
    """
    for reference in engines:
        key = given.get(reference.name)
        if key is None and reference.api_key_file:
            key = servers.read_key(reference.api_key_file)
        if key is None:
            key = _key_here(root / "engines" / reference.name, reference.url) or servers.access(reference.url).key
        servers.know(reference.url, Access(key, reference.ca_file, reference.served_model))


def _key_here(directory: Path, url: str) -> str | None:
    try:
        engine = state.stored(directory)
    except BadInput:
        return None  # not a run's business: who looks at the engine says so
    return introduce(directory, engine) if engine and engine.running and engine.url == url else None


def _file(directory: Path) -> Path:
    return directory.parents[1] / "keys" / directory.name
