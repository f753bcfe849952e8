"""Faults of what is known about a run: damaged files, a clock that is stepped."""

import csv
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness import engine
from tests.fake_server import FakeServer
from tests.faults import clock
from tests.faults.commands import END_S, clock_of, harness, output_of
from tests.faults.ending import Ending, Fault
from tests.faults.run_faults import survived
from tests.faults.runs import OneRun, Run
from tests.faults.samples import lines as lines_of

DAMAGED = {"empty": b"", "list": b"[]", "object": b"{}", "cut": b'{"run_id": "cut", "sta', "binary": bytes(range(256))}
HOUR_S = 3600.0


def _damage(run: Run) -> None:
    """Earlier runs and engines whose state files cannot be read."""
    for name, content in DAMAGED.items():
        for kind, file in (("runs", "status.json"), ("engines", "engine.json")):
            (run.root / kind / name).mkdir(parents=True)
            (run.root / kind / name / file).write_bytes(content)


def _call(run: Run, *words: str) -> str:
    """What a command prints that must end well."""
    process = harness(run.folder, [*words, "--root", str(run.root), "--json"], "")
    assert process.wait(END_S) == 0, output_of(run.folder)
    return output_of(run.folder).splitlines()[-1]


def _list_all(run: Run) -> None:
    """The run is listed, and each folder that cannot be read is named."""
    with run.until_noticed():
        runs = json.loads(_call(run, "status"))
    engines = json.loads(_call(run, "engine", "status"))
    assert [row["run_id"] for row in runs["runs"]] == [run.spec.run_id]
    for kind, listing in (("runs", runs), ("engines", engines)):
        for name in DAMAGED:
            folder = run.root / kind / name
            assert [sentence for sentence in listing["unreadable"] if f"{folder}" in sentence], listing


def _lose_endpoint(run: Run) -> None:
    """An endpoint, attached in the same root, whose server ends."""
    with FakeServer() as server:
        values = {
            "name": "e",
            "kind": "endpoint",
            "url": server.url,
            "model": str(run.spec.model),
            "served_model": "fake",
        }
        assert engine.up(run.root, engine.parse_config(values)).state == "ready"
    with run.until_noticed():
        (row,) = json.loads(_call(run, "engine", "status"))["engines"]
    assert row["state"] == "failed", row


@dataclass(frozen=True, kw_only=True)
class RunUnderClock(OneRun):
    """A run on a machine whose clock is stepped."""

    def play(self, folder: Path) -> Ending:
        """As OneRun, with a clock of the scene's own."""
        clock.install(folder)
        return super().play(folder)


def _step(seconds: float) -> Callable[[Run], object]:
    def step(run: Run) -> None:
        clock.step(run.folder, seconds)
        assert abs(clock_of(run.folder) - time.time() - seconds) < HOUR_S / 2, "the clock was not stepped"
        assert json.loads(_call(run, "status", run.spec.run_id))["state"] in ("running", "finished")

    return step


def _times_are_right(run: Run) -> None:
    """Phases, answers and readings of telemetry lie within the run."""
    phases, lines = run.status()["phases"], lines_of(run.run_dir)
    with (run.run_dir / "telemetry.csv").open(newline="") as stream:
        stamps = [float(reading["unix_s"]) for reading in csv.DictReader(stream)]
    stamps += [phase[key] for phase in phases for key in ("started_unix", "finished_unix")]
    stamps += [line["issued_unix"] for line in lines]
    began, now = phases[0]["started_unix"], time.time()
    assert now - HOUR_S / 2 < began and all(began <= stamp < now + 1 for stamp in stamps), (began, now, stamps)


STATE_FAULTS = [
    Fault(
        "damaged_state",
        "state files of other runs and engines are empty, cut, binary or of another shape",
        "skips each and names its folder; `harness status` lists all others",
        OneRun(inject=_damage, afterwards=_list_all),
        survived(within_s=2),
    ),
    Fault(
        "endpoint_dead",
        "the server of an endpoint that is attached, and that no run uses, has ended",
        "`harness engine status` calls it failed, with what it served when it was attached; other engines' runs go on",
        OneRun(inject=_lose_endpoint),
        survived("no server answers at http://.*when it was attached, at .*, it served ", within_s=5),
        long=True,
    ),
    Fault(
        "clock_forward",
        "the clock is set an hour forward during a run",
        "goes on; its phases, answers and readings have the right times",
        RunUnderClock(inject=_step(HOUR_S), after=20, afterwards=_times_are_right),
        survived(),
    ),
    Fault(
        "clock_back",
        "the clock is set an hour back during a run",
        "goes on; its phases, answers and readings have the right times",
        RunUnderClock(inject=_step(-HOUR_S), after=20, spec={"mode": "both"}, scored=True, afterwards=_times_are_right),
        survived(),
        long=True,
    ),
]
