"""A folder's SHA256SUMS: the hash of each collected file, in the format of `sha256sum --check`.

sums = checksums.read(folder)           # name -> hex SHA-256; empty when the folder has no SHA256SUMS
checksums.matches(folder / name, sha256)    # whether a file exists and has this content
checksums.add(folder, {name: sha256})   # keeps those of earlier collections
"""

from collections.abc import Mapping
from pathlib import Path

from harness.errors import BadInput
from harness.files import sha256_file, write_atomic

FILE = "SHA256SUMS"


def read(folder: Path) -> dict[str, str]:
    """Hashes by file name, as `folder`/SHA256SUMS lists them.

    Raises:
        BadInput: it is not in the format of sha256sum.
    """
    path = folder / FILE
    try:
        return parse(path.read_text(encoding="utf-8"), str(path)) if path.exists() else {}
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not UTF-8 ({error.reason}); delete it and collect again") from None


def add(folder: Path, sums: Mapping[str, str]) -> None:
    """Write `sums` to `folder`/SHA256SUMS in addition to those that it lists already."""
    listed = read(folder)
    if {**listed, **sums} != listed:
        write_atomic(folder / FILE, dump({**listed, **sums}))


def matches(path: Path, sha256: str) -> bool:
    """Whether `path` is a file with this hash."""
    return path.is_file() and sha256_file(path) == sha256


def dump(sums: Mapping[str, str]) -> str:
    """The content of a SHA256SUMS."""
    return "".join(f"{sums[name]}  {name}\n" for name in sorted(sums))


def parse(text: str, source: str) -> dict[str, str]:
    """Hashes by file name from the content of a SHA256SUMS; `source` names it in the error.

    Raises:
        BadInput: it is not in the format of sha256sum.
    """
    sums = {}
    for number, line in enumerate(text.splitlines(), 1):
        sha256, separator, name = line.partition("  ")
        if not (separator and name and len(sha256) == 64):
            raise BadInput(f"{source}, line {number}: {line[:100]!r} is not `HASH  FILE`; delete it and collect again")
        sums[name] = sha256
    return sums
