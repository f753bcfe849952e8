"""Watching: one line a look, death and silence recognised, lost nodes returned as data within a bounded time."""

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
from ansible.errors import AnsibleConnectionFailure

from harness import state_file
from harness.benchmark import progress as lines
from harness.benchmark.attempts import repeat
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


def test_run_line_says_which_attempt_it_is() -> None:
    attempt = RUN | {"attempt": 2, "attempts_most": 4}
    assert lines.line("run", attempt, 0).startswith("performance  attempt 2 of 4  1234/13368")
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


def test_ends_are_shown_with_their_reason() -> None:
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
        ({"updated_unix": 969.0}, True, "failed"), ({"updated_unix": 971.0}, True, "running"),
        ({"state": "finished"}, False, "finished"), ({"state": "stopped", "boot_id": "other"}, False, "stopped"),
        ({"kind": "endpoint", "state": "ready", "pid": None}, False, "ready"),
        ({"kind": "vllm", "state": "ready"}, False, "failed"), ({"pid_born": 7}, True, "running"),
        ({"pid_born": 6}, True, "failed"),
        ({"kind": "vllm", "state": "starting", "pid": None, "started_unix": 990.0}, False, "starting"),
        ({"kind": "vllm", "state": "starting", "pid": None, "started_unix": 900.0}, False, "failed"),
    ],
)  # fmt: skip
def test_state_is_judged_by_process_boot_and_heartbeat(changes: dict[str, Any], pid_alive: bool, verdict: str) -> None:
    tick = 7 if pid_alive else None
    judged = state_file.judge(RUN | {"updated_unix": 999.0} | changes, now=1000.0, boot=BOOT, tick=tick)
    assert judged["state"] == verdict
    assert verdict != "failed" or judged["reason"]


READY = ("ready", "ready")


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
    """Answers the plugin's shell calls with this machine's shell, or as told."""

    def __init__(self) -> None:
        self.faults: list[Exception] = []
        self.before: list[Any] = []

    def execute(self, command: str, in_data: bytes | None = None, chdir: str | None = None) -> dict[str, Any]:
        if self.faults:
            raise self.faults.pop(0)
        if self.before:
            self.before.pop(0)()
        done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, timeout=10)
        return {"rc": done.returncode, "stdout": done.stdout, "stderr": done.stderr}


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []
    monkeypatch.setattr(watch.display, "display", found.append)
    return found


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
    result: dict[str, Any] = plugin.run(
        task_vars={"inventory_hostname": host, "ansible_play_hosts_all": ["jw2", "longer"]}
    )
    return result


def status(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(RUN | {"updated_unix": time.time()} | changes, indent=2))


def test_watches_to_the_end_and_writes_down_every_look(tmp_path: Path, shown: list[str]) -> None:
    file, progress = run_file(tmp_path), tmp_path / "deep" / "progress.jsonl"
    node = Node()
    node.before = [
        lambda: status(file),
        lambda: status(file, samples_done=2000),
        lambda: status(file, state="finished"),
    ]
    result = run(node, file, progress=str(progress), notice="how to go on")
    assert (result["good"], result["state"], result["changed"], result["reason"]) == (True, "finished", False, "")
    assert shown[0] == "how to go on"
    assert [line.split("  ")[0] for line in shown[1:]] == ["jw2   "] * 0 + ["jw2"] * 3
    assert "2000/13368" in shown[2]
    looks = [json.loads(line) for line in progress.read_text().splitlines()]
    assert [(look["host"], look["kind"], look["status"]["samples_done"]) for look in looks] == [
        ("jw2", "run", 1234), ("jw2", "run", 2000), ("jw2", "run", 1234)
    ]  # fmt: skip
    assert looks[-1]["status"]["state"] == "finished"
    assert abs(looks[-1]["unix"] - time.time()) < 5


def test_failure_is_data_with_reason_and_log(tmp_path: Path, shown: list[str]) -> None:
    file = run_file(tmp_path)
    status(file, state="failed", reason="engine died")
    result = run(Node(), file)
    assert (result["good"], result["reason"], result["log"]) == (False, "engine died", "/r/harness.log")
    assert not result.get("failed")


def test_dead_process_and_reboot_are_recognised_on_the_node(tmp_path: Path, shown: list[str]) -> None:
    file = run_file(tmp_path)
    ended = subprocess.Popen(["true"])
    status(file, pid=ended.pid)
    time.sleep(0.2)  # not reaped: a zombie, which counts as dead
    assert "harness died" in run(Node(), file)["reason"]
    ended.wait()
    status(file, boot_id="another boot")
    assert "restarted" in run(Node(), file)["reason"]
    status(file, updated_unix=time.time() - 45)
    assert "no heartbeat for 4" in run(Node(), file)["reason"]


def test_lost_connections_are_tried_again(tmp_path: Path, shown: list[str]) -> None:
    file, node = run_file(tmp_path), Node()
    status(file, state="finished")
    node.faults = [AnsibleConnectionFailure("Connection reset by peer"), ConnectionResetError("reset")]
    result = run(node, file)
    assert result["good"] is True
    assert any("Connection reset by peer" in line for line in shown)


def test_lost_node_is_data_after_a_bounded_time(tmp_path: Path, shown: list[str]) -> None:
    node, progress = Node(), tmp_path / "progress.jsonl"
    node.faults = [AnsibleConnectionFailure("No route to host") for _ in range(1000)]
    begun = time.monotonic()
    result = run(node, run_file(tmp_path), lost_after_s=1.5, progress=str(progress))
    assert time.monotonic() - begun < 20
    assert (result["good"], result["state"]) == (False, "lost")
    assert "No route to host" in result["reason"]
    assert not result.get("failed")
    assert not result.get("unreachable")
    assert json.loads(progress.read_text())["lost"] == result["reason"]


def test_half_an_answer_is_no_answer(tmp_path: Path, shown: list[str]) -> None:
    node, file = Node(), run_file(tmp_path)
    status(file, state="finished")
    node.before = [lambda: file.write_text('{"state": "run'), lambda: status(file, state="finished")]
    assert run(node, file)["good"] is True


def test_absent_file_is_said_soon(tmp_path: Path, shown: list[str]) -> None:
    result = run(Node(), run_file(tmp_path))
    assert (result["good"], result["state"], result["status"]) == (False, "absent", {})
    assert "does not exist on jw2" in result["reason"]


def test_engine_is_watched_until_ready(tmp_path: Path, shown: list[str]) -> None:
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


def test_ready_engine_is_watched_on_until_the_run_elsewhere_has_ended(tmp_path: Path, shown: list[str]) -> None:
    file, progress, node = engine_file(tmp_path, "e"), tmp_path / "progress.jsonl", Node()
    engine = {"name": "e", "kind": "vllm", "pid": os.getpid(), "boot_id": BOOT, "started_unix": 1.0, "state": "ready"}
    file.write_text(json.dumps(engine))

    def note(run_state: str) -> Any:
        look = {"unix": time.time(), "host": "jw1", "kind": "run", "status": {"state": run_state}, "lost": None}
        return lambda: progress.write_text(json.dumps(look) + "\n")

    node.before = [note("running"), note("running"), note("running"), note("finished")]
    result = run(node, file, kind="engine", until="jw1", progress=str(progress))
    assert result["good"] is True
    assert len(shown) == 4


@pytest.mark.parametrize("dies", ["one", "two"])
def test_death_of_any_engine_of_a_node_ends_the_watching(tmp_path: Path, shown: list[str], dies: str) -> None:
    files = {name: engine_file(tmp_path, name) for name in ("one", "two")}

    def write(name: str, **changes: Any) -> None:
        engine = {"name": name, "kind": "vllm", "state": "ready", "pid": os.getpid(), "boot_id": BOOT}
        files[name].write_text(json.dumps(engine | {"started_unix": 1.0, "log": f"/{name}.log"} | changes))

    for name in files:
        write(name)
    progress, node = tmp_path / "progress.jsonl", Node()
    node.before = [lambda: None, lambda: write(dies, state="failed", reason=f"{dies} was killed")]
    result = run(node, *files.values(), kind="engine", until="jw1", progress=str(progress))
    assert (result["good"], result["reason"], result["log"]) == (False, f"{dies} was killed", f"/{dies}.log")
    looks = [json.loads(line)["status"] for line in progress.read_text().splitlines()]
    assert [look["name"] for look in looks] == ["one", "two"] * 2
    assert shown[:2] == ["jw2     engine one ready", "jw2     engine two ready"]


def test_engines_that_start_are_waited_for_until_all_are_ready(tmp_path: Path, shown: list[str]) -> None:
    files = [engine_file(tmp_path, name) for name in ("one", "two")]

    def write(*states: str) -> None:
        for file, value in zip(files, states, strict=True):
            engine = {"name": file.parent.name, "kind": "vllm", "state": value, "pid": os.getpid(), "boot_id": BOOT}
            file.write_text(json.dumps(engine | {"started_unix": time.time()}))

    node = Node()
    node.before = [lambda: write("starting", "starting"), lambda: write("ready", "starting"), lambda: write(*READY)]
    assert run(node, *files, kind="engine")["good"] is True
    assert shown[-2:] == ["jw2     engine one ready", "jw2     engine two ready"]
    assert len(shown) == 6


def test_end_is_noticed_long_before_the_next_look(tmp_path: Path, shown: list[str]) -> None:
    file = run_file(tmp_path)
    status(file)
    ending = threading.Timer(0.5, lambda: status(file, state="finished"))
    ending.start()
    # The node's shell is given 10 s for a call: it would have to wait for the whole interval otherwise.
    assert run(Node(), file, interval_s=1000)["good"] is True
    assert len(shown) == 2


def test_engine_that_dies_meanwhile_ends_the_watching(tmp_path: Path, shown: list[str]) -> None:
    file, node = engine_file(tmp_path, "e"), Node()
    engine = {"name": "e", "kind": "vllm", "pid": os.getpid(), "boot_id": BOOT, "started_unix": 1.0, "log": "/e.log"}
    file.write_text(json.dumps(engine | {"state": "ready"}))
    node.before = [lambda: None, lambda: file.write_text(json.dumps(engine | {"state": "failed", "reason": "killed"}))]
    result = run(node, file, kind="engine", until="jw1", progress=str(tmp_path / "progress.jsonl"))
    assert (result["good"], result["reason"], result["log"]) == (False, "killed", "/e.log")


def test_watching_another_host_that_never_writes_is_bounded(tmp_path: Path, shown: list[str], monkeypatch: Any) -> None:
    file = engine_file(tmp_path, "e")
    engine = {"name": "e", "kind": "vllm", "pid": os.getpid(), "boot_id": BOOT, "started_unix": 1.0, "state": "ready"}
    file.write_text(json.dumps(engine))
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() * 1000)
    result = run(Node(), file, kind="engine", until="jw1", lost_after_s=1, progress=str(tmp_path / "p"))
    assert result["state"] == "ready"


def test_check_mode_watches_nothing(tmp_path: Path, shown: list[str]) -> None:
    result = run(Node(), run_file(tmp_path), check=True)
    assert (result["skipped"], result["changed"], shown) == (True, False, [])


def looker(tmp_path: Path, *looks: Any, then: str = "") -> list[str]:
    """A command that prints each look once, then does what a line of shell says."""
    script = "".join(f"echo {shlex.quote(json.dumps(look))}\n" for look in looks)
    file = tmp_path / "looker"
    file.write_text(f"#!/bin/sh\n{script}{then}\n")
    file.chmod(0o755)
    return [str(file)]


def look(*records: Any, away: str | None = None) -> dict[str, Any]:
    return {"unix": time.time(), "records": list(records) or None, "away": away}


def test_a_command_that_looks_is_watched_like_files(tmp_path: Path, shown: list[str]) -> None:
    progress = tmp_path / "progress.jsonl"
    looks = [look(RUN), look(RUN | {"samples_done": 2000}), look(RUN | {"state": "finished"})]
    command = looker(tmp_path, *looks, then="sleep 100")
    begun = time.monotonic()
    result = run(Node(), command=command, interval_s=50, progress=str(progress))
    assert time.monotonic() - begun < 30
    assert (result["good"], result["status"]["run_id"]) == (True, "r1")
    assert [json.loads(line)["status"]["samples_done"] for line in progress.read_text().splitlines()] == [
        1234,
        2000,
        1234,
    ]
    assert "2000/13368" in shown[1]


def test_a_server_that_is_away_is_waited_for(tmp_path: Path, shown: list[str]) -> None:
    away = look(away="the API server does not answer: Connection refused")
    command = looker(tmp_path, look(RUN), away, look(RUN | {"state": "failed", "reason": "killed for memory"}))
    result = run(Node(), command=command)
    assert (result["state"], result["reason"]) == ("failed", "killed for memory")
    assert any("no answer, trying again: the API server" in line for line in shown)


def test_a_looker_that_breaks_is_started_again_for_a_bounded_time(tmp_path: Path, shown: list[str]) -> None:
    command = looker(tmp_path, then="echo 'kubeconfig x does not exist' >&2; exit 2")
    result = run(Node(), command=command, lost_after_s=1.5)
    assert result["state"] == "lost"
    assert "kubeconfig x does not exist" in result["reason"]


def test_engines_that_a_command_looks_at_are_watched_until_the_run_has_ended(tmp_path: Path, shown: list[str]) -> None:
    engine = {"name": "jw3", "kind": "vllm", "state": "ready", "started_unix": 1.0, "log": "/e.log"}
    progress = tmp_path / "progress.jsonl"
    ended = {"unix": time.time(), "host": "jw1", "kind": "run", "status": {"state": "finished"}, "lost": None}
    timer = threading.Timer(0.7, lambda: progress.write_text(json.dumps(ended) + "\n"))
    timer.start()
    command = looker(tmp_path, look(engine), then="sleep 100")
    begun = time.monotonic()
    result = run(Node(), command=command, kind="engine", until="jw1", interval_s=60, progress=str(progress))
    assert (result["good"], result["state"]) == (True, "ready")
    assert 0.6 < time.monotonic() - begun < 30


def attempt(number: int, verdict: str, *, repeatable: bool = True) -> dict[str, Any]:
    reason = None if verdict == "VALID" else "3 queries exceeded the TTFT limit"
    return {"number": number, "target_qps": 19.7, "verdict": verdict, "reason": reason, "repeatable": repeatable}


def seen(*made: dict[str, Any], state: str = "waiting", lost: str | None = None) -> dict[str, Any]:
    return {"status": None if lost else {"state": state, "attempts": list(made)}, "lost": lost}


@pytest.mark.parametrize(
    ("other", "decision"),
    [
        (seen(attempt(1, "INVALID")), True), (seen(attempt(1, "ENDED EARLY")), True),
        (seen(attempt(1, "VALID")), False),
        # Too few samples to confirm a limit at any rate, or no limit was broken.
        (seen(attempt(1, "INVALID", repeatable=False)), False),
        (None, None), (seen(state="running"), None), (seen(state="failed"), False), (seen(lost="no answer"), False),
        (seen(attempt(1, "INVALID"), attempt(2, "VALID"), state="running"), True),
    ],
)  # fmt: skip
def test_attempts_are_repeated_together_or_not_at_all(other: dict[str, Any] | None, decision: bool | None) -> None:
    assert repeat(1, [seen(attempt(1, "VALID")), other]) is decision


def test_a_run_does_not_wait_for_one_that_was_never_started(tmp_path: Path, shown: list[str]) -> None:
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


def test_each_attempt_that_ended_is_shown_once_with_its_reason(tmp_path: Path, shown: list[str]) -> None:
    file, node = run_file(tmp_path), Node()
    made = [attempt(1, "ENDED EARLY"), attempt(2, "VALID")]
    status(file, attempts=made[:1])
    node.before = [lambda: None, lambda: None, lambda: status(file, state="finished", attempts=made)]
    run(node, file)
    assert [line.split(maxsplit=1)[1] for line in shown if "samples/s: " in line] == [
        "attempt 1 at 19.7 samples/s: ENDED EARLY: 3 queries exceeded the TTFT limit",
        "attempt 2 at 19.7 samples/s: VALID",
    ]


def test_a_run_that_waits_for_the_others_is_told_once_what_all_do(tmp_path: Path, shown: list[str]) -> None:
    file, progress, node = run_file(tmp_path), tmp_path / "progress.jsonl", Node()
    command = tmp_path / "harness"
    command.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\necho "{{}}"\n')
    command.chmod(0o755)
    other = {"unix": time.time(), "host": "jw3", "kind": "run", "lost": None}

    def note(*made: dict[str, Any]) -> None:
        look = {**other, "status": {"state": "running" if not made else "waiting", "attempts": list(made)}}
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
    told = [line.split(" --root")[0] for line in (tmp_path / "calls").read_text().splitlines()]
    assert told == ["decide r1 1 --repeat"]
