"""What a run does on a full disk, beside another client, and to its watchers."""

import errno
import itertools
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness import files, linux, run_store
from harness.benchmark.progress import SHOWN, engines_so_far
from harness.engine import EngineConfig, lifecycle
from harness.errors import BadInput, NotReady
from harness.files import Reserve
from harness.load import others
from harness.load.worker import Failure, _grouped
from harness.spec import parse_spec
from harness.status import Heartbeat, look
from tests.fake_server import FakeServer
from tests.unit.load import make_spec


def test_a_reserve_holds_a_file_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fault: the disk is full when a run ends."""
    reserve = Reserve(tmp_path / ".reserve")

    def full(path: Path, content: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "write_atomic", full)
    reserve.write_json(tmp_path / "outcome.json", {"failures": ["é"]})
    assert json.loads((tmp_path / "outcome.json").read_text()) == {"failures": ["é"]}
    assert [entry.name for entry in tmp_path.iterdir()] == ["outcome.json"]


def test_a_reserve_is_gone_when_it_was_not_needed(tmp_path: Path) -> None:
    Reserve(tmp_path / ".reserve").write_json(tmp_path / "outcome.json", {})
    assert [entry.name for entry in tmp_path.iterdir()] == ["outcome.json"]


@pytest.mark.parametrize("step_s", [3600, -3600])
def test_a_step_of_the_clock_changes_no_time_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step_s: float
) -> None:
    """Fault: the clock of the node is set by an hour during a run."""
    real = time.time
    heartbeat = Heartbeat(tmp_path, {"run_id": "r1"}, tmp_path / "log")
    monkeypatch.setattr(time, "time", lambda: real() + step_s)
    heartbeat.phase("performance")
    assert look(tmp_path)["state"] == "running"
    heartbeat.finish("finished")
    status = look(tmp_path)
    times = [phase[name] for phase in status["phases"] for name in ("started_unix", "finished_unix")]
    assert all(0 <= moment - status["started_unix"] < 60 for moment in [*times, status["updated_unix"]])


@pytest.mark.parametrize(("step_s", "is_shown"), [(-1.0, False), (-3600.0, True), (3600.0, True)])
def test_a_step_of_the_controllers_clock_hides_no_engines(tmp_path: Path, step_s: float, is_shown: bool) -> None:
    """Fault: the clock of the controller is set by an hour, either way, while engines start."""
    path, engine = tmp_path / "progress.jsonl", {"name": "e", "kind": "vllm", "state": "starting"}
    looks = [{"kind": "engine", "host": "n1", "status": engine}, {"kind": SHOWN, "unix": time.time() + step_s}]
    path.write_text("".join(f"{json.dumps(look)}\n" for look in looks))
    assert (engines_so_far(path, 2, 10.0) is not None) is is_shown


def test_requests_of_another_client_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fault: two runs of two roots use one endpoint."""
    monkeypatch.setattr(others, "_SETTLE_S", 0.3)
    with FakeServer(ms_per_token=50, tokens=128) as server:
        engines = [{"name": "e", "url": server.url}]
        spec = parse_spec({"run_id": "r", "model": "/m", "dataset": "/d", "samples": 1, "engines": engines})
        assert others.other_requests(spec) == {}
        connection = _unanswered_request(server)
        try:
            assert "engine e" in others.other_requests(spec)["e"] and "1 requests" in others.other_requests(spec)["e"]
        finally:
            connection()


def test_requests_of_another_client_are_noticed_beside_ones_own() -> None:
    """Fault: another run of another root begins after this one, and ends before it."""
    own = [20, 60, 35, 80, 50] * 12
    alone, shared = others.OthersWatch(), others.OthersWatch()
    assert not any(alone.look(count, late) for count, late in itertools.pairwise(own))
    found = [shared.look(count, late + 100) for count, late in itertools.pairwise(own)]
    assert not any(found[:9]) and "requests of another client beside this run's" in str(found[9])
    shared.look(50, 50)
    assert shared.look(50, 200) is None


def _unanswered_request(server: FakeServer) -> Callable[[], None]:
    import http.client
    from urllib.parse import urlsplit

    from harness.load.stream import request_body

    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=20)
    connection.request("POST", "/v1/completions", request_body("fake", [1, 2, 3], 42))
    connection.getresponse()
    return connection.close


def test_failures_for_one_reason_are_one_sentence_whatever_their_engines() -> None:
    failed = [Failure(3, "e1", "HTTP 500"), Failure(7, "e2", "no answer"), Failure(5, "e1", "HTTP 500")]
    assert _grouped(failed) == "2 samples (3, 5) on e1: HTTP 500; sample 7 on e2: no answer"
    failed += [Failure(2, "e2", "HTTP 500")]
    assert _grouped(failed) == "3 samples (3, 5, 2) on e1, e2: HTTP 500; sample 7 on e2: no answer"


@pytest.mark.parametrize(
    ("code", "words"),
    [(3, "exited with status 3"), (-15, "was killed by SIGTERM"), (-9, "OOM killer: see `dmesg | grep -i oom`")],
)
def test_an_exit_is_described(code: int, words: str) -> None:
    assert words in linux.describe_exit(code)


@pytest.mark.parametrize("most", [1279, 1280])
def test_open_files_are_compared_with_what_a_run_may_have_in_flight(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """Fault: the limit of open files is too low."""
    monkeypatch.setattr(linux.resource, "getrlimit", lambda which: (1024, most))
    engines = [{"name": name, "url": f"http://{name}:1", "max_in_flight": 512} for name in ("a", "b")]
    spec = parse_spec({"run_id": "r", "model": "/m", "dataset": "/d", "samples": 1, "engines": engines})
    assert run_store.open_files(spec) == 1280
    if most < 1280:
        with pytest.raises(NotReady, match=r"may have 1,279 files open here.*needs 1,280.*ulimit.*LimitNOFILE=1280"):
            linux.check_open_files(run_store.open_files(spec), "it")
    else:
        linux.check_open_files(run_store.open_files(spec), "it")


def test_a_rate_that_would_take_for_ever_is_refused_in_any_specification(tmp_path: Path) -> None:
    """Fault: a specification asks for a millionth of a sample a second."""
    server = cast(FakeServer, SimpleNamespace(url="http://127.0.0.1:1"))
    assert make_spec(tmp_path, server, target_qps=0.001).target_qps == 0.001
    with pytest.raises(BadInput, match=r"target_qps.*0\.001"):
        make_spec(tmp_path, server, target_qps=1e-6)


def test_a_dead_endpoint_has_failed_with_what_it_served_when_it_was_attached(tmp_path: Path) -> None:
    """Fault: the server of an endpoint is gone."""
    with FakeServer(model=str(tmp_path)) as server:
        config = EngineConfig(name="e", kind="endpoint", url=server.url, model=tmp_path)
        lifecycle.up(tmp_path, config)
        assert lifecycle.status(tmp_path, "e").state == "ready"
    status = lifecycle.status(tmp_path, "e")
    assert status.state == "failed"
    answer = r"Connection refused.*when it was attached, at 20\S+ \S+ UTC, it served "
    assert re.search(answer + str(tmp_path), status.reason or "")
