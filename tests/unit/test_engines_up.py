"""Starting and stopping a host's engines in one task each."""

import json
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from ansible.errors import AnsibleConnectionFailure

from tests.unit.ansible_modules import load

ENGINES = [{"name": "e1", "kind": "vllm"}, {"name": "e2", "kind": "vllm"}]
COMMON = {"command": ["harness"], "root": "/r", "launcher": "process"}
DIFF = {"diff": {"before": {"state": "down"}, "after": {"state": "up"}}}
READY = {"changed": True, **DIFF, "state": "ready", "engine": {"name": "e1", "kind": "endpoint", "state": "ready"}}
STARTING = {"changed": True, **DIFF, "state": "starting", "engine": {"name": "e1", "kind": "vllm", "state": "starting"}}
WATCHED = {"changed": False, "good": True, "state": "ready", "host": "jw2", "msg": ""}


def play(name: str, answers: dict[str, Any], **arguments: Any) -> tuple[dict[str, Any], list[Any]]:
    """The result of the plugin where the plugins that it calls give these answers, and the calls."""
    calls: list[Any] = []
    task = MagicMock(action=name, check_mode=arguments.pop("check", False), args={**COMMON, **arguments}, async_val=0)
    plugin = load(name, "action").ActionModule(task, *(MagicMock() for _ in range(5)))

    def run_action(called: str, given: dict[str, Any]) -> Any:
        calls.append((called, given))
        answer = answers[called]
        if isinstance(answer, Exception):
            raise answer
        return answer

    plugin.run_action = run_action
    return plugin.run(task_vars={"inventory_hostname": "jw2"}), calls


def test_engines_are_started_watched_together_and_their_keys_read() -> None:
    answers = {"mlperf_engine": STARTING, "mlperf_watch": WATCHED, "mlperf_engine_keys": {"api_keys": {"e1": "k"}}}
    result, calls = play("mlperf_engines_up", answers, engines=ENGINES, key_files={"e1": "/k"}, hosts=100)
    assert [called for called, _ in calls] == ["mlperf_engine"] * 2 + ["mlperf_watch", "mlperf_engine_keys"]
    watching = calls[2][1]
    assert (watching["engines"], watching["interval_s"], watching["hosts"]) == (["e1", "e2"], 100, 100)
    assert (result["changed"], result["good"], result["api_keys"]) == (True, True, {"e1": "k"})
    assert result["diff"] == {"before": {"e1": "down", "e2": "down"}, "after": {"e1": "up", "e2": "up"}}


def test_servers_that_have_just_answered_are_not_asked_again(tmp_path: Path) -> None:
    progress = tmp_path / "progress.jsonl"
    result, calls = play(
        "mlperf_engines_up", {"mlperf_engine": READY}, engines=ENGINES[:1], hosts=100, progress=str(progress)
    )
    assert [called for called, _ in calls] == ["mlperf_engine"]
    assert (result["good"], result["state"], result["api_keys"]) == (True, "ready", {})
    [look] = map(json.loads, progress.read_text().splitlines())
    assert (look["host"], look["kind"], look["status"]["state"]) == ("jw2", "engine", "ready")


def test_a_server_that_was_attached_before_is_watched() -> None:
    answers = {"mlperf_engine": {**READY, "changed": False}, "mlperf_watch": WATCHED}
    _, calls = play("mlperf_engines_up", answers, engines=ENGINES[:1])
    assert [called for called, _ in calls] == ["mlperf_engine", "mlperf_watch"]


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({"mlperf_engine": {"failed": True, "msg": "port 8101 is taken"}}, "port 8101 is taken"),
        (
            {"mlperf_engine": STARTING, "mlperf_watch": {**WATCHED, "good": False, "msg": "out of memory"}},
            "out of memory",
        ),
    ],
)
def test_what_fails_has_its_reason(answers: dict[str, Any], expected: str) -> None:
    result, _ = play("mlperf_engines_up", answers, engines=ENGINES)
    assert (result["failed"], result["msg"]) == (True, expected)


def test_a_lost_connection_is_a_failure_of_a_lost_host() -> None:
    gone = AnsibleConnectionFailure("No route to host")
    for name, engines in (("mlperf_engines_up", ENGINES), ("mlperf_engines_down", ["e1"])):
        result, _ = play(name, {"mlperf_engine": gone}, engines=engines)
        assert (result["failed"], result["state"]) == (True, "lost")
        assert "jw2 became unreachable" in result["msg"]


def test_engines_that_a_cluster_has_started_for_all_are_not_started_again() -> None:
    bad = {"good": False, "state": "failed", "reason": "no GPU is free", "log": "/l"}
    result, calls = play("mlperf_engines_up", {}, engines=ENGINES, ended=bad)
    assert (result["failed"], result["msg"], result["log"], calls) == (True, "no GPU is free", "/l", [])


def test_check_mode_starts_and_watches_nothing() -> None:
    result, calls = play("mlperf_engines_up", {"mlperf_engine": STARTING}, engines=ENGINES, check=True)
    assert (result["changed"], len(calls)) == (True, 2)
    assert result["diff"]["after"] == {"e1": "up", "e2": "up"}


def test_one_engine_that_does_not_stop_keeps_none_running() -> None:
    result, calls = play(
        "mlperf_engines_down", {"mlperf_engine": {"failed": True, "msg": "busy"}}, engines=["e1", "e2"]
    )
    assert (result["failed"], len(calls)) == (True, 2)
    stopped = {"changed": True, "diff": {"before": {"state": "up"}, "after": {"state": "down"}}}
    result, _ = play("mlperf_engines_down", {"mlperf_engine": stopped}, engines=["e1"])
    assert result == {"changed": True, "diff": {"before": {"e1": "up"}, "after": {"e1": "down"}}}
