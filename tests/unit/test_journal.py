"""journal.jsonl: the lines of the contract, what a reader makes of cut and damaged ones, and a full disk."""

import json
import zlib
from pathlib import Path

import pytest

from harness import journal as journals
from harness.errors import BadInput, RunFailed
from harness.load.answer import Answer
from harness.load.journal import Journal

FIRST = {
    "mode": "accuracy", "qsl_idx": 107, "engine": "a", "issued_s": 1.0, "sent_s": 1.5, "first_s": 2.0,
    "last_s": 3.0, "issued_unix": 1001.0, "n_tokens": 2, "token_ids": [4, 5],
}  # fmt: skip
FAILED = {"mode": "accuracy", "qsl_idx": 109, "engine": "b", "failed": "HTTP 500"}


def write(path: Path) -> bytes:
    journal = Journal(path, "accuracy", range(100, 110), start_s=50.0, start_unix=1_000.0)
    journal.done(7, "a", 51.0, Answer([4, 5], 51.5, 52.0, 53.0))
    journal.failed(9, "b", "HTTP 500")
    journal.close()
    return path.read_bytes()


def test_lines_are_relative_to_the_start_and_named_by_global_index(tmp_path: Path) -> None:
    write(tmp_path / "journal.jsonl")
    contents = journals.read(tmp_path / "journal.jsonl")
    assert contents.lines == (FIRST, FAILED)
    assert contents.answers == (FIRST,)
    assert contents.problem is None and not contents.rejected


def test_a_part_of_the_samples_keeps_their_global_indices(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl", "accuracy", [3, 50, 51], 0.0, 0.0)
    journal.failed(1, "a", "x")
    journal.close()
    (line,) = journals.read(tmp_path / "journal.jsonl").lines
    assert line["qsl_idx"] == 50


def test_the_last_key_of_a_line_is_the_crc_of_the_bytes_before_it(tmp_path: Path) -> None:
    for line in write(tmp_path / "journal.jsonl").splitlines():
        assert list(json.loads(line))[-1] == "crc32"
        content = line[: line.index(b',"crc32":')]
        assert json.loads(line)["crc32"] == f"{zlib.crc32(content):08x}"


@pytest.mark.parametrize("kept", [1, 40, -1])
def test_a_cut_last_line_is_left_out_and_named(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "journal.jsonl"
    first, second = write(path).splitlines(keepends=True)
    path.write_bytes(first + second.rstrip()[:kept])
    contents = journals.read(path)
    assert contents.lines == (FIRST,) and contents.cut and not contents.damaged
    assert contents.rejected == (second.rstrip()[:kept],)
    assert "a last line that is cut" in str(contents.problem)


def test_a_last_line_that_lacks_only_its_end_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(write(path).rstrip())
    assert journals.read(path).lines == (FIRST, FAILED) and journals.read(path).problem is None


def test_what_is_appended_to_a_line_that_lacks_only_its_end_is_a_line_of_its_own(tmp_path: Path) -> None:
    """Fault: a process is killed when it has written all of a line but its end, and the run is resumed."""
    path = tmp_path / "journal.jsonl"
    path.write_bytes(write(path).rstrip())
    write(path)
    assert journals.read(path).lines == (FIRST, FAILED) * 2 and journals.read(path).problem is None


@pytest.mark.parametrize(
    ("before", "after"),
    [(b"[4,5]", b"[4,6]"), (b'"crc32"', b'"crb32"'), (b'"engine":"a"', b'"engine":"b"'), (b"}\n", b"\0\n")],
)
def test_one_changed_byte_makes_a_line_damaged(tmp_path: Path, before: bytes, after: bytes) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(write(path).replace(before, after, 1))
    contents = journals.read(path)
    assert contents.lines == (FAILED,) and contents.damaged == (1,) and not contents.cut
    assert contents.problem == "1 damaged lines, which were left out (line 1)"


@pytest.mark.parametrize("content", [b"\0" * 64, b"\n", b"[]\n", b"null\n", b'{"earlier": true}\n', b"\xff\xfe\n"])
def test_what_is_no_journal_has_no_lines_and_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(content)
    assert journals.read(path).lines == () and journals.read(path).problem


def test_a_journal_without_checksums_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text(f"{json.dumps(FIRST)}\n{json.dumps(FAILED)}\n")
    assert journals.read(path).lines == (FIRST, FAILED)


def test_a_missing_journal_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="nowhere does not exist"):
        journals.read(tmp_path / "nowhere")


def test_flushed_lines_are_on_disk_once(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path, "performance", range(3), 0.0, 0.0)
    for index in range(3):
        journal.failed(index, "a", "x")
        journal.flush()
        assert len(path.read_text().splitlines()) == index + 1


def test_a_full_disk_is_named() -> None:
    journal = Journal(Path("/dev/full"), "performance", range(1), 0.0, 0.0)
    journal.failed(0, "a", "x")
    with pytest.raises(RunFailed, match=r"cannot write /dev/full: the disk is full; free space"):
        journal.flush()


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"cannot write .*nowhere/journal.jsonl: No such file"):
        Journal(tmp_path / "nowhere" / "journal.jsonl", "performance", range(1), 0.0, 0.0)
