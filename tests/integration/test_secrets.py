"""After a failed and a good run at -vvv nothing that was printed, written or listed has a secret of an engine."""

import json
import threading
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any, Self

import pytest

from harness.cluster.rbac import RIGHTS
from tests.cluster import Cluster
from tests.cluster.kinds import CONFIG_MAP, EVENT, JOB, POD, SERVICE
from tests.cluster.kinds import SECRET as SECRET_KIND
from tests.conftest import NODE_ENVIRONMENT, REPOSITORY
from tests.engines import free_port
from tests.integration.conftest import Site
from tests.integration.test_benchmark_cluster import IMAGE, needs_root, nodes_of_a_cluster

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
asyncio.run(serve(settings, known.host, int(known.port), 1))
"""


ASKED = {"scenario": "offline", "mode": "performance", "samples": 60}
SETTINGS = {"dtype": "float32", "max_num_seqs": 64}


class Watched(threading.Thread):
    """All command lines of this machine, looked at again and again."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._over = threading.Event()
        self.commands: set[bytes] = set()

    def run(self) -> None:
        while not self._over.wait(0.05):
            for file in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    self.commands.add(file.read_bytes())
                except OSError:
                    continue
            self.look()

    def look(self) -> None:
        """Look at what else there is."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()


class WatchedHosts(Watched):
    """The content and the modes of key files, too."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self.keys: dict[bytes, int] = {}

    def look(self) -> None:
        for file in self._folder.glob("*/keys/*"):
            try:
                self.keys[file.read_bytes()] = file.stat().st_mode & 0o777
            except OSError:
                continue
        self.keys.pop(b"", None)  # just created


class WatchedCluster(Watched):
    """The content of a benchmark's Secrets, and all other objects, too."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__()
        self._cluster = cluster
        self.secrets: dict[str, dict[str, bytes]] = {}
        self.objects: dict[tuple[str, str], bytes] = {}

    def look(self) -> None:
        for secret in self._cluster.all(SECRET_KIND):
            if "mlperf/run" in secret["metadata"].get("labels", {}):
                data = {name: b64decode(value) for name, value in secret["data"].items()}
                self.secrets[secret["metadata"]["uid"]] = data
        for kind in (CONFIG_MAP, EVENT, JOB, POD, SERVICE):
            for one in self._cluster.all(kind):
                version = one["metadata"]["uid"], one["metadata"]["resourceVersion"]
                if version not in self.objects:
                    self.objects[version] = json.dumps(one).encode()


def files_with(folder: Path, *words: bytes) -> list[str]:
    """The files below a folder that have one of these words."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [str(path) for path in files if any(word in path.read_bytes() for word in words)]


def stub(folder: Path) -> str:
    """Write the server that takes the place of vLLM; the PYTHONPATH for it."""
    package = folder / "stub" / "vllm"
    (package / "entrypoints" / "openai").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "entrypoints" / "openai" / "api_server.py").write_text(SERVER)
    return f"{package.parent}:{REPOSITORY}"


def engine_of(ports: dict[str, int]) -> dict[str, Any]:
    """The engine of each host, with a secret of the controller's environment in its own."""
    return {
        "name": "{{ inventory_hostname }}",
        "port": "{{ " + repr(ports) + "[inventory_hostname] }}",
        "env": {"MY_TOKEN": "{{ lookup('env', 'TEST_SECRET') }}"},
    }


def play_both(site: Site, engine: dict[str, Any]) -> str:
    """A run that fails and a good one, at -vvv; what was printed."""
    site.variables = {"harness_engines": [engine], "harness_engine_settings": SETTINGS}
    words, bad = ("-vvv", "--diff"), [{**engine, "extra_args": ["--no-such-option"]}]
    assert site.play("benchmark.yml", *words, "--limit", "node1", run_id="bad", **ASKED, harness_engines=bad) != 0
    printed = site.output()
    assert "unrecognized arguments: --no-such-option" in printed
    assert site.play("benchmark.yml", *words, run_id="good", **ASKED) == 0, site.output()[-5000:]
    printed += site.output()
    assert site.read("good", "result.json")["verdict"]["level"] == "UNOFFICIAL"
    return printed


@pytest.mark.long
def test_no_secret_is_printed_written_or_listed(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", stub(tmp_path))
    monkeypatch.setenv("TEST_SECRET", SECRET)
    ports = {"node1": free_port(), "node2": free_port()}
    with WatchedHosts(site.folder) as seen:
        printed = play_both(site, engine_of(ports))
    assert len(seen.keys) == 3, "one key for each start"
    assert set(seen.keys.values()) == {0o600}
    secrets = [SECRET.encode(), *seen.keys]
    assert not [word for word in secrets if word.decode() in printed]
    assert not [command for command in seen.commands if any(word in command for word in secrets)]
    assert files_with(tmp_path, *secrets) == []
    assert any(str(NODE_ENVIRONMENT).encode() in command for command in seen.commands), "it has looked"


@needs_root
@pytest.mark.long
def test_no_secret_is_printed_written_or_listed_on_a_cluster(
    tmp_path: Path, sandbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_SECRET", SECRET)
    with nodes_of_a_cluster(tmp_path, sandbox, RIGHTS) as site:
        punkt = str(NODE_ENVIRONMENT / "share" / "punkt")
        for node in site.nodes:
            stub(tmp_path / node / "runs")  # where pods see it: their /tmp is their own
        environment = {"HARNESS_PUNKT": punkt, "PYTHONPATH": f"/var/lib/mlperf/runs/stub:{REPOSITORY}"}
        site.cluster.image(IMAGE, (NODE_ENVIRONMENT / "bin",), environment)
        site.over_ssh = "node2"  # the files of node1 come through the API
        with WatchedCluster(site.cluster) as seen:
            printed = play_both(site, engine_of(dict(zip(site.nodes, site.ports, strict=True))))
        assert site.names(SECRET_KIND) == []
    assert len(seen.secrets) == 3, "one for each start"
    contents = [content for data in seen.secrets.values() for content in data.values()]
    assert sum(SECRET.encode() in content for content in contents) == 3, "env is in each"
    secrets = [SECRET.encode(), *contents]
    secrets += [b64encode(word) for word in secrets]
    assert not [word for word in secrets if word.decode() in printed]
    assert not [one for one in seen.objects.values() if any(word in one for word in secrets)]
    assert not [command for command in seen.commands if any(word in command for word in secrets)]
    assert files_with(tmp_path, *secrets) == []
    assert any(b"vllm.entrypoints.openai.api_server" in command for command in seen.commands), "of the stub"
