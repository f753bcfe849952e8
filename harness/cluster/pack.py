"""Files as one stream with their hashes: packed where they lie, unpacked and checked where they are wanted."""

import gzip
import hashlib
import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from harness.errors import BadInput, RunFailed
from harness.files import sha256_file, write_atomic

SUMS = "SHA256SUMS"


def pack(sources: dict[Path, str], out: IO[bytes]) -> None:
    """Write every ordinary file below each source to `out`, as gzipped tar, under the target that goes with it.

    Hidden files are working files and stay, links stay too, and a source that does not exist has no files. What is
    appended to a file meanwhile is left out. The last member lists all hashes: without it the stream was cut.

    Raises:
        RunFailed: a file became shorter while it was read.
    """
    sums = {}
    with (
        gzip.GzipFile(fileobj=out, mode="wb", compresslevel=3) as zipped,
        tarfile.open(fileobj=zipped, mode="w|") as archive,
    ):
        for source, target in sources.items():
            for path in _files(source):
                name = str(PurePosixPath(target) / path.relative_to(source).as_posix())
                entry = tarfile.TarInfo(name)
                with path.open("rb") as stream:
                    entry.size, entry.mtime = os.fstat(stream.fileno()).st_size, int(path.stat().st_mtime)
                    reader = _Hashing(stream)
                    try:
                        archive.addfile(entry, reader)
                    except OSError as error:
                        raise RunFailed(f"{path} cannot be read whole: {error}") from None
                sums[name] = reader.digest.hexdigest()
        listed = _listed(sums).encode()
        entry = tarfile.TarInfo(SUMS)
        entry.size = len(listed)
        archive.addfile(entry, io.BytesIO(listed))


def unpack(stream: IO[bytes], into: Path) -> tuple[list[str], list[str]]:
    """Put a packed stream's files below `into`; (all names, those that were not there or were different).

    Each file appears whole or not at all, and `into`/SHA256SUMS holds the hashes of this and earlier collections.

    Raises:
        RunFailed: the stream was cut, or a file arrived damaged.
    """
    arrived: dict[str, str] = {}
    listed: dict[str, str] | None = None
    fetched = []
    try:
        with tarfile.open(fileobj=stream, mode="r|gz") as archive:
            for entry in archive:
                content = archive.extractfile(entry)
                assert content is not None
                if entry.name == SUMS:
                    listed = _sums(content.read().decode())
                    continue
                place = _below(into, entry.name)
                arrived[entry.name], new = _put(content, place)
                fetched += [entry.name] if new else []
    except (tarfile.TarError, EOFError, OSError) as error:
        raise RunFailed(f"the files arrived cut or damaged: {error}") from None
    if listed is None:
        raise RunFailed("the files arrived cut: the list of their hashes is missing")
    wrong = sorted(name for name in {*arrived, *listed} if arrived.get(name) != listed.get(name))
    if wrong:
        raise RunFailed(f"the files arrived damaged: {', '.join(wrong)}")
    known = _sums((into / SUMS).read_text()) if (into / SUMS).exists() else {}
    if {**known, **listed} != known:
        write_atomic(into / SUMS, _listed({**known, **listed}))
    return sorted(arrived), fetched


class _Hashing(io.RawIOBase):
    """Reads through to a file, and hashes what it gives."""

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__()
        self._stream = stream
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self.digest.update(data)
        return data


def _files(source: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(source):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(folder, name)
            if not name.startswith(".") and path.is_file() and not path.is_symlink():
                yield path


def _below(into: Path, name: str) -> Path:
    place = PurePosixPath(name)
    if place.is_absolute() or ".." in place.parts:
        raise BadInput(f"a collected file would go to {name}, outside of {into}; nothing was written there")
    return into / place


def _put(content: IO[bytes], place: Path) -> tuple[str, bool]:
    """Write a file whole; (its hash, whether it was not there before)."""
    place.parent.mkdir(parents=True, exist_ok=True)
    part = place.with_name(f"{place.name}.part")
    try:
        digest = hashlib.sha256()
        with part.open("wb") as out:
            while chunk := content.read(1 << 20):
                digest.update(chunk)
                out.write(chunk)
        if place.is_file() and sha256_file(place) == digest.hexdigest():
            return digest.hexdigest(), False
        part.replace(place)
        return digest.hexdigest(), True
    finally:
        part.unlink(missing_ok=True)


def _listed(sums: dict[str, str]) -> str:
    return "".join(f"{sums[name]}  {name}\n" for name in sorted(sums))


def _sums(text: str) -> dict[str, str]:
    return {name: digest for digest, name in (line.split("  ", 1) for line in text.splitlines())}
