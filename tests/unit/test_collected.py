"""A node may offer anything for collection: what is written, and where."""

import errno
import io
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from ansible.errors import AnsibleError

from harness import collected
from harness.cluster import archive, pod_exec
from harness.collected import MOST_BYTES, Offer, Refused
from harness.errors import RunFailed
from tests.unit.ansible_modules import action, on_this_machine


def test_files_go_below_the_folder(tmp_path: Path) -> None:
    offer = Offer(tmp_path)
    names = ["status.json", "performance/mlperf_log_detail.txt", "performance/user.conf", ".hidden", "ä b"]
    assert [offer.path(name, 1) for name in names] == [tmp_path / name for name in names]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../x", "outside"),
        ("a/../../x", "outside"),
        ("/etc/passwd", "outside"),
        ("", "outside"),
        (".", "outside"),
        ("a/./b", "outside"),
        ("a//b", "outside"),
        ("a/", "outside"),
        ("a\0b", "control characters"),
        ("a\x1b[31m", "control characters"),
        ("a\ud800", "control characters"),
        ("a\u2028b", "control characters"),
        ("a\u2029b", "control characters"),
        ("a\u202eb", "control characters"),
        ("x" * 300, "more than 250 bytes"),
        ("x/" * 600 + "x", "over 1000 characters"),
        ("SHA256SUMS", "collecting writes itself"),
        ("a/status.json.part", "collecting writes itself"),
        ("link/status.json", "through a link"),
        (None, "no name"),
        (["a"], "no name"),
    ],
)
def test_a_name_that_may_not_be_written_is_refused(tmp_path: Path, name: Any, reason: str) -> None:
    (tmp_path / "link").symlink_to("/var/tmp")
    with pytest.raises(RunFailed, match=reason):
        Offer(tmp_path).path(name, 1)


@pytest.mark.parametrize(
    ("first", "second"), [("a", "a"), ("Status.json", "status.json"), ("a", "A/b"), ("a/b", "A"), ("É", "é")]
)
def test_no_file_takes_the_place_of_another(tmp_path: Path, first: str, second: str) -> None:
    offer = Offer(tmp_path)
    offer.path(first, 1)
    with pytest.raises(RunFailed, match="takes the place of another"):
        offer.path(second, 1)


@pytest.mark.parametrize(("before", "now", "kind"), [("a/b", "a", "folder"), ("a", "a/b", "file")])
def test_a_conflict_with_an_earlier_collection_is_one_clear_failure(
    tmp_path: Path, before: str, now: str, kind: str
) -> None:
    node, results = tmp_path / "node", tmp_path / "nodes" / "alpha"
    node.mkdir()
    (node / "0").write_text("first")
    (node / now).parent.mkdir(exist_ok=True)
    (node / now).write_text("new")
    (results / before).parent.mkdir(parents=True)
    (results / before).write_text("old")
    reason = f"offers a file '{now}' that conflicts with the {kind} {results / 'a'} of an earlier collection"
    arguments = {"directories": [{"source": str(node)}], "path": str(results)}
    result = action("mlperf_collect", arguments, check=False, execute=on_this_machine).run(task_vars={})
    assert result["failed"] and reason in result["msg"]
    assert [path for path in results.rglob("*") if path.is_file()] == [results / before]
    out = io.BytesIO()
    archive.pack({node: ""}, out)
    with pytest.raises(Refused, match=re.escape(reason)):
        archive.unpack(io.BytesIO(out.getvalue()), results)
    assert (results / before).read_text() == "old" and not list(results.rglob("*.part"))


@pytest.mark.parametrize("size", [-1, None, "12", 1.5, True, MOST_BYTES])
def test_sizes_are_bounded(tmp_path: Path, size: Any) -> None:
    offer = Offer(tmp_path)
    offer.path("first", 1)
    with pytest.raises(RunFailed, match=r"has no size but|makes more than 64 GiB together"):
        offer.path("second", size)


@pytest.mark.parametrize(
    "files",
    [
        None,
        5,
        ["status.json"],
        [{"target": "a"}],
        [{"target": "../../a", "size": 1, "sha256": "0" * 64, "source": "/etc/hostname"}],
        [{"target": "a", "size": 1, "sha256": None, "source": "/etc/hostname"}],
        [{"target": "a", "size": 1, "sha256": "0" * 64, "source": "/etc/hostname"}],
        [{"target": "a", "size": 1, "sha256": "0" * 64, "source": "a\n!touch /tmp/x"}],
    ],
)
def test_collecting_from_a_node_that_lies_is_one_clear_failure(tmp_path: Path, files: Any) -> None:
    results = tmp_path / "results" / "r1"
    arguments = {"directories": [{"source": str(tmp_path)}], "path": str(results)}
    plugin = action("mlperf_collect", arguments, check=False, execute=on_this_machine)
    plugin._execute_module = lambda *_, **more: {"files": files}
    result = plugin.run(task_vars={})
    assert result["failed"] and ("list of files is damaged" in result["msg"] or "outside" in result["msg"])
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def endless_program(part: str) -> None:
    """Receives as sftp and scp do: a process of its own writes the file."""
    if subprocess.run(["dd", "if=/dev/zero", f"of={part}", "bs=64K"], capture_output=True).returncode:
        raise AnsibleError("failed to transfer file")


def endless_here(part: str) -> None:
    """Receives as paramiko does: this process writes the file."""
    with Path(part).open("wb") as out:
        while True:
            out.write(b"\0" * 65536)


def endless_memory(part: str) -> None:
    """Receives as Ansible's `piped` does."""
    content = b""
    while True:
        content += b"\0" * (1 << 22)


@pytest.mark.parametrize("receive", [endless_program, endless_here, endless_memory])
def test_a_node_that_sends_without_end_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, receive: Callable[[str], None]
) -> None:
    results, sizes = tmp_path / "results" / "r1", []
    plugin = action(
        "mlperf_collect",
        {"directories": [{"source": "/node"}], "path": str(results)},
        check=False,
        execute=on_this_machine,
    )
    module = sys.modules[type(plugin).__module__]
    monkeypatch.setattr(module, "GROWTH_BYTES", 1 << 20)
    monkeypatch.setitem(type(plugin).receiving.__wrapped__.__globals__, "MEMORY_BYTES", 256 << 20)
    files = [{"target": "engine.log", "size": 7, "sha256": "0" * 64, "source": "/node/engine.log"}]
    plugin._execute_module = lambda *_, **more: {"files": files}

    def fetch(source: str, part: str) -> None:
        try:
            receive(part)
        finally:
            sizes.append(Path(part).stat().st_size if Path(part).exists() else 0)

    plugin._connection.fetch_file = fetch
    before = resource.getrlimit(resource.RLIMIT_FSIZE), resource.getrlimit(resource.RLIMIT_AS)
    result = plugin.run(task_vars={})
    assert result["failed"] and "engine.log: the node sends more than the 7 bytes that it offers" in result["msg"]
    assert len(sizes) == 1 and sizes[0] <= 7 + (1 << 20)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert before == (resource.getrlimit(resource.RLIMIT_FSIZE), resource.getrlimit(resource.RLIMIT_AS))


def test_a_full_disk_here_is_said_to_be_so(tmp_path: Path) -> None:
    plugin = action(
        "mlperf_collect",
        {"directories": [{"source": "/node"}], "path": str(tmp_path)},
        check=False,
        execute=on_this_machine,
    )
    files = [{"target": "log", "size": 7, "sha256": "0" * 64, "source": "/node/log"}]
    plugin._execute_module = lambda *_, **more: {"files": files}
    plugin._connection.fetch_file = MagicMock(side_effect=OSError(errno.ENOSPC, "No space left on device"))
    result = plugin.run(task_vars={})
    assert result["failed"] and "log.part cannot be written: No space left on device; free" in result["msg"]
    with Path("/dev/full").open("wb", buffering=0) as full, pytest.raises(Refused, match="kept here: No space left"):
        pod_exec._keep(b"x", full)


def test_a_file_that_grows_meanwhile_is_taken_as_it_was_hashed(tmp_path: Path) -> None:
    node, results = tmp_path / "node", tmp_path / "results"
    node.mkdir()
    (node / "engine.log").write_bytes(b"started")
    plugin = action(
        "mlperf_collect",
        {"directories": [{"source": str(node)}], "path": str(results)},
        check=False,
        execute=on_this_machine,
    )

    def fetch(source: str, part: str) -> None:
        Path(part).write_bytes(Path(source).read_bytes() + b" and more")

    plugin._connection.fetch_file = fetch
    assert plugin.run(task_vars={})["fetched"] == ["engine.log"]
    assert (results / "engine.log").read_bytes() == b"started"


def test_a_collection_has_a_largest_number_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collected, "MOST_FILES", 2)
    offer = Offer(tmp_path)
    offer.path("a", 0), offer.path("b", 0)
    with pytest.raises(Refused, match="one more than 2"):
        offer.path("c", 0)
