"""The parts of an accuracy run: one, and one more for each time that it was resumed after it had been interrupted.

The first is in `accuracy/`, the next ones in `accuracy.2/`, `accuracy.3/` and so on. Each is a LoadGen run of its own
over the samples whose answers were missing then; `part.json` in its folder says which, where it is not all of them.
"""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from harness.errors import BadInput
from harness.files import read_json, write_json
from harness.spec import Share

FIRST = "accuracy"
_SAMPLES = "part.json"


@dataclass(frozen=True, slots=True)
class Part:
    """One LoadGen run of an accuracy run.

    Attributes:
        folder: LoadGen's files.
        qsl_idx: global index of each of its samples, by the `qsl_idx` of LoadGen's log.
    """

    folder: Path
    qsl_idx: Sequence[int]

    @property
    def log(self) -> Path:
        """LoadGen's accuracy log."""
        return self.folder / "mlperf_log_accuracy.json"

    @property
    def whole(self) -> bool:
        """Whether LoadGen wrote the log to its end; it does not where its process was killed."""
        try:
            with self.log.open("rb") as stream:
                stream.seek(max(0, self.log.stat().st_size - 16))
                return stream.read().rstrip().endswith(b"]")
        except OSError:
            return False

    def entries(self) -> Iterator[tuple[int, bytes]]:
        """Global index and token ids, as little-endian int32, of each whole entry of the log, which may be cut or
        missing."""
        for line in self.log.read_bytes().splitlines() if self.log.exists() else ():
            try:
                entry = orjson.loads(line.strip().rstrip(b","))
                index, ids = range(len(self.qsl_idx))[entry["qsl_idx"]], bytes.fromhex(entry["data"])
            except (ValueError, LookupError, TypeError):
                continue  # brackets, and the line that is cut
            yield self.qsl_idx[index], ids


def folders(run_dir: Path) -> list[Path]:
    """The folders of all parts, in order; empty where there was no accuracy run."""
    existing: list[Path] = []
    while (folder := _folder(run_dir, len(existing) + 1)).is_dir():
        existing.append(folder)
    return existing


def parts(run_dir: Path, window: Share) -> list[Part]:
    """All parts of a run over the samples of `window`, in order; empty where there was no accuracy run.

    Raises:
        BadInput: a later part does not say which samples it had.
    """
    return [Part(folder, _samples(folder, window)) for folder in folders(run_dir)]


def begin(run_dir: Path, window: Share, missing: Sequence[int]) -> Part:
    """Make the folder of the next part, which is to have the samples `missing` ."""
    part = Part(_folder(run_dir, len(folders(run_dir)) + 1), missing)
    begun = part.folder.with_name(f".{part.folder.name}")
    shutil.rmtree(begun, ignore_errors=True)
    begun.mkdir(parents=True)
    if len(missing) < window.stop - window.start:
        write_json(begun / _SAMPLES, {"schema": 1, "qsl_idx": list(missing)})
    begun.rename(part.folder)  # a folder of this name always says which samples it had
    return part


def answered_in(parts: Sequence[Part]) -> list[frozenset[int]]:
    """The samples whose answers each part has: those that it had and no later one.

    A sample is asked again only if its answer was lost, so the last answer is the one that counts.
    """
    taken: set[int] = set()
    own = []
    for part in reversed(parts):
        own.append(frozenset(part.qsl_idx) - taken)
        taken.update(part.qsl_idx)
    return own[::-1]


def _folder(run_dir: Path, number: int) -> Path:
    return run_dir / (FIRST if number == 1 else f"{FIRST}.{number}")


def _samples(folder: Path, window: Share) -> Sequence[int]:
    if not (folder / _SAMPLES).exists():
        return range(window.start, window.stop)
    document = read_json(folder / _SAMPLES, "part of the accuracy run")
    samples = document.get("qsl_idx") if isinstance(document, dict) else None
    if not isinstance(samples, list) or not samples or set(map(type, samples)) != {int}:
        raise BadInput(f"{folder / _SAMPLES} lists no samples; fetch it again from its node")
    return samples
