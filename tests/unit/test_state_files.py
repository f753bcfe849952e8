"""State files of any content: what cannot be read is named, hides nothing else, and never makes a traceback.

Faults: status.json, engine.json, job.json, request.json, plan.json, spec.json, decision.json, failures.json or
progress.jsonl is empty, cut, binary, of another type, or from an earlier version.
"""

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness import resume, run_store, state_file
from harness import status as run_status
from harness.benchmark import attempts, earlier, failures, plan, progress, repeats, request, watch
from harness.benchmark.public_settings import Asked
from harness.cli.engines import _line
from harness.cli.runs import status_line
from harness.engine import lifecycle
from harness.errors import BadInput, HarnessError
from harness.files import sha256_file, sha256_json
from harness.load import peak
from harness.load.attempts import Attempt
from harness.load.calibrate import Calibration
from harness.node.weights import weights_sha256
from harness.spec import WEIGHTS_CACHE
from tests.unit.ansible_modules import Failed, call_module

ANY_CONTENT = settings(
    max_examples=80, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
BOOT = state_file.boot_id()
LIVE = {"pid": os.getpid(), "boot_id": BOOT, "started_unix": 1.0}
STATUS = {
    **LIVE, "run_id": "r1", "state": "running", "phase": "performance", "reason": None, "log": "/r/harness.log",
    "updated_unix": 2.0, "updated_uptime_s": 3.0, "samples_done": 5, "samples_total": 10, "samples_per_s": 1.5,
    "attempts": [{"number": 1, "target_qps": 2.0, "verdict": "VALID", "reason": None, "repeatable": True}],
    "engine_losses": [
        {"engine": "e", "node": "n", "at_unix": 1.0, "at_s": 2.0, "reason": "died", "moved": 3, "rejoined_unix": None}
    ],
    "phases": [{"phase": "performance"}],
    "eta_s": 3.0, "warnings": ["another client"], "attempt": 1, "attempts_most": 4, "elapsed_s": 3.0, "silent_s": 1.0,
    "calibration": {"samples_per_s": 2.0, "target_qps": 1.0, "by_engine": {"e": 2.0}},
}  # fmt: skip
ENGINE = {
    **LIVE, "name": "e", "kind": "vllm", "state": "ready", "url": "nowhere", "model": "/m", "config": {"port": 1},
    "asked": {}, "max_in_flight": 8, "log": "/e/engine.log", "verified": {}, "ready_unix": 2.0, "reason": None,
}  # fmt: skip
JOB = {**LIVE, "name": "installing", "state": "running", "steps": [{"digest": "x"}], "done": ["x"], "progress": "…"}
REQUEST = {"schema": 1, "run_id": "r1", "asked": Asked().model_dump(mode="json"), "nodes": ["node1"]}
PLAN = {
    "schema": 1, "run_id": "r1", "topology": "fleet", "launcher": "process", "asked": Asked().model_dump(mode="json"),
    "nodes": {"node1": {"engines": [], "loadgen": True, "why": "alone"}}, "loadgens": ["node1"],
}  # fmt: skip
ATTEMPT = {
    "number": 1, "target_qps": 2.0, "verdict": "INVALID", "reason": None, "partial": False, "planned_samples": 5,
    "samples": 5, "started_unix": 1.0, "finished_unix": 2.0, "samples_per_s": 5.0, "ttft_ms_p99": 1.0,
    "tpot_ms_p99": 1.0, "over_ttft": 1, "over_tpot": 0, "forgiven": 0, "second_half": 1.0, "second_half_per_s": 1.0,
    "repeatable": True,
}  # fmt: skip
PART = {"mode": "performance", "started_unix": 1.0, "finished_unix": 2.0, "samples": 5, "tokens": 9, "issued": 5}
OUTCOME = {
    "schema": 1, "performance": {**PART, "ended_early": None}, "attempts": [ATTEMPT], "peak": {}, "accuracy": None,
    "compliance": None,
    "calibration": {
        "samples_per_s": 2.0, "uncertainty_percent": 5.0, "by_engine": {"e": 2.0}, "target_qps": 1.0, "tried": [],
        "seconds": 3.0, "samples": 9,
    },
    "engine_losses": STATUS["engine_losses"], "resent": {"e": 1}, "target_qps": 2.0,
    "resumed": [{"at_unix": 1.0, "phase": "performance", "kept": 0, "missing": 5}],
}  # fmt: skip
MANIFEST = {"model": {"sha256": "0"}, "dataset": {"samples_sha256": "1"}, "engines": [{"name": "e", "verified": {}}]}
SPEC = {"schema": 1, "common": {"samples": 5}, "node": {"node": "node1"}}
LINE = {
    "mode": "accuracy", "qsl_idx": 0, "engine": "e", "issued_s": 1.0, "sent_s": 1.0, "first_s": 2.0, "last_s": 3.0,
    "issued_unix": 9.0, "n_tokens": 2, "token_ids": [1, 2],
}  # fmt: skip
PROBE = {
    "schema": 1, "target_qps": 2.0, "seconds": 3.0, "samples": 4, "ttft_ms_p99": 1.0, "tpot_ms_p99": 1.0,
    "over_ttft": 0, "over_tpot": 0, "held": True, "started_unix": 1.0, "chance": 0.5,
}  # fmt: skip
FAILURE = {"host": "node1", "phase": "run", "reason": "it died", "log": None, "lost": True}
LOOK = {"unix": 1.0, "host": "node1", "kind": "run", "status": STATUS, "lost": None}

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(10**400)
    | st.just("\ud800") | st.just("running") | st.just("endpoint"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


def damaged(good: dict[str, Any]) -> st.SearchStrategy[bytes]:
    """Bytes of any kind: none, binary, any JSON, and the good content cut, with other values or without some keys."""
    whole = json.dumps(good).encode()
    changed = st.dictionaries(st.sampled_from(sorted(good)), VALUES, min_size=1, max_size=3)
    dropped = st.sets(st.sampled_from(sorted(good)), min_size=1)
    return st.one_of(
        st.sampled_from([b"", b"[]", b"{}", b"null", b"\xff\xfe\x00", b"[" * 5_000, whole]),
        st.binary(max_size=40),
        VALUES.map(lambda value: json.dumps(value).encode()),
        st.integers(0, len(whole)).map(lambda length: whole[:length]),
        changed.map(lambda changes: json.dumps({**good, **changes}).encode()),
        dropped.map(lambda keys: json.dumps({key: good[key] for key in good if key not in keys}).encode()),
    )


def write(path: Path, content: bytes | dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


def attempted(action: Callable[[], Any]) -> Any:
    """The result of an action, or the error in words that it may end with instead."""
    try:
        return action()
    except (HarnessError, Failed) as error:
        assert str(error)
        str(error).encode()
        return None


def printed(value: Any) -> None:
    """A value must be printable, as text or as JSON."""
    (value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, allow_nan=False)).encode()


@ANY_CONTENT
@given(content=damaged(STATUS))
def test_a_run(tmp_path: Path, content: bytes) -> None:
    broken = write(tmp_path / "runs/r1/status.json", content).parent
    write(tmp_path / "runs/other/status.json", {**STATUS, "run_id": "other"})
    runs, skipped = state_file.look_all(str(tmp_path), "runs", "status.json")
    summarised = state_file.summary(runs, "r1", skipped)
    printed(summarised)
    assert "other" in summarised["running"]
    statuses, unreadable = run_store.runs(tmp_path)
    assert len(statuses) + len(unreadable) == 2
    assert unreadable == [] or f"look into {broken}" in unreadable[0]
    for status in statuses:
        printed(status_line(status))
        printed(progress.line("run", status, 5.0))
    attempted(lambda: run_status.look(broken))


@ANY_CONTENT
@given(content=damaged(STATUS))
def test_a_run_that_is_watched(tmp_path: Path, content: bytes) -> None:
    text = content.decode(errors="replace")
    looks = [text, text, json.dumps({**STATUS, "state": "finished"})]

    def execute(command: str) -> str:
        return f"5 4.0\n{BOOT}\n\x1e\n\n\n\n{looks.pop(0) if len(looks) > 1 else looks[0]}"

    shown: list[str] = []
    node = watch.Node("node1", execute, lambda: None, shown.append)
    options = watch.Options("run", ["status.json"], interval_s=0.001, lost_after_s=0.01, progress=tmp_path / "p.jsonl")
    printed(watch.Watch(node, options).run())
    printed("".join(shown))
    progress.last_look(tmp_path / "p.jsonl", "node1")


@ANY_CONTENT
@given(content=damaged(ENGINE))
def test_an_engine(tmp_path: Path, content: bytes) -> None:
    broken = write(tmp_path / "engines/e/engine.json", content).parent
    write(tmp_path / "engines/other/engine.json", {**ENGINE, "name": "other"})
    engines, skipped = state_file.look_all(str(tmp_path), "engines", "engine.json")
    printed([engines, skipped])
    assert "other" in [engine["name"] for engine in engines]
    if engine := attempted(lambda: lifecycle.status(tmp_path, "e")):
        printed(_line(engine))
        printed(progress.line("engine", engine.document(), 5.0))
    attempted(lambda: lifecycle._current(broken))


@ANY_CONTENT
@given(content=damaged(JOB))
def test_a_job(tmp_path: Path, content: bytes) -> None:
    write(tmp_path / "job.json", content)
    step = {"run": ["true"], "otherwise": [], "inputs": ""}
    options = {"path": str(tmp_path), "name": "installing", "steps": [step], "creates": str(tmp_path)}
    if result := attempted(lambda: call_module("mlperf_background_job", options, check=True)):
        assert result["pending"] <= 1
    if record := attempted(lambda: _read(tmp_path / "job.json")):
        printed(progress.line("job", record, 5.0))


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return state_file.look(str(path))
    except ValueError as error:
        raise BadInput(str(error)) from None


@ANY_CONTENT
@given(content=damaged(REQUEST), kept=damaged(PLAN))
def test_a_request_and_its_plan(tmp_path: Path, content: bytes, kept: bytes) -> None:
    broken = write(tmp_path / "r1/request.json", content).parent
    write(broken / "plan.json", kept)
    write(tmp_path / "other/request.json", REQUEST)
    names, unreadable = earlier.unfinished(tmp_path)
    assert "other" in names
    assert "r1" in names or f"look into {broken}" in unreadable[0]
    asked = {"defaults": {}, "nodes": ["node1"], "controllers": [], "forks": 5, "results": tmp_path}
    attempted(lambda: request.resolve({"run_id": "r1"}, **asked))
    attempted(lambda: plan.load(broken / "plan.json"))
    write(broken / "failures.json", b"[]")
    attempted(lambda: earlier.how_to_resume(broken))
    attempted(lambda: request.resolve({"run_id": "r1", "resume": True}, **asked))
    (broken / "failures.json").unlink()
    _, sentences = plan.comparable(tmp_path, {})
    assert attempted(lambda: plan.load(broken / "plan.json")) or f"look into {broken}" in sentences[0]


@ANY_CONTENT
@given(content=damaged(REQUEST))
def test_a_request_of_another_run_is_named_to_whoever_picks_one_up(tmp_path: Path, content: bytes) -> None:
    broken = write(tmp_path / "r1/request.json", content).parent
    write(tmp_path / "mine/request.json", REQUEST)
    asked = {"defaults": {}, "nodes": ["node1"], "controllers": [], "forks": 5, "results": tmp_path}
    warnings = request.resolve({"run_id": "mine"}, **asked).warnings
    assert attempted(lambda: earlier.recorded(broken)) or f"look into {broken}" in warnings[0]


@ANY_CONTENT
@given(content=st.one_of(damaged(FAILURE), damaged(FAILURE).map(lambda entry: b"[" + entry + b"]")))
def test_failures_that_were_noted(tmp_path: Path, content: bytes) -> None:
    write(tmp_path / "r1/request.json", REQUEST)
    write(tmp_path / "r1/failures.json", content)
    asked = {"defaults": {}, "nodes": ["node1"], "controllers": [], "forks": 5, "results": tmp_path}
    for more in ({}, {"resume": True}):
        resolved = request.resolve({"run_id": "r1", **more}, **asked)
        for entry in failures.overruled(resolved.failures, "node1", "finished"):
            printed(entry)


@ANY_CONTENT
@given(content=damaged(OUTCOME), status=damaged(STATUS), described=damaged(MANIFEST))
def test_what_an_interrupted_run_left(tmp_path: Path, content: bytes, status: bytes, described: bytes) -> None:
    spec = run_store.Spec.model_validate(
        {"run_id": "r1", "model": "/m", "dataset": "/d", "samples": 1, "engines": [{"name": "e", "url": "http://e:1"}]}
    )
    folder = tmp_path / "runs/r1"
    for status_file in (status, {**STATUS, "state": "failed"}):
        write(folder / "status.json", status_file)
        write(folder / "outcome.json", content)
        write(folder / "manifest.json", described)
        left = attempted(lambda: resume.interrupted(spec, folder))
        if left is None:
            continue
        assert all(Attempt(**made) for made in left.finished.get("attempts") or ())
        assert all(
            "ended_early" in left.finished[mode] for mode in ("performance", "accuracy") if left.finished.get(mode)
        )
        if calibration := left.finished.get("calibration"):
            Calibration(**calibration)
        state_file.check({"state": "failed", "engine_losses": left.finished["engine_losses"]}, "outcome.json")
        attempted(partial(left.check_same, MANIFEST))
        attempted(left.keep)


@ANY_CONTENT
@given(line=damaged(LINE), part=damaged({"schema": 1, "qsl_idx": [0]}), probe=damaged(PROBE))
def test_what_an_interrupted_run_keeps(tmp_path: Path, line: bytes, part: bytes, probe: bytes) -> None:
    """Journal, parts of the accuracy run and probes."""
    folder = tmp_path / "runs/r1"
    write(folder / "status.json", {**STATUS, "state": "failed"})
    write(folder / "journal.jsonl", line + b"\n" + json.dumps(LINE).encode())
    write(folder / "accuracy.2/part.json", part)
    (folder / "accuracy").mkdir(exist_ok=True)
    left = resume.interrupted(run_store.Spec.model_construct(run_id="r1", samples=2), folder)
    if entry := attempted(left.keep):
        kept = resume.answers(folder)
        assert entry["kept"] == len(kept) <= 2
        resume.together(kept.values(), None)
    attempted(lambda: peak._read(write(folder / "probes/1/probe.json", probe)))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("outcome.json", {"engine_losses": 5}), ("outcome.json", {"attempts": [{}]}), ("outcome.json", []),
        ("outcome.json", {"calibration": {"samples_per_s": 2.0}}), ("status.json", {**STATUS, "phases": "abc"}),
        ("outcome.json", {"performance": {"samples": 5}}), ("outcome.json", b""), ("outcome.json", b'{"perfor'),
        ("outcome.json", b"\xff\xfe\x00"),
    ],
)  # fmt: skip
def test_what_an_interrupted_run_left_is_named_where_it_is_damaged(tmp_path: Path, name: str, content: Any) -> None:
    write(tmp_path / "status.json", STATUS)
    write(tmp_path / name, content if isinstance(content, dict | bytes) else json.dumps(content).encode())
    with pytest.raises(BadInput, match=f"{name} is damaged"):
        resume.interrupted(run_store.Spec.model_construct(), tmp_path)


def test_a_resumed_run_does_not_begin_anew_where_what_it_finished_cannot_be_read(tmp_path: Path) -> None:
    """Fault: outcome.json of an interrupted run is empty. Moved away, it leaves the answers in the journal."""
    write(tmp_path / "status.json", {**STATUS, "state": "failed"})
    outcome = write(tmp_path / "outcome.json", b"")
    with pytest.raises(BadInput, match=f"{outcome} is damaged .*choose another run_id, or move the file away"):
        resume.interrupted(run_store.Spec.model_construct(), tmp_path)
    assert not (tmp_path / "interrupted").exists()
    outcome.unlink()
    assert resume.interrupted(run_store.Spec.model_construct(), tmp_path).finished == {"engine_losses": []}


@pytest.mark.parametrize("content", [b"[]", b"null", b'{"loadgens": 5}'])
def test_a_damaged_plan_of_a_run_that_ended_is_named(tmp_path: Path, content: bytes) -> None:
    write(tmp_path / "failures.json", b"[]")
    write(tmp_path / "plan.json", content)
    with pytest.raises(BadInput, match=r"plan\.json is damaged"):
        earlier.how_to_resume(tmp_path)


@ANY_CONTENT
@given(content=damaged(SPEC), decided=damaged({"schema": 1, "repeat": True}))
def test_a_spec_and_a_decision(tmp_path: Path, content: bytes, decided: bytes) -> None:
    from tests.unit.test_doctor import write_dataset  # a spec needs files

    data = write_dataset(tmp_path / "d.json", [1])
    engines = [{"name": "e", "url": "http://127.0.0.1:1"}]
    spec = run_store.Spec.model_validate(
        {"run_id": "r1", "model": tmp_path, "dataset": data, "samples": 1, "engines": engines}
    )
    write(tmp_path / "runs/r1/spec.json", content)
    attempted(lambda: run_store.reject_different_spec(spec, tmp_path))
    write(tmp_path / "runs/r1/attempts/1/attempt.json", {})
    write(tmp_path / "runs/r1/attempts/1/decision.json", decided)
    assert run_store.decision(tmp_path / "runs/r1", 1, 0.001) in (True, False, None)
    attempted(lambda: run_store.decide(tmp_path, "r1", 1, True))


@ANY_CONTENT
@given(content=damaged(LOOK))
def test_the_progress_of_a_benchmark(tmp_path: Path, content: bytes) -> None:
    path = write(tmp_path / "progress.jsonl", content + b"\n")
    look = progress.last_look(path, "node1")
    assert attempts.repeat(1, [look]) in (True, False, None)
    assert progress.engines_noted_lost(path) <= {"e"}


@ANY_CONTENT
@given(content=damaged({**LOOK, "kind": "engine", "status": ENGINE}), shown=damaged({**LOOK, "kind": progress.SHOWN}))
def test_the_progress_of_engines(tmp_path: Path, content: bytes, shown: bytes) -> None:
    path = write(tmp_path / "progress.jsonl", content + b"\n" + shown + b"\n")
    printed(progress.engines_so_far(path, 2, 10.0))


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"null", b"\xff\x00", b'{"state": "run'])
def test_a_damaged_file_of_an_ended_run_does_not_stop_the_next_benchmark(tmp_path: Path, content: bytes) -> None:
    write(tmp_path / "old/request.json", content)
    given_settings = {"defaults": {}, "nodes": ["node1"], "controllers": [], "forks": 5, "results": tmp_path}
    resolved = request.resolve({}, **given_settings)
    assert f"look into {tmp_path / 'old'}" in resolved.warnings[0]


@ANY_CONTENT
@given(content=damaged({"/w": {"inode": 1, "size": 2, "mtime_ns": 3, "ctime_ns": 4, "sha256": "0"}, "/v": {}}))
def test_the_hashes_of_weights_that_are_remembered(tmp_path: Path, content: bytes) -> None:
    file = write(tmp_path / "model.safetensors", b"weights")
    write(tmp_path / WEIGHTS_CACHE, content)
    assert weights_sha256((file,), tmp_path) == sha256_json({file.name: sha256_file(file)})


@ANY_CONTENT
@given(content=damaged(OUTCOME))
def test_the_rate_of_a_repeat(tmp_path: Path, content: bytes) -> None:
    attempted(lambda: printed(repeats._rate(write(tmp_path / "outcome.json", content))))


def test_an_engine_whose_state_cannot_be_read_starts_anew_and_is_taken_down(tmp_path: Path) -> None:
    broken = write(tmp_path / "engines/e/engine.json", b"{").parent
    assert lifecycle._current(broken) is None
    with pytest.raises(BadInput, match=f"look into {broken}"):
        lifecycle.status(tmp_path, "e")
    assert "could not be read" in str(lifecycle.down(tmp_path, "e").reason)
    assert lifecycle.status(tmp_path, "e").state == "stopped"
