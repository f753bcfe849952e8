"""mlperf_assets against a server that interrupts, refuses, redirects and corrupts."""

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY
from tests.unit.ansible_modules import Failed, call
from tests.unit.role_values import value

CONTENT = bytes(range(256)) * 400
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Store(ThreadingHTTPServer):
    """A file server on loopback; `cuts` are the byte counts after which its next answers end."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.cuts: list[int] = []
        self.status = 0
        self.to = ""
        self.requests: list[dict[str, str]] = []

    @property
    def url(self) -> str:
        """Address of its folder."""
        return f"http://127.0.0.1:{self.server_port}/weights"


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Store

    def log_message(self, *_words: Any) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        store = self.server
        store.requests.append({"path": self.path, **dict(self.headers)})
        if store.status or store.to:
            self.send_response(store.status or 302)
            self.send_header("Location", store.to + self.path)
            self.end_headers()
            return
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        if start >= len(store.content):
            self.send_error(416)
            return
        rest = store.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        self.wfile.write(rest[: store.cuts.pop(0)] if store.cuts else rest)


@pytest.fixture
def store() -> Iterator[Store]:
    server = Store()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def other() -> Iterator[Store]:
    yield from store.__wrapped__()  # type: ignore[attr-defined]


def fetch(folder: Path, url: str, *, check: bool = False, **more: Any) -> dict[str, Any]:
    return call("mlperf_assets", {"path": str(folder), "files": {"a.bin": SHA256}, "url": url, **more}, check=check)


def test_interrupted_download_is_resumed(tmp_path: Path, store: Store) -> None:
    store.cuts = [1000, 2000]
    assert fetch(tmp_path, store.url)["changed"]
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert [headers.get("Range") for headers in store.requests] == [None, "bytes=1000-", "bytes=3000-"]
    assert sorted(file.name for file in tmp_path.iterdir()) == [".verified.json", "a.bin"]


def test_partial_download_is_kept_for_the_next_run(tmp_path: Path, store: Store) -> None:
    store.cuts = [500]
    with pytest.raises(Failed, match=r"ended 101900 bytes early, after 1 tries. The part is kept"):
        fetch(tmp_path, store.url, tries=1)
    assert (tmp_path / "a.bin.part").stat().st_size == 500
    fetch(tmp_path, store.url)
    assert store.requests[-1]["Range"] == "bytes=500-"
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_second_run_requests_and_reads_nothing(tmp_path: Path, store: Store) -> None:
    fetch(tmp_path, store.url)
    assert not fetch(tmp_path, store.url)["changed"]
    assert len(store.requests) == 1
    # What was found right is remembered by size and time of change: another checksum or a changed file is noticed.
    (tmp_path / "a.bin").write_bytes(b"spoiled")
    assert fetch(tmp_path, "")["wrong"] == ["a.bin"]


def test_check_mode_fetches_nothing(tmp_path: Path, store: Store) -> None:
    result = fetch(tmp_path, store.url, check=True)
    assert result["changed"]
    assert result["diff"] == {"before": "", "after": "a.bin\n"}
    assert store.requests == []
    assert list(tmp_path.iterdir()) == []


def test_wrong_checksum_is_not_kept(tmp_path: Path, store: Store) -> None:
    store.content = CONTENT + b"!"
    digest = hashlib.sha256(store.content).hexdigest()
    with pytest.raises(Failed, match=f"has the sha256 {digest}, expected {SHA256}"):
        fetch(tmp_path, store.url)
    assert list(tmp_path.iterdir()) == []


def test_refused_request_is_not_retried(tmp_path: Path, store: Store) -> None:
    store.status = 403
    with pytest.raises(Failed, match=r"weights/a.bin: 403 .* licence"):
        fetch(tmp_path, store.url)
    assert len(store.requests) == 1


def test_token_is_sent_to_its_own_host_only(tmp_path: Path, store: Store, other: Store) -> None:
    store.to = f"http://127.0.0.1:{other.server_port}"
    fetch(tmp_path, store.url, token="secret")
    assert store.requests[0]["Authorization"] == "Bearer secret"
    assert "Authorization" not in other.requests[0]
    assert "secret" not in json.dumps(json.loads((tmp_path / ".verified.json").read_text()))


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, store: Store) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(Failed, match=r"file/folder: .*Free space there, or use another folder"):
        fetch(file / "folder", store.url)


def refusals(name: str = "model", **variables: Any) -> list[str]:
    """Why role assets refuses an asset."""
    asset = value("assets", "__assets_all", **variables)[name]
    errors: list[str] = value("assets", "__assets_errors", __assets_asset=asset, **variables)
    return errors


def folder_with(tmp_path: Path, *names: str) -> dict[str, Any]:
    for name in names:
        (tmp_path / name).write_bytes(CONTENT)
    return {"assets_model_source": str(tmp_path), "assets_model_files": dict.fromkeys(names, SHA256)}


def test_settings_that_can_work_are_not_refused(tmp_path: Path) -> None:
    assert refusals(**folder_with(tmp_path, "a.bin", "b.bin")) == []
    assert refusals(assets_model_source="https://models.example.org/llama", assets_token="secret") == []
    assert [asset["name"] for asset in value("assets", "__assets_wanted", assets_punkt_source="/punkt")] == ["punkt"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"assets_model_source": "models/llama"}, "neither a folder nor an address"),
        ({"assets_model_source": "https://models.example.org", "assets_model_files": {}}, "_files is empty"),
        ({"assets_model_files": {"a.bin": SHA256[1:]}}, "given for a.bin: set it in assets_model_files"),
        ({"assets_model_files": {"a.bin": ""}}, "given for a.bin: set it in assets_model_files"),
        ({"assets_model_files": {"c.bin": SHA256}}, "lacks c.bin: correct assets_model_source"),
        ({"assets_model_source": "/no/such/folder"}, "is not a folder: correct assets_model_source"),
        (
            {"bundle": "/no/such/bundle"},
            "/no/such/bundle/assets/model on Ansible's control node is not a folder: collect the bundle",
        ),
        ({"assets_token": "secret", "assets_token_file": "{file}"}, "are both set"),
        ({"assets_token_file": "/no/such/token"}, "assets_token_file = '/no/such/token': there is no such file"),
    ],
)
def test_settings_that_cannot_work_are_refused(tmp_path: Path, settings: dict[str, Any], words: str) -> None:
    settings = {**folder_with(tmp_path, "a.bin"), **settings}
    settings = {name: str(tmp_path / "a.bin") if value == "{file}" else value for name, value in settings.items()}
    (refusal,) = refusals(**settings)
    assert re.search(words, refusal)
    assert "secret" not in refusal


def test_data_set_without_its_checksum_is_refused_by_name() -> None:
    (refusal,) = refusals("dataset", assets_dataset_source="https://data.example.org", assets_token_file="/no/such")
    assert refusal.startswith("no sha256 (64 lower-case hexadecimal digits) is given for cnn_eval.json")


def test_room_is_what_the_missing_files_take(tmp_path: Path) -> None:
    def needed(*missing: str, **settings: Any) -> int:
        asset = value("assets", "__assets_all", **settings)["model"]
        return int(
            value("assets", "__assets_needed_bytes", __assets_asset=asset, __assets_missing=list(missing), **settings)
        )

    folder = folder_with(tmp_path, "a.bin", "b b.bin")
    assert needed("a.bin", **folder) == len(CONTENT)
    assert needed("a.bin", "b b.bin", **folder) == 2 * len(CONTENT)
    official = {"assets_model_source": "https://models.example.org/llama"}
    weights = value("assets", "assets_model_files", **official)
    # Bytes of 8,030,261,248 weights of two bytes each, and a little for the headers of four files.
    assert 0 < needed(*weights, **official) - 2 * 8_030_261_248 < 100_000
    assert needed("config.json", **official) == 0


# Takes the place of the module that looks at a host: a user's folder cannot be closed to a test that runs as root.
LOOK = """\
#!/usr/bin/python3
# WANT_JSON
import json, sys
(path,) = json.load(open(sys.argv[1]))["paths"]
place = {"writable": path.endswith("open"), "existing": "/srv", "is_folder": True, "owner": "root"}
disk = {"path": path, "free": 1 << 40}
print(json.dumps({"changed": False, "facts": {"user": "lab", "disk": disk, "paths": {path: place}}}))
"""


def test_a_folder_that_the_login_user_may_not_write_to_is_said_before_anything_is_copied(tmp_path: Path) -> None:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "mlperf_host_facts.py").write_text(LOOK)
    (tmp_path / "source").mkdir()
    host = {
        "ansible_connection": "local", "ansible_python_interpreter": sys.executable, "assets_owner": -1,
        **folder_with(tmp_path / "source", "a.bin"),
    }  # fmt: skip
    inventory = tmp_path / "hosts.json"
    inventory.write_text(json.dumps({"gpu_nodes": {"hosts": {"gpu1": host}}, "cluster": {"hosts": {}}}))
    playbook = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", str(inventory), "playbooks/assets.yml"]

    def play(folder: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*playbook, "-e", f"assets_model_path={tmp_path / folder}"],
            cwd=REPOSITORY,
            env={**os.environ, "ANSIBLE_LIBRARY": f"{tmp_path / 'modules'}:plugins/modules", "ANSIBLE_NOCOLOR": "1"},
            capture_output=True,
            text=True,
            timeout=120,
        )

    refused, folder = play("closed"), tmp_path / "closed"
    words = (
        f"gpu1: user lab may not write to {folder}, since /srv belongs to root: run `sudo install -d -o lab {folder}`"
    )
    assert refused.returncode == 2 and words in " ".join(refused.stdout.split()), refused.stdout + refused.stderr
    assert not folder.exists()
    assert play("open").returncode == 0
    assert (tmp_path / "open" / "a.bin").read_bytes() == CONTENT
