"""Faults between commands: several at once, and what others have left on the machine."""

import json
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

from harness import run_store, state_file
from harness.files import write_json
from harness.spec import Scenario
from harness.status import look
from tests.engines import until
from tests.faults.commands import END_S, harness, output_of
from tests.faults.ending import Fault
from tests.faults.run_faults import survived
from tests.faults.runs import SLOW, OneRun, Run

OTHERS = 3


def _start_three_more(run: Run, **values: Any) -> None:
    """Start the same run, or one of the same id, three times more at the same moment."""
    text = run.spec.model_copy(update=values).model_dump_json()
    for _ in range(OTHERS):
        harness(run.folder, ["start", "--root", str(run.root), "--json"], text)


def _one_of_them_started_it(run: Run) -> None:
    """Each call ended well, and the run was started once."""
    answers = [json.loads(line) for line in output_of(run.folder).splitlines() if line.startswith("{")]
    assert len(answers) == OTHERS
    assert len({answer["pid"] for answer in answers}) == 1
    assert sum(answer["changed"] for answer in answers) <= 1


def _start_another(run: Run) -> None:
    """A run of another root on the same engine, which is busy with it for a minute from now on."""
    spec = run.spec.model_copy(update={"run_id": "other", "scenario": Scenario.SERVER, "target_qps": 2.0})
    run.others.append(
        harness(run.folder, ["start", "--foreground", "--root", str(run.folder / "other")], spec.model_dump_json())
    )
    assert until(lambda: len(run.server.records()) > 20, END_S)
    threading.Thread(target=_see_warning, args=(run,), daemon=True).start()


def _see_warning(run: Run) -> None:
    """Wait until the run, which is about to be started, warns of the other one."""
    if until(lambda: run.status().get("warnings"), END_S):
        run.seen_s = time.monotonic() - run.happened_s


def _each_was_warned(run: Run) -> None:
    assert [process.wait(END_S) for process in run.others] == [0]
    for run_dir in (run.run_dir, run.folder / "other" / "runs" / "other"):
        (warning,) = json.loads((run_dir / "outcome.json").read_text())["warnings"]
        assert "requests of another client" in warning, warning


def _leave(root: Path, run_id: str, **values: Any) -> Path:
    """A run directory as a run leaves it that was ended by force; `values` change its status."""
    folder = run_store.run_directory(root, run_id)
    record = {"schema": 1, "run_id": run_id, "state": "running", "phase": "performance", "log": "-", "reason": None}
    alive = {"boot_id": state_file.boot_id(), "started_unix": 1.0, "updated_unix": 1.0}
    write_json(folder / "status.json", {**record, **alive, **values})
    return folder


def _reboot(run: Run) -> None:
    folder = _leave(run.root, "old", pid=1, boot_id="another")
    with run.until_noticed():
        assert "the machine was restarted while the run was running" in look(folder)["reason"]


def _recycle(run: Run) -> None:
    """Another process has the id of a run that was killed; stopping the run must spare it."""
    with subprocess.Popen(["sleep", "60"]) as bystander:
        folder = _leave(run.root, "old", pid=bystander.pid, pid_born=1)
        assert run_store.stop(run.root, "old")[0] is False
        with run.until_noticed():
            assert look(folder)["state"] == "failed"
        assert bystander.poll() is None
        bystander.kill()


SHARED_FAULTS = [
    Fault(
        "starts_at_once",
        "the same run is started four times at the same moment",
        "starts it once",
        OneRun(inject=_start_three_more, detached=True, afterwards=_one_of_them_started_it),
        survived(),
    ),
    Fault(
        "two_runs",
        "two runs of two roots use one engine at the same time",
        "both finish; each warns of the other's requests, as the server counts more than its own",
        OneRun(inject=_start_another, server={**SLOW, "ms_per_token": 120.0}, afterwards=_each_was_warned),
        survived(within_s=10),
        long=True,
    ),
    Fault(
        "reboot",
        "the machine was restarted during an earlier run",
        "the next look says that the earlier run has failed; its files are kept",
        OneRun(inject=_reboot),
        survived(within_s=1),
        long=True,
    ),
    Fault(
        "recycled_pid",
        "another process has the id of an earlier run that was killed",
        "the next look says that the earlier run has failed; stopping it spares the process",
        OneRun(inject=_recycle),
        survived(within_s=1),
        long=True,
    ),
]
