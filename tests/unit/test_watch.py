"""Watching: one line a look, dead and silent processes recognised, lost nodes reported within a bounded time."""

import json
import os
import shlex
import subprocess
import threading
import time
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from ansible.errors import AnsibleConnectionFailure, AnsibleError

from harness import state_file
from harness.benchmark import progress as lines
from harness.benchmark.attempts import repeat
from tests.engines import until
from tests.unit.ansible_modules import load

watch = load("mlperf_watch", "action")

BOOT = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
RUN = {
    "run_id": "r1", "state": "running", "phase": "performance", "samples_done": 1234, "samples_total": 13_368,
    "samples_failed": 0, "in_flight": 80, "samples_per_s": 20.61, "tokens_per_s": 2600.0, "ttft_ms_p99": 310.2,
    "tpot_ms_p99": 41.04, "eta_s": 612.0, "elapsed_s": 60.0, "reason": None, "log": "/r/harness.log",
    "pid": os.getpid(), "boot_id": BOOT,
}  # fmt: skip


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0s"), (59.4, "59s"), (59.6, "1m00s"), (612, "10m12s"), (3599.7, "1h00m"), (11_100, "3h05m")],
)
def test_durations(seconds: float, text: str) -> None:
    assert lines.duration(seconds) == text


def test_run_line_has_the_figures_of_a_terminal() -> None:
    assert lines.line("run", RUN, 0) == (
        "performance  1234/13368  9.2%  20.6 samples/s  TTFT p99 310 ms  TPOT p99 41.0 ms  ETA 10m12s"
    )


def test_run_line_shows_the_attempt() -> None:
    attempt = RUN | {"attempt": 2, "attempts_most": 4}
    assert lines.line("run", attempt, 0).startswith("performance  attempt 2 of 4  1234/13368")
    search = lines.line("run", attempt | {"attempts_most": None}, 0)
    assert search.startswith("performance  attempt 2  1234/13368")
    assert lines.line("run", attempt | {"phase": "accuracy"}, 0).startswith("accuracy  1234/13368")


def test_what_is_not_measured_is_left_out_and_zero_is_a_measurement() -> None:
    bare = dict.fromkeys(RUN, None) | {"state": "running", "phase": "preparing"}
    assert lines.line("run", bare, 0) == "preparing"
    started = bare | {
        "phase": "accuracy",
        "samples_done": 0,
        "samples_total": 10,
        "samples_per_s": 0.0,
        "samples_failed": 2,
    }
    assert lines.line("run", started, 0) == "accuracy  0/10  0.0%  0.0 samples/s  2 failed"


def test_final_states_are_shown_with_their_reason() -> None:
    assert (
        lines.line("run", RUN | {"state": "failed", "reason": "3 samples failed"}, 0)
        == "failed  1m00s  3 samples failed"
    )


def test_engine_line_shows_start_and_queue() -> None:
    engine = {"name": "e", "state": "starting", "progress": "loading weights", "started_unix": 100.0}
    assert lines.line("engine", engine, 112.4) == "starting engine  12s  loading weights"
    queue = lines.last_row("unix_s,running,waiting,kv_cache_percent,gpu_index", "1,31,12,41.2,")
    assert queue["gpu_index"] is None
    assert lines.line("engine", engine | {"state": "ready", "telemetry": queue}, 0) == (
        "engine e ready  31 running  12 waiting  KV 41%"
    )


@pytest.mark.parametrize(
    ("changes", "pid_alive", "verdict"),
    [
        ({}, True, "running"), ({}, False, "failed"), ({"boot_id": "other"}, True, "failed"),
        ({"updated_uptime_s": 969.0}, True, "silent"), ({"updated_uptime_s": 971.0}, True, "running"),
        ({"updated_uptime_s": 969.0}, False, "failed"), ({"updated_uptime_s": 1009.0}, True, "running"),
        ({"updated_unix": 5e9}, True, "running"), ({"updated_unix": 1.0}, True, "running"),
        ({"state": "finished"}, False, "finished"), ({"state": "stopped", "boot_id": "other"}, False, "stopped"),
        ({"kind": "endpoint", "state": "ready", "pid": None}, False, "ready"),
        ({"kind": "vllm", "state": "ready"}, False, "failed"), ({"pid_born": 7}, True, "running"),
        ({"pid_born": 6}, True, "failed"),
        ({"kind": "vllm", "state": "starting", "pid": None, "started_uptime_s": 990.0}, False, "starting"),
        ({"kind": "vllm", "state": "starting", "pid": None, "started_uptime_s": 900.0}, False, "failed"),
    ],
)  # fmt: skip
def test_state_is_judged_by_process_boot_and_heartbeat(changes: dict[str, Any], pid_alive: bool, verdict: str) -> None:
    tick = 7 if pid_alive else None
    judged = state_file.judge(RUN | {"updated_uptime_s": 999.0} | changes, uptime=1000.0, boot=BOOT, tick=tick)
    assert judged["state"] == verdict
    assert verdict not in ("failed", "silent") or judged["reason"]


READY = ("ready", "ready")
LOSS = {
    "mode": "performance", "engine": "e", "node": "jw3", "at_unix": 1000.0, "at_s": 35.2,
    "reason": "no answer at /health", "moved": 12, "rejoined_unix": None,
}  # fmt: skip


def run_file(root: Path) -> Path:
    """State file of run r1."""
    file = Path(state_file.run_file(str(root), "r1"))
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


def engine_file(root: Path, name: str) -> Path:
    """State file of an engine."""
    file = Path(state_file.engine_file(str(root), name))
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


class Node:
    """Answers the plugin's shell calls with this machine's shell, or as set."""

    def __init__(self) -> None:
        self.faults: list[Exception] = []
        self.before: list[Any] = []

    def execute(self, command: str, in_data: bytes | None = None, chdir: str | None = None) -> dict[str, Any]:
        if self.faults:
            raise self.faults.pop(0)
        if self.before:
            self.before.pop(0)()
        result = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, timeout=10)
        return {"rc": result.returncode, "stdout": result.stdout, "stderr": result.stderr}


@pytest.fixture
def displayed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(watch.display, "display", lines.append)
    return lines


def run(
    node: Node, *files: Path, host: str = "jw2", kind: str = "run", check: bool = False, **more: Any
) -> dict[str, Any]:
    places: dict[str, Any] = {"root": str(files[0].parents[2])} if files else {}
    if kind == "engine":
        places["engines"] = [file.parent.name for file in files]
    if "command" in more and more.get("launcher") != "process":
        places |= {"launcher": "kubernetes", "run_id": "r1", "engines": ["jw3"]}
    args = {"kind": kind, "interval_s": 0.05, "run_id": "r1", **places, **more}
    task = MagicMock(action="mlperf_watch", check_mode=check, args=args, async_val=0)
    plugin = watch.ActionModule(task, MagicMock(), MagicMock(), MagicMock(), MagicMock(), MagicMock())
    plugin._low_level_execute_command = node.execute
    plugin._connection_to = lambda host: MagicMock(
        exec_command=lambda command, sudoable: (0, subprocess.check_output(["/bin/sh", "-c", command]), b"")
    )
    result: dict[str, Any] = plugin.run(
        task_vars={"inventory_hostname": host, "ansible_play_hosts_all": ["jw2", "longer"]}
    )
    return result


def status(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(RUN | {"updated_unix": time.time()} | changes, indent=2))


def test_every_look_is_recorded_until_the_end(tmp_path: Path, displayed: list[str]) -> None:
    file, progress = run_file(tmp_path), tmp_path / "deep" / "progress.jsonl"
    node = Node()
    node.before = [
        lambda: status(file),
        lambda: status(file, samples_done=2000),
        lambda: status(file, state="finished"),
    ]
    result = run(node, file, progress=str(progress), notice="how to go on")
    assert (result["good"], result["state"], result["changed"], result["reason"]) == (True, "finished", False, "")
    assert displayed[0] == "how to go on"
    assert [line.split("  ")[0] for line in displayed[1:]] == ["jw2   "] * 0 + ["jw2"] * 3
    assert "2000/13368" in displayed[2]
    looks = [json.loads(line) for line in progress.read_text().splitlines()]
    assert [(look["host"], look["kind"], look["status"]["samples_done"]) for look in looks] == [
        ("jw2", "run", 1234), ("jw2", "run", 2000), ("jw2", "run", 1234)
    ]  # fmt: skip
    assert looks[-1]["status"]["state"] == "finished"
    assert abs(looks[-1]["unix"] - time.time()) < 5


def test_failure_is_returned_with_reason_and_log(tmp_path: Path, displayed: list[str]) -> None:
    file = run_file(tmp_path)
    status(file, state="failed", reason="engine died")
    result = run(Node(), file)
    assert (result["good"], result["reason"], result["log"]) == (False, "engine died", "/r/harness.log")
    assert not result.get("failed")


def test_nothing_that_a_node_says_is_shown_with_control_characters(tmp_path: Path, displayed: list[str]) -> None:
    file, node = run_file(tmp_path), Node()
    node.faults = [AnsibleError("ssh: \x1b[2Jgone\x07")] * 3
    status(file, state="failed", phase="\x1b[31mp", reason="engine \x1b[31mdied\x00", log="/r/\x1b[0mlog\r")
    result = run(node, file)
    assert (result["reason"], result["msg"], result["log"]) == (*["engine died\ufffd"] * 2, "/r/log\ufffd")
    assert "gone\ufffd" in "".join(displayed) and "\x1b" not in str([displayed, result]).encode().decode(
        "unicode_escape"
    )


def test_dead_process_and_reboot_are_recognised_on_the_node(tmp_path: Path, displayed: list[str]) -> None:
    file = run_file(tmp_path)
    process = subprocess.Popen(["true"])
    status(file, pid=process.pid)
    time.sleep(0.2)  # not reaped: a zombie, which counts as dead
    assert "harness died" in run(Node(), file)["reason"]
    process.wait()
    status(file, boot_id="another boot")
    assert "restarted" in run(Node(), file)["reason"]


def test_a_silent_run_is_shown_and_waited_for(tmp_path: Path, displayed: list[str]) -> None:
    """Fault: a pause of 45 s, as by a VM's migration."""
    file, node = run_file(tmp_path), Node()
    node.before = [
        lambda: status(file, updated_uptime_s=state_file.uptime_s() - 45),
        lambda: status(file, updated_uptime_s=state_file.uptime_s()),
        lambda: status(file, state="finished"),
    ]
    assert run(node, file)["good"] is True
    assert "silent: no heartbeat for 45 s, though process" in displayed[0]
    assert "silent" not in displayed[1]


def test_a_run_that_is_silent_for_too_long_is_stopped_before_its_engines_are_taken(
    tmp_path: Path, displayed: list[str]
) -> None:
    """Fault: a process that is suspended for ever."""
    file, progress, command = run_file(tmp_path), tmp_path / "progress.jsonl", tmp_path / "harness"
    stopped = json.dumps(RUN | {"state": "stopped"})
    command.write_text(f"#!/bin/sh\necho \"$@\" >> {tmp_path}/calls\necho '{stopped}' > {file}\necho '{{}}'\n")
    command.chmod(0o755)
    status(file, updated_uptime_s=state_file.uptime_s() - 100)
    more = {"launcher": "process", "command": [str(command)], "silent_after_s": 90, "progress": str(progress)}
    result = run(Node(), file, **more)
    assert (result["state"], "was silent for 1m40s" in result["reason"]) == ("failed", True)
    assert (tmp_path / "calls").read_text().split(" --root")[0] == "stop r1"
    assert json.loads(progress.read_text().splitlines()[-1])["status"]["state"] == "failed"


def test_a_silent_run_that_does_not_stop_keeps_its_engines(tmp_path: Path, displayed: list[str]) -> None:
    """Fault: a process that waits for a file server and cannot be killed."""
    file, command = run_file(tmp_path), tmp_path / "harness"
    refusal = {"error": "process 7 of run r1 cannot be killed", "exit": 4}
    command.write_text(f"#!/bin/sh\necho '{json.dumps(refusal)}'\nexit 4\n")
    command.chmod(0o755)
    status(file, updated_uptime_s=state_file.uptime_s() - 100)
    result = run(Node(), file, launcher="process", command=[str(command)], silent_after_s=90)
    assert (result["state"], "process 7 of run r1 cannot be killed" in result["reason"]) == ("lost", True)


def test_a_finished_run_is_not_given_up_though_its_stop_was_asked_for(tmp_path: Path, displayed: list[str]) -> None:
    file, command = run_file(tmp_path), tmp_path / "harness"
    finished = json.dumps(RUN | {"state": "finished"})
    command.write_text(f"#!/bin/sh\necho '{finished}' > {file}\necho '{{}}'\n")
    command.chmod(0o755)
    status(file, updated_uptime_s=state_file.uptime_s() - 100)
    assert run(Node(), file, launcher="process", command=[str(command)], silent_after_s=90)["state"] == "finished"


@pytest.mark.parametrize("step_s", [3600, -3600])
def test_a_step_of_the_clock_changes_nothing(
    tmp_path: Path, displayed: list[str], monkeypatch: Any, step_s: float
) -> None:
    """Fault: the clock of the controller, or of the node, is set by an hour."""
    file, node, real = run_file(tmp_path), Node(), time.time
    status(file)

    def step() -> None:
        monkeypatch.setattr(time, "time", lambda: real() + step_s)

    node.before = [lambda: None, step, lambda: None, lambda: status(file, state="finished")]
    assert run(node, file, interval_s=0.6)["good"] is True
    assert len(displayed) == 4


def test_a_dead_endpoint_is_called_failed_with_its_answer(tmp_path: Path, displayed: list[str]) -> None:
    """Fault: the server of an endpoint died."""
    file, command = engine_file(tmp_path, "e"), tmp_path / "harness"
    endpoint = {"name": "e", "kind": "endpoint", "state": "ready", "pid": None, "boot_id": BOOT, "started_unix": 1.0}
    file.write_text(json.dumps(endpoint))
    answer = endpoint | {"state": "failed", "reason": "http://e:1/health answered 503: overloaded"}
    command.write_text(f"#!/bin/sh\necho '{json.dumps(answer)}'\n")
    command.chmod(0o755)
    result = run(Node(), file, kind="engine", launcher="process", command=[str(command)])
    assert (result["good"], result["reason"]) == (False, "http://e:1/health answered 503: overloaded")


def test_lost_connections_are_retried(tmp_path: Path, displayed: list[str]) -> None:
    file, node = run_file(tmp_path), Node()
    status(file, state="finished")
    node.faults = [AnsibleConnectionFailure("Connection reset by peer"), ConnectionResetError("reset")]
    result = run(node, file)
    assert result["good"] is True
    assert any("Connection reset by peer" in line for line in displayed)


def test_a_lost_node_is_returned_after_a_bounded_time(tmp_path: Path, displayed: list[str]) -> None:
    node, progress = Node(), tmp_path / "progress.jsonl"
    node.faults = [AnsibleConnectionFailure("No route to host") for _ in range(1000)]
    start = time.monotonic()
    result = run(node, run_file(tmp_path), lost_after_s=1.5, progress=str(progress))
    assert time.monotonic() - start < 20
    assert (result["good"], result["state"]) == (False, "lost")
    assert "No route to host" in result["reason"]
    assert not result.get("failed")
    assert not result.get("unreachable")
    assert json.loads(progress.read_text())["lost"] == result["reason"]


def test_a_truncated_answer_is_ignored(tmp_path: Path, displayed: list[str]) -> None:
    node, file = Node(), run_file(tmp_path)
    status(file, state="finished")
    node.before = [lambda: file.write_text('{"state": "run'), lambda: status(file, state="finished")]
    assert run(node, file)["good"] is True


def test_a_missing_file_is_reported_soon(tmp_path: Path, displayed: list[str]) -> None:
    result = run(Node(), run_file(tmp_path))
    assert (result["good"], result["state"], result["status"]) == (False, "absent", {})
    assert "does not exist on jw2" in result["reason"]


def test_engine_is_watched_until_ready(tmp_path: Path, displayed: list[str]) -> None:
    file, node = engine_file(tmp_path, "e"), Node()
    engine = {
        "name": "e",
        "kind": "vllm",
        "pid": os.getpid(),
        "boot_id": BOOT,
        "started_unix": time.time(),
        "config": {"a": 1},
    }

    def write(value: str) -> None:
        file.write_text(json.dumps(engine | {"state": value}))

    node.before = [lambda: write("starting"), lambda: write("ready")]
    result = run(node, file, kind="engine")
    assert (result["good"], result["state"]) == (True, "ready")
    assert "config" not in result["status"]


def note(progress: Path, run_state: str, *lost: str) -> Any:
    """Write what jw1's watcher would about its run, which has lost these engines."""
    losses = [LOSS | {"engine": name} for name in lost]
    status = {"state": run_state, "engine_losses": losses}
    look = {"unix": time.time(), "host": "jw1", "kind": "run", "status": status, "lost": None}
    return lambda: progress.write_text(json.dumps(look) + "\n")


@pytest.mark.parametrize("noted", [False, True])
def test_a_dead_engine_is_no_failure_where_the_run_has_noted_its_loss(
    tmp_path: Path, displayed: list[str], noted: bool
) -> None:
    """Fault: an engine of another host's run has died. That run has decided whether it goes on."""
    file, progress, node = engine_file(tmp_path, "e"), tmp_path / "progress.jsonl", Node()
    engine = {"name": "e", "kind": "vllm", "pid": os.getpid(), "boot_id": BOOT, "started_unix": 1.0, "state": "failed"}
    file.write_text(json.dumps(engine | {"reason": "killed"}))
    note(progress, "finished", *(["e"] if noted else ["another"]))()
    result = run(node, file, kind="engine", progress=str(progress))
    assert (result["good"], result["state"], result["reason"]) == (noted, "failed", "" if noted else "killed")
    assert displayed == ["jw2     engine e failed  killed"]


def engines_of(count: int, **silent: float) -> list[dict[str, Any]]:
    """What a run's telemetry knows of its engines n1, n2 and so on, all with an answer more than the one before."""
    return [
        {"name": f"n{number}", "silent_s": silent.get(f"n{number}", 0.0), "running": 30, "waiting": 2, "over": number,
         "kv_cache_percent": 40.0 + number}
        for number in range(1, count + 1)
    ]  # fmt: skip


def test_few_engines_of_a_run_have_a_line_each_and_many_have_one_beside_those_that_are_silent() -> None:
    few = RUN | {"engines": engines_of(2, n2=20.0)}
    assert lines.engines_of_run(few) == [
        "engine n1 answers  30 running  2 waiting  KV 41%",
        "engine n2 silent for 20s  30 running  2 waiting  KV 42%",
    ]
    many = lines.engines_of_run(RUN | {"engines": engines_of(100)})
    everything = "3000 running  200 waiting  KV 140%  slowest n1 (1 answers)  fastest n100 (100)"
    assert many == [f"100 engines  all answer  {everything}"]
    assert lines.engines_of_run(RUN | {"engines": engines_of(100, n7=61.0)}) == [
        f"100 engines  1 silent  {everything}",
        "engine n7 silent for 1m01s  30 running  2 waiting  KV 47%",
    ]
    silent = {f"n{number}": 20.0 for number in range(1, 61)}
    [only] = lines.engines_of_run(RUN | {"engines": engines_of(100, **silent)})
    assert only.startswith("100 engines  60 silent")
    assert lines.engines_of_run(RUN | {"state": "finished", "engines": engines_of(2)}) == []
    assert lines.engines_of_run(RUN) == []


def test_few_nodes_are_asked_in_one_look_and_none_where_most_are_silent(tmp_path: Path, displayed: list[str]) -> None:
    def asked(looks: int, *silent: int) -> int:
        file, node = run_file(tmp_path), Node()
        engines = engines_of(20, **{f"n{number}": 20.0 for number in silent})
        status(file, engines=engines)
        node.before = [lambda: None] * looks + [lambda: status(file, state="finished", engines=engines)]
        files = {f"n{number}": {"host": f"h{number}", "file": "/none/engine.json"} for number in range(1, 21)}
        displayed.clear()
        run(node, file, engine_files=files)
        return sum("has no state file" in line for line in displayed)

    assert (asked(1, *range(1, 9)), asked(2, *range(1, 9)), asked(3, *range(1, 9))) == (5, 8, 8)
    assert asked(2, *range(1, 19)) == 0


def starting(number: int, **changes: Any) -> dict[str, Any]:
    """An engine that starts, or has taken as many seconds as its number."""
    times = {"started_unix": 100.0, "ready_unix": 100.0 + number}
    return {"name": f"n{number}", "state": "ready", "kind": "vllm", "reason": None, **times, **changes}


def test_many_engines_that_start_have_a_line_and_each_failure_has_one() -> None:
    loading = {"state": "starting", "ready_unix": None, "progress": "loading weights"}
    records = [starting(number, **(loading if number > 40 else {})) for number in range(1, 100)]
    failed = starting(100, state="failed", reason="CUDA out of memory", ready_unix=None)
    assert lines.engines([*records, failed], 200.0) == [
        "100 engines: 40 ready, 59 starting, 1 failed  most are at: loading weights  fastest n1 1s  slowest n40 40s",
        "engine n100 failed  CUDA out of memory",
    ]
    assert len(lines.engines(records[:4], 200.0)) == 4


def test_engines_that_each_have_a_watcher_are_shown_together_once_in_a_while(
    tmp_path: Path, displayed: list[str], monkeypatch: Any
) -> None:
    progress = tmp_path / "progress.jsonl"
    for number in range(1, 100):
        lines.append(progress, f"h{number}", "engine", starting(number), None)
    file = engine_file(tmp_path, "e")
    engine = {"name": "e", "kind": "vllm", "pid": os.getpid(), "boot_id": BOOT, "started_unix": 1.0, "state": "ready"}
    file.write_text(json.dumps(engine))
    for _ in range(2):
        assert run(Node(), file, kind="engine", hosts=100, progress=str(progress))["good"] is True
    assert displayed == ["jw2     99 of 100 nodes  99 engines: 99 ready  fastest n1 1s  slowest n99 1m39s"]
    file.write_text(json.dumps(engine | {"state": "failed", "reason": "killed"}))
    assert run(Node(), file, kind="engine", hosts=100, progress=str(progress))["good"] is False
    assert displayed[1:] == ["jw2     engine e failed  killed"]


def test_many_runs_are_shown_together_once_in_a_while_beside_what_is_amiss(
    tmp_path: Path, displayed: list[str]
) -> None:
    progress, file = tmp_path / "progress.jsonl", run_file(tmp_path)
    for number in range(1, 100):
        phase = "accuracy" if number > 90 else "performance"
        lines.append(progress, f"h{number}", "run", RUN | {"phase": phase, "eta_s": float(number)}, None)
    lines.append(progress, "h100", "run", None, "h100 has not answered for 2m00s")
    status(file, state="finished")
    for _ in range(2):
        assert run(Node(), file, hosts=100, progress=str(progress))["good"] is True
    together = "122166/1323432  9.2%  2040.4 samples/s  ETA 1m39s (h99)"
    assert displayed == [f"jw2     100 of 100 nodes  90 performance, 9 accuracy, 1 lost  {together}"]
    status(file, state="failed", reason="3 samples failed")
    assert run(Node(), file, hosts=100, progress=str(progress))["good"] is False
    assert displayed[1:] == ["jw2     failed  1m00s  3 samples failed"]
    silent = RUN | {"engines": engines_of(2, n1=20.0)}
    assert lines.run_amiss(silent, 0.0) == ["engine n1 silent for 20s  30 running  2 waiting  KV 41%"]
    assert lines.run_amiss(RUN, 0.0) == []


def test_the_engines_that_answered_to_the_end_were_never_lost() -> None:
    finished = {"state": "finished", "engines": engines_of(4, n2=16.0), "engine_losses": [LOSS | {"engine": "n3"}]}
    assert lines.answering(finished) == {"n1", "n4"}
    assert lines.answering({}) == frozenset()


def test_a_node_is_asked_only_when_its_engine_stops_to_answer_the_run(tmp_path: Path, displayed: list[str]) -> None:
    file, there, node = run_file(tmp_path), engine_file(tmp_path / "jw3", "n2"), Node()
    engine = {"name": "n2", "kind": "vllm", "pid": os.getpid(), "boot_id": BOOT, "started_unix": 1.0, "state": "failed"}
    there.write_text(json.dumps(engine | {"reason": "CUDA out of memory"}))
    status(file, engines=engines_of(2))
    node.before = [
        lambda: None,
        lambda: status(file, engines=engines_of(2, n2=16.0)),
        lambda: status(file, engines=engines_of(2, n2=26.0)),
        lambda: status(file, state="finished", engines=engines_of(2, n2=36.0)),
    ]
    run(node, file, engine_files={"n2": {"host": "jw3", "file": str(there)}, "n1": {"host": "jw2", "file": "/none"}})
    said = [line for line in displayed if "CUDA" in line]
    assert said == ["jw2     jw3: engine n2 failed  CUDA out of memory"]
    assert displayed.index(said[0]) > next(i for i, line in enumerate(displayed) if "silent for 16s" in line)


def test_a_loss_is_shown_once_and_named_while_it_lasts(tmp_path: Path, displayed: list[str]) -> None:
    """Fault: a run loses an engine, which comes back."""
    file, node = run_file(tmp_path), Node()
    status(file)
    back = LOSS | {"rejoined_unix": 1100.0}
    node.before = [
        lambda: status(file, engine_losses=[LOSS]),
        lambda: status(file, engine_losses=[back]),
        lambda: status(file, state="finished", engine_losses=[back]),
    ]
    run(node, file)
    loss = "jw2     engine e on jw3 lost after 35s: no answer at /health; 12 samples go to the other engines"
    assert [line for line in displayed if "lost after" in line] == [loss]
    assert ["without e" in line for line in displayed] == [False, True, False, False]


@pytest.mark.parametrize("dies", ["one", "two"])
def test_death_of_any_engine_of_a_node_ends_the_watching(tmp_path: Path, displayed: list[str], dies: str) -> None:
    files = {name: engine_file(tmp_path, name) for name in ("one", "two")}

    def write(name: str, **changes: Any) -> None:
        engine = {"name": name, "kind": "vllm", "state": "starting", "pid": os.getpid(), "boot_id": BOOT}
        files[name].write_text(json.dumps(engine | {"started_unix": 1.0, "log": f"/{name}.log"} | changes))

    for name in files:
        write(name)
    progress, node = tmp_path / "progress.jsonl", Node()
    node.before = [lambda: None, lambda: write(dies, state="failed", reason=f"{dies} was killed")]
    result = run(node, *files.values(), kind="engine", progress=str(progress))
    assert (result["good"], result["reason"], result["log"]) == (False, f"{dies} was killed", f"/{dies}.log")
    looks = [json.loads(line) for line in progress.read_text().splitlines()]
    assert [look["status"]["name"] for look in looks] == ["one", "two"] * 2


def test_watching_lasts_until_all_engines_are_ready(tmp_path: Path, displayed: list[str]) -> None:
    files = [engine_file(tmp_path, name) for name in ("one", "two")]

    def write(*states: str) -> None:
        for file, value in zip(files, states, strict=True):
            engine = {"name": file.parent.name, "kind": "vllm", "state": value, "pid": os.getpid(), "boot_id": BOOT}
            file.write_text(json.dumps(engine | {"started_unix": time.time()}))

    node = Node()
    node.before = [lambda: write("starting", "starting"), lambda: write("ready", "starting"), lambda: write(*READY)]
    assert run(node, *files, kind="engine")["good"] is True
    assert displayed[-2:] == ["jw2     engine one ready", "jw2     engine two ready"]
    assert len(displayed) == 6


def test_the_end_is_noticed_long_before_the_next_look(tmp_path: Path, displayed: list[str]) -> None:
    file = run_file(tmp_path)
    status(file)
    ending = threading.Thread(target=lambda: until(lambda: displayed) and status(file, state="finished"))
    ending.start()
    # The node's shell is given 10 s for a call: it would have to wait for the whole interval otherwise.
    assert run(Node(), file, interval_s=1000)["good"] is True
    ending.join()
    assert len(displayed) == 2


def test_check_mode_watches_nothing(tmp_path: Path, displayed: list[str]) -> None:
    result = run(Node(), run_file(tmp_path), check=True)
    assert (result["skipped"], result["changed"], displayed) == (True, False, [])


def looker(tmp_path: Path, *looks: Any, then: str = "") -> list[str]:
    """A command that prints each look once, then runs a line of shell."""
    script = "".join(f"echo {shlex.quote(json.dumps(look))}\n" for look in looks)
    file = tmp_path / "looker"
    file.write_text(f"#!/bin/sh\n{script}{then}\n")
    file.chmod(0o755)
    return [str(file)]


def look(*records: Any, away: str | None = None) -> dict[str, Any]:
    return {"unix": time.time(), "records": list(records) or None, "away": away}


def test_the_output_of_a_watch_command_is_used_like_files(tmp_path: Path, displayed: list[str]) -> None:
    progress = tmp_path / "progress.jsonl"
    looks = [look(RUN), look(RUN | {"samples_done": 2000}), look(RUN | {"state": "finished"})]
    command = looker(tmp_path, *looks, then="sleep 100")
    start = time.monotonic()
    result = run(Node(), command=command, interval_s=50, progress=str(progress))
    assert time.monotonic() - start < 30
    assert (result["good"], result["status"]["run_id"]) == (True, "r1")
    assert [json.loads(line)["status"]["samples_done"] for line in progress.read_text().splitlines()] == [
        1234,
        2000,
        1234,
    ]
    assert "2000/13368" in displayed[1]


def test_an_unavailable_server_is_waited_for(tmp_path: Path, displayed: list[str]) -> None:
    away = look(away="the API server does not answer: Connection refused")
    command = looker(tmp_path, look(RUN), away, look(RUN | {"state": "failed", "reason": "OOM-killed"}))
    result = run(Node(), command=command)
    assert (result["state"], result["reason"]) == ("failed", "OOM-killed")
    assert any("no answer, trying again: the API server" in line for line in displayed)


def test_a_broken_watch_command_is_restarted_for_a_bounded_time(tmp_path: Path, displayed: list[str]) -> None:
    command = looker(tmp_path, then="echo 'kubeconfig x does not exist' >&2; exit 2")
    result = run(Node(), command=command, lost_after_s=1.5)
    assert result["state"] == "lost"
    assert "kubeconfig x does not exist" in result["reason"]


def attempt(number: int, verdict: str, *, repeatable: bool = True) -> dict[str, Any]:
    reason = None if verdict == "VALID" else "3 queries exceeded the TTFT limit"
    return {"number": number, "target_qps": 19.7, "verdict": verdict, "reason": reason, "repeatable": repeatable}


def peer(*attempts: dict[str, Any], state: str = "waiting", lost: str | None = None) -> dict[str, Any]:
    return {"status": None if lost else {"state": state, "attempts": list(attempts)}, "lost": lost}


@pytest.mark.parametrize(
    ("other", "decision"),
    [
        (peer(attempt(1, "INVALID")), True), (peer(attempt(1, "ENDED EARLY")), True),
        (peer(attempt(1, "VALID")), False),
        # Too few samples to confirm a limit at any rate, or no limit was broken.
        (peer(attempt(1, "INVALID", repeatable=False)), False),
        (None, None), (peer(state="running"), None), (peer(state="failed"), False), (peer(lost="no answer"), False),
        (peer(attempt(1, "INVALID"), attempt(2, "VALID"), state="running"), True),
    ],
)  # fmt: skip
def test_attempts_are_repeated_together_or_not_at_all(other: dict[str, Any] | None, decision: bool | None) -> None:
    assert repeat(1, [peer(attempt(1, "VALID")), other]) is decision


def test_a_run_does_not_wait_for_one_that_was_never_started(tmp_path: Path, displayed: list[str]) -> None:
    file, node, command = run_file(tmp_path), Node(), tmp_path / "harness"
    command.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\necho "{{}}"\n')
    command.chmod(0o755)
    status(file, state="waiting", attempt=1, attempts_most=4, attempts=[attempt(1, "INVALID")])
    pause, end = lambda: time.sleep(0.6), lambda: status(file, state="finished")
    node.before = [lambda: None, pause, lambda: None, end]
    more = {"launcher": "process", "together": ["jw2", "jw3"], "progress": str(tmp_path / "progress.jsonl")}
    assert run(node, file, command=[str(command)], lost_after_s=0.5, **more)["good"] is True
    calls = [line.split(" --root")[0] for line in (tmp_path / "calls").read_text().splitlines()]
    assert calls == ["decide r1 1 --accept"]


def test_each_probe_and_attempt_that_ended_is_shown_once_with_its_reason(tmp_path: Path, displayed: list[str]) -> None:
    file, node = run_file(tmp_path), Node()
    attempts = [attempt(1, "ENDED EARLY"), attempt(2, "VALID")]
    probes = ["probe 1 at 16.0 samples/s: could be VALID"]
    status(file, probes=probes, attempts=attempts[:1])
    end = {"state": "finished", "probes": probes, "attempts": attempts}
    node.before = [lambda: None, lambda: None, lambda: status(file, **end)]
    run(node, file)
    assert [line.split(maxsplit=1)[1] for line in displayed if "samples/s: " in line] == [
        "probe 1 at 16.0 samples/s: could be VALID",
        "attempt 1 at 19.7 samples/s: ENDED EARLY: 3 queries exceeded the TTFT limit",
        "attempt 2 at 19.7 samples/s: VALID",
    ]


def test_a_waiting_run_gets_the_common_decision_once(tmp_path: Path, displayed: list[str]) -> None:
    file, progress, node = run_file(tmp_path), tmp_path / "progress.jsonl", Node()
    command = tmp_path / "harness"
    command.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\necho "{{}}"\n')
    command.chmod(0o755)
    other = {"unix": time.time(), "host": "jw3", "kind": "run", "lost": None}

    def note(*attempts: dict[str, Any]) -> None:
        look = {**other, "status": {"state": "running" if not attempts else "waiting", "attempts": list(attempts)}}
        with progress.open("a") as stream:
            stream.write(json.dumps(look) + "\n")

    waiting = {"state": "waiting", "attempt": 1, "attempts_most": 4, "attempts": [attempt(1, "VALID")]}
    status(file, **waiting)
    node.before = [
        note, lambda: note(attempt(1, "INVALID")), lambda: None, lambda: status(file, state="finished")
    ]  # fmt: skip
    more = {"launcher": "process", "together": ["jw2", "jw3"], "progress": str(progress)}
    plugin_command = {"command": [str(command)], **more}
    assert run(node, file, **plugin_command)["good"] is True
    commands = [line.split(" --root")[0] for line in (tmp_path / "calls").read_text().splitlines()]
    assert commands == ["decide r1 1 --repeat"]


def test_a_run_in_a_pod_gets_the_decision_by_the_command_for_clusters(tmp_path: Path, displayed: list[str]) -> None:
    progress = tmp_path / "progress.jsonl"
    status = {"state": "waiting", "attempts": [attempt(1, "INVALID")]}
    line = {"unix": time.time(), "host": "jw3", "kind": "run", "lost": None, "status": status}
    progress.write_text(json.dumps(line) + "\n")
    waiting = RUN | {"state": "waiting", "attempt": 1, "attempts_most": 4, "attempts": [attempt(1, "VALID")]}
    looks = [shlex.quote(json.dumps(look(record))) for record in (waiting, RUN | {"state": "finished"})]
    command = tmp_path / "harness"
    command.write_text(
        f'#!/bin/sh\nif [ "$1" = decide ]; then echo "$@" >> {tmp_path}/calls; echo "{{}}"; exit; fi\n'
        f"echo {looks[0]}\nfor i in $(seq 200); do [ -e {tmp_path}/calls ] && break; sleep 0.05; done\n"
        f"echo {looks[1]}\n"
    )
    command.chmod(0o755)
    result = run(Node(), command=[str(command)], together=["jw2", "jw3"], progress=str(progress))
    assert result["good"] is True
    assert (tmp_path / "calls").read_text() == "decide r1 1 --repeat --json\n"
