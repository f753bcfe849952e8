"""Files in one stream: complete or not at all, whatever happens to the connection."""

import gzip
import hashlib
import io
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from harness import checksums
from harness.cluster.archive import pack, unpack
from harness.collected import Refused
from harness.errors import RunFailed
from tests.conftest import REPOSITORY


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "r1"
    (folder / "performance").mkdir(parents=True)
    (folder / "status.json").write_text('{"state": "finished"}')
    (folder / "journal.jsonl").write_bytes(b'{"qsl_idx": 1}\n' * 50_000)
    (folder / "performance" / "mlperf_log_detail.txt").write_text("detail")
    (folder / ".reserve").write_text("hidden")
    (folder / "link").symlink_to("/etc/passwd")
    return folder


def packed(*sources: tuple[Path, str]) -> bytes:
    out = io.BytesIO()
    pack(dict(sources), out)
    return out.getvalue()


def test_files_arrive_with_their_hashes(run: Path, tmp_path: Path) -> None:
    engine = tmp_path / "engines" / "e"
    engine.mkdir(parents=True)
    (engine / "engine.json").write_text("{}")
    into = tmp_path / "nodes" / "jw2"
    data = packed((run, ""), (engine, "engines/e"), (tmp_path / "absent", "calibration"))
    names, fetched = unpack(io.BytesIO(data), into)
    assert names == ["engines/e/engine.json", "journal.jsonl", "performance/mlperf_log_detail.txt", "status.json"]
    assert sorted(fetched) == names
    assert (into / "journal.jsonl").read_bytes() == (run / "journal.jsonl").read_bytes()
    assert subprocess.run(["sha256sum", "--quiet", "-c", checksums.FILE], cwd=into).returncode == 0
    assert not list(into.rglob("*.part"))


def test_unchanged_files_are_kept_and_sha256sums_is_merged(run: Path, tmp_path: Path) -> None:
    into = tmp_path / "into"
    unpack(io.BytesIO(packed((run, ""))), into)
    (run / "status.json").write_text('{"state": "stopped"}')
    names, fetched = unpack(io.BytesIO(packed((run, ""))), into)
    assert (len(names), fetched) == (3, ["status.json"])
    unpack(io.BytesIO(packed((run / "performance", "calibration"))), into)
    assert len((into / checksums.FILE).read_text().splitlines()) == 4


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_a_truncated_stream_is_an_error(run: Path, tmp_path: Path, part: float) -> None:
    data = packed((run, ""))
    with pytest.raises(RunFailed, match="cut"):
        unpack(io.BytesIO(data[: int(len(data) * part)]), tmp_path / "into")
    assert not list(tmp_path.rglob("*.part"))


def test_a_file_with_another_hash_is_an_error(tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w|gz") as archive:
        for name, content in (
            ("a", b"other"),
            (checksums.FILE, f"{hashlib.sha256(b'asked').hexdigest()}  a\n".encode()),
        ):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    with pytest.raises(RunFailed, match=r"damaged \(1\): 'a'"):
        unpack(io.BytesIO(out.getvalue()), tmp_path / "into")


@pytest.mark.parametrize("name", ["../outside", "/var/tmp/outside", "a/../../outside"])
def test_a_path_outside_of_the_folder_is_an_error(tmp_path: Path, name: str) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w|gz") as archive:
        archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    with pytest.raises(RunFailed, match="outside"):
        unpack(io.BytesIO(out.getvalue()), tmp_path / "into")
    assert not list(tmp_path.rglob("outside"))


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE]
)
def test_what_is_no_ordinary_file_is_an_error(tmp_path: Path, kind: bytes) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w|gz") as archive:
        entry = tarfile.TarInfo("status.json")
        entry.type, entry.linkname = kind, "/etc/passwd"
        archive.addfile(entry)
    with pytest.raises(RunFailed, match=r"has 'status\.json', which is no ordinary file"):
        unpack(io.BytesIO(out.getvalue()), tmp_path / "into")
    assert not list(tmp_path.rglob("status.json"))


@pytest.mark.parametrize(
    ("kind", "length"),
    [
        (tarfile.XHDTYPE, 1 << 40),
        (tarfile.XGLTYPE, 100),
        (tarfile.GNUTYPE_LONGNAME, 1 << 40),
        (tarfile.GNUTYPE_SPARSE, 1),
    ],
)
def test_headers_that_would_be_read_into_memory_are_refused(tmp_path: Path, kind: bytes, length: int) -> None:
    entry = tarfile.TarInfo("status.json")
    entry.type, entry.size = kind, length
    content = gzip.compress(entry.tobuf(tarfile.GNU_FORMAT) + b"\0" * 4096)
    with pytest.raises(Refused, match="has a header of type"):
        unpack(io.BytesIO(content), tmp_path / "into")


def test_long_names_and_other_scripts_arrive(tmp_path: Path) -> None:
    folder = tmp_path / "run" / ("ä" * 90) / ("b" * 200)
    folder.mkdir(parents=True)
    (folder / "log").write_text("x")
    names, _ = unpack(io.BytesIO(packed((tmp_path / "run", ""))), tmp_path / "into")
    assert names == [f"{'ä' * 90}/{'b' * 200}/log"]


def test_endless_long_names_are_one_failure(tmp_path: Path) -> None:
    entry = tarfile.TarInfo("x")
    entry.type, entry.size = tarfile.GNUTYPE_LONGNAME, 2
    content = gzip.compress((entry.tobuf(tarfile.GNU_FORMAT) + b"a".ljust(512, b"\0")) * 3000)
    with pytest.raises(RunFailed, match="cut off or damaged"):
        unpack(io.BytesIO(content), tmp_path / "into")


def test_the_command_prints_the_stream(run: Path, tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "harness", "pack", f"{run}="], cwd=REPOSITORY, capture_output=True, check=True
    )
    assert unpack(io.BytesIO(result.stdout), tmp_path / "into")[0][-1] == "status.json"
