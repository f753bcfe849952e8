"""A performance run that is repeated at lower rates, by the real LoadGen over a fake engine of known speed."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from harness import run_store
from harness.errors import BadInput, RunFailed
from harness.run_phases import execute
from harness.spec import Spec
from harness.status import look
from tests.engines import until
from tests.fake_server import FakeServer
from tests.integration.test_run import make_spec
from tests.unit.load import samples, worker_path

pytestmark = pytest.mark.usefixtures(worker_path.__name__)

__all__ = ["worker_path"]

ROOMY = {"ms_per_token": 10, "tokens": 20, "slots": 64}
PACE = {"ms_per_token": 10, "tokens": 20, "slots": 16}  # 16 slots x 200 ms an answer = 80 samples/s


def run(spec: Spec, root: Path, lines: list[str] | None = None) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """Carry out a run, which adds what it prints to `lines`; returns its folder, outcome.json and status.json."""
    assert run_store.create(spec, root)
    folder = execute(spec, root, samples(spec), on_line=(lines if lines is not None else []).append)
    return folder, json.loads((folder / "outcome.json").read_text()), json.loads((folder / "status.json").read_text())


def test_a_rate_that_breaks_a_limit_is_followed_by_one_that_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.run_phases.accuracy.score", lambda *_, **__: None)  # the fake has no tokenizer
    with FakeServer(**PACE) as server:
        limits = {"min_duration_s": 10.0}
        spec = make_spec(tmp_path, server, target_qps=160.0, rate_attempts=4, max_in_flight=16, limits=limits)
        folder, outcome, status = run(spec, tmp_path / "root")
    first, *_, last = outcome["attempts"]
    assert first["verdict"] == "ENDED EARLY" and first["partial"] and first["target_qps"] == 160
    assert "queries exceeded the TTFT limit of 2,000 ms" in first["reason"]
    assert last["verdict"] == "VALID" and last["reason"] is None and not last["partial"]
    assert 30 < last["target_qps"] < 80 and outcome["target_qps"] == last["target_qps"]
    assert [attempt["number"] for attempt in outcome["attempts"]] == [1, 2, 3, 4][: len(outcome["attempts"])]
    assert status["attempt"] == last["number"] and status["attempts_most"] == 4
    assert status["attempts"] == outcome["attempts"]
    for attempt in outcome["attempts"]:
        own = folder / "attempts" / str(attempt["number"])
        assert json.loads((own / "attempt.json").read_text()) == {"schema": 1, **attempt}
        rows = [json.loads(line) for line in (own / "journal.jsonl").read_text().splitlines()]
        assert len(rows) == attempt["samples"] and {row["mode"] for row in rows} == {"performance"}
        assert f"target_qps = {attempt['target_qps']}" in (own / "performance" / "user.conf").read_text()
    summary = folder / "attempts" / str(last["number"]) / "performance" / "mlperf_log_summary.txt"
    assert "Result is : VALID" in summary.read_text()
    assert not (folder / "performance").exists()
    rows = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    assert len(rows) == spec.samples and {row["mode"] for row in rows} == {"accuracy"}
    phases = [phase["phase"] for phase in status["phases"]]
    assert phases.count("performance") == phases.count("draining") == len(outcome["attempts"])
    assert phases.count("accuracy") == 1 and phases.index("accuracy") > phases.index("performance")


def test_where_no_rate_holds_the_last_attempt_is_the_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.run_phases.accuracy.score", lambda *_, **__: None)  # the fake has no tokenizer
    with FakeServer(ms_per_token=120, tokens=5) as server:  # Server allows 100 ms a token
        limits = {"min_duration_s": 20.0}
        values = {"rate_attempts": 2, "limits": limits}
        spec, lines = make_spec(tmp_path, server, target_qps=600.0, **values), list[str]()
        _, outcome, status = run(spec, tmp_path / "root", lines)
    # 20 s each, in whole passes
    assert lines[0].startswith("up to 2 attempts at decreasing rates: about 0.7 minutes if all of them are made")
    assert [attempt["verdict"] for attempt in outcome["attempts"]] == ["ENDED EARLY"] * 2
    assert outcome["attempts"][1]["target_qps"] < 600 and "TPOT limit of 100 ms" in outcome["attempts"][1]["reason"]
    assert status["state"] == "finished" and outcome["performance"]["ended_early"]
    # What the last attempt gave up is waited for, and not taken for another client's.
    assert [phase["phase"] for phase in status["phases"]][-4:-1] == ["performance", "draining", "accuracy"]
    assert outcome["warnings"] == []


def test_too_few_queries_to_confirm_a_limit_are_run_once(tmp_path: Path) -> None:
    with FakeServer(ms_per_token=120, tokens=5) as server:
        values = {"rate_attempts": 4, "mode": "performance"}
        _, outcome, _ = run(make_spec(tmp_path, server, target_qps=600.0, **values), tmp_path / "root")
    assert [(attempt["verdict"], attempt["forgiven"]) for attempt in outcome["attempts"]] == [("INVALID", -1)]
    assert "120 queries are too few for early stopping to confirm a limit" in outcome["attempts"][0]["reason"]


def test_a_lost_engine_ends_the_run_and_nothing_is_repeated(tmp_path: Path) -> None:
    with FakeServer(**PACE, faults={"die": 40}) as server:
        spec = make_spec(tmp_path, server, target_qps=50.0, rate_attempts=4, mode="performance")
        with pytest.raises(RunFailed):
            run(spec, tmp_path / "root")
    folder = tmp_path / "root" / "runs" / spec.run_id
    assert [path.name for path in (folder / "attempts").iterdir()] == ["1"]
    assert json.loads((folder / "outcome.json").read_text())["attempts"] == []


def test_loadgens_that_repeat_together_wait_for_a_decision(tmp_path: Path) -> None:
    root, states = tmp_path / "root", list[tuple[str, str]]()
    limits = {"min_duration_s": 8.0}
    with FakeServer(**ROOMY) as server:
        values = {"rate_attempts": 4, "attempts_together": True, "mode": "performance", "limits": limits}
        spec = make_spec(tmp_path, server, target_qps=60.0, **values)
        folder = run_store.run_directory(root, spec.run_id)

        def others() -> None:
            for number, repeat in ((1, True), (2, False)):
                assert until(lambda number=number: look(folder)["state"] == "waiting" and is_answered(number), 60)
                states.append((look(folder)["state"], look(folder)["phase"]))
                assert run_store.decide(root, spec.run_id, number, repeat)
                assert run_store.decide(root, spec.run_id, number, repeat) is False

        def is_answered(number: int) -> bool:
            return (folder / "attempts" / str(number) / "attempt.json").exists()

        thread = threading.Timer(1.0, others)
        thread.start()
        _, outcome, status = run(spec, root)
        thread.join()
    first, second = outcome["attempts"]
    # Whether the first holds is a busy machine's to say; one that does is repeated as it was.
    assert second["target_qps"] == 60.0 if first["verdict"] == "VALID" else second["target_qps"] < 60.0
    assert states == [("waiting", "waiting for the other nodes")] * 2 and status["state"] == "finished"
    with pytest.raises(BadInput, match="attempt 1 of run test already has the opposite decision"):
        run_store.decide(root, spec.run_id, 1, repeat=False)
    with pytest.raises(BadInput, match="has not finished attempt 3"):
        run_store.decide(root, spec.run_id, 3, repeat=True)


def test_without_a_decision_a_loadgen_decides_alone(tmp_path: Path) -> None:
    with FakeServer(ms_per_token=120, tokens=5) as server:  # Server allows 100 ms a token: no rate holds
        values = {"rate_attempts": 2, "attempts_together": True, "mode": "performance"}
        limits = {"min_duration_s": 4.0, "decision_timeout_s": 0.2}
        spec, lines = make_spec(tmp_path, server, target_qps=600.0, limits=limits, **values), list[str]()
        _, outcome, _ = run(spec, tmp_path / "root", lines)
    first, second = outcome["attempts"]
    assert first["verdict"] == "ENDED EARLY" and second["verdict"] != "VALID"
    assert first["target_qps"] == 600.0 > second["target_qps"]
    warning = "attempt 1: no decision about the other nodes' attempts, so this node decides alone"
    assert outcome["warnings"] == [warning] and warning in lines


def test_a_run_can_be_stopped_and_resumed_between_two_attempts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.run_phases.accuracy.score", lambda *_, **__: None)  # the fake has no tokenizer
    root = tmp_path / "root"
    with FakeServer(**ROOMY) as server:
        values = {"rate_attempts": 4, "attempts_together": True, "limits": {"min_duration_s": 8.0}}
        spec = make_spec(tmp_path, server, target_qps=60.0, **values)
        run_store.start(spec, root)
        folder = run_store.run_directory(root, spec.run_id)
        assert until(lambda: look(folder)["state"] == "waiting", 60)
        assert run_store.start(spec, root)[0] is False
        changed, status = run_store.stop(root, spec.run_id)
        assert changed and (status["state"], status["phase"]) == ("stopped", "waiting for the other nodes")
        stopped = json.loads((folder / "outcome.json").read_text())
        assert len(stopped["attempts"]) == 1 and not (folder / "accuracy").exists()
        run_store.decide(root, spec.run_id, 1, repeat=False)
        execute(spec, root, samples(spec), resumed=True)
    outcome = json.loads((folder / "outcome.json").read_text())
    assert outcome["attempts"] == stopped["attempts"] and outcome["performance"] == stopped["performance"]
    assert outcome["accuracy"]["samples"] == spec.samples and outcome["resumed"][0]["kept"] == 0


def test_a_rate_given_as_a_number_is_run_once(tmp_path: Path) -> None:
    with FakeServer(**PACE) as server:
        spec = make_spec(tmp_path, server, target_qps=300.0, mode="performance")
        folder, outcome, _ = run(spec, tmp_path / "root")
    assert outcome["attempts"] == [] and (folder / "performance").is_dir() and not (folder / "attempts").exists()


def test_engines_that_do_not_get_steady_are_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.run_phases.warm_up", lambda *_: False)
    with FakeServer(**ROOMY) as server:
        _, outcome, status = run(
            make_spec(tmp_path, server, samples=20, target_qps=300.0, mode="performance"), tmp_path
        )
    (warning,) = outcome["warnings"]
    assert warning.startswith("warming up reached its time limit before the engines were steady") and status["warnings"]
