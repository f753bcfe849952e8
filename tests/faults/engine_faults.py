"""Faults of one engine: of its server, its supervisor and the supervisor's guard, while it starts and later."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from harness import engine
from harness.engine import EngineState, processes
from tests.engine_bench import Bench
from tests.engines import FAKE, until
from tests.faults.ending import Expected, Fault
from tests.faults.engines import OneEngine

CRASH = [
    "(EngineCore pid=9) ERROR 11-23 18:31:12 [core.py:1512] EngineCore failed to start.",
    "(EngineCore pid=9) ERROR 11-23 18:31:12 [core.py:1512] Traceback (most recent call last):",
    '(EngineCore pid=9) ERROR 11-23 18:31:12 [core.py:1512]   File "/x/core.py", line 3, in run',
    "(EngineCore pid=9) ERROR 11-23 18:31:12 [core.py:1512] torch.OutOfMemoryError: CUDA out of memory. Tried 2 GiB",
    "(APIServer pid=8) Traceback (most recent call last):",
    "(APIServer pid=8) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}",
]
CAUSE = r"^(?!.*See root cause).*exited with status 1.*torch.OutOfMemoryError: CUDA out of memory. Tried 2 GiB"
ENDS = "ends every process of the engine, those that hide included, and says why"


def ends(state: str, *words: str, within_s: float, code: int = 0) -> Expected:
    """The engine is in this state; `code` is that of the command that started it."""
    lost = "what the engine was answering" if code == 0 else "nothing: it was not ready"
    return Expected(exit_code=code, words=words, level=f"engine {state}", within_s=within_s, lost=lost)


def supervisors(bench: Bench) -> set[int]:
    """The processes of supervisor and guard."""
    return processes.marked(processes.SUPERVISOR_MARK, bench.root / "engines" / "e1")


def _kill_guard(bench: Bench, state: EngineState) -> None:
    (guard,) = supervisors(bench) - {state.pid}
    os.kill(guard, signal.SIGKILL)


def _kill_supervisor_group(bench: Bench, state: EngineState) -> None:
    os.killpg(os.getpgid(state.pid or 0), signal.SIGKILL)


def _kill_supervisor_and_guard(bench: Bench, state: EngineState) -> None:
    both = supervisors(bench)
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in both:
            os.kill(pid, number)
    assert until(lambda: engine.status(bench.root, "e1").state == "failed")
    assert bench.alive() != set()
    assert engine.down(bench.root, "e1").changed is True


def _kill_twice(bench: Bench, state: EngineState) -> None:
    """Kill the server, which is started again, and the one that was started."""
    os.kill(state.engine_pid or 0, signal.SIGKILL)
    assert until(lambda: bench.stored()["restarts"] and bench.stored()["state"] == "ready")
    again = engine.status(bench.root, "e1")
    assert again.engine_pid is not None and again.engine_pid != state.engine_pid and again.pid == state.pid
    (restart,) = again.restarts
    assert restart["reason"].startswith("the engine was killed by SIGKILL") and restart["unix"] > state.started_unix
    assert not Path(f"/proc/{state.engine_pid}").exists()
    os.kill(again.engine_pid, signal.SIGKILL)


def _await_restart(bench: Bench, cause: str) -> EngineState:
    """The state of the engine once its server, which hung, was killed and started again."""
    assert until(lambda: bench.stored()["restarts"] and bench.stored()["state"] == "ready")
    again = engine.status(bench.root, "e1")
    (restart,) = again.restarts
    assert restart["reason"].startswith(f"the engine hangs: {cause}"), restart
    return again


def _stop_then_kill(bench: Bench, state: EngineState) -> None:
    """Stop the server, which is started again, and kill the one that was started."""
    os.kill(state.engine_pid or 0, signal.SIGSTOP)
    again = _await_restart(bench, "no answer to /health for ")
    assert not Path(f"/proc/{state.engine_pid}").exists()
    os.kill(again.engine_pid or 0, signal.SIGKILL)


def _await_restart_then_kill(bench: Bench, state: EngineState) -> None:
    again = _await_restart(bench, "it has requests and has made no token for ")
    os.kill(again.engine_pid or 0, signal.SIGKILL)


def _take_its_port(bench: Bench, state: EngineState) -> None:
    command = [sys.executable, str(FAKE), str(bench.port), json.dumps({"model": str(bench.model), "children": 0})]
    other = subprocess.Popen(command)
    try:
        assert until(lambda: engine.status(bench.root, "e1").state == "failed")
        reason = str(engine.status(bench.root, "e1").reason)
        assert f"another process listens on port {bench.port} too (pid {other.pid})" in reason
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


BY_SIGNAL = [
    Fault(
        "supervisor_killed",
        "an engine's supervisor is killed (SIGKILL)",
        ENDS,
        OneEngine(
            inject=lambda bench, state: os.kill(state.pid or 0, signal.SIGKILL),
            fake={"hide_child": True, "ignore_term": True},
        ),
        ends("failed", "its supervisor was killed by SIGKILL", within_s=5),
    ),
    Fault(
        "guard_killed",
        "the process that guards a supervisor is killed (SIGKILL)",
        ENDS,
        OneEngine(inject=_kill_guard, fake={"hide_child": True}),
        ends("stopped", "its guard process", within_s=5),
        long=True,
    ),
    Fault(
        "server_killed",
        "an engine's server is killed (SIGKILL)",
        ENDS,
        OneEngine(
            inject=lambda bench, state: os.kill(state.engine_pid or 0, signal.SIGKILL),
            fake={"hide_child": True, "ignore_term": True},
        ),
        ends("failed", "the engine was killed by SIGKILL", within_s=5),
    ),
    Fault(
        "supervisor_group_killed",
        "an engine's supervisor is killed with its whole process group (SIGKILL)",
        ENDS,
        OneEngine(inject=_kill_supervisor_group, fake={"hide_child": True}),
        ends("failed", "its supervisor was killed by SIGKILL", within_s=5),
        long=True,
    ),
    Fault(
        "supervisor_and_guard_killed",
        "supervisor and guard are killed at once (SIGKILL)",
        "the next command sees that the engine failed and ends its processes",
        OneEngine(inject=_kill_supervisor_and_guard),
        ends("failed", "supervisor", within_s=5),
        long=True,
    ),
    *(
        Fault(
            f"supervisor_{number.name}",
            f"an engine's supervisor is told to stop ({number.name})",
            ENDS,
            OneEngine(
                inject=lambda bench, state, number=number: os.kill(state.pid or 0, number), fake={"hide_child": True}
            ),
            ends("stopped", number.name, within_s=5),
            long=True,
        )
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    ),
]
ENGINE_FAULTS = [
    *BY_SIGNAL,
    Fault(
        "engine_crashes_starting",
        "an engine crashes while it starts",
        "names the first cause in its log, what to change, and the log",
        OneEngine(fake={"exit_after_s": 0.3, "start_s": 5, "crash": CRASH}, starts=False),
        ends("failed", CAUSE, "lower max_num_seqs", r"log: .*engine\.log", within_s=5, code=4),
    ),
    Fault(
        "server_killed_twice",
        "an engine that may be started again once (`restarts: 1`) is killed twice (SIGKILL)",
        f"starts it again once; then {ENDS}",
        OneEngine(inject=_kill_twice, config={"restarts": 1}),
        ends("failed", "the engine was killed by SIGKILL", within_s=15),
        long=True,
    ),
    Fault(
        "server_hangs",
        "an engine that may be started again once hangs (SIGSTOP), later the new one is killed (SIGKILL)",
        f"kills it after `hang_timeout_s` (here 2 s) and starts it again once; then {ENDS}",
        OneEngine(inject=_stop_then_kill, config={"restarts": 1, "hang_timeout_s": 2}),
        ends("failed", "the engine was killed by SIGKILL", within_s=20),
    ),
    Fault(
        "server_stuck",
        "an engine that may be started again once answers at /health and makes no token, later the new one is killed",
        f"kills it after `hang_timeout_s` (here 2 s) and starts it again once; then {ENDS}",
        OneEngine(
            inject=_await_restart_then_kill,
            fake={"stuck_after_s": 3.0},
            config={"restarts": 1, "hang_timeout_s": 2},
        ),
        ends("failed", "the engine was killed by SIGKILL", within_s=20),
        long=True,
    ),
    Fault(
        "engine_reports_failure",
        "a server answers at /health that it has failed",
        ENDS,
        OneEngine(fake={"dead_after_s": 5.0}),
        ends("failed", "reported at /health that it has failed", within_s=10),
        long=True,
    ),
    Fault(
        "engine_starts_for_ever",
        "an engine does not get ready",
        "ends it after `start_timeout_s` (here 5 s) and names its last step",
        OneEngine(
            fake={"silent": True, "log": ["Capturing CUDA graphs: 3%"]}, config={"start_timeout_s": 5}, starts=False
        ),
        ends("failed", "not ready after 5 s; its last step was: capturing CUDA graphs", within_s=10, code=4),
        long=True,
    ),
    Fault(
        "port_taken",
        "another process listens on an engine's port, too",
        "names the process and leaves it alone",
        OneEngine(inject=_take_its_port, fake={"silent": True}, waits=False),
        ends("failed", r"another process listens on port \d+ too \(pid \d+\)", within_s=5),
        long=True,
    ),
]
