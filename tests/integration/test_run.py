"""Runs as a person or Ansible starts, looks at and stops them, against the fake server."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import run_store
from harness.errors import BadInput, NotReady
from harness.linux import process
from harness.spec import Spec, parse_spec
from harness.status import Heartbeat, look
from tests.conftest import REPOSITORY
from tests.engines import write_model
from tests.fake_server import FakeServer
from tests.unit import load

SECONDS = 60.0


@pytest.fixture(scope="module")
def server() -> Iterator[FakeServer]:
    with FakeServer(ms_per_token=1, tokens=8) as running:
        yield running


def spec(folder: Path, *servers: FakeServer, **values: Any) -> Spec:
    """A spec whose model is whole, as a run demands."""
    asked = load.spec(folder, *servers, **values)
    config = json.loads((asked.model / "config.json").read_text())
    write_model(asked.model)
    (asked.model / "config.json").write_text(json.dumps(config))
    return asked


def harness(*words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "harness", *words],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )


def started(root: Path, asked: Any) -> dict[str, Any]:
    done = harness("start", "--root", str(root), "--json", stdin=asked.model_dump_json())
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def ended(root: Path, run_id: str) -> dict[str, Any]:
    deadline = time.monotonic() + SECONDS
    while (status := look(run_store.run_directory(root, run_id)))["state"] == "running":
        assert time.monotonic() < deadline, status
        time.sleep(0.1)
    return status


def test_start_runs_once_and_refuses_another_spec_under_the_same_id(tmp_path: Path, server: FakeServer) -> None:
    asked = spec(tmp_path, server, scenario="offline", target_qps=50.0, mode="performance")
    assert started(tmp_path, asked)["changed"] is True
    status = ended(tmp_path, asked.run_id)
    assert status["state"] == "finished", status["reason"]
    outcome = json.loads((tmp_path / "runs" / asked.run_id / "outcome.json").read_text())
    assert outcome["performance"]["samples"] == asked.samples
    manifest = json.loads((tmp_path / "runs" / asked.run_id / "manifest.json").read_text())
    assert manifest["dataset"] == load.samples(asked).facts()
    again = started(tmp_path, asked)
    assert (again["changed"], again["state"]) == (False, "finished")
    other = harness(
        "start", "--root", str(tmp_path), "--json", stdin=asked.model_copy(update={"seed": 7}).model_dump_json()
    )
    said = json.loads(other.stdout)
    assert other.returncode == said["exit"] == 2
    assert "seed: existing 42, requested 7" in said["error"]


def test_metrics_are_served_while_it_runs_and_no_longer(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    with FakeServer(ms_per_token=100, tokens=20) as server:
        asked = spec(tmp_path, server, scenario="offline", target_qps=50.0, mode="performance", metrics_port=port)
        assert started(tmp_path, asked)["changed"] is True
        seen = set()
        while look(run_store.run_directory(tmp_path, asked.run_id))["state"] == "running":
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
                seen |= set(answer.read().decode().splitlines())
            time.sleep(0.1)
    assert ended(tmp_path, asked.run_id)["state"] == "finished"
    assert 'mlperf_phase{phase="performance"} 1.0' in seen
    assert 'mlperf_samples_expected{phase="performance"} ' + f"{float(asked.samples)}" in seen
    assert any(f'run_id="{asked.run_id}"' in line for line in seen)
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics")


def test_a_run_in_the_foreground_tells_every_second_and_is_never_run_twice(tmp_path: Path) -> None:
    with FakeServer(ms_per_token=100, tokens=20) as server:
        asked = spec(tmp_path, server, scenario="offline", target_qps=50.0, mode="performance")
        words = ("start", "--foreground", "--root", str(tmp_path), "--json")
        done = harness(*words, stdin=asked.model_dump_json())
        assert done.returncode == 0, done.stderr
        told = [json.loads(line) for line in done.stdout.splitlines()]
        assert len(told) >= 3
        assert {one["state"] for one in told[:-1]} == {"running"}
        assert "performance" in {one["phase"] for one in told}
        assert told[-1]["state"] == "finished"
        journal = tmp_path / "runs" / asked.run_id / "journal.jsonl"
        before = journal.read_bytes()
        again = harness(*words, stdin=asked.model_dump_json())
        assert again.returncode == 0
        assert [json.loads(line)["updated_unix"] for line in again.stdout.splitlines()] == [told[-1]["updated_unix"]]
        assert journal.read_bytes() == before
        other = harness(*words, stdin=asked.model_copy(update={"seed": 7}).model_dump_json())
        assert other.returncode == 2
        assert "seed: existing 42, requested 7" in other.stderr


def test_a_failed_run_in_the_foreground_ends_with_its_reason_each_time(tmp_path: Path) -> None:
    with FakeServer(ms_per_token=1, tokens=8, faults={"http500": 1}) as server:
        asked = spec(tmp_path, server, scenario="offline", target_qps=50.0, mode="performance")
        for _ in range(2):
            done = harness("start", "--foreground", "--root", str(tmp_path), stdin=asked.model_dump_json())
            assert done.returncode == 4
            assert "500" in done.stderr


def test_engines_are_awaited_and_one_that_never_answers_is_named(tmp_path: Path) -> None:
    with FakeServer(ms_per_token=1, tokens=8) as server:
        asked = spec(tmp_path, server, scenario="offline", target_qps=50.0, mode="performance")
        words = ("start", "--foreground", "--root", str(tmp_path), "--await-engines", "1")
        assert harness(*words, stdin=asked.model_dump_json()).returncode == 0
    late = asked.model_copy(update={"run_id": "late"})
    done = harness(*words, stdin=late.model_dump_json())
    assert done.returncode == 3
    assert f"engine {late.engines[0].name} at {late.engines[0].url} is not ready after 1 s: " in done.stderr
    assert not run_store.run_directory(tmp_path, "late").exists()


def test_check_starts_nothing(tmp_path: Path, server: FakeServer) -> None:
    asked = spec(tmp_path, server, target_qps=50.0)
    done = harness("start", "--check", "--root", str(tmp_path / "root"), "--json", stdin=asked.model_dump_json())
    assert json.loads(done.stdout)["would_change"] is True
    assert not (tmp_path / "root").exists()


def test_stop_ends_a_run_with_its_worker_and_a_killed_one_is_seen(tmp_path: Path) -> None:
    with FakeServer(ms_per_token=1000, tokens=100) as slow:
        first = spec(tmp_path, slow, scenario="offline", target_qps=1.0, mode="performance")
        second = first.model_copy(update={"run_id": "second"})
        for asked in (first, second):
            started(tmp_path, asked)
        assert run_store.stop(tmp_path, first.run_id)[1]["state"] == "stopped"
        assert run_store.stop(tmp_path, first.run_id)[0] is False
        pid = look(run_store.run_directory(tmp_path, "second"))["pid"]
        os.kill(pid, signal.SIGKILL)
        status = ended(tmp_path, "second")
        assert status["state"] == "failed" and "harness died" in status["reason"]
        children = subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True).stdout.split()
        assert not [child for child in children if process(int(child))]


def test_stop_spares_another_process_under_the_same_pid(tmp_path: Path) -> None:
    bystander = subprocess.Popen(["sleep", "60"])
    try:
        (tmp_path / "runs/old").mkdir(parents=True)
        heartbeat = Heartbeat(tmp_path / "runs/old", "old", tmp_path / "log")
        heartbeat.finish("finished")
        path = tmp_path / "runs/old/status.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "pid": bystander.pid, "state": "running"}))
        assert run_store.stop(tmp_path, "old")[0] is False
        assert bystander.poll() is None
        assert look(path.parent)["state"] == "failed"
    finally:
        bystander.kill()
        bystander.wait()


def test_a_silent_run_hangs(tmp_path: Path) -> None:
    heartbeat = Heartbeat(tmp_path, "quiet", tmp_path / "log")
    heartbeat.finish("finished")
    path = tmp_path / "status.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "state": "running", "updated_unix": time.time() - 60}))
    assert "no heartbeat for 60 s" in look(tmp_path)["reason"]


def test_too_small_a_disk_is_said_before_anything_is_made(
    tmp_path: Path, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_store.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 5 << 20})())
    with pytest.raises(NotReady, match="has 5 MiB free, this run needs"):
        run_store.start(spec(tmp_path, server), tmp_path / "root")
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("scenari", "server", "unknown key 'scenari'"),
        ("scenario", "streaming", "'server', 'offline' or 'interactive'"),
        ("samples", 0, "samples = 0"),
        ("samples", True, "samples = True"),
        ("samples", 13_369, "13368"),
        ("target_qps", float("inf"), "target_qps"),
        ("run_id", "a/b", "run_id = 'a/b'"),
        ("engines", [], "engines"),
        ("limits", {"request_timeout_s": -1}, "limits.request_timeout_s = -1"),
    ],
)
def test_a_wrong_spec_names_key_and_value(tmp_path: Path, server: FakeServer, key: str, value: Any, said: str) -> None:
    plain = {**spec(tmp_path, server).model_dump(mode="json"), key: value}
    with pytest.raises(BadInput) as error:
        parse_spec(plain)
    assert said in str(error.value)


def test_defaults_are_server_both_and_auto(tmp_path: Path, server: FakeServer) -> None:
    plain = spec(tmp_path, server).model_dump(mode="json")
    kept = {key: plain[key] for key in ("run_id", "model", "dataset", "samples", "engines")}
    found = parse_spec(kept)
    assert (found.scenario, found.mode, found.target_qps) == ("server", "both", "auto")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--help"], 0, "Exit codes"),
        (["run", "--samples", "3"], 2, "--model is missing"),
        (["run", "--sandbox", "/nowhere", "--samples", "3"], 2, "/nowhere"),
        (["status", "--root", "/nowhere", "absent"], 2, "does not exist"),
        (["score", "/nowhere.json", "--dataset", "/nowhere", "--model", "/nowhere"], 2, "/nowhere"),
        (["frobnicate"], 2, "No such command"),
    ],
)
def test_exit_codes_and_one_line_errors(words: list[str], code: int, said: str) -> None:
    done = harness(*words)
    assert done.returncode == code
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) <= 1


def test_html_endpoint_is_refused_before_the_run_exists(tmp_path: Path) -> None:
    with FakeServer(website=True) as website:
        asked = spec(tmp_path, website)
        files = ["--model", str(asked.model), "--dataset", str(asked.dataset), "--samples", str(asked.samples)]
        done = harness("run", "--root", str(tmp_path / "root"), "--endpoint", website.url, *files)
    assert done.returncode in (2, 3) and "not an OpenAI-compatible server" in done.stderr
    assert not (tmp_path / "root" / "runs").exists()


def test_of_a_run_that_is_refused_nothing_is_left(tmp_path: Path, server: FakeServer) -> None:
    good = spec(tmp_path, server, target_qps=50.0, mode="performance")
    content = good.dataset.read_bytes()
    good.dataset.write_text("[]")
    with pytest.raises(BadInput, match=r"^data set .* is an empty list; use MLPerf's cnn_eval\.json$"):
        run_store.start(good, tmp_path / "root")
    assert not run_store.run_directory(tmp_path / "root", good.run_id).exists()
    good.dataset.write_bytes(content)
    assert run_store.start(good, tmp_path / "root")[0] is True
    assert ended(tmp_path / "root", good.run_id)["state"] == "finished"
