"""HTTP client of one engine: a prebuilt body in, checked token ids out, over kept-alive connections on one uvloop.

It knows nothing of scheduling: the caller says how many requests are in flight. Per streamed chunk the only Python that
runs is `_Connection.data_received`; ids are parsed once, and only the first token's arrival is stamped.
"""

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

import httptools

from harness.load.stream import answered_ids, excerpt, first_ids

_SETTLED_PER_TURN = 4


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete, checked answer: 1 to 128 ids and its `perf_counter` stamps in seconds."""

    token_ids: list[int]
    sent_s: float
    first_s: float
    last_s: float


@dataclass(slots=True, eq=False)
class Request:
    """One completion to fetch; its callbacks run on the client's loop.

    `on_first` gets the ids of the first chunk that holds a token. `on_over` says that the engine is through with the
    request, well or not; exactly one of `on_done` and `on_failed` (with the reason) follows it.
    """

    body: bytes
    on_first: Callable[[list[int]], None]
    on_over: Callable[[], None]
    on_done: Callable[[Answer], None]
    on_failed: Callable[[str], None]
    sent_s: float = 0.0
    resent: bool = False
    deadline: asyncio.TimerHandle | None = None
    carrier: "_Connection | asyncio.Task[None] | None" = None


class Client:
    """Connections to one engine. All methods are called on the running loop it was made on.

    Args:
        url: base address, `http://host:port`.
        vocab_size: an answered id must lie in [0, vocab_size).
        timeout_s: longest time from sending a request to the end of its answer, connecting included.
    """

    def __init__(self, url: str, vocab_size: int, timeout_s: float) -> None:
        parts = urlsplit(url)
        self.url, self.vocab_size, self.timeout_s = url, vocab_size, timeout_s
        self._tls = True if parts.scheme == "https" else None
        self._host, self._port = parts.hostname or "", parts.port or (443 if self._tls else 80)
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
        self.head = head.encode() + b"Content-Length: %d\r\n\r\n"
        self.idle: list[_Connection] = []
        self._ended: deque[tuple[Request, list[bytes], float, float]] = deque()
        self._loop = asyncio.get_running_loop()

    async def open(self, count: int) -> None:
        """Make connections before they are needed; those that cannot be made are left to `send`, which reports it."""
        for made in await asyncio.gather(*(self._dial() for _ in range(count)), return_exceptions=True):
            if isinstance(made, _Connection):
                made.rest()

    def send(self, request: Request) -> None:
        """Send a request now; its callbacks come in a later turn of the loop."""
        request.sent_s = perf_counter()
        request.deadline = self._loop.call_later(self.timeout_s, self._expire, request)
        if self.idle:
            self.idle.pop().carry(request)
        else:
            self._connect(request)

    async def _dial(self) -> "_Connection":
        _, connection = await self._loop.create_connection(
            lambda: _Connection(self), self._host, self._port, ssl=self._tls
        )
        return connection

    def _connect(self, request: Request) -> None:
        request.carrier = self._loop.create_task(self._open(request))

    async def _open(self, request: Request) -> None:
        try:
            connection = await self._dial()
        except OSError as error:
            self.failed(request, f"cannot connect to {self.url}: {_said(error)}")
        else:
            connection.carry(request)

    def _expire(self, request: Request) -> None:
        reason = f"no complete answer within {self.timeout_s:g} s"
        if isinstance(request.carrier, _Connection):
            request.carrier.fail(reason)
        elif request.carrier:
            request.carrier.cancel()
            self.failed(request, f"{reason}: not even connected to {self.url}")

    def ended(self, request: Request, stream: list[bytes], first_s: float, last_s: float) -> None:
        """A connection hands over a whole stream.

        Reading it takes longer than anything else here. Many answers may end at once: the engine's next requests go
        out and first tokens are stamped between them, so streams are read a few per turn of the loop.
        """
        if request.deadline:
            request.deadline.cancel()
        if not self._ended:
            self._loop.call_soon(self._settle)
        self._ended.append((request, stream, first_s, last_s))
        request.on_over()

    def _settle(self) -> None:
        for _ in range(min(_SETTLED_PER_TURN, len(self._ended))):
            request, stream, first_s, last_s = self._ended.popleft()
            try:
                ids = answered_ids(b"".join(stream), self.vocab_size)
            except ValueError as error:
                request.on_failed(str(error))
            else:
                request.on_done(Answer(ids, request.sent_s, first_s, last_s))
        if self._ended:
            self._loop.call_soon(self._settle)

    def failed(self, request: Request, reason: str) -> None:
        """A connection gives a request up."""
        if request.deadline:
            request.deadline.cancel()
        request.on_over()
        request.on_failed(reason)

    def closed_early(self, request: Request, unanswered: bool) -> None:
        """A connection was closed under a request.

        `unanswered`: it had been idle before and gave no byte for this one. Servers close idle connections at
        any time, also just as a request is written; nothing of an answer was seen, so sending it once more on a fresh
        connection hides no failure of the engine. `sent_s` stays: the detour counts as latency.
        """
        if unanswered and not request.resent:
            request.resent = True
            self._connect(request)
        else:
            self.failed(request, f"{self.url} closed the connection before the answer was complete")


class _Connection(asyncio.Protocol):
    """One kept-alive connection, carrying one request at a time."""

    _transport: Any

    def __init__(self, client: Client) -> None:
        self._client = client
        self._parts: list[bytes] = []
        # httptools looks its callbacks up once and calls this one for each piece of the body: list.append is no Python.
        self.on_body = self._parts.append
        self._parser = httptools.HttpResponseParser(self)
        self._request: Request | None = None
        self._rested = False
        self._reset()

    def _reset(self) -> None:
        self._parts.clear()
        self._kind = b""
        self._answered = self._complete = self._kept_alive = False
        self._first_s: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def carry(self, request: Request) -> None:
        """Write a request; the connection is idle."""
        if self._transport.is_closing():
            self._client.closed_early(request, unanswered=self._rested)
            return
        self._reset()
        self._request, request.carrier = request, self
        self._transport.writelines((self._client.head % len(request.body), request.body))

    def on_message_begin(self) -> None:
        self._answered = True

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"content-type":
            self._kind = value

    def on_message_complete(self) -> None:
        self._complete = True
        self._kept_alive = self._parser.should_keep_alive()  # the parser knows only now

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.fail(f"the answer is not HTTP: {error}")
            return
        if self._first_s is None or self._complete:
            self._advance(perf_counter())

    def _advance(self, now: float) -> None:
        """Act on the first token or the end of the answer, which arrived at `now`."""
        request = self._request
        if request is None:
            self.fail("data without a request")
            return
        streaming = self._is_stream()
        if self._first_s is None and streaming and (ids := first_ids(b"".join(self._parts))):
            self._first_s = now
            request.on_first(ids)
        if not self._complete:
            return
        if streaming:
            self._free()
            self._client.ended(request, self._parts[:], self._first_s or now, now)
        else:
            said = excerpt(b"".join(self._parts))
            self.fail(f"HTTP {self._parser.get_status_code()}, {self._kind.decode('latin-1')}: {said}")

    def _free(self) -> None:
        self._request = None
        if self._kept_alive:
            self.rest()
        else:
            self._transport.close()

    def rest(self) -> None:
        """Be idle until the next request."""
        self._rested = True
        self._client.idle.append(self)

    def _is_stream(self) -> bool:
        return self._parser.get_status_code() == 200 and self._kind.startswith(b"text/event-stream")

    def fail(self, reason: str) -> None:
        """Give up the request and, since its state is unknown, the connection."""
        request, self._request = self._request, None
        self._transport.abort()
        if request:
            self._client.failed(request, reason)

    def connection_lost(self, exc: Exception | None) -> None:
        if self in self._client.idle:
            self._client.idle.remove(self)
        request, self._request = self._request, None
        if request:
            self._client.closed_early(request, unanswered=self._rested and not self._answered)


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__
