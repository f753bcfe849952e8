"""Files that a node offers for collection: where each may be written. A node may be damaged or compromised."""

import re
from pathlib import Path
from typing import Any

from harness import checksums
from harness.errors import RunFailed

MOST_BYTES, MOST_FILES = 64 << 30, 100_000
"""Of one collection. A whole benchmark of 13,368 samples has less than 1 GiB in some hundred files."""
LONGEST_NAME = 1000
# Those of lines and of writing direction among them: SHA256SUMS has a name a line.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class Refused(RunFailed):
    """A node offers or sends what may not be written: asking again would not help."""


class Offer:
    """The files of one collection below `folder`; each is checked before it is written.

    for name, size in files:
        path = offer.path(name, size)
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, str] = {}
        self._folders: set[str] = set()
        self._bytes = 0

    def path(self, name: Any, size: Any) -> Path:
        """Where the file goes.

        Raises:
            Refused: it would lie outside of the folder, take the place of another file (also where the file system
                ignores case) or of a folder, or be too large. Nothing may be written then.
        """
        if reason := self._name_problem(name) or self._size_problem(size):
            raise Refused(f"the node offers a file {str(name)[:200]!a} that {reason}; nothing was written to it")
        return self._folder / str(name)

    def _name_problem(self, name: Any) -> str | None:
        if not isinstance(name, str):
            return "is no name"
        parts = name.split("/")
        if not all(parts) or not {".", ".."}.isdisjoint(parts):
            return f"would lie outside of {self._folder}, or has no name"
        if _CONTROL.search(name) or len(name) > LONGEST_NAME or any(len(part.encode()) > 250 for part in parts):
            return (
                f"has a name with control characters, over {LONGEST_NAME} characters, or a part of more than 250 bytes"
            )
        if name == checksums.FILE or parts[-1].endswith(".part"):
            return "has the name of a file that collecting writes itself"
        key = name.casefold()
        folders = {"/".join(parts[:count]).casefold() for count in range(1, len(parts))}
        if key in self._files or key in self._folders or not folders.isdisjoint(self._files):
            return "takes the place of another one that it offers"
        places = (self._folder / name, *(self._folder / name).parents)[: len(parts)]
        if any(place.is_symlink() for place in places):
            return f"would be written through a link in {self._folder}"
        for place in places:
            if place.exists() and place.is_dir() == (place is places[0]):
                kind = "folder" if place.is_dir() else "file"
                return f"conflicts with the {kind} {place} of an earlier collection (move {self._folder} away)"
        if len(self._files) == MOST_FILES:
            return f"is one more than {MOST_FILES}"
        self._files[key] = name
        self._folders |= folders
        return None

    def _size_problem(self, size: Any) -> str | None:
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            return f"has no size but {str(size)[:40]!a}"
        self._bytes += size
        return f"makes more than {MOST_BYTES >> 30} GiB together" if self._bytes > MOST_BYTES else None
