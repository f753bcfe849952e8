"""journal.jsonl: the lines of the contract, and a full disk."""

import json
from pathlib import Path

import pytest

from harness.errors import RunFailed
from harness.load.answer import Answer
from harness.load.journal import Journal


def test_lines_are_relative_to_the_start_and_named_by_global_index(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text('{"earlier": true}\n')
    journal = Journal(path, "accuracy", 100, start_s=50.0, start_unix=1_000.0)
    journal.done(7, "a", 51.0, Answer([4, 5], 51.5, 52.0, 53.0))
    journal.failed(8, "b", "HTTP 500")
    journal.close()
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"earlier": True},
        {
            "mode": "accuracy", "qsl_idx": 107, "engine": "a", "issued_s": 1.0, "sent_s": 1.5, "first_s": 2.0,
            "last_s": 3.0, "issued_unix": 1001.0, "n_tokens": 2, "token_ids": [4, 5],
        },
        {"mode": "accuracy", "qsl_idx": 108, "engine": "b", "failed": "HTTP 500"},
    ]  # fmt: skip


def test_flushed_lines_are_on_disk_once(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path, "performance", 0, 0.0, 0.0)
    for index in range(3):
        journal.failed(index, "a", "x")
        journal.flush()
        assert len(path.read_text().splitlines()) == index + 1


def test_a_full_disk_is_named() -> None:
    journal = Journal(Path("/dev/full"), "performance", 0, 0.0, 0.0)
    journal.failed(0, "a", "x")
    with pytest.raises(RunFailed, match=r"cannot write /dev/full: the disk is full; free space"):
        journal.flush()


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"cannot write .*nowhere/journal.jsonl: No such file"):
        Journal(tmp_path / "nowhere" / "journal.jsonl", "performance", 0, 0.0, 0.0)
