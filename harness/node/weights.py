"""The hash of a model's weights: each file is hashed once as it is, for all engines and runs of a node."""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from harness.files import sha256_file, sha256_json, write_json
from harness.spec import WEIGHTS_CACHE, WEIGHTS_CACHE_VARIABLE

_WAIT_S, _PAUSE_S = 600.0, 0.5
_READERS = 4


def weights_sha256(files: tuple[Path, ...], root: Path) -> str:
    """Hash over the names and hashes of weight files.

    A file's hash is remembered until its inode, size or times change; of several engines that start together, one
    hashes and the others wait for it.
    """
    cache = Path(os.environ.get(WEIGHTS_CACHE_VARIABLE) or root / WEIGHTS_CACHE)
    identities = {path: _identity(path) for path in files}
    known = _read(cache)
    if any(_is_new(path, identity, known) for path, identity in identities.items()):
        with _alone(cache):
            known = _read(cache)
            new = [path for path, identity in identities.items() if _is_new(path, identity, known)]
            with ThreadPoolExecutor(_READERS) as pool:
                hashes = dict(zip(new, pool.map(sha256_file, new), strict=True))
            known |= {str(path): {**identities[path], "sha256": digest} for path, digest in hashes.items()}
            write_json(cache, known)
    return sha256_json({path.name: known[str(path)]["sha256"] for path in files})


def _identity(path: Path) -> dict[str, int]:
    """What another content of a file changes; its change time cannot be set back, as its modification time can."""
    status = path.stat()
    times = {"mtime_ns": status.st_mtime_ns, "ctime_ns": status.st_ctime_ns}
    return {"inode": status.st_ino, "size": status.st_size, **times}


def _is_new(path: Path, identity: dict[str, int], known: dict[str, Any]) -> bool:
    return not identity.items() <= known.get(str(path), {}).items()


def _read(cache: Path) -> dict[str, Any]:
    """What is known of each file; nothing where the cache is damaged."""
    try:
        known = json.loads(cache.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    files = known.items() if isinstance(known, dict) else ()
    return {path: file for path, file in files if isinstance(file, dict) and isinstance(file.get("sha256"), str)}


@contextlib.contextmanager
def _alone(cache: Path) -> Iterator[None]:
    """Nobody else hashes meanwhile. Without the lock after a while, and on file systems that have none."""
    cache.parent.mkdir(parents=True, exist_ok=True)
    with cache.with_suffix(".lock").open("a") as lock:
        end = time.monotonic() + _WAIT_S
        while time.monotonic() < end:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(_PAUSE_S)
            except OSError:
                break
            else:
                break
        yield
