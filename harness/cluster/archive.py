"""Files as one stream with their hashes: packed in the pod, unpacked and verified on this machine."""

import gzip
import hashlib
import io
import os
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Self

from harness import checksums
from harness.collected import LONGEST_NAME, Offer, Refused
from harness.errors import RunFailed

_MOST_SUMS_BYTES = 64 << 20
_NAMES_SHOWN = 5
_MEMBER_TYPES = frozenset(
    {
        *(tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE),
        *(tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE),
    }
)


def pack(sources: dict[Path, str], out: IO[bytes]) -> None:
    """Write every regular file below each source folder to `out`, as gzipped tar, under the source's target folder.

    Hidden files and links are left out, and a source that does not exist has no files. Bytes appended to a file
    meanwhile are left out. The last member is SHA256SUMS: a stream without it was cut off.

    Raises:
        RunFailed: a file became shorter while it was read.
    """
    sums = {}
    with (
        gzip.GzipFile(fileobj=out, mode="wb", compresslevel=3) as compressed,
        tarfile.open(fileobj=compressed, mode="w|", format=tarfile.GNU_FORMAT) as archive,
    ):
        for source, target in sources.items():
            for path in _files(source):
                name = str(PurePosixPath(target) / path.relative_to(source).as_posix())
                entry = tarfile.TarInfo(name)
                with path.open("rb") as stream:
                    entry.size, entry.mtime = os.fstat(stream.fileno()).st_size, int(path.stat().st_mtime)
                    reader = _HashingReader(stream)
                    try:
                        archive.addfile(entry, reader)
                    except OSError as error:
                        raise RunFailed(f"{path} cannot be read completely: {error}") from None
                sums[name] = reader.digest.hexdigest()
        content = checksums.dump(sums).encode()
        entry = tarfile.TarInfo(checksums.FILE)
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))


def unpack(stream: IO[bytes], folder: Path) -> tuple[list[str], list[str]]:
    """Write a packed stream's files below `folder`; (all names, those that are new or have changed).

    Each file appears completely or not at all, and `folder`/SHA256SUMS lists the files of this and earlier collections.

    Raises:
        Refused: it has a file that `Offer` refuses, or one that is no ordinary file.
        RunFailed: the stream was cut off, or a file arrived damaged.
    """
    arrived: dict[str, str] = {}
    listed: dict[str, str] | None = None
    changed = []
    offer = Offer(folder)
    try:
        with tarfile.open(fileobj=stream, mode="r|gz", tarinfo=_Member) as archive:
            for entry in archive:
                content = archive.extractfile(entry) if entry.isreg() else None
                if content is None:
                    raise Refused(f"the archive of results has {entry.name[:200]!a}, which is no ordinary file")
                if entry.name == checksums.FILE:
                    text = content.read(_MOST_SUMS_BYTES).decode(errors="replace")
                    listed = checksums.parse(text, "the archive's SHA256SUMS")
                    continue
                arrived[entry.name], new = _write(content, offer.path(entry.name, entry.size))
                changed += [entry.name] if new else []
    except (tarfile.TarError, EOFError, OSError, RecursionError, zlib.error) as error:
        raise RunFailed(f"the archive of results arrived cut off or damaged: {error}") from None
    if listed is None:
        raise RunFailed("the archive of results arrived cut off: its SHA256SUMS is missing")
    damaged = sorted(name for name in {*arrived, *listed} if arrived.get(name) != listed.get(name))
    if damaged:
        names = ", ".join(f"{name[:200]!a}" for name in damaged[:_NAMES_SHOWN])
        raise RunFailed(f"files arrived damaged ({len(damaged)}): {names}")
    checksums.add(folder, listed)
    return sorted(arrived), changed


class _Member(tarfile.TarInfo):
    """A member as `pack` writes it. Other headers than that of a long name would be read into memory, however large."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        entry = super().frombuf(buf, encoding, errors)
        is_name = entry.type == tarfile.GNUTYPE_LONGNAME and entry.size <= 4 * LONGEST_NAME
        if not is_name and entry.type not in _MEMBER_TYPES:
            raise Refused(f"the archive of results has a header of type {entry.type!r} and {entry.size} bytes")
        return entry


class _HashingReader(io.RawIOBase):
    """Reads a file and hashes what it returns."""

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


def _write(content: IO[bytes], path: Path) -> tuple[str, bool]:
    """Write a file completely; (its hash, whether it is new or has changed)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    try:
        digest = hashlib.sha256()
        with part.open("wb") as out:
            while chunk := content.read(1 << 20):
                digest.update(chunk)
                out.write(chunk)
        if checksums.matches(path, digest.hexdigest()):
            return digest.hexdigest(), False
        part.replace(path)
        return digest.hexdigest(), True
    finally:
        part.unlink(missing_ok=True)
