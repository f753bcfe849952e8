"""Long commands in the background: once, in order, resumed after a failure, joined by a second host."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.unit.ansible_modules import Failed, call


def arguments(folder: Path, *steps: dict[str, Any]) -> dict[str, Any]:
    return {"path": str(folder / "job"), "name": "installing", "steps": list(steps), "creates": str(folder / "made")}


def shell(script: str, **more: Any) -> dict[str, Any]:
    return {"run": ["sh", "-c", script], **more}


def wait(result: dict[str, Any]) -> dict[str, Any]:
    """Wait, for 20 s at most, until the steps have ended."""
    for _ in range(200):
        record: dict[str, Any] = json.loads(Path(result["file"]).read_text())
        if record["state"] != "running":
            return record
        time.sleep(0.1)
    os.kill(record["pid"], signal.SIGKILL)
    raise AssertionError(record)


def test_steps_run_once_in_order_like_layers(tmp_path: Path) -> None:
    log = tmp_path / "order"
    first = shell(f"echo one >> {log}; touch {tmp_path}/made")
    second = shell(f"echo two >> {log}", inputs="a")
    checked = call("mlperf_background_job", arguments(tmp_path, first, second), check=True)
    assert (checked["changed"], checked["pending"]) == (True, 2)
    assert not (tmp_path / "job").exists()
    result = call("mlperf_background_job", arguments(tmp_path, first, second))
    assert result["changed"] is True
    assert wait(result)["state"] == "finished"
    again = call("mlperf_background_job", arguments(tmp_path, first, second))
    assert (again["changed"], again["pending"], again["state"]) == (False, 0, "finished")
    assert again["diff"]["before"] == again["diff"]["after"]
    changed = call("mlperf_background_job", arguments(tmp_path, first, {**second, "inputs": "b"}))
    assert (changed["changed"], changed["pending"]) == (True, 1)
    assert wait(changed)["state"] == "finished"
    assert log.read_text().split() == ["one", "two", "two"]
    (tmp_path / "made").unlink()
    assert call("mlperf_background_job", arguments(tmp_path, first, second), check=True)["pending"] == 2


def test_a_failure_keeps_finished_steps_and_reports_the_last_line(tmp_path: Path) -> None:
    log = tmp_path / "order"
    steps = [
        shell(f"echo one >> {log}; touch {tmp_path}/made"),
        shell(f"echo two >> {log}; test -e {tmp_path}/ok || {{ echo 'no such index' >&2; exit 1; }}"),
    ]
    record = wait(call("mlperf_background_job", arguments(tmp_path, *steps)))
    assert record["state"] == "failed"
    assert "no such index" in record["reason"]
    assert "no such index" in (tmp_path / "job" / "job.log").read_text()
    (tmp_path / "ok").touch()
    assert wait(call("mlperf_background_job", arguments(tmp_path, *steps)))["state"] == "finished"
    assert log.read_text().split() == ["one", "two", "two"]


def test_second_command_is_tried_only_when_the_first_fails(tmp_path: Path) -> None:
    fallback = {"otherwise": ["touch", str(tmp_path / "fallback")]}
    assert wait(call("mlperf_background_job", arguments(tmp_path, shell("exit 0", **fallback))))["state"] == "finished"
    assert not (tmp_path / "fallback").exists()
    assert wait(call("mlperf_background_job", arguments(tmp_path, shell("exit 3", **fallback))))["state"] == "finished"
    assert (tmp_path / "fallback").exists()


def test_program_that_does_not_exist_is_a_failure(tmp_path: Path) -> None:
    record = wait(call("mlperf_background_job", arguments(tmp_path, {"run": ["/no/such/program"]})))
    assert record["state"] == "failed"
    assert "/no/such/program" in record["reason"]


def test_a_running_job_is_joined_and_another_one_refused(tmp_path: Path) -> None:
    waits = shell(f"until test -e {tmp_path}/go; do sleep 0.05; done; touch {tmp_path}/made")
    first = call("mlperf_background_job", arguments(tmp_path, waits))
    try:
        for _ in range(100):
            if json.loads(Path(first["file"]).read_text())["pid"]:
                break
            time.sleep(0.05)
        second = call("mlperf_background_job", arguments(tmp_path, waits))
        assert (first["changed"], second["changed"], second["state"]) == (True, False, "running")
        with pytest.raises(Failed, match="under way"):
            call("mlperf_background_job", arguments(tmp_path, shell("true")))
    finally:
        (tmp_path / "go").touch()
    assert wait(first)["state"] == "finished"


def test_a_killed_runner_is_started_again(tmp_path: Path) -> None:
    waits = shell(f"until test -e {tmp_path}/go; do sleep 0.05; done; touch {tmp_path}/made")
    first = call("mlperf_background_job", arguments(tmp_path, waits))
    for _ in range(100):
        pid = json.loads(Path(first["file"]).read_text())["pid"]
        if pid:
            break
        time.sleep(0.05)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    (tmp_path / "go").touch()
    again = call("mlperf_background_job", arguments(tmp_path, waits))
    assert again["changed"] is True
    assert wait(again)["state"] == "finished"


def test_variables_reach_the_commands(tmp_path: Path) -> None:
    variables = {**arguments(tmp_path, shell("echo $MIRROR")), "environment_variables": {"MIRROR": "http://mirror"}}
    result = call("mlperf_background_job", variables)
    wait(result)
    # Ansible prints at -vvv what a module was called with, and a mirror's address may hold a password.
    assert result["invocation"]["module_args"]["environment_variables"] == ["MIRROR"]
    assert "http://mirror\n" in (tmp_path / "job" / "job.log").read_text()
