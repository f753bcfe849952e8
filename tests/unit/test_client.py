"""The HTTP client with every fault of the fake server."""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvloop

from harness.load.answer import Answer
from harness.load.client import Client, Dials, Request
from harness.load.stream import request_body
from tests.fake_server import FakeServer, Settings, answer
from tests.unit.load import VOCABULARY, prompts

PROMPTS = prompts(40)


@dataclass
class Result:
    """The result of one request."""

    request: Request
    first: list[int] = field(default_factory=list)
    answer: Answer | None = None
    reason: str | None = None


class Caller:
    """Sends prompts and waits for the answers."""

    def __init__(self, url: str, timeout_s: float = 20, dials: Dials | None = None) -> None:
        self.client = Client(url, VOCABULARY, timeout_s, dials)

    async def ask(self, *indices: int) -> list[Result]:
        """Send these prompts at once."""
        return list(await asyncio.gather(*(self._one(index) for index in indices)))

    async def _one(self, index: int) -> Result:
        over = asyncio.get_running_loop().create_future()

        def on_end(answer: Answer) -> None:
            result.answer = answer
            over.set_result(None)

        def failed(reason: str) -> None:
            result.reason = reason
            over.set_result(None)

        request = Request(
            request_body("fake", PROMPTS[index], 42), lambda ids: result.first.extend(ids), lambda: None, on_end, failed
        )
        result = Result(request)
        self.client.send(request)
        await over
        return result


@pytest.fixture(scope="module")
def running() -> Iterator[FakeServer]:
    with FakeServer() as server:
        yield server


@pytest.fixture
def server(running: FakeServer) -> FakeServer:
    running.set(**vars(Settings()))
    running.reset()
    return running


def run(job: Callable[[], Awaitable[Any]]) -> Any:
    async def bounded() -> Any:
        async with asyncio.timeout(20):
            return await job()

    return uvloop.run(bounded())


def test_an_answer_holds_the_servers_ids_and_times(server: FakeServer) -> None:
    settings = server.set(ms_per_token=4, first_ms=50, tokens=40)

    async def job() -> list[Result]:
        return await Caller(server.url).ask(*range(5))

    records = {record["prompt"]: record for record in server.records()}
    for index, result in enumerate(run(job)):
        assert result.answer
        assert result.answer.token_ids == answer(PROMPTS[index], settings)
        assert result.first == result.answer.token_ids[:1]
    records = {record["prompt"]: record for record in server.records()}
    assert len(records) == 5


def test_times_are_taken_when_something_is_sent_or_comes(server: FakeServer) -> None:
    server.set(ms_per_token=10, first_ms=50, tokens=40)

    async def job() -> list[Result]:
        caller = Caller(server.url)
        return [(await caller.ask(index))[0] for index in range(3)]

    first_is_its_own = []
    for result, record in zip(run(job), server.records(), strict=True):
        answer = result.answer
        assert answer
        assert answer.sent_s <= record["arrived_s"]
        assert record["first_s"] <= answer.first_s
        assert record["last_s"] <= answer.last_s
        first_is_its_own.append(answer.first_s < record["last_s"])
    assert any(first_is_its_own)  # a busy machine may read a whole answer at once


@pytest.mark.parametrize("chunk", [1, 5, 128])
def test_any_number_of_tokens_per_chunk_and_any_pace(server: FakeServer, chunk: int) -> None:
    settings = server.set(tokens_per_chunk=chunk, ms_per_token=0.1 if chunk == 5 else 0)

    async def job() -> list[Result]:
        return await Caller(server.url).ask(0, 1)

    for index, result in enumerate(run(job)):
        assert result.answer and result.answer.token_ids == answer(PROMPTS[index], settings)
        assert result.first == result.answer.token_ids[:chunk]


def test_connections_are_kept_and_grow_to_what_is_in_flight(server: FakeServer) -> None:
    server.set(ms_per_token=1, tokens=20)

    async def job() -> None:
        caller = Caller(server.url)
        for index in range(6):
            await caller.ask(index)
        await caller.ask(*range(10, 18))
        await caller.ask(*range(20, 28))

    run(job)
    connections = [record["connection"] for record in server.records()]
    assert len(set(connections[:6])) == 1
    assert len(set(connections)) == 8


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("http500", 'HTTP 500, application/json: {"error":{"message":"fake failure"}}'),
        ("html", "HTTP 200, text/html: <html>"),
        ("hang", "no complete answer within 0.5 s"),
        ("drop", "closed the connection before the answer was complete"),
        ("truncate", "closed the connection before the answer was complete"),
        ("no_done", "without [DONE]"),
        ("no_finish", "finish_reason None"),
        ("no_ids", "without token_ids"),
        ("error_event", 'the engine reported an error: {"message":"fake failure"'),
        ("bad_id", "token id 1024 is outside the vocabulary of 1024 ids"),
        ("too_many", "129 tokens, not 1 to 128"),
        ("empty", "0 tokens, not 1 to 128"),
    ],
)
@pytest.mark.parametrize("pace_ms", [0, 0.2])
def test_a_fault_fails_its_sample_with_its_reason_and_no_other(
    server: FakeServer, fault: str, reason: str, pace_ms: float
) -> None:
    settings = server.set(faults={fault: 2}, ms_per_token=pace_ms)

    async def job() -> list[Result]:
        caller = Caller(server.url, timeout_s=0.5)
        good = await caller.ask(0)
        caller.client.idle.clear()  # a fresh connection: nothing may be sent twice
        return [*good, *await caller.ask(1), *await caller.ask(2)]

    before, bad, after = run(job)
    assert bad.answer is None and bad.reason and reason in bad.reason
    assert not bad.request.resent and len(server.records()) == 3
    for index, result in ((0, before), (2, after)):
        assert result.answer and result.answer.token_ids == answer(PROMPTS[index], settings)


def test_valid_answers_pass_whatever_their_content(server: FakeServer) -> None:
    async def job() -> list[Result]:
        return await Caller(server.url).ask(3)

    server.set(faults={"one_token": 1})
    (short,) = run(job)
    assert short.answer and len(short.answer.token_ids) == 1
    settings = server.set(faults={"after_end": 1})
    (beyond,) = run(job)
    assert beyond.answer and beyond.answer.token_ids.count(settings.end_token) == 1


def test_a_connection_closed_while_idle_costs_one_resend_and_no_sample(server: FakeServer) -> None:
    async def job() -> list[Result]:
        caller = Caller(server.url)
        first = await caller.ask(0)
        server.set(faults={"drop": 2})
        return first + await caller.ask(1)

    _, second = run(job)
    assert second.answer and second.request.resent
    assert len(server.records()) == 3


def test_a_second_drop_fails_the_sample(server: FakeServer) -> None:
    async def job() -> list[Result]:
        caller = Caller(server.url)
        await caller.ask(0)
        server.set(faults={"drop": 1})
        return await caller.ask(1)

    (result,) = run(job)
    assert result.answer is None and result.reason and "closed the connection" in result.reason
    assert len(server.records()) == 3


def test_a_server_that_closes_after_each_answer_loses_nothing(server: FakeServer) -> None:
    server.set(faults={"close": 1})

    async def job() -> list[Result]:
        caller = Caller(server.url)
        return [result for start in range(0, 40, 8) for result in await caller.ask(*range(start, start + 8))]

    assert all(result.answer for result in run(job))


def test_a_stopped_server_is_reported_at_once() -> None:
    with FakeServer() as stopped:
        url = stopped.url

    async def job() -> list[Result]:
        return await Caller(url).ask(0)

    started = time.monotonic()
    (result,) = run(job)
    assert result.reason and result.reason.startswith(f"cannot connect to {url}: ")
    assert time.monotonic() - started < 20


def test_a_request_for_whose_connection_the_listen_queue_had_no_room_is_sent_again(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault: a connection is open for the client alone, since the listen queue was full when its handshake ended."""
    monkeypatch.setattr("harness.load.connection._TAKEN_MS", 500)
    with socket.create_server(("127.0.0.1", 0)) as queue:
        queue.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 60)  # the handshake ends with the first request
        queue.listen(0)  # room for one

        async def job() -> tuple[list[Result], int]:
            caller = Caller(f"http://127.0.0.1:{queue.getsockname()[1]}")
            asked = asyncio.create_task(caller.ask(0, 1))
            while not caller.client.resent:
                await asyncio.sleep(0.01)
            serving = asyncio.create_task(_pass_on(queue, server))
            results = await asked
            serving.cancel()
            return results, caller.client.resent

        results, resent = run(job)
    assert all(result.answer for result in results) and resent == 1
    assert len(server.records()) == 2


async def _pass_on(queue: socket.socket, server: FakeServer) -> None:
    """Take connections and connect each to the server."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = server.url.removeprefix("http://").split(":")
        below, above = await asyncio.open_connection(host, int(port))
        await asyncio.gather(copy(reader, above), copy(below, writer))

    async with await asyncio.start_server(serve, sock=queue) as passing:
        await passing.serve_forever()


class CountingLoop:
    """An event loop that counts the connections that are being made."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop, self.dialing, self.most = loop, 0, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    async def create_connection(self, *args: Any, **more: Any) -> Any:
        self.dialing += 1
        self.most = max(self.most, self.dialing)
        try:
            return await self._loop.create_connection(*args, **more)
        finally:
            self.dialing -= 1


def test_many_requests_at_once_do_not_dial_all_at_once(server: FakeServer) -> None:
    """Fault: a burst of connections overflows the server's listen queue."""
    server.set(tokens=1, first_ms=20)

    async def job() -> tuple[list[Result], int]:
        dials, loop = Dials(), CountingLoop(asyncio.get_running_loop())
        callers = [Caller(server.url, dials=dials) for _ in range(2)]
        for caller in callers:
            caller.client._loop = loop  # type: ignore[assignment]
        asked = [caller.ask(*(index % len(PROMPTS) for index in range(300))) for caller in callers]
        first, second = await asyncio.gather(*asked)
        return [*first, *second], loop.most

    results, most = run(job)
    assert [result.reason for result in results] == [None] * 600
    assert most == 64
