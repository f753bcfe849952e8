"""Faults of one of several engines: the run goes on with the others."""

import os
import signal

from tests.faults.ending import Expected, Fault
from tests.faults.own_engine import OwnServer, RunOverOwnEngine
from tests.faults.run_faults import failed, requests_were_sent_again, survived
from tests.faults.runs import OneRun, Run

VERY_SLOW, SLOWEST = {"ms_per_token": 120.0}, {"ms_per_token": 250.0}
QUICK = {"ms_per_token": 20.0}
"""Few slots make a run of quick answers last."""
SILENCE = {"limits": {"engine_silence_s": 2.0}}
MOVED = "moves its samples to the other engine and goes on; the verdict says when, why and how many"


def went_on(*words: str, level: str = "INVALID", within_s: float) -> Expected:
    """Every sample is answered, and the verdict tells of the engine."""
    rules = ("ENGINE_ALIVE",) if level == "INVALID" else ()
    lost = f"engine0: the engine was lost after .*{'.*'.join(words)}"
    return Expected(exit_code=0, words=(lost,), level=level, broken=rules, within_s=within_s, complete=True)


def _kill(run: Run) -> None:
    os.kill(run.server.pid, signal.SIGKILL)


def _stop(run: Run) -> None:
    os.kill(run.server.pid, signal.SIGSTOP)


def _was_started_again(run: Run) -> None:
    server = run.server
    assert isinstance(server, OwnServer)
    (restart,) = server.restarts
    assert restart["reason"].startswith("the engine hangs: no answer to /health for "), restart


LOSS_FAULTS = [
    Fault(
        "one_of_two_killed",
        "one of two engines is killed (SIGKILL)",
        MOVED,
        OneRun(inject=_kill, after=20, engines=2),
        went_on("moved to other engines", within_s=5),
    ),
    Fault(
        "one_of_two_hangs",
        "one of two engines hangs (SIGSTOP) for ever",
        f"{MOVED}, after `engine_silence_s` (here 2 s)",
        OneRun(inject=_stop, after=20, engines=2, spec=SILENCE),
        went_on("moved to other engines", within_s=5),
        long=True,
    ),
    Fault(
        "one_of_two_hangs_6_s",
        "one of two engines hangs (SIGSTOP) for 6 s, longer than `engine_silence_s` (here 2 s)",
        f"{MOVED}; the engine takes part again; its late answers do not count",
        OneRun(inject=lambda run: run.pause(run.server.pid, 6), after=20, engines=2, server=VERY_SLOW, spec=SILENCE),
        went_on("moved to other engines", r"it was back \d+ s later", within_s=5),
        long=True,
    ),
    Fault(
        "one_of_two_refuses_1_s",
        "one of two engines refuses connections for 1 s, answers on those that it has, and closes each of them then",
        "sends the refused samples to the other engine and goes on with both",
        OneRun(
            inject=lambda run: run.server.refuse(1),
            after=20,
            engines=2,
            server={**QUICK, "slots": 4},
            afterwards=requests_were_sent_again,
        ),
        survived(),
    ),
    Fault(
        "one_of_two_refuses_5_s",
        "one of two engines refuses connections for 5 s, twice as long as a run waits for it",
        f"{MOVED}; the engine takes part again",
        OneRun(inject=lambda run: run.server.refuse(5), after=20, engines=2, server={**QUICK, "slots": 2}),
        went_on("cannot connect", "moved to other engines", r"it was back \d+ s later", within_s=5),
        long=True,
    ),
    Fault(
        "one_of_two_gone",
        "one of two engines is killed (SIGKILL) after it was calibrated, before the run starts",
        "starts without it and goes on; the verdict says so",
        OneRun(inject=_kill, engines=2, calibrated=True),
        went_on("no server answers", within_s=10),
        long=True,
    ),
    Fault(
        "own_engine_hangs",
        "one of two engines, which the benchmark has started itself, hangs (SIGSTOP) for ever",
        f"{MOVED}; its supervisor kills and starts it again after `hang_timeout_s` (here 2 s), and it takes part again",
        RunOverOwnEngine(inject=_stop, after=20, server=SLOWEST, spec=SILENCE, afterwards=_was_started_again),
        went_on("moved to other engines", r"it was back \d+ s later", within_s=5),
        long=True,
    ),
    Fault(
        "one_of_two_killed_accuracy",
        "one of two engines is killed (SIGKILL) in an accuracy run",
        MOVED,
        OneRun(inject=_kill, after=20, engines=2, spec={"mode": "accuracy"}, scored=True),
        went_on("moved to other engines", level="UNOFFICIAL", within_s=5),
        long=True,
    ),
    Fault(
        "one_of_two_killed_fail",
        "one of two engines is killed (SIGKILL), with `on_engine_loss=fail`",
        "names the sample, its engine and the cause, and ends the run",
        OneRun(inject=_kill, after=20, engines=2, spec={"on_engine_loss": "fail"}),
        failed("on engine0: ", within_s=5),
        long=True,
    ),
]
