"""After a failed and a good run at -vvv nothing that was printed, written or listed has a secret of an engine."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import NODE_ENVIRONMENT, REPOSITORY
from tests.engines import free_port
from tests.integration.conftest import Site

SECRET = "hunter2-of-the-engines-environment"
# In place of vLLM: it refuses an option that vLLM does not have, and wants the key of its environment.
SERVER = """
import argparse, asyncio, os, sys
from tests.fake_server import Settings, serve

parser = argparse.ArgumentParser()
for name in ("--model", "--host", "--port"):
    parser.add_argument(name)
known, others = parser.parse_known_args()
if "--no-such-option" in others:
    sys.exit("api_server.py: error: unrecognized arguments: --no-such-option")
assert os.environ["MY_TOKEN"], "env has not come"
print("Initializing a V1 LLM engine (v0.32.0) with config: dtype=torch.float32, quantization=None", flush=True)
settings = Settings(model=known.model, vocab=1024, ms_per_token=0.2, slots=64, api_key=os.environ["VLLM_API_KEY"])
asyncio.run(serve(settings, known.host, int(known.port)))
"""


class Watched(threading.Thread):
    """All command lines of this machine, and the content of key files, looked at again and again."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self._folder, self._over = folder, threading.Event()
        self.commands: set[bytes] = set()
        self.keys: dict[bytes, int] = {}

    def run(self) -> None:
        while not self._over.wait(0.05):
            for file in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    self.commands.add(file.read_bytes())
                except OSError:
                    continue
            for file in self._folder.glob("*/keys/*"):
                try:
                    self.keys[file.read_bytes()] = file.stat().st_mode & 0o777
                except OSError:
                    continue
            self.keys.pop(b"", None)  # just created

    def end(self) -> None:
        """Stop looking."""
        self._over.set()
        self.join()


@contextmanager
def watched(folder: Path) -> Iterator[Watched]:
    thread = Watched(folder)
    thread.start()
    try:
        yield thread
    finally:
        thread.end()


def files_with(folder: Path, *words: bytes) -> list[str]:
    """The files below a folder that have one of these words."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [str(path) for path in files if any(word in path.read_bytes() for word in words)]


@pytest.mark.long
def test_no_secret_is_printed_written_or_listed(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "stub" / "vllm"
    (package / "entrypoints" / "openai").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "entrypoints" / "openai" / "api_server.py").write_text(SERVER)
    monkeypatch.setenv("PYTHONPATH", f"{package.parent}:{REPOSITORY}")
    monkeypatch.setenv("TEST_SECRET", SECRET)
    ports = {"node1": free_port(), "node2": free_port()}
    engine = {
        "name": "{{ inventory_hostname }}",
        "port": "{{ " + repr(ports) + "[inventory_hostname] }}",
        "env": {"MY_TOKEN": "{{ lookup('env', 'TEST_SECRET') }}"},
    }
    site.variables = {"harness_engines": [engine], "harness_engine_settings": {"dtype": "float32", "max_num_seqs": 64}}
    words = ("-vvv", "--diff")
    asked = {"scenario": "offline", "mode": "performance", "samples": 60}
    printed = ""
    with watched(site.folder) as seen:
        bad = [{**engine, "extra_args": ["--no-such-option"]}]
        assert site.play("benchmark.yml", *words, "--limit", "node1", run_id="bad", **asked, harness_engines=bad) != 0
        printed += site.output()
        assert "unrecognized arguments: --no-such-option" in printed
        assert site.play("benchmark.yml", *words, run_id="good", **asked) == 0, site.output()[-5000:]
        printed += site.output()
    assert site.read("good", "result.json")["verdict"]["level"] == "UNOFFICIAL"
    assert len(seen.keys) == 3, "one key for each start"
    assert set(seen.keys.values()) == {0o600}
    secrets = [SECRET.encode(), *seen.keys]
    assert not [word for word in secrets if word.decode() in printed]
    assert not [command for command in seen.commands if any(word in command for word in secrets)]
    assert files_with(tmp_path, *secrets) == []
    assert any(str(NODE_ENVIRONMENT).encode() in command for command in seen.commands), "it has looked"
