"""Faults that end a run, and its resumption: what it had is kept."""

import json
import os
import signal
from collections.abc import Callable
from dataclasses import asdict

from harness.files import write_json
from harness.status import look
from tests.faults import disks
from tests.faults.commands import END_S
from tests.faults.disks import RunOnDisk
from tests.faults.ending import Expected, Fault
from tests.faults.runs import OneRun, Run

KEPT = "ends; resumed, it asks only for the answers that its journal lacks"
ACCURACY = {"mode": "accuracy"}
RESUMED = "the accuracy run was interrupted and resumed once"
AGAIN = "ends; resumed, it is made again, whole"


def resumed(*words: str, within_s: float) -> Expected:
    """The run's end is seen soon, and the run is complete in the end."""
    return Expected(exit_code=0, words=words, level="UNOFFICIAL", within_s=within_s, complete=True)


def _await_failure(run: Run) -> None:
    """Wait until the run has ended and whoever looks sees that it failed."""
    assert run.process.wait(END_S) != 0
    assert look(run.run_dir)["state"] == "failed"


def _resume_after(end: Callable[[Run], object]) -> Callable[[Run], object]:
    """End a run by a fault, and resume it."""

    def end_and_resume(run: Run) -> None:
        with run.until_noticed():
            end(run)
            _await_failure(run)
        run.start("--foreground", "--resume")

    return end_and_resume


def _resume_on_more_disk(run: Run) -> None:
    """End a run by a full disk, free some of it, and resume it."""
    with run.until_noticed():
        disks.fill(run.root)
        _await_failure(run)
    assert (run.run_dir / "outcome.json").exists()
    disks.mend(run.root)
    run.start("--foreground", "--resume")


def _resume_without_outcome(run: Run) -> None:
    """End a run, empty its outcome.json, and resume it, which is refused; then once more without that file."""
    _kill(run)
    _await_failure(run)
    outcome = run.run_dir / "outcome.json"
    outcome.write_bytes(b"")
    with run.until_noticed():
        run.start("--foreground", "--resume")
        assert run.process.wait(END_S) == 2
    outcome.unlink()
    run.start("--foreground", "--resume")


def _start_again_then_resume(run: Run) -> None:
    """End a run, start one of the same id, which changes nothing, and resume it."""
    _kill(run)
    _await_failure(run)
    with run.until_noticed():
        run.start()
        assert run.process.wait(END_S) == 0
    run.start("--foreground", "--resume")


def _resume_after_reboot(run: Run) -> None:
    """End a run as a restart of the machine does, which leaves a status of an earlier boot, and resume it."""
    _kill(run)
    run.process.wait(END_S)
    status = run.status()
    assert status["state"] == "running"
    write_json(run.run_dir / "status.json", {**status, "boot_id": "another"})
    with run.until_noticed():
        assert "the machine was restarted while the run was running" in look(run.run_dir)["reason"]
    run.start("--foreground", "--resume")


def _resume_on_a_new_engine(run: Run) -> None:
    """End a run by the loss of its only engine, start that one again, and resume the run."""
    settings = asdict(run.server.set())
    with run.until_noticed():
        run.server.process.kill()
        _await_failure(run)
    run.start_engine_again(settings)
    run.start("--foreground", "--resume")


def _kill(run: Run) -> None:
    run.process.send_signal(signal.SIGKILL)


def _kill_worker(run: Run) -> None:
    os.kill(run.worker, signal.SIGKILL)


def _entry(run: Run) -> dict[str, int]:
    (entry,) = json.loads((run.run_dir / "outcome.json").read_text())["resumed"]
    return dict(entry)


def _answers_were_kept(run: Run) -> None:
    entry = _entry(run)
    assert entry["kept"] >= 10 and entry["kept"] + entry["missing"] == run.spec.samples, entry


def _none_was_kept(run: Run) -> None:
    assert _entry(run)["kept"] == 0


def _mend(run: Run) -> None:
    disks.mend(run.root)
    _answers_were_kept(run)


RESUME_FAULTS = [
    Fault(
        "resumed_accuracy",
        "a run is killed (SIGKILL) during its accuracy run",
        KEPT,
        OneRun(inject=_resume_after(_kill), after=20, spec=ACCURACY, scored=True, afterwards=_answers_were_kept),
        resumed(RESUMED, within_s=2),
    ),
    Fault(
        "resumed_worker",
        "LoadGen's process is killed (SIGKILL) during an accuracy run",
        KEPT,
        OneRun(inject=_resume_after(_kill_worker), after=20, spec=ACCURACY, scored=True, afterwards=_answers_were_kept),
        resumed(RESUMED, within_s=2),
        long=True,
    ),
    Fault(
        "resumed_performance",
        "a run is killed (SIGKILL) during its performance run",
        AGAIN,
        OneRun(inject=_resume_after(_kill), after=20, afterwards=_none_was_kept),
        resumed(within_s=2),
        long=True,
    ),
    Fault(
        "resumed_disk",
        "the disk fills in an accuracy run, and is freed",
        KEPT,
        RunOnDisk(inject=_resume_on_more_disk, after=20, spec=ACCURACY, scored=True, afterwards=_mend),
        resumed(RESUMED, within_s=4),
        long=True,
        root=True,
    ),
    Fault(
        "resumed_outcome",
        "a run is killed (SIGKILL) during its accuracy run, and its outcome.json is empty afterwards",
        "refuses to resume it, since what it has finished is not known; once the file is moved away, it asks only for "
        "the answers that its journal lacks",
        OneRun(inject=_resume_without_outcome, after=20, spec=ACCURACY, scored=True, afterwards=_answers_were_kept),
        resumed(RESUMED, "outcome.json is damaged .* move the file away", within_s=5),
        long=True,
    ),
    Fault(
        "resumed_same_id",
        "a run is killed (SIGKILL) during its accuracy run, and one of the same id is started",
        f"starts nothing, and says to choose another id or to resume the run; {KEPT.partition('; ')[2]}",
        OneRun(inject=_start_again_then_resume, after=20, spec=ACCURACY, scored=True, afterwards=_answers_were_kept),
        resumed(RESUMED, r"run test ended without a result .* choose another run_id, or resume it", within_s=5),
        long=True,
    ),
    Fault(
        "resumed_reboot",
        "the machine is restarted during an accuracy run",
        f"the next look says so; {KEPT.partition('; ')[2]}",
        OneRun(inject=_resume_after_reboot, after=20, spec=ACCURACY, scored=True, afterwards=_answers_were_kept),
        resumed(RESUMED, within_s=1),
        long=True,
    ),
    Fault(
        "resumed_engine",
        "the only engine is killed (SIGKILL) in an accuracy run, and started again",
        KEPT,
        OneRun(inject=_resume_on_a_new_engine, after=20, spec=ACCURACY, scored=True, afterwards=_answers_were_kept),
        resumed(RESUMED, within_s=5),
        long=True,
    ),
]
