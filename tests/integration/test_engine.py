"""The engine around the real vLLM: what it verifies, and that none of its processes outlives it, however it dies."""

import contextlib
import csv
import json
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.engine import processes
from tests.engines import everything_of, free_port, until

REPOSITORY = Path(__file__).resolve().parents[2]
MAX_START_S = 240


class Node:
    """A root on this machine, driven through the command line as Ansible does."""

    def __init__(self, python: Path, folder: Path) -> None:
        self.python, self.root = python, folder / "root"
        self.model = folder / "sandbox" / "model"
        self.port = free_port()
        sandbox = self.harness("sandbox", "--dir", str(folder / "sandbox"), "--samples", "1", "--json")
        assert sandbox["model"] == str(self.model)

    def harness(self, *words: str, text: str | None = None, rc: int = 0) -> dict[str, Any]:
        command = [str(self.python), "-m", "harness", *words]
        done = subprocess.run(
            command, input=text, cwd=REPOSITORY, capture_output=True, text=True, timeout=MAX_START_S, check=False
        )
        assert done.returncode == rc, done.stdout + done.stderr
        return json.loads(done.stdout)

    def up(self, rc: int = 0, **values: Any) -> dict[str, Any]:
        config = {"name": "e1", "model": str(self.model), "port": self.port, "dtype": "float32", "max_num_seqs": 32}
        text = json.dumps(config | {"kv_cache_gib": 1} | values)
        return self.harness("engine", "up", "--root", str(self.root), "--config", "-", "--json", text=text, rc=rc)

    def status(self) -> dict[str, Any]:
        return self.harness("engine", "status", "--root", str(self.root), "e1", "--json")

    def down(self) -> dict[str, Any]:
        return self.harness("engine", "down", "--root", str(self.root), "e1", "--json")

    def stored(self) -> dict[str, Any]:
        return json.loads((self.root / "engines/e1/engine.json").read_text())

    def alive(self) -> set[int]:
        return everything_of(self.root, "e1")

    def complete(self, ids: list[int], tokens: int) -> dict[str, Any]:
        body = {"prompt": ids, "max_tokens": tokens, "temperature": 0, "ignore_eos": True, "return_token_ids": True}
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/v1/completions",
            json.dumps(body).encode(),
            {"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())["choices"][0]


@pytest.fixture(scope="module")
def node(node_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    node = Node(node_python, tmp_path_factory.mktemp("engine"))
    yield node
    node.down()
    assert node.alive() == set()


def named(pids: set[int], word: str) -> int:
    """The one process whose command line holds a word."""
    found = [pid for pid in pids if word in Path(f"/proc/{pid}/cmdline").read_text()]
    assert len(found) == 1, (word, found)
    return found[0]


def shared_memory() -> set[str]:
    return {entry.name for entry in Path("/dev/shm").glob("psm_*")}


VICTIMS: dict[str, tuple[Callable[[dict[str, Any], set[int]], int], str]] = {
    "engine core": (lambda state, alive: named(alive, "EngineCore"), "the engine says that it is dead"),
    "supervisor": (lambda state, alive: state["pid"], "its supervisor was killed by SIGKILL"),
    "server": (lambda state, alive: state["engine_pid"], "the engine was killed by SIGKILL"),
}


@pytest.mark.parametrize("victim", VICTIMS)
def test_what_runs_is_verified_and_nothing_survives_sigkill(node: Node, victim: str) -> None:
    memory_before = shared_memory()
    state = node.up()
    assert (state["state"], state["changed"]) == ("ready", True)
    if victim == "engine core":
        look_closely(node, state)
    alive = node.alive()
    named(alive, "EngineCore")  # vLLM's own children carry the mark, although vLLM renames them
    pick, said = VICTIMS[victim]
    os.kill(pick(state, alive), signal.SIGKILL)
    assert until(lambda: node.stored()["state"] == "failed" or victim == "supervisor", 2.0)
    assert until(lambda: node.alive() == set(), 15), node.alive()
    # Looked for by number too, in case one had shed its mark; init may take a moment to bury the orphans.
    assert until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in alive), 5)
    after = node.status()
    assert after["state"] == "failed"
    assert after["reason"].startswith(said)
    if victim == "engine core":
        assert "engine core exited unexpectedly" in after["reason"]
    assert until(lambda: shared_memory() <= memory_before, 5)


def look_closely(node: Node, state: dict[str, Any]) -> None:
    """All that can be learnt from one start."""
    verified = state["verified"]
    assert verified["max_model_len"] == 2668
    assert verified["enable_prefix_caching"] is False
    assert verified["speculative_decoding"] is False
    assert verified["model"] == str(node.model)
    assert verified["dtype"] == "float32"
    assert verified["kv_cache_tokens"] > 32 * 2668
    assert state["unverified"] == []
    assert state["machine"]["model"]["sandbox"] is True
    assert len(state["machine"]["model"]["sha256"]) == 64
    assert set(state["version"]) == {"vllm", "torch", "package"}
    assert len(node.complete(list(range(10, 40)), 24)["token_ids"]) == 24
    again = node.up()
    assert (again["changed"], again["pid"], again["engine_pid"]) == (False, state["pid"], state["engine_pid"])
    refused = node.up(rc=2, max_num_seqs=16)
    assert "max_num_seqs is 32, asked for 16" in refused["error"]
    taken = node.up(rc=3, name="e2")
    assert f"port {node.port} on 127.0.0.1 is taken by pid {state['engine_pid']}" in taken["error"]
    assert until(lambda: any(line["running"] == "0" for line in telemetry(node)), 5)
    assert os.getsid(state["engine_pid"]) == state["engine_pid"]


def telemetry(node: Node) -> list[dict[str, str]]:
    with (node.root / "engines/e1/telemetry.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_start_that_fails_says_why_in_vllms_words(node: Node) -> None:
    failed = node.up(rc=4, extra_args=["--no-such-option", "1"])
    assert "unrecognized arguments: --no-such-option" in failed["error"]
    assert "exit status 2" in failed["error"]
    assert "Traceback" not in failed["error"]
    assert until(lambda: node.alive() == set(), 10)


def test_a_server_with_prefix_caching_and_speculation_is_seen_through(node: Node) -> None:
    port = free_port()
    speculation = {"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 2}
    command = [node.python, "-m", "vllm.entrypoints.openai.api_server", "--model", node.model, "--port", port]
    command += ["--enable-prefix-caching", "--speculative-config", json.dumps(speculation), "--max-model-len", 1024]
    command += ["--enforce-eager", "--dtype", "float32"]
    folder = node.root.parent / "foreign"
    folder.mkdir()
    offline = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "SPT_NOENV": "1"}
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [str(word) for word in command],
            stdout=log,
            stderr=log,
            env={**os.environ, **offline, processes.ENGINE_MARK: str(folder)},
        )
    try:
        url = f"http://127.0.0.1:{port}"
        assert until(lambda: answers(f"{url}/health", server), MAX_START_S), (folder / "log").read_text()[-3000:]
        config = {"kind": "endpoint", "port": None, "url": url, "name": "foreign", "kv_cache_gib": None}
        refused = node.up(rc=2, **config)["error"]
        assert "enable_prefix_caching is True on the running server, asked for False" in refused
        assert "speculative_decoding is True on the running server, asked for False" in refused
        assert "max_model_len is 1024 on the running server, asked for 2668" in refused
    finally:
        left = processes.end(lambda: processes.marked(processes.ENGINE_MARK, folder), 15, server.poll)
    assert left == set()


def answers(url: str, server: "subprocess.Popen[bytes]") -> bool:
    assert server.poll() is None
    time.sleep(0.3)
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2) as reply:
        return bool(reply.status == 200)
    return False
