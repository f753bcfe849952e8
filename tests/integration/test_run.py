"""Starting, watching and stopping runs by command, with the fake server as engine."""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import run_store, state_file
from harness.errors import BadInput, NotReady
from harness.spec import Spec, parse_spec
from harness.state_file import read_process
from harness.status import Heartbeat, look
from tests.conftest import NODE_ENVIRONMENT, REPOSITORY
from tests.engines import write_model
from tests.fake_server import FakeServer
from tests.unit import load

SECONDS = 60.0


@pytest.fixture(scope="module")
def server() -> Iterator[FakeServer]:
    with FakeServer(ms_per_token=1, tokens=8) as running:
        yield running


def make_spec(folder: Path, *servers: FakeServer, **values: Any) -> Spec:
    """A spec whose model is complete, as a run requires."""
    spec = load.make_spec(folder, *servers, **values)
    config = json.loads((spec.model / "config.json").read_text())
    write_model(spec.model)
    (spec.model / "config.json").write_text(json.dumps(config))
    return spec


def harness(*words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "harness", *words],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )


def start(root: Path, spec: Any) -> dict[str, Any]:
    result = harness("start", "--root", str(root), "--json", stdin=spec.model_dump_json())
    assert result.returncode == 0, result.stderr
    return dict(json.loads(result.stdout))


def wait_until_ended(root: Path, run_id: str) -> dict[str, Any]:
    deadline = time.monotonic() + SECONDS
    while (status := look(run_store.run_directory(root, run_id)))["state"] == "running":
        assert time.monotonic() < deadline, status
        time.sleep(0.1)
    return status


def test_start_runs_once_and_refuses_another_spec_under_the_same_id(tmp_path: Path, server: FakeServer) -> None:
    spec = make_spec(tmp_path, server, scenario="offline", target_qps=50.0, mode="performance")
    assert start(tmp_path, spec)["changed"] is True
    status = wait_until_ended(tmp_path, spec.run_id)
    assert status["state"] == "finished", status["reason"]
    outcome = json.loads((tmp_path / "runs" / spec.run_id / "outcome.json").read_text())
    assert outcome["performance"]["samples"] == spec.samples
    manifest = json.loads((tmp_path / "runs" / spec.run_id / "manifest.json").read_text())
    assert manifest["dataset"] == load.samples(spec).facts()
    again = start(tmp_path, spec)
    assert (again["changed"], again["state"]) == (False, "finished")
    refusal = harness(
        "start", "--root", str(tmp_path), "--json", stdin=spec.model_copy(update={"seed": 7}).model_dump_json()
    )
    error = json.loads(refusal.stdout)
    assert refusal.returncode == error["exit"] == 2
    assert "seed: existing 42, requested 7" in error["error"]


def test_metrics_are_served_while_it_runs_and_no_longer(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    with FakeServer(ms_per_token=100, tokens=20) as server:
        spec = make_spec(tmp_path, server, scenario="offline", target_qps=50.0, mode="performance", metrics_port=port)
        assert start(tmp_path, spec)["changed"] is True
        lines = set()
        while look(run_store.run_directory(tmp_path, spec.run_id))["state"] == "running":
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
                lines |= set(answer.read().decode().splitlines())
            time.sleep(0.1)
    assert wait_until_ended(tmp_path, spec.run_id)["state"] == "finished"
    assert 'mlperf_phase{phase="performance"} 1.0' in lines
    assert 'mlperf_samples_expected{phase="performance"} ' + f"{float(spec.samples)}" in lines
    assert any(f'run_id="{spec.run_id}"' in line for line in lines)
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics")


def test_a_run_in_the_foreground_prints_its_state_every_second_and_runs_once(tmp_path: Path) -> None:
    with FakeServer(ms_per_token=100, tokens=20) as server:
        spec = make_spec(tmp_path, server, scenario="offline", target_qps=50.0, mode="performance")
        words = ("start", "--foreground", "--root", str(tmp_path), "--json")
        result = harness(*words, stdin=spec.model_dump_json())
        assert result.returncode == 0, result.stderr
        records = [json.loads(line) for line in result.stdout.splitlines()]
        assert len(records) >= 3
        assert {one["state"] for one in records[:-1]} == {"running"}
        assert "performance" in {one["phase"] for one in records}
        assert records[-1]["state"] == "finished"
        journal = tmp_path / "runs" / spec.run_id / "journal.jsonl"
        before = journal.read_bytes()
        again = harness(*words, stdin=spec.model_dump_json())
        assert again.returncode == 0
        assert [json.loads(line)["updated_unix"] for line in again.stdout.splitlines()] == [records[-1]["updated_unix"]]
        assert journal.read_bytes() == before
        other = harness(*words, stdin=spec.model_copy(update={"seed": 7}).model_dump_json())
        assert other.returncode == 2
        assert "seed: existing 42, requested 7" in other.stderr


def test_a_failed_run_in_the_foreground_ends_with_its_reason_each_time(tmp_path: Path) -> None:
    with FakeServer(ms_per_token=1, tokens=8, faults={"http500": 1}) as server:
        spec = make_spec(tmp_path, server, scenario="offline", target_qps=50.0, mode="performance")
        for _ in range(2):
            result = harness("start", "--foreground", "--root", str(tmp_path), stdin=spec.model_dump_json())
            assert result.returncode == 4
            assert "500" in result.stderr


def test_engines_are_awaited_and_one_that_never_answers_is_named(tmp_path: Path) -> None:
    with FakeServer(ms_per_token=1, tokens=8) as server:
        spec = make_spec(tmp_path, server, scenario="offline", target_qps=50.0, mode="performance")
        words = ("start", "--foreground", "--root", str(tmp_path), "--await-engines", "1")
        assert harness(*words, stdin=spec.model_dump_json()).returncode == 0
    late = spec.model_copy(update={"run_id": "late"})
    result = harness(*words, stdin=late.model_dump_json())
    assert result.returncode == 3
    assert f"engine {late.engines[0].name} at {late.engines[0].url} is not ready after 1 s: " in result.stderr
    assert not run_store.run_directory(tmp_path, "late").exists()


def test_check_starts_nothing(tmp_path: Path, server: FakeServer) -> None:
    spec = make_spec(tmp_path, server, target_qps=50.0)
    result = harness("start", "--check", "--root", str(tmp_path / "root"), "--json", stdin=spec.model_dump_json())
    assert json.loads(result.stdout)["would_change"] is True
    assert not (tmp_path / "root").exists()


def test_stop_ends_a_run_with_its_worker(tmp_path: Path) -> None:
    with FakeServer(ms_per_token=1000, tokens=100) as slow:
        spec = make_spec(tmp_path, slow, scenario="offline", target_qps=1.0, mode="performance")
        start(tmp_path, spec)
        assert run_store.stop(tmp_path, spec.run_id)[1]["state"] == "stopped"
        assert run_store.stop(tmp_path, spec.run_id)[0] is False
        children = subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True).stdout.split()
        assert not [child for child in children if read_process(int(child))]


def test_a_run_without_a_heartbeat_is_silent_and_one_that_cannot_be_read_hides_no_other(tmp_path: Path) -> None:
    for name in ("quiet", "broken"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        Heartbeat(tmp_path / "runs" / name, {"run_id": name}, tmp_path / "log").finish("finished")
    path = tmp_path / "runs/quiet/status.json"
    silent = {"state": "running", "updated_uptime_s": state_file.uptime_s() - 60}
    path.write_text(json.dumps({**json.loads(path.read_text()), **silent}))
    assert "no heartbeat for 60 s" in look(path.parent)["reason"]
    (tmp_path / "runs/broken/status.json").write_text("")
    statuses, unreadable = run_store.runs(tmp_path)
    assert [status["state"] for status in statuses] == ["silent"]
    assert f"look into {tmp_path / 'runs/broken'}" in unreadable[0]


def test_too_small_a_disk_is_reported_before_anything_is_created(
    tmp_path: Path, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_store.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 5 << 20})())
    with pytest.raises(NotReady, match="has 5 MiB free, this run needs"):
        run_store.start(make_spec(tmp_path, server), tmp_path / "root")
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize(
    ("key", "value", "message"),
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
def test_a_wrong_spec_names_key_and_value(
    tmp_path: Path, server: FakeServer, key: str, value: Any, message: str
) -> None:
    plain = {**make_spec(tmp_path, server).model_dump(mode="json"), key: value}
    with pytest.raises(BadInput) as error:
        parse_spec(plain)
    assert message in str(error.value)


def test_defaults_are_server_both_and_auto(tmp_path: Path, server: FakeServer) -> None:
    plain = make_spec(tmp_path, server).model_dump(mode="json")
    required = {key: plain[key] for key in ("run_id", "model", "dataset", "samples", "engines")}
    spec = parse_spec(required)
    assert (spec.scenario, spec.mode, spec.target_qps) == ("server", "both", "auto")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--help"], 0, "Exit codes"),
        (["run", "--samples", "3"], 2, "--model is missing"),
        (["run", "--sandbox", "/nowhere", "--samples", "3"], 2, "/nowhere"),
        (["status", "--root", "/nowhere", "absent"], 2, "does not exist"),
        (["score", "/nowhere.json", "--dataset", "/nowhere", "--model", "/nowhere"], 2, "/nowhere"),
        (["frobnicate"], 2, "No such command"),
    ],
)
def test_exit_codes_and_one_line_errors(words: list[str], code: int, message: str) -> None:
    result = harness(*words)
    assert result.returncode == code
    assert message in result.stdout + result.stderr
    assert "Traceback" not in result.stderr and len(result.stderr.splitlines()) <= 1


def test_html_endpoint_is_refused_before_the_run_exists(tmp_path: Path) -> None:
    with FakeServer(website=True) as website:
        spec = make_spec(tmp_path, website)
        files = ["--model", str(spec.model), "--dataset", str(spec.dataset), "--samples", str(spec.samples)]
        result = harness("run", "--root", str(tmp_path / "root"), "--endpoint", website.url, *files)
    assert result.returncode in (2, 3) and "not an OpenAI-compatible server" in result.stderr
    assert not (tmp_path / "root" / "runs").exists()


def test_the_readmes_command_ends_with_a_verdict_in_the_nodes_environment(
    tmp_path: Path, server: FakeServer, sandbox: Path
) -> None:
    """Where neither pandas nor matplotlib is, the run is judged and reported; only the pictures are missing."""
    (command,) = re.findall(r"^\.mlperf/env/bin/harness (run .*)$", (REPOSITORY / "README.md").read_text(), re.M)
    given = {"http://127.0.0.1:8000": server.url, "DIR": sandbox / "model", "cnn_eval.json": sandbox / "cnn_eval.json"}
    words = ["60" if word == "600" else str(given.get(word, word)) for word in command.split()]
    result = subprocess.run(
        [NODE_ENVIRONMENT / "bin" / "python", "-m", "harness", *words, "--root", tmp_path, "--run-id", "one"],
        capture_output=True, text=True, timeout=5 * SECONDS, env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    folder = tmp_path / "runs" / "one" / "report"
    assert result.returncode in (0, 5), result.stderr
    level = json.loads((folder / "result.json").read_text())["verdict"]["level"]
    assert result.stdout.startswith(f"{level}  one")
    assert "matplotlib is not installed here; `harness report` on the controller" in (folder / "report.md").read_text()


def test_a_refused_run_leaves_nothing(tmp_path: Path, server: FakeServer) -> None:
    good = make_spec(tmp_path, server, target_qps=50.0, mode="performance")
    content = good.dataset.read_bytes()
    good.dataset.write_text("[]")
    with pytest.raises(BadInput, match=r"^data set .* is an empty list; use MLPerf's cnn_eval\.json$"):
        run_store.start(good, tmp_path / "root")
    assert not run_store.run_directory(tmp_path / "root", good.run_id).exists()
    good.dataset.write_bytes(content)
    assert run_store.start(good, tmp_path / "root")[0] is True
    assert wait_until_ended(tmp_path / "root", good.run_id)["state"] == "finished"
