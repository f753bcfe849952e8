"""Runs that are killed and resumed: the real LoadGen over a fake engine, whose answers depend on the prompt alone."""

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness import journal, run_store
from harness.errors import BadInput
from harness.report import report
from harness.spec import Spec, parse_spec
from harness.status import alive, look
from tests.engines import until
from tests.fake_server import FakeServer
from tests.integration.conftest import Fakes
from tests.unit.load import worker_path

pytestmark = [pytest.mark.usefixtures(worker_path.__name__), pytest.mark.xdist_group("resume")]

__all__ = ["worker_path"]

SAMPLES = 120
SECONDS = 300.0


@dataclass
class Runs:
    """Runs of one spec under one root, over one fake engine."""

    root: Path
    server: FakeServer
    values: dict[str, Any]

    def spec(self, run_id: str, **values: Any) -> Spec:
        return parse_spec({**self.values, "run_id": run_id, **values})

    def folder(self, run_id: str) -> Path:
        return run_store.run_directory(self.root, run_id)

    def status(self, run_id: str) -> dict[str, Any]:
        return look(self.folder(run_id))

    def outcome(self, run_id: str) -> dict[str, Any]:
        outcome: dict[str, Any] = json.loads((self.folder(run_id) / "outcome.json").read_text())
        return outcome

    def finish(self, spec: Spec, *, resumed: bool = False) -> dict[str, Any]:
        """Start or resume a run and wait for its end."""
        assert run_store.start(spec, self.root, resumed=resumed)[0] is True
        assert until(lambda: not self.running(spec.run_id), SECONDS), self.status(spec.run_id)
        status = self.status(spec.run_id)
        assert status["state"] == "finished", status["reason"]
        return status

    def running(self, run_id: str) -> bool:
        return bool(self.status(run_id)["state"] == "running")

    def kill_after(self, spec: Spec, seconds: float, *, resumed: bool) -> bool:
        """Start or resume a run and kill it after so long; whether it was killed before its end."""
        run_store.start(spec, self.root, resumed=resumed)
        time.sleep(seconds)
        return self.kill(spec.run_id)

    def kill(self, run_id: str) -> bool:
        status = self.status(run_id)
        if status["state"] == "finished":
            return False
        os.kill(status["pid"], signal.SIGKILL)
        assert until(lambda: not self.running(run_id))
        return True

    def kill_in(self, spec: Spec, phase: str, answers: int = 0) -> None:
        """Start a run and kill it in a phase, once the journal has so many of the phase's answers."""
        run_store.start(spec, self.root)
        path = self.folder(spec.run_id) / "journal.jsonl"

        def reached() -> bool:
            if self.status(spec.run_id)["phase"] != phase:
                return False
            lines = journal.read(path).answers if path.exists() else ()
            return sum(line["mode"] == phase for line in lines) >= answers

        assert until(reached, SECONDS), self.status(spec.run_id)
        assert self.kill(spec.run_id)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, sandbox: Path) -> Iterator[Runs]:
    """An engine that takes about four seconds for all samples."""
    with FakeServer(model="model", vocab=1024, tokens=24, ms_per_token=8, slots=6) as server:
        values = {
            "model": sandbox / "model",
            "dataset": sandbox / "cnn_eval.json",
            "reference_ids": sandbox / "reference_ids.jsonl",
            "samples": SAMPLES,
            "scenario": "offline",
            "mode": "accuracy",
            "target_qps": 30.0,
            "engines": [{"name": "engine0", "url": server.url, "max_in_flight": 6}],
        }
        yield Runs(tmp_path_factory.mktemp("runs"), server, values)


@pytest.fixture(scope="module")
def undisturbed(runs: Runs) -> Iterator[dict[str, Any]]:
    """Accuracy of a run that nothing disturbed, and how long it took."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(__import__("sys").path))
        began = time.monotonic()
        runs.finish(runs.spec("undisturbed"))
        yield {**accuracy_of(runs.folder("undisturbed")), "seconds": time.monotonic() - began}


def accuracy_of(folder: Path) -> dict[str, Any]:
    """All that must not depend on an interruption: the table of scores, the figures, and the counts."""
    score = json.loads((folder / "accuracy" / "score.json").read_text())
    for key in ("run_id", "common_sha256", "seconds", "workers", "log_sha256", "part_logs_sha256"):
        del score[key]
    outcome = json.loads((folder / "outcome.json").read_text())["accuracy"]
    counts = {key: outcome[key] for key in ("samples", "issued", "tokens", "one_token_answers")}
    figures, _ = (folder / "accuracy" / "accuracy.txt").read_text().splitlines()
    return {"scores": (folder / "accuracy" / "scores.csv").read_bytes(), "score": score, "text": figures, **counts}


def assert_same(folder: Path, undisturbed: dict[str, Any]) -> None:
    for key, value in accuracy_of(folder).items():
        assert value == undisturbed[key], key
    lines = [line for line in journal.read(folder / "journal.jsonl").lines if line["mode"] == "accuracy"]
    assert sorted(line["qsl_idx"] for line in lines) == list(range(SAMPLES))
    assert journal.read(folder / "journal.jsonl").problem is None


@pytest.mark.parametrize(
    ("mode", "kills"),
    [
        ("accuracy", 2),
        pytest.param("accuracy", 10, marks=pytest.mark.long),
        pytest.param("both", 10, marks=pytest.mark.long),
    ],
)
def test_a_run_killed_at_random_moments_ends_with_the_very_scores_of_an_undisturbed_one(
    runs: Runs, undisturbed: dict[str, Any], mode: str, kills: int
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    moments, killed = random.Random(seed), 0
    length_s = undisturbed["seconds"] * (2 if mode == "both" else 1)
    for number in range(3 * kills):  # some end before they are killed
        spec = runs.spec(f"{mode}-{kills}-{number}", mode=mode)
        if not runs.kill_after(spec, moments.uniform(0, length_s), resumed=False):
            continue
        runs.finish(spec, resumed=True)
        assert_same(runs.folder(spec.run_id), undisturbed)
        killed += 1
        if killed == kills:
            break
    assert killed == kills


@pytest.mark.long
def test_a_run_killed_again_and_again_has_a_part_for_each_time(runs: Runs, undisturbed: dict[str, Any]) -> None:
    spec = runs.spec("again")
    runs.kill_in(spec, "accuracy", answers=20)
    run_store.start(spec, runs.root, resumed=True)
    path = runs.folder("again") / "journal.jsonl"
    assert until(lambda: len(journal.read(path).answers) >= 60, SECONDS)
    assert runs.kill("again")
    runs.finish(spec, resumed=True)
    folder = runs.folder("again")
    assert_same(folder, undisturbed)
    first, second = runs.outcome("again")["resumed"]
    assert (first["phase"], second["phase"]) == ("accuracy", "accuracy")
    assert 20 <= first["kept"] < second["kept"] and first["kept"] + first["missing"] == SAMPLES
    sizes = [
        len(json.loads((folder / name / "part.json").read_text())["qsl_idx"]) for name in ("accuracy.2", "accuracy.3")
    ]
    assert sizes == [first["missing"], second["missing"]]
    score = json.loads((folder / "accuracy" / "score.json").read_text())
    assert list(score["part_logs_sha256"]) == ["accuracy", "accuracy.2", "accuracy.3"]
    result = report(folder)
    assert [(one.kept, one.missing) for one in result.resumed] == [
        (first["kept"], first["missing"]),
        (second["kept"], second["missing"]),
    ]
    codes = {reason.code for reason in result.verdict.reasons}
    assert "RESUMED" in codes and not codes & {"FILES_WHOLE", "ACCURACY_LOG", "ACCURACY_COVERAGE", "RUN_FINISHED"}
    assert (
        f"{second['kept']} answers were kept, {second['missing']} were missing"
        in (folder / "report" / "report.md").read_text()
    )
    speed = result.together.samples_per_s
    assert speed and speed > 10  # the time between two parts does not count


def test_a_performance_run_is_made_again_whole_and_a_finished_one_stays(runs: Runs) -> None:
    spec = runs.spec("both", mode="both")
    runs.kill_in(spec, "performance", answers=20)
    runs.finish(spec, resumed=True)
    folder, outcome = runs.folder("both"), runs.outcome("both")
    assert [(one["phase"], one["kept"], one["missing"]) for one in outcome["resumed"]] == [("performance", 0, SAMPLES)]
    lines = journal.read(folder / "journal.jsonl").lines
    assert [line["mode"] for line in lines].count("performance") == SAMPLES
    assert len(journal.read(folder / "interrupted" / "1" / "journal.jsonl").answers) >= 20
    assert (folder / "interrupted" / "1" / "performance" / "user.conf").exists()
    assert not (folder / "accuracy.2").exists()
    codes = {reason.code for reason in report(folder).verdict.reasons}
    assert not codes & {"RESUMED", "FILES_WHOLE", "PERFORMANCE_COVERAGE"}


@pytest.mark.long
def test_of_a_finished_performance_run_nothing_is_done_again(runs: Runs) -> None:
    spec = runs.spec("kept", mode="both")
    runs.kill_in(spec, "accuracy", answers=20)
    folder = runs.folder("kept")
    logs = {file: file.read_bytes() for file in (folder / "performance").iterdir()}
    before = runs.outcome("kept")
    runs.finish(spec, resumed=True)
    assert {file: file.read_bytes() for file in (folder / "performance").iterdir()} == logs
    assert runs.outcome("kept")["performance"] == before["performance"] is not None
    phases = [phase["phase"] for phase in runs.status("kept")["phases"]]
    assert "accuracy" in phases and "performance" not in phases


def test_failed_and_damaged_answers_are_asked_for_again(runs: Runs, undisturbed: dict[str, Any]) -> None:
    spec = runs.spec("damaged")
    runs.server.set(faults={"http500": len(runs.server.records()) + 60})
    run_store.start(spec, runs.root)
    assert until(lambda: not runs.running("damaged"), SECONDS)
    runs.server.set(faults={})
    assert runs.status("damaged")["state"] == "failed"
    assert until(lambda: not alive(runs.status("damaged")), SECONDS), "its last lines are written"
    path = runs.folder("damaged") / "journal.jsonl"
    contents = path.read_bytes().replace(b'"n_tokens":24', b'"n_tokens":42', 1)
    path.write_bytes(contents + b'{"mode":"accuracy","qsl_i')
    answers = len(journal.read(path).answers)
    runs.finish(spec, resumed=True)
    assert runs.outcome("damaged")["resumed"][0]["kept"] == answers
    assert_same(runs.folder("damaged"), undisturbed)
    aside = (runs.folder("damaged") / "interrupted" / "1" / "journal.jsonl").read_text()
    assert "failed" in aside and '"n_tokens":42' in aside and '"qsl_i\n' in aside


def test_what_cannot_be_resumed_is_refused(runs: Runs, undisturbed: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="run undisturbed has finished, so there is nothing to resume"):
        run_store.start(runs.spec("undisturbed"), runs.root, resumed=True)
    with pytest.raises(BadInput, match=r"there is no run nowhere in .* that could be resumed"):
        run_store.start(runs.spec("nowhere"), runs.root, resumed=True)
    assert not runs.folder("nowhere").exists()
    spec = runs.spec("refused")
    run_store.start(spec, runs.root)
    with pytest.raises(BadInput, match=r"run refused is still running \(process \d+\); wait for its end"):
        run_store.start(spec, runs.root, resumed=True)
    changed, status = run_store.stop(runs.root, "refused")
    assert changed and status["state"] == "stopped"
    with pytest.raises(BadInput, match="seed: existing 42, requested 7"):
        run_store.start(runs.spec("refused", seed=7), runs.root, resumed=True)


def test_a_run_on_other_weights_or_engines_is_refused_and_nothing_is_moved(runs: Runs) -> None:
    spec = runs.spec("changed")
    runs.kill_in(spec, "accuracy", answers=10)
    folder = runs.folder("changed")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["model"]["sha256"], manifest["engines"][0]["version"] = "0" * 64, {"vllm": "0.1"}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    lines = (folder / "journal.jsonl").read_bytes()
    run_store.start(spec, runs.root, resumed=True)
    assert until(lambda: not runs.running("changed"), SECONDS)
    reason = runs.status("changed")["reason"]
    assert "run changed cannot be resumed" in reason and "choose another run_id" in reason
    assert "weights: was '0000" in reason and "engine.engine0.version.vllm: was '0.1'" in reason
    assert (folder / "journal.jsonl").read_bytes() == lines


def test_the_journal_is_written_before_a_run_that_is_stopped_ends(runs: Runs) -> None:
    spec = runs.spec("stopped")
    run_store.start(spec, runs.root)
    assert until(lambda: runs.status("stopped")["samples_done"] >= 20, SECONDS)
    run_store.stop(runs.root, "stopped")
    folder = runs.folder("stopped")
    contents = journal.read(folder / "journal.jsonl")
    logged = (folder / "accuracy" / "mlperf_log_accuracy.json").read_bytes().count(b"qsl_idx")
    assert contents.problem is None and len(contents.answers) == logged


@pytest.mark.long
def test_a_benchmark_whose_run_was_killed_is_offered_to_be_resumed_and_is(fakes: Fakes) -> None:
    site = fakes.site
    alone = ("benchmark.yml", "--limit", "node1")
    process = site.start(*alone, mode="accuracy", run_id="killed", samples=400, target_qps=20)
    journals = site.folder / "node1" / "runs" / "killed" / "journal.jsonl"
    assert until(lambda: journals.exists() and len(journal.read(journals).answers) >= 40, SECONDS), site.output()
    os.kill(site.status("node1", "killed")["pid"], signal.SIGKILL)
    assert process.wait(200) == 2
    assert "benchmark.yml -e run_id=killed -e resume=true" in " ".join(site.output().split())
    kept = len(journal.read(journals).answers)

    # It finishes, and is INVALID for the answers of the fake engine alone.
    assert site.play(*alone, run_id="killed", resume=True) == 2
    result = site.read("killed", "result.json")
    invalid = {reason["code"] for reason in result["verdict"]["reasons"] if reason["level"] == "INVALID"}
    assert invalid == {"REFERENCE_IDS", "ROUGE"}, site.output()
    assert [(entry["kept"], entry["missing"]) for entry in result["resumed"]] == [(kept, 400 - kept)]
    assert "RESUMED" in {reason["code"] for reason in result["verdict"]["reasons"]}
    assert site.read("killed", "failures.json") == []
    assert (site.results / "killed" / "interrupted" / "1" / "failures.json").exists()
    assert (site.results / "killed" / "nodes" / "node1" / "accuracy.2" / "part.json").exists()
