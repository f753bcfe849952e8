"""Engines that are lost under the real LoadGen: every sample is answered once, and the run says what happened."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness import run_store
from harness.load.loadgen import Outcome, Progress, RunMode, SamplesFailed, run_loadgen
from harness.run_phases import execute
from harness.spec import Spec
from tests.fake_server import FakeServer, answer
from tests.integration.test_loadgen import accuracy_log, errors, journal
from tests.integration.test_run import make_spec as make_whole_spec
from tests.unit.load import SAMPLES, make_spec, prompts, samples, worker_path

pytestmark = pytest.mark.usefixtures(worker_path.__name__)

__all__ = ["worker_path"]

PACE = {"ms_per_token": 20, "tokens": 20}  # 400 ms an answer
QPS = 40.0


def run(spec: Spec, mode: RunMode, folder: Path, meanwhile: Callable[[], None]) -> Outcome:
    """Run LoadGen; `meanwhile` is called once, when a fifth of the samples is done."""
    called: list[int] = []

    def watch(progress: Progress) -> None:
        if progress.done >= SAMPLES / 5 and not called:
            called.append(progress.done)
            meanwhile()

    return run_loadgen(spec, samples(spec), mode, folder, QPS, watch)


@pytest.mark.parametrize("stays", ["killed", "stopped"])
@pytest.mark.parametrize("mode", ["performance", "accuracy"])
def test_every_sample_is_answered_once_though_an_engine_is_lost(tmp_path: Path, mode: RunMode, stays: str) -> None:
    """Fault: an engine is killed, or stands still for ever, in a Server run of either mode."""
    with FakeServer(**PACE) as lives, FakeServer(**PACE) as lost:
        spec = make_spec(tmp_path, lives, lost, limits={"engine_silence_s": 1.0})
        number = signal.SIGKILL if stays == "killed" else signal.SIGSTOP
        outcome = run(spec, mode, tmp_path, lambda: os.kill(lost.pid, number))
        expected = {index: answer(prompts()[index], lives.set()) for index in range(SAMPLES)}
    assert (outcome.samples, outcome.issued) == (SAMPLES, SAMPLES)
    assert not errors(tmp_path / mode)
    lines = journal(tmp_path)
    assert {line["qsl_idx"]: line["token_ids"] for line in lines} == expected and len(lines) == SAMPLES
    (loss,) = outcome.engine_losses
    moved = [line for line in lines if "moved" in line]
    assert (loss["mode"], loss["engine"], loss["node"], loss["rejoined_unix"]) == (mode, "engine1", "localhost", None)
    assert loss["moved"] == len(moved) > 0 and {line["moved"] for line in moved} == {1}
    assert {line["engine"] for line in moved} == {"engine0"}
    assert outcome.started_unix < loss["at_unix"] < outcome.finished_unix and loss["at_s"] > 0
    for line in moved:  # counted from when LoadGen issued it: the lost engine's time is part of it
        assert line["issued_s"] <= line["sent_s"] <= line["first_s"] <= line["last_s"]
        assert line["sent_s"] < loss["at_s"] < line["last_s"]
    if mode == "accuracy":
        assert accuracy_log(tmp_path) == expected
        first_tokens = json.loads((tmp_path / "accuracy" / "mlperf_log_accuracy.json").read_text())
        assert all(entry["token_data"] == entry["data"][:8] for entry in first_tokens)


def test_an_offline_run_goes_on_with_the_engines_that_are_left(tmp_path: Path) -> None:
    """Fault: an engine is killed in an Offline run."""
    with FakeServer(**PACE, slots=4) as lives, FakeServer(**PACE, slots=4) as lost:
        spec = make_spec(tmp_path, lives, lost, scenario="offline", max_in_flight=4)
        outcome = run(spec, "performance", tmp_path, lost.process.kill)
    assert outcome.samples == outcome.issued == len(journal(tmp_path))
    assert not errors(tmp_path / "performance")
    assert outcome.engine_losses[0]["moved"] == 4


def test_a_loss_ends_the_run_where_that_is_asked_for(tmp_path: Path) -> None:
    """Fault: an engine is killed, with on_engine_loss=fail."""
    with FakeServer(**PACE) as lives, FakeServer(**PACE) as lost:
        spec = make_spec(tmp_path, lives, lost, on_engine_loss="fail")
        with pytest.raises(SamplesFailed, match=r"failed.* on engine1: "):
            run(spec, "performance", tmp_path, lost.process.kill)


def execute_and_kill(spec: Spec, root: Path, lost: FakeServer) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Carry a run out and kill an engine in its first LoadGen run; outcome.json, and every status."""
    statuses: list[dict[str, Any]] = []

    def watch(status: dict[str, Any]) -> None:
        statuses.append(status)
        if status["phase"] == "performance" and status["samples_done"] >= SAMPLES / 5:
            lost.process.kill()

    assert run_store.create(spec, root)
    folder = execute(spec, root, samples(spec), on_status=watch)
    return json.loads((folder / "outcome.json").read_text()), statuses


def test_a_run_tells_of_a_loss_while_it_lasts_and_goes_on_to_accuracy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault: an engine is killed in the performance run and stays away in the accuracy run; attempts end with it."""
    monkeypatch.setattr("harness.run_phases.accuracy.score", lambda *_, **__: None)  # the fake has no tokenizer
    with FakeServer(**PACE) as lives, FakeServer(**PACE) as lost:
        spec = make_whole_spec(tmp_path, lives, lost, target_qps=QPS, rate_attempts=4)
        outcome, statuses = execute_and_kill(spec, tmp_path / "root", lost)
    first, second = outcome["engine_losses"]
    assert (first["mode"], second["mode"]) == ("performance", "accuracy")
    assert first["moved"] > 0 and second["moved"] == 0 and second["reason"].startswith("no server answers")
    (made,) = outcome["attempts"]
    assert (made["verdict"], made["repeatable"]) == ("INVALID", False)
    assert made["reason"].startswith("engine engine1 was lost after ")
    assert made["samples"] == outcome["accuracy"]["samples"] == SAMPLES
    assert statuses[-1]["state"] == "finished" and statuses[-1]["engine_losses"] == outcome["engine_losses"]
    live = [status for status in statuses if status["phase"] == "performance" and status["engine_losses"]]
    assert live and live[0]["engine_losses"][0]["engine"] == "engine1"
    assert outcome["resent"].keys() <= {"engine1"}
    assert "engine_losses" not in outcome["performance"]
