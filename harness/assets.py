"""A model and a data set, fetched into folders and verified, with progress.

assets.fetch(asset, token, report)     # where its files come from is in the asset
assets.described(folder, files)        # sizes and checksums of files that will be sent to a pod
"""

import time
import urllib.parse
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, Any

from pydantic import BaseModel, ConfigDict, Field

from harness.downloads import CHUNK, PART, Rejected, accept, download, load, save, sha256, stamp, verify
from harness.errors import BadInput, NotReady, RunFailed
from harness.files import read_json, reject_lfs_pointer
from harness.spec import validated

MIB, GIB = 1 << 20, 1 << 30
REPORT_S = 2.0
"""How often progress is reported."""
SENT = "sent"
"""Source of files that somebody else brings, such as with `kubectl cp`."""
Report = Callable[[str, dict[str, int]], None]
"""Called with what is being done in words, and the paths that are waited for with the bytes there are of each."""


class File(BaseModel):
    """A file of an asset: its SHA-256, empty for what the source has; its bytes, needed only of what is sent."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str = Field(default="", pattern="^([0-9a-f]{64})?$")
    bytes: int = Field(default=0, ge=0)


class Asset(BaseModel):
    """Files that belong together.

    Attributes:
        path: the folder that they are put into.
        source: the address of a folder, a folder, `sent`, or empty for files that are there already.
        files: by name; none for all files of a folder.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Path
    source: str = ""
    files: dict[str, File] = {}


class Order(BaseModel):
    """The input of `harness fetch`: what to bring for a run, and the model and the data set to look at in the end."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_id: str
    model: Path | None = None
    dataset: Path | None = None
    assets: tuple[Asset, ...] = ()


def parse_order(values: Any) -> Order:
    """Validate plain values.

    Raises:
        BadInput: every wrong key in one message.
    """
    return validated(Order, values, "what to fetch")


def published_files() -> dict[str, str]:
    """SHA-256 of each file of the benchmark's model, from several public sources that agree."""
    files: dict[str, str] = _published()["files"]
    return files


def published_sizes() -> dict[str, int]:
    """Bytes of each of the model's weight files, by its SHA-256."""
    sizes: dict[str, int] = _published()["bytes"]
    return sizes


def _published() -> Any:
    return read_json(Path(__file__).parent / "published_model.json", "list of files")


def described(folder: Path, sums: Mapping[str, str]) -> dict[str, File]:
    """Files of a folder that will be sent: those of `sums`, or all, with sizes and the checksums that are not given.

    Raises:
        BadInput: one is missing, or only Git LFS's pointer to it.
    """
    names = list(sums) or _names(folder)
    for name in names:
        if not (folder / name).is_file():
            raise BadInput(f"{folder} has no file {name}; complete it, or list the files that it has")
        reject_lfs_pointer(folder / name)
    if not names:
        raise BadInput(f"{folder} has no files; check the path")
    paths = {name: folder / name for name in names}
    return {
        name: File(sha256=sums.get(name) or sha256(str(path)), bytes=path.stat().st_size)
        for name, path in paths.items()
    }


def _names(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise BadInput(f"folder {folder} does not exist; check the path")
    return sorted(path.name for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))


def fetch(asset: Asset, token: str, report: Report) -> int:
    """Bring an asset's missing files, verify all, and remember what was verified in the folder; how many it brought.

    Files without a source that were verified earlier are verified again where their size or time has changed.

    Raises:
        BadInput: a file has another checksum than it should, or its source refuses it.
        NotReady: the folder cannot be written, or its disk is full.
    """
    folder = asset.path
    try:
        verified = load(str(folder))
        sums = {name: file.sha256 for name, file in asset.files.items()}
        if not asset.source:
            sums = {name: entry[0] for name, entry in verified.items()}
        elif asset.source.startswith("/"):
            sums = _sums_of_folder(Path(asset.source), sums, report)
        report(f"verifying what is in {folder}", {})
        recorded = dict(verified)
        wrong = verify(str(folder), sums, verified)
        if wrong and not asset.source:
            raise BadInput(f"{', '.join(wrong)} in {folder} changed after verification; fill the claim again")
        if asset.source == SENT:
            _await(asset, wrong, report)
        else:
            _bring(asset, wrong, sums, token, report)
        for name in wrong:
            verified[name] = [sums[name], *(stamp(str(folder / name)) or [])]
        if asset.source and verified != recorded:
            save(str(folder), verified)
        return len(wrong)
    except Rejected as error:
        raise BadInput(str(error)) from None
    except OSError as error:
        path = error.filename or folder
        raise NotReady(f"{path}: {error.strerror or error}; free space, or check who owns it") from None


def _sums_of_folder(source: Path, sums: dict[str, str], report: Report) -> dict[str, str]:
    for name in sums or _names(source):
        if not (source / name).is_file():
            raise BadInput(f"{source} has no file {name}; correct the source, or list the files that it has")
        reject_lfs_pointer(source / name)
        if not sums.get(name):
            report(f"reading {name}", {})
            sums = {**sums, name: sha256(str(source / name))}
    return sums


def _bring(asset: Asset, names: list[str], sums: Mapping[str, str], token: str, report: Report) -> None:
    for number, name in enumerate(names, 1):
        target, progress = str(asset.path / name), _Progress(f"{name} ({number} of {len(names)} files)", report)
        if asset.source.startswith("/"):
            _copy(Path(asset.source, name), Path(target + PART), progress)
            accept(target + PART, target, sums[name], f"{asset.source}/{name}")
        else:
            url = f"{asset.source.rstrip('/')}/{urllib.parse.quote(name)}"
            download(url, target, sums[name], token, progress=progress)


def _copy(source: Path, target: Path, progress: Callable[[int, int | None], None]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as reader, target.open("wb") as writer:
        while data := reader.read(CHUNK):
            writer.write(data)
            progress(writer.tell(), source.stat().st_size)


class _Progress:
    """Reports how much of a file is there, every REPORT_S seconds."""

    def __init__(self, title: str, report: Report) -> None:
        self._title, self._report = title, report
        self._began = self._reported = time.monotonic()
        self._first: int | None = None

    def __call__(self, have: int, whole: int | None) -> None:
        now = time.monotonic()
        self._first = have if self._first is None else self._first
        if now - self._reported < REPORT_S and have != whole:
            return
        self._reported = now
        rate = (have - self._first) / max(now - self._began, 0.001)
        self._report(f"{self._title}: {extent(have, whole)}, {rate / MIB:.0f} MiB/s", {})


def extent(have: int, whole: int | None) -> str:
    """How much of a file is there, in words."""
    unit, name = (GIB, "GiB") if (whole or have) >= GIB else (MIB, "MiB")
    return " of ".join(f"{count / unit:.2f}" for count in (have, whole) if count is not None) + f" {name}"


def _await(asset: Asset, names: Iterable[str], report: Report) -> None:
    """Wait until each file is there whole, and verify it."""
    waiting = list(names)
    asset.path.mkdir(parents=True, exist_ok=True)
    while waiting:
        for name in list(waiting):
            path, file = asset.path / name, asset.files[name]
            if path.is_file() and path.stat().st_size >= file.bytes:
                report(f"verifying {name}", {})
                accept(str(path), str(path), file.sha256, name)
                waiting.remove(name)
        if waiting:
            # A part may get its file's name at any moment.
            missing = {str(asset.path / name): (stamp(str(asset.path / f"{name}{PART}")) or [0])[0] for name in waiting}
            report(f"waiting for {len(missing)} more of {len(asset.files)} files in {asset.path}", missing)
            time.sleep(REPORT_S / 2)


def receive(path: Path, offset: int, length: int, whole: int, stream: IO[bytes]) -> None:
    """Write `length` bytes of a file of `whole` bytes from a stream; the file has its name when it is whole.

    Raises:
        RunFailed: the stream ended early.
    """
    part = path.with_name(path.name + PART)
    if offset and not part.exists():
        if path.is_file() and path.stat().st_size == whole:
            return  # The sender repeats the last piece, whose answer it has not seen.
        raise RunFailed(f"{part} is gone; send the file from its beginning")
    part.parent.mkdir(parents=True, exist_ok=True)
    with part.open("r+b" if part.exists() else "wb") as target:
        target.seek(offset)
        target.truncate()
        while length:
            if not (data := stream.read(min(CHUNK, length))):
                raise RunFailed(f"{path.name}: the sender stopped {length} bytes early")
            target.write(data)
            length -= len(data)
        end = target.tell()
    if end == whole:
        part.replace(path)
