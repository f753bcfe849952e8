"""Engines that are lost while others live: whose samples go where, what is counted, and how an engine comes back."""

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from harness.errors import BadInput
from harness.load import engine_guard
from harness.load.client import Client
from harness.load.connection import Connection
from harness.load.dispatch import Dispatcher
from harness.load.engine_guard import EngineLoss
from harness.node import probe
from tests.engines import free_port
from tests.fake_server import FakeServer, answer
from tests.unit.load import VOCABULARY, make_spec, prompts
from tests.unit.test_dispatch import Ear

SILENCE_S = 1.0


@pytest.fixture(autouse=True)
def _ask_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_guard, "_RETURN_S", 0.05)
    monkeypatch.setattr(engine_guard, "_DYING_S", 0.1)


@contextmanager
def dispatcher(folder: Path, ear: Ear, *servers: FakeServer, silence_s: float = SILENCE_S) -> Iterator[Dispatcher]:
    engines = make_spec(folder, *servers, max_in_flight=40).engines
    with Dispatcher(engines, prompts(), ear, vocab_size=VOCABULARY, seed=42, timeout_s=60, silence_s=silence_s) as made:
        yield made


def until(holds: Callable[[], object], what: Any = "") -> None:
    """Wait until it holds."""
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def all_answered(ear: Ear, count: int, server: FakeServer) -> None:
    """Every sample has its own answer, once, and its first token was heard once, as `Ear` asserts."""
    settings = server.set()
    assert not ear.failed and not ear.crashes
    assert len(ear.done) == count and ear.firsts == set(ear.done)
    for key, (sample, _, got) in ear.done.items():
        assert key == sample and got.token_ids == answer(prompts()[sample], settings)
        assert got.sent_s <= got.first_s <= got.last_s


def only(losses: list[EngineLoss]) -> EngineLoss:
    (loss,) = losses
    return loss


def test_the_samples_of_an_engine_that_is_killed_go_to_the_others(tmp_path: Path) -> None:
    """Fault: an engine is killed in the middle of its answers."""
    ear = Ear()
    with FakeServer(ms_per_token=20, tokens=40) as lives, FakeServer(ms_per_token=20, tokens=40) as dies:
        with dispatcher(tmp_path, ear, lives, dies) as made:
            made.submit([(index, index) for index in range(60)])
            until(lambda: len(ear.firsts) == 60)
            dies.process.kill()
            ear.wait(60)
            loss = only(made.losses)
        all_answered(ear, 60, lives)
    assert (loss.engine, loss.node, loss.moved, loss.rejoined_s) == ("engine1", "localhost", 30, None)
    assert "closed the connection before the answer was complete; no answer at /health: " in loss.reason
    moved = [(engine, got) for _, engine, got in ear.done.values() if got.moved]
    assert (
        len(moved) == 30 and {got.moved for _, got in moved} == {1} and {engine for engine, _ in moved} == {"engine0"}
    )
    # The first token that was heard counts, though the whole answer is the other engine's.
    assert all(got.first_s < loss.lost_s < got.last_s for _, got in moved)


def test_an_engine_that_refuses_connections_is_gone_on_without(tmp_path: Path) -> None:
    """Fault: connections are refused, since an engine died while it had nothing to do."""
    ear = Ear()
    with FakeServer(tokens=4) as lives, FakeServer() as dies:
        with dispatcher(tmp_path, ear, lives, dies) as made:
            dies.process.kill()
            dies.process.wait()
            made.submit([(index, index) for index in range(100)])
            ear.wait(100)
            assert "cannot connect" in only(made.losses).reason
        all_answered(ear, 100, lives)
    assert all(engine == "engine0" for _, engine, _ in ear.done.values())


def test_a_silent_engine_is_lost_and_takes_part_again_once_it_answers(tmp_path: Path) -> None:
    """Fault: an engine stands still, and goes on later: its late answers count nowhere."""
    ear = Ear()
    with FakeServer(ms_per_token=10, tokens=40) as lives, FakeServer(ms_per_token=10, tokens=40) as stops:
        with dispatcher(tmp_path, ear, lives, stops) as made:
            made.submit([(index, index) for index in range(60)])
            until(lambda: len(ear.firsts) == 60)
            os.kill(stops.pid, signal.SIGSTOP)
            ear.wait(60)
            loss = only(made.losses)
            assert loss.moved == 30 and loss.rejoined_s is None
            assert loss.reason.startswith("no byte of 30 answers for 1 s while other engines answered")
            os.kill(stops.pid, signal.SIGCONT)
            until(lambda: loss.rejoined_s is not None)
            made.submit([(index, index) for index in range(60, 100)])
            ear.wait(100)
            assert made.in_flight == 0 and len(made.losses) == 1
        all_answered(ear, 100, lives)
    later = [engine for sample, engine, _ in ear.done.values() if sample >= 60]
    assert sorted(set(later)) == ["engine0", "engine1"]


def test_a_silent_engine_is_lost_before_its_requests_take_too_long(tmp_path: Path) -> None:
    """Fault: an engine hangs though its server still answers elsewhere; the time limit of a request is short."""
    ear = Ear()
    with FakeServer(ms_per_token=10, tokens=40) as lives, FakeServer(tokens=40, faults={"hang": 1}) as hangs:
        engines = make_spec(tmp_path, lives, hangs, max_in_flight=40).engines
        limits = {"vocab_size": VOCABULARY, "seed": 42, "timeout_s": 2.0, "silence_s": 60.0}
        with Dispatcher(engines, prompts(), ear, **limits) as made:
            made.submit([(index, index) for index in range(40)])
            ear.wait(40)
            assert only(made.losses).moved == 20
        assert not ear.failed and len(ear.done) == 40


def test_a_pause_shorter_than_the_limit_is_no_loss(tmp_path: Path) -> None:
    """Fault: an engine stands still for a while."""
    ear = Ear()
    with FakeServer(ms_per_token=10, tokens=40) as lives, FakeServer(ms_per_token=10, tokens=40) as stops:
        with dispatcher(tmp_path, ear, lives, stops, silence_s=20) as made:
            made.submit([(index, index) for index in range(40)])
            until(lambda: len(ear.firsts) == 40)
            os.kill(stops.pid, signal.SIGSTOP)
            ear.wait(20)
            time.sleep(0.5)
            os.kill(stops.pid, signal.SIGCONT)
            ear.wait(40)
            assert not made.losses
        all_answered(ear, 40, lives)
    assert not any(got.moved for _, _, got in ear.done.values())


def test_engines_that_are_all_silent_are_not_lost(tmp_path: Path) -> None:
    ear = Ear()
    with FakeServer(first_ms=3000, tokens=2) as one, FakeServer(first_ms=3000, tokens=2) as two:
        with dispatcher(tmp_path, ear, one, two) as made:
            made.submit([(index, index) for index in range(20)])
            ear.wait(20)
            assert not made.losses


def test_an_engine_that_hangs_is_in_doubt_before_it_is_lost(tmp_path: Path) -> None:
    """Fault: an engine hangs; a run that finds its samples late must not take that for too high a rate."""
    ear = Ear()
    with FakeServer(ms_per_token=20, tokens=40) as lives, FakeServer(faults={"hang": 1}) as hangs:
        with dispatcher(tmp_path, ear, lives, hangs, silence_s=20) as made:
            assert not made.in_doubt
            made.submit([(index, index) for index in range(2)])
            until(lambda: made.in_doubt)
            silent_s = max(lane.unheard_s for lane in made._lanes)
            assert silent_s >= 2, "a busy machine stops engines for more than a second"
            assert not made.losses


def test_an_idle_engine_that_is_as_silent_as_the_busy_one_is_no_proof_of_a_loss(tmp_path: Path) -> None:
    """Fault: the network to all engines is away for a while, and only one of them has something to do."""
    ear = Ear()
    with FakeServer(ms_per_token=20, tokens=40) as busy, FakeServer() as idle:
        with dispatcher(tmp_path, ear, busy, idle) as made:
            made.submit([(0, 0)])
            until(lambda: ear.firsts)
            for server in (busy, idle):
                os.kill(server.pid, signal.SIGSTOP)
            time.sleep(3 * SILENCE_S)
            assert not made.losses
            for server in (busy, idle):
                os.kill(server.pid, signal.SIGCONT)
            ear.wait(1)
        all_answered(ear, 1, busy)


def test_an_engine_whose_server_seems_well_for_a_moment_as_it_dies_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault: an engine dies, and its server says only a little later that it is not well."""
    ear, looks = Ear(), 0

    def health(url: str) -> str | None:
        nonlocal looks
        looks += url == dies.url
        return "/health answered 503" if url == dies.url and looks > 2 else None

    monkeypatch.setattr(engine_guard, "_DYING_S", 2.5)
    monkeypatch.setattr("harness.node.probe.health_problem", health)
    with FakeServer(tokens=4) as lives, FakeServer(faults={"http500": 1}) as dies:
        with dispatcher(tmp_path, ear, lives, dies) as made:
            made.submit([(index, index) for index in range(20)])
            ear.wait(20)
            assert only(made.losses).reason.endswith("; /health answered 503")
        all_answered(ear, 20, lives)


def test_a_sample_that_fails_on_an_engine_that_is_well_fails_for_good(tmp_path: Path) -> None:
    """Fault: an engine answers HTTP 500 at times, and lives."""
    ear = Ear()
    with FakeServer(tokens=4) as good, FakeServer(tokens=4, faults={"http500": 5}) as bad:
        with dispatcher(tmp_path, ear, good, bad) as made:
            for index in range(60):
                made.submit([(index, index)])
                ear.wait(index + 1)
            assert not made.losses
    assert len(ear.failed) >= 3 and len(ear.done) == 60 - len(ear.failed)
    assert {engine for _, engine, _ in ear.failed.values()} == {"engine1"}
    assert all(reason.startswith("HTTP 500") for _, _, reason in ear.failed.values())
    assert sum(engine == "engine1" for _, engine, _ in ear.done.values()) > 12  # it is used on


def test_without_any_engine_every_sample_fails_and_the_reason_names_all(tmp_path: Path) -> None:
    """Fault: the last engine dies too."""
    ear = Ear()
    with FakeServer(first_ms=60_000) as one, FakeServer(first_ms=60_000) as two:
        with dispatcher(tmp_path, ear, one, two) as made:
            made.submit([(index, index) for index in range(100)])  # more than both take at once
            until(lambda: made.in_flight == 80)
            one.process.kill()
            until(lambda: len(made.losses) == 1)
            two.process.kill()
            ear.wait(100)
            made.submit([(100, 100)])
            ear.wait(101)
            assert [loss.engine for loss in made.losses] == ["engine0", "engine1"]
    assert len(ear.failed) == 101 and not ear.done
    for _, _, reason in ear.failed.values():
        assert re.match(r"no engine is left: engine0: .*http://.*; no answer at /health.*; engine1: .*http://", reason)


def test_an_engine_that_is_started_again_joins_again(tmp_path: Path) -> None:
    """Fault: an engine dies and is started again, by its supervisor."""
    ear, port = Ear(), free_port()
    with FakeServer(ms_per_token=2, tokens=10) as lives:
        with FakeServer(port, ms_per_token=2, tokens=10) as dies:
            with dispatcher(tmp_path, ear, lives, dies) as made:
                made.submit([(index, index) for index in range(40)])
                dies.process.kill()
                ear.wait(40)
                loss = only(made.losses)
                with FakeServer(port, tokens=10, model="another"):
                    until(lambda: loss.reason.endswith("; came back as another: another of vLLM 0.32.0"))
                    time.sleep(0.3)
                    assert loss.rejoined_s is None and loss.reason.count("another:") == 1
                with FakeServer(port, ms_per_token=2, tokens=10):
                    until(lambda: loss.rejoined_s is not None)
                    made.submit([(index, index) for index in range(40, 80)])
                    ear.wait(80)
        all_answered(ear, 80, lives)
    assert {engine for sample, engine, _ in ear.done.values() if sample >= 40} == {"engine0", "engine1"}


def test_a_run_begins_without_an_engine_that_is_away_and_takes_it_in_later(tmp_path: Path) -> None:
    """Fault: an engine was lost before the run, as between performance and accuracy."""
    ear, port = Ear(), free_port()
    with FakeServer(tokens=10) as lives, FakeServer(port, tokens=10) as away:
        away.process.kill()
        away.process.wait()
        with dispatcher(tmp_path, ear, lives, away) as made:
            loss = only(made.losses)
            assert loss.moved == 0 and loss.reason.startswith("no server answers at ")
            made.submit([(index, index) for index in range(40)])
            ear.wait(40)
            with FakeServer(port, tokens=10):
                until(lambda: loss.rejoined_s is not None)
                made.submit([(index, index) for index in range(40, 80)])
                ear.wait(80)
        all_answered(ear, 80, lives)
    assert {engine for sample, engine, _ in ear.done.values() if sample < 40} == {"engine0"}
    assert {engine for sample, engine, _ in ear.done.values() if sample >= 40} == {"engine0", "engine1"}


def test_a_server_with_another_version_of_vllm_does_not_take_the_place_of_a_lost_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault: the engine of another benchmark is started at the address of a lost one."""
    ear, port, version = Ear(), free_port(), probe.vllm_version
    with FakeServer(tokens=4) as lives, FakeServer(port, tokens=4) as dies:
        with dispatcher(tmp_path, ear, lives, dies) as made:
            dies.process.kill()
            dies.process.wait()
            made.submit([(index, index) for index in range(10)])
            ear.wait(10)
            loss = only(made.losses)
            monkeypatch.setattr(probe, "vllm_version", lambda url: "0.31.0")
            with FakeServer(port, tokens=4):
                until(lambda: loss.reason.endswith("; came back as another: fake of vLLM 0.31.0"))
                assert loss.rejoined_s is None
                monkeypatch.setattr(probe, "vllm_version", version)
                until(lambda: loss.rejoined_s is not None)


def test_a_run_begins_without_an_engine_of_which_only_a_proxy_is_left(tmp_path: Path) -> None:
    """Fault: something in front of a lost engine answers with a page of its own."""
    ear = Ear()
    with FakeServer(tokens=4) as lives, FakeServer(website=True) as proxy:
        with dispatcher(tmp_path, ear, lives, proxy) as made:
            made.submit([(index, index) for index in range(10)])
            ear.wait(10)
            assert "instead of JSON" in only(made.losses).reason
        all_answered(ear, 10, lives)
        with pytest.raises(BadInput, match="instead of JSON"), dispatcher(tmp_path, ear, proxy, proxy):
            pass


def test_requests_sent_again_on_a_new_connection_are_counted(tmp_path: Path) -> None:
    """Fault: a server closes kept-alive connections as a request comes."""
    ear = Ear()
    with FakeServer(tokens=4) as one, FakeServer(tokens=4, faults={"drop": 3}) as two:
        with dispatcher(tmp_path, ear, one, two) as made:
            for index in range(30):
                made.submit([(index, index)])
                ear.wait(index + 1)
            dropped = [record for record in two.records() if record["fault"]]
            assert made.resent == {"engine1": len(dropped)} and len(dropped) > 3
            assert not made.losses
        all_answered(ear, 30, one)


def test_samples_that_an_engine_that_is_well_refuses_go_to_the_other_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault: an engine answers on its connections and accepts no new one, as with too few open files."""
    ear, create, refused = Ear(), Client._create_connection, 0

    async def refuse(self: Client) -> Connection:
        nonlocal refused
        if self.url == two.url:
            refused += 1
            raise ConnectionRefusedError(111, "Connection refused")
        return await create(self)

    with FakeServer(first_ms=50, tokens=4) as one, FakeServer(first_ms=50, tokens=4) as two:
        with dispatcher(tmp_path, ear, one, two) as made:
            monkeypatch.setattr(Client, "_create_connection", refuse)
            made._loop.call_soon_threadsafe(made._lanes[1].client.close)
            made.submit([(index, index) for index in range(80)])
            ear.wait(80)
            assert made.resent == {"engine1": refused} and refused > 1 and not made.losses
        all_answered(ear, 80, one)
    assert {engine for _, engine, _ in ear.done.values()} == {"engine0"}


def test_a_sample_that_all_engines_refuse_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fault: no engine accepts a connection, though all are well."""
    ear, refusals = Ear(), []

    async def refuse(self: Client) -> Connection:
        refusals.append(self.url)
        raise ConnectionRefusedError(111, "Connection refused")

    with FakeServer() as one, FakeServer() as two:
        with dispatcher(tmp_path, ear, one, two) as made:
            monkeypatch.setattr(Client, "_create_connection", refuse)
            for lane in made._lanes:
                made._loop.call_soon_threadsafe(lane.client.close)
            made.submit([(0, 0)])
            ear.wait(1)
            assert not made.losses
    assert sorted(refusals) == sorted([one.url, two.url])
    (failure,) = ear.failed.values()
    assert "cannot connect" in failure[2]


def test_a_refused_connection_of_an_engine_that_is_well_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault: a connection is refused for a moment."""
    ear, create, refused = Ear(), Client._create_connection, []

    async def refuse_once(self: Client) -> Connection:
        if self.url == two.url and not refused:
            refused.append(self.url)
            raise ConnectionRefusedError(111, "Connection refused")
        return await create(self)

    with FakeServer(first_ms=50, tokens=4) as one, FakeServer(first_ms=50, tokens=4) as two:
        with dispatcher(tmp_path, ear, one, two) as made:
            monkeypatch.setattr(Client, "_create_connection", refuse_once)
            made._loop.call_soon_threadsafe(made._lanes[1].client.close)  # so that new ones are needed
            made.submit([(index, index) for index in range(80)])
            ear.wait(80)
            assert refused and made.resent == {"engine1": 1} and not made.losses
        all_answered(ear, 80, one)


def test_an_engine_that_refuses_even_a_look_for_a_moment_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault: all connections are refused for a moment, by an engine that answers on those that it has."""
    monkeypatch.setattr(engine_guard, "_DYING_S", 10)
    ear = Ear()
    with FakeServer(first_ms=50, tokens=4) as one, FakeServer(first_ms=50, tokens=4) as two:
        with dispatcher(tmp_path, ear, one, two) as made:
            two.refuse(1.0)
            made.submit([(index, index) for index in range(120)])
            ear.wait(120)
            assert made.resent["engine1"] > 0 and not made.losses
        all_answered(ear, 120, one)
        assert "engine1" in {engine for _, engine, _ in ear.done.values()}
