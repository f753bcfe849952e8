"""Which engine gets which sample, in which order, and the thread of the callbacks."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from harness.errors import BadInput, NotReady, RunFailed
from harness.load import client as client_module
from harness.load import dispatch
from harness.load.answer import Answer
from harness.load.client import Client
from harness.load.dispatch import Dispatcher
from harness.spec import EngineRef
from tests.fake_server import FakeServer, answer
from tests.unit.load import VOCABULARY, make_spec, prompts


class Ear:
    """A listener that records everything."""

    def __init__(self) -> None:
        self.firsts: set[Hashable] = set()
        self.done: dict[Hashable, tuple[int, str, Answer]] = {}
        self.failed: dict[Hashable, tuple[int, str, str]] = {}
        self.crashes: list[str] = []
        self.threads: set[int] = set()

    def on_first(self, key: Hashable, sample: int, token_ids: list[int]) -> None:
        assert key not in self.firsts and key not in self.done
        self.threads.add(threading.get_ident())
        self.firsts.add(key)

    def on_done(self, key: Hashable, sample: int, engine: str, answer: Answer) -> None:
        assert key not in self.done
        self.threads.add(threading.get_ident())
        self.done[key] = (sample, engine, answer)

    def on_failed(self, key: Hashable, sample: int, engine: str, reason: str) -> None:
        self.threads.add(threading.get_ident())
        self.failed[key] = (sample, engine, reason)

    def on_crash(self, reason: str) -> None:
        self.crashes.append(reason)

    def wait(self, count: int, seconds: float = 30) -> None:
        """Wait until so many samples are answered or failed."""
        deadline = time.monotonic() + seconds
        while len(self.done) + len(self.failed) < count:
            assert time.monotonic() < deadline, f"{len(self.done)} done, {self.failed}, {self.crashes}"
            time.sleep(0.005)

    def wait_for_first(self, *keys: Hashable) -> None:
        """Wait until these samples have their first tokens."""
        deadline = time.monotonic() + 20
        while not self.firsts.issuperset(keys):
            assert time.monotonic() < deadline, f"{self.firsts}, {self.failed}, {self.crashes}"
            time.sleep(0.005)


@contextmanager
def dispatcher(
    folder: Path, ear: Ear, *servers: FakeServer, speeds: dict[str, float] | None = None, **values: Any
) -> Iterator[Dispatcher]:
    spec = make_spec(folder, *servers, **values)
    with Dispatcher(
        spec.engines, prompts(), ear, vocab_size=VOCABULARY, seed=42, timeout_s=20, speeds=speeds
    ) as dispatch:
        yield dispatch


def test_every_sample_is_answered_once_with_its_own_answer_from_one_thread(tmp_path: Path) -> None:
    ear = Ear()
    with FakeServer(ms_per_token=1, tokens=32, slots=300) as one, FakeServer(tokens=32) as two:
        settings = one.set()
        with dispatcher(tmp_path, ear, one, two, max_in_flight=400) as dispatch:
            batches = [[(f"{thread}-{index}", index) for index in range(120)] for thread in range(10)]
            threads = [threading.Thread(target=dispatch.submit, args=(batch,)) for batch in batches]
            for thread in threads:
                thread.start()
            ear.wait(1200)
            assert dispatch.in_flight == 0
    assert not ear.failed and not ear.crashes
    assert len(ear.done) == 1200 == len(ear.firsts)
    assert len(ear.threads) == 1 and threading.get_ident() not in ear.threads
    for key, (sample, _, actual) in ear.done.items():
        assert str(key).endswith(f"-{sample}")
        assert actual.token_ids == answer(prompts()[sample], settings)


def test_equally_loaded_engines_take_turns(tmp_path: Path) -> None:
    ear = Ear()
    with FakeServer(tokens=2) as one, FakeServer(tokens=2) as two, FakeServer(tokens=2) as three:
        with dispatcher(tmp_path, ear, one, two, three) as dispatch:
            for index in range(9):  # one at a time: every engine is idle at each choice
                dispatch.submit([(index, index)])
                ear.wait(index + 1)
    engines = [ear.done[index][1] for index in range(9)]
    assert engines == ["engine0", "engine1", "engine2"] * 3


def test_the_least_loaded_engine_comes_first(tmp_path: Path) -> None:
    ear = Ear()
    with FakeServer(ms_per_token=50) as slow, FakeServer(tokens=2) as quick:
        with dispatcher(tmp_path, ear, slow, quick) as dispatch:
            dispatch.submit([(0, 0), (1, 1)])
            ear.wait(1)
            for index in range(2, 12):
                dispatch.submit([(index, index)])
                ear.wait(index)
            assert len(slow.records()) == 1 and len(quick.records()) == 11


def test_an_engine_in_prefill_comes_after_one_that_decodes(tmp_path: Path) -> None:
    ear = Ear()
    with FakeServer(first_ms=60_000) as prefilling, FakeServer(ms_per_token=100) as decoding:
        with dispatcher(tmp_path, ear, prefilling, decoding) as dispatch:
            dispatch.submit([(0, 0), (1, 1)])
            for index in range(2, 10):
                ear.wait_for_first(index - 1)  # only then it weighs less than the other engine's
                dispatch.submit([(index, index)])
            ear.wait_for_first(9)
            assert len(prefilling.records()) == 1 and len(decoding.records()) == 9


@pytest.mark.parametrize("later", [False, True])
def test_requests_in_prefill_are_shared_by_speed(tmp_path: Path, later: bool) -> None:
    ear = Ear()
    speeds = {"engine0": 40.0, "engine1": 20.0}
    with FakeServer(first_ms=60_000) as fast, FakeServer(first_ms=60_000) as slow:
        with dispatcher(tmp_path, ear, fast, slow, speeds=None if later else speeds) as dispatch:
            if later:
                dispatch.set_speeds(speeds)
            dispatch.submit([(index, index) for index in range(18)])
            deadline = time.monotonic() + 20
            while dispatch.in_flight < 18 or len(fast.records()) + len(slow.records()) < 18:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            assert len(fast.records()) == 12 and len(slow.records()) == 6


def test_a_failure_before_the_first_token_removes_its_weight(tmp_path: Path) -> None:
    ear = Ear()
    with FakeServer(faults={"http500": 2}) as bad, FakeServer(tokens=2) as good:
        with dispatcher(tmp_path, ear, bad, good) as dispatch:
            for index in range(12):  # one at a time: both are idle at each choice
                dispatch.submit([(index, index)])
                ear.wait(index + 1)
        assert len(ear.failed) == 3
        assert len(bad.records()) == len(good.records()) == 6


def test_an_engine_gets_no_more_than_its_limit_and_samples_wait_in_order(tmp_path: Path) -> None:
    ear = Ear()
    with FakeServer(ms_per_token=2, tokens=10) as server:
        with dispatcher(tmp_path, ear, server, max_in_flight=3) as dispatch:
            dispatch.submit([(index, index) for index in range(30)])
            dispatch.submit([(index, index) for index in range(30, 60)])
            ear.wait(60)
        records = server.records()
    expected = [hash(tuple(prompt)) for prompt in prompts()[:60]]
    for start in range(0, 60, 3):  # what is sent at once may arrive in any order
        assert {r["prompt"] for r in records[start : start + 3]} <= set(expected[max(0, start - 3) : start + 6])
    ends = sorted((record["last_s"], -1) for record in records) + sorted((record["arrived_s"], 1) for record in records)
    running, most = 0, 0
    for _, change in sorted(ends):
        running += change
        most = max(most, running)
    assert most == 3


def test_thousands_are_in_flight_at_once(tmp_path: Path) -> None:
    ear = Ear()
    with FakeServer(first_ms=14_000, tokens=2, slots=4000) as server:
        with dispatcher(tmp_path, ear, server, max_in_flight=2000) as dispatch:
            dispatch.submit([(index, index % 120) for index in range(2500)])
            most, deadline = 0, time.monotonic() + 13.0
            while most < 2000 and time.monotonic() < deadline:
                most = max(most, dispatch.in_flight)
                time.sleep(0.01)
            assert most == 2000
            time.sleep(0.5)  # for more than may be sent, if the limit did not hold
            assert dispatch.in_flight == 2000
            server.set(first_ms=0)  # for the rest
            ear.wait(2500)
    assert not ear.failed and len(ear.done) == 2500


def test_the_faster_engine_gets_more(tmp_path: Path) -> None:
    ear = Ear()
    with (
        FakeServer(ms_per_token=15, tokens=10, slots=4) as fast,
        FakeServer(ms_per_token=15, tokens=10, slots=4, speed=0.25) as slow,
    ):
        with dispatcher(tmp_path, ear, fast, slow, max_in_flight=4) as dispatch:
            dispatch.submit([(index, index % 120) for index in range(150)])
            ear.wait(150)
    share = Counter(engine for _, engine, _ in ear.done.values())
    assert share["engine0"] > share["engine1"] > 0


def test_failures_name_their_engine_and_other_samples_continue(tmp_path: Path) -> None:
    ear = Ear()
    with FakeServer(faults={"http500": 5}) as bad, FakeServer() as good:
        with dispatcher(tmp_path, ear, bad, good, max_in_flight=4) as dispatch:
            dispatch.submit([(index, index % 120) for index in range(200)])
            ear.wait(200)
            failed = [record for record in bad.records() if record["fault"]]
    assert ear.failed and len(ear.failed) == len(failed)
    assert {engine for _, engine, _ in ear.failed.values()} == {"engine0"}
    assert all(reason.startswith("HTTP 500") for _, _, reason in ear.failed.values())
    assert len(ear.done) == 200 - len(ear.failed)


def test_an_exception_in_a_listener_is_reported(tmp_path: Path) -> None:
    class Deaf(Ear):
        def on_done(self, key: Hashable, sample: int, engine: str, answer: Answer) -> None:
            raise ValueError("a defect")

    ear = Deaf()
    with FakeServer() as server, dispatcher(tmp_path, ear, server) as dispatch:
        dispatch.submit([(0, 0)])
        deadline = time.monotonic() + 30
        while not ear.crashes and time.monotonic() < deadline:
            time.sleep(0.01)
    assert "a defect" in ear.crashes[0]
    assert not ear.failed


def test_a_start_that_fails_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(self: Client, count: int) -> None:
        raise ValueError("a defect")

    monkeypatch.setattr(Client, "open", broken)
    with FakeServer() as server, pytest.raises(RunFailed, match="cannot connect to the engines: a defect"):
        with dispatcher(tmp_path, Ear(), server):
            raise AssertionError("it has started")


def test_a_start_waits_for_connections_for_a_limited_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def silent(self: Client) -> None:
        await asyncio.sleep(3600)

    monkeypatch.setattr(Client, "_open_idle", silent)
    monkeypatch.setattr(client_module, "_OPENING_S", 0.1)
    ear = Ear()
    with FakeServer() as server, dispatcher(tmp_path, ear, server) as dispatch:
        dispatch.submit([(0, 0)])
        ear.wait(1)
    assert list(ear.done) == [0]


def test_a_start_that_never_ends_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang(client: Client, count: int) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(Client, "open", hang)
    monkeypatch.setattr(dispatch, "_START_S", 0.2)
    with (
        FakeServer() as server,
        pytest.raises(RunFailed, match=r"could not connect to the engines \(a\) within 0.2 s"),
    ):
        engine = EngineRef(name="a", url=server.url)
        with Dispatcher([engine], prompts(1), Ear(), vocab_size=VOCABULARY, seed=1, timeout_s=5):
            pass


def test_an_address_that_is_not_an_openai_server_is_refused() -> None:
    with FakeServer(website=True) as server:
        engine = EngineRef(name="a", url=server.url)
        with pytest.raises(BadInput, match=r"/v1/models answered 200 text/html instead of JSON .*'<html>"):
            Dispatcher([engine], [[1]], Ear(), vocab_size=9, seed=1, timeout_s=1)
    with pytest.raises(NotReady, match=r"no server answers at .*start the server"):
        Dispatcher([engine], [[1]], Ear(), vocab_size=9, seed=1, timeout_s=1)


@pytest.mark.parametrize("speeds", [{"engine0": 3.0}, {"engine0": 3.0, "engine1": 0.0}])
def test_speeds_must_be_known_of_every_engine(tmp_path: Path, speeds: dict[str, float]) -> None:
    with FakeServer() as one, FakeServer() as two:
        with pytest.raises(BadInput, match=r"speeds = .*: engine1 must have one above 0; give one for every engine"):
            with dispatcher(tmp_path, Ear(), one, two, speeds=speeds):
                pass
