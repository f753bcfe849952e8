"""Read and write files. A file that is written here is complete or absent."""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.downloads import LFS_ADVICE, is_lfs_pointer
from harness.errors import BadInput

_RESERVE_BYTES = 64 * 1024


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write `content` to `path` atomically: a reader sees the old file or the complete new one."""
    data = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def reject_lfs_pointer(path: Path) -> None:
    """Raise BadInput where `path` is not the file but Git LFS's pointer to it, as a clone without LFS has it."""
    if is_lfs_pointer(str(path)):
        raise BadInput(f"{path} {LFS_ADVICE}")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    write_atomic(path, _json_text(value))


def _json_text(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


class Reserve:
    """Room on the disk for one JSON file that must be written even when the disk is full: a file of 64 KiB."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.write_bytes(b"\0" * _RESERVE_BYTES)

    def write_json(self, path: Path, value: Any) -> None:
        """Write `value` to `path` atomically; where there is no room, into the reserve itself. Ends the reserve.

        Raises:
            OSError: it could not be written in either way.
        """
        try:
            write_json(path, value)
        except OSError:
            with self._path.open("r+b") as stream:
                stream.write(_json_text(value).encode())
                stream.truncate()
                os.fsync(stream.fileno())
            self._path.replace(path)
        finally:
            self._path.unlink(missing_ok=True)


def read_json(path: Path, description: str) -> Any:
    """Read JSON from `path`; error messages call the file by its `description`.

    Raises:
        BadInput: the file is missing, unreadable or not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise BadInput(f"{description} {path} does not exist; check the path") from None
    except OSError as error:
        raise BadInput(f"{description} {path} cannot be read: {error.strerror}; check its permissions") from None
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{description} {path} is not JSON: {error}") from None


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """Hex SHA-256 of a JSON value in canonical form (sorted keys, no spaces)."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def tail(path: Path, lines: int = 20, limit_bytes: int = 65536) -> list[str]:
    """The last `lines` lines of a log; empty when it cannot be read."""
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - limit_bytes))
            return stream.read().decode(errors="replace").splitlines()[-lines:]
    except OSError:
        return []


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Keys (dotted) whose values differ between two nested mappings, with (old, new)."""
    different: dict[str, tuple[Any, Any]] = {}
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            different.update(differences(before, after, f"{prefix}{key}."))
        elif before != after:
            different[f"{prefix}{key}"] = (before, after)
    return different


def describe_differences(different: Mapping[str, Any]) -> str:
    """The result of `differences` in words, without the values of environment variables, which may be secrets."""
    return "; ".join(
        f"{key} differs" if key.startswith("env.") else f"{key}: existing {old!r}, requested {new!r}"
        for key, (old, new) in different.items()
    )
