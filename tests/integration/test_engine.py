"""The engine with the real vLLM: what it verifies, what it rejects, and that none of its processes outlives it."""

import contextlib
import csv
import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from harness.engine import processes
from tests.engines import MAX_S, everything_of, free_port, harness, until
from tests.integration.conftest import Vllms

pytestmark = [pytest.mark.vllm, pytest.mark.xdist_group("engines")]


def complete(vllms: Vllms, ids: list[int], tokens: int, key: str | None = None) -> dict[str, Any]:
    body = {"prompt": ids, "max_tokens": tokens, "temperature": 0, "ignore_eos": True, "return_token_ids": True}
    key = key or vllms.key_file("node1").read_text()
    headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
    request = urllib.request.Request(f"{vllms.url('node1')}/v1/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        choice: dict[str, Any] = json.loads(answer.read())["choices"][0]
        return choice


def count_named(pids: set[int], word: str) -> int:
    """The one process whose command line contains a word."""
    (pid,) = [pid for pid in pids if word in Path(f"/proc/{pid}/cmdline").read_text()]
    return pid


def shared_memory() -> set[str]:
    return {entry.name for entry in Path("/dev/shm").glob("psm_*")}


def telemetry(root: Path) -> list[dict[str, str]]:
    with (root / "engines" / "node1" / "telemetry.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_running_engine_is_verified_and_not_replaced(vllms: Vllms, sandbox: Path) -> None:
    state = json.loads((vllms.root / "engines" / "node1" / "engine.json").read_text())
    verified = state["verified"]
    assert verified["max_model_len"] == 2668
    assert verified["enable_prefix_caching"] is False
    assert verified["speculative_decoding"] is False
    assert verified["model"] == str(sandbox / "model")
    assert verified["dtype"] == "float32"
    assert verified["kv_cache_tokens"] > 32 * 2668
    assert state["unverified"] == []
    assert state["machine"]["model"]["sandbox"] is True
    assert len(state["machine"]["model"]["sha256"]) == 64
    assert set(state["version"]) == {"vllm", "torch", "package"}
    assert len(complete(vllms, list(range(10, 40)), 24)["token_ids"]) == 24
    assert vllms.key_file("node1").stat().st_mode & 0o777 == 0o600
    with pytest.raises(urllib.error.HTTPError, match="401"):
        complete(vllms, [10], 1, key="another")
    for page in ("/health", "/metrics"):  # the kubelet and Prometheus have no key
        with urllib.request.urlopen(vllms.url("node1") + page, timeout=60) as answer:
            assert answer.status == 200
    again = vllms.up("node1")
    assert (again["changed"], again["pid"], again["engine_pid"]) == (False, state["pid"], state["engine_pid"])
    error = vllms.up("node1", codes=(2,), max_num_seqs=16)
    assert "max_num_seqs: existing 32, requested 16" in error["error"]
    refusal = vllms.up("node1", codes=(3,), name="other")
    assert f"port {state['config']['port']} on 127.0.0.1 is in use by pid {state['engine_pid']}" in refusal["error"]
    assert until(lambda: any(line["running"] == "0" for line in telemetry(vllms.root)))
    assert os.getsid(state["engine_pid"]) == state["engine_pid"]
    count_named(
        everything_of(vllms.root, "node1"), "EngineCore"
    )  # its children carry the mark, although vLLM renames them


@pytest.mark.long
def test_nothing_survives_a_killed_engine_core(vllms: Vllms) -> None:
    memory_before = shared_memory()
    state = vllms.up("node1", name="killed", port=free_port())
    try:
        assert (state["state"], state["changed"]) == ("ready", True)
        alive = everything_of(vllms.root, "killed")
        os.kill(count_named(alive, "EngineCore"), signal.SIGKILL)
        stored = vllms.root / "engines" / "killed" / "engine.json"
        assert until(lambda: json.loads(stored.read_text())["state"] == "failed")
        assert until(lambda: everything_of(vllms.root, "killed") == set()), everything_of(vllms.root, "killed")
        # By id too, in case one has dropped its mark; init may take a moment to reap the orphans.
        assert until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in alive))
        reason = harness(vllms.python, "engine", "status", "--root", vllms.root, "killed")["reason"]
        assert reason.startswith("the engine reported at /health that it has failed")
        assert "engine core exited unexpectedly" in reason
        assert until(lambda: shared_memory() <= memory_before)
    finally:
        harness(vllms.python, "engine", "down", "--root", vllms.root, "killed")


def test_a_failed_start_has_vllms_error_message(vllms: Vllms) -> None:
    failed = vllms.up("node1", codes=(4,), name="failing", port=free_port(), extra_args=["--no-such-option", "1"])
    assert "unrecognized arguments: --no-such-option" in failed["error"]
    assert "exited with status 2" in failed["error"]
    assert "Traceback" not in failed["error"]
    assert until(lambda: everything_of(vllms.root, "failing") == set())


@pytest.mark.long
def test_a_server_with_prefix_caching_and_speculation_is_rejected(
    node_python: Path, sandbox: Path, tmp_path: Path
) -> None:
    port = free_port()
    speculation = {"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 2}
    command = [node_python, "-m", "vllm.entrypoints.openai.api_server", "--model", sandbox / "model", "--port", port]
    command += ["--enable-prefix-caching", "--speculative-config", json.dumps(speculation), "--max-model-len", 1024]
    command += ["--enforce-eager", "--dtype", "float32"]
    offline = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "SPT_NOENV": "1"}
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(
            [str(word) for word in command],
            stdout=log,
            stderr=log,
            env={**os.environ, **offline, processes.ENGINE_MARK: str(tmp_path)},
        )
    try:
        url = f"http://127.0.0.1:{port}"
        assert until(lambda: answers(f"{url}/health", server), MAX_S), (tmp_path / "log").read_text()[-3000:]
        config = {"kind": "endpoint", "url": url, "name": "foreign", "model": str(sandbox / "model")}
        words = ("engine", "up", "--root", tmp_path, "--config", "-")
        error = harness(node_python, *words, text=json.dumps(config | {"dtype": "float32"}), codes=(2,))["error"]
        assert "enable_prefix_caching is True on the running server, requested False" in error
        assert "speculative_decoding is True on the running server, requested False" in error
        assert "max_model_len is 1024 on the running server, requested 2668" in error
    finally:
        survivors = processes.terminate(lambda: processes.marked(processes.ENGINE_MARK, tmp_path), 15, server.poll)
    assert survivors == set()


def answers(url: str, server: "subprocess.Popen[bytes]") -> bool:
    assert server.poll() is None
    time.sleep(0.3)
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2) as reply:
        return bool(reply.status == 200)
    return False
