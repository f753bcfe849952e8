"""The real DeepSpeed behind its adapter, under the real LoadGen: its answers are the reference's."""

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.engines import everything_of, free_port, harness, until

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("engines")]
SAMPLES = 48


@pytest.fixture(scope="module")
def python(node_python: Path) -> Path:
    """The node's Python, with DeepSpeed installed."""
    look = subprocess.run([node_python, "-c", "import deepspeed"], capture_output=True, text=True, timeout=120)
    if look.returncode != 0:
        pytest.skip("DeepSpeed is not in the node's environment; `make long` puts it there")
    return node_python


def config(**values: Any) -> str:
    settings = {"name": "ds", "kind": "deepspeed", "port": free_port(), "dtype": "float32", "max_num_seqs": 16}
    return json.dumps(settings | values)


def test_a_benchmark_of_deepspeed(python: Path, sandbox: Path, tmp_path: Path) -> None:
    request = {"sandbox": sandbox, "samples": SAMPLES, "scenario": "offline", "mode": "accuracy", "root": tmp_path}
    words = [word for key, value in request.items() for word in (f"--{key}", value)]
    harness(python, "run", *words, "--run-id", "one", "--engine-config", "-", text=config())
    folder = tmp_path / "runs" / "one"
    reference = json.loads((folder / "accuracy" / "score.json").read_text())["reference"]
    assert reference["compared"] == SAMPLES
    assert reference["identical"] >= 0.9 * SAMPLES, reference  # float32 differs from float32 in rounding alone
    engine = json.loads((folder / "manifest.json").read_text())["engines"][0]
    assert (engine["kind"], engine["verified"]["tuned"], engine["unverified"]) == ("deepspeed", False, [])
    assert engine["version"]["deepspeed"]
    assert everything_of(tmp_path, "ds") == set()
    stamps = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    assert len(stamps) == SAMPLES
    # A batch's first tokens come at its first step, not with its answers.
    assert all(entry["first_s"] < entry["last_s"] for entry in stamps if len(entry["token_ids"]) > 16)


def test_a_killed_server_is_a_failed_engine_and_leaves_no_process(python: Path, sandbox: Path, tmp_path: Path) -> None:
    text = config(model=str(sandbox / "model"), cpu_cores="0")
    state = harness(python, "engine", "up", "--root", tmp_path, "--config", "-", text=text)
    try:
        assert (state["state"], state["verified"]["dtype"]) == ("ready", "float32")
        assert os.sched_getaffinity(state["engine_pid"]) == {0}
        os.kill(state["engine_pid"], signal.SIGKILL)
        stored = tmp_path / "engines" / "ds" / "engine.json"
        assert until(lambda: json.loads(stored.read_text())["state"] == "failed")
        assert "was killed by SIGKILL" in json.loads(stored.read_text())["reason"]
        assert until(lambda: everything_of(tmp_path, "ds") == set())
    finally:
        harness(python, "engine", "down", "--root", tmp_path, "ds")
