"""This package as a source archive that pip installs on nodes."""

import gzip
import io
import tarfile
from pathlib import Path

_EARLIEST_IN_A_WHEEL = 315532800
"""1980, in unix seconds: a wheel is a zip archive, which holds no earlier time."""


def archive(checkout: Path, name: str) -> bytes:
    """The archive's bytes, with everything below the folder `name`; the same for the same names and contents."""
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", mtime=_EARLIEST_IN_A_WHEEL, filename="") as stream:
        with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as members:
            for path in _files(checkout):
                data = path.read_bytes()
                member = tarfile.TarInfo(f"{name}/{path.relative_to(checkout)}")
                member.size, member.mtime, member.mode = len(data), _EARLIEST_IN_A_WHEEL, 0o644
                members.addfile(member, io.BytesIO(data))
    return packed.getvalue()


def _files(checkout: Path) -> list[Path]:
    package = [path for path in (checkout / "harness").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    return sorted([checkout / "pyproject.toml", *package])
