"""HTTP client of one engine: takes prepared request bodies, returns validated token ids, over persistent connections.

The caller decides how many requests are in flight. The only Python code that runs per streamed chunk is
`_Connection.data_received`; ids are parsed once, and only the arrival of the first and the last token is timed.
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

from harness.load.answer import Answer
from harness.load.stream import answered_ids, excerpt, first_ids

_PARSED_PER_ITERATION = 4


@dataclass(slots=True, eq=False)
class Request:
    """One completion request; its callbacks run on the client's event loop.

    `on_first` gets the ids of the first chunk that has any. `on_over` is called when the engine has finished the
    request, successfully or not; then either `on_done` or `on_failed` (with the reason) is called.
    """

    body: bytes
    on_first: Callable[[list[int]], None]
    on_over: Callable[[], None]
    on_done: Callable[[Answer], None]
    on_failed: Callable[[str], None]
    sent_s: float = 0.0
    resent: bool = False
    deadline: asyncio.TimerHandle | None = None
    connection: "_Connection | asyncio.Task[None] | None" = None


class Client:
    """Connections to one engine. All methods must be called on the event loop on which it was created.

    Args:
        url: base URL, `http://host:port`.
        vocab_size: answered ids must be in [0, vocab_size).
        timeout_s: limit for one request, from sending (or connecting) to the end of the answer.
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
        """Open connections in advance; one that fails is retried, and reported, by `send`."""
        for result in await asyncio.gather(*(self._create_connection() for _ in range(count)), return_exceptions=True):
            if isinstance(result, _Connection):
                result.release()

    def send(self, request: Request) -> None:
        """Send a request; its callbacks are called in later iterations of the loop."""
        request.sent_s = perf_counter()
        request.deadline = self._loop.call_later(self.timeout_s, self._expire, request)
        if self.idle:
            self.idle.pop().send(request)
        else:
            self._connect(request)

    async def _create_connection(self) -> "_Connection":
        _, connection = await self._loop.create_connection(
            lambda: _Connection(self), self._host, self._port, ssl=self._tls
        )
        return connection

    def _connect(self, request: Request) -> None:
        request.connection = self._loop.create_task(self._open(request))

    async def _open(self, request: Request) -> None:
        try:
            connection = await self._create_connection()
        except OSError as error:
            self.failed(request, f"cannot connect to {self.url}: {str(error) or type(error).__name__}")
        else:
            connection.send(request)

    def _expire(self, request: Request) -> None:
        reason = f"no complete answer within {self.timeout_s:g} s"
        if isinstance(request.connection, _Connection):
            request.connection.fail(reason)
        elif request.connection:
            request.connection.cancel()
            self.failed(request, f"{reason}: not yet connected to {self.url}")

    def ended(self, request: Request, stream: list[bytes], first_s: float, last_s: float) -> None:
        """Called by a connection with a complete stream.

        Parsing it takes longer than anything else here, and many answers may end together. A few are parsed per
        iteration of the loop, so that the next requests are sent and first tokens timed in between.
        """
        if request.deadline:
            request.deadline.cancel()
        if not self._ended:
            self._loop.call_soon(self._parse_ended)
        self._ended.append((request, stream, first_s, last_s))
        request.on_over()

    def _parse_ended(self) -> None:
        for _ in range(min(_PARSED_PER_ITERATION, len(self._ended))):
            request, stream, first_s, last_s = self._ended.popleft()
            try:
                ids = answered_ids(b"".join(stream), self.vocab_size)
            except ValueError as error:
                request.on_failed(str(error))
            else:
                request.on_done(Answer(ids, request.sent_s, first_s, last_s))
        if self._ended:
            self._loop.call_soon(self._parse_ended)

    def failed(self, request: Request, reason: str) -> None:
        """Called by a connection with a failed request."""
        if request.deadline:
            request.deadline.cancel()
        request.on_over()
        request.on_failed(reason)

    def closed_early(self, request: Request, unanswered: bool) -> None:
        """Called when a connection was closed during a request.

        `unanswered` means that the connection had been idle before and returned nothing for this request. Servers close
        idle connections at any time, also just as a request is written. Sending it again on a new connection then hides
        no failure of the engine; `sent_s` is kept, so the delay counts as latency.
        """
        if unanswered and not request.resent:
            request.resent = True
            self._connect(request)
        else:
            self.failed(request, f"{self.url} closed the connection before the answer was complete")


class _Connection(asyncio.Protocol):
    """One persistent connection, with one request at a time."""

    _transport: Any

    def __init__(self, client: Client) -> None:
        self._client = client
        self._parts: list[bytes] = []
        # httptools calls this for each piece of the body; list.append runs no Python code.
        self.on_body = self._parts.append
        self._parser = httptools.HttpResponseParser(self)
        self._request: Request | None = None
        self._was_idle = False
        self._reset()

    def _reset(self) -> None:
        self._parts.clear()
        self._content_type = b""
        self._answered = self._complete = self._keep_alive = False
        self._first_s: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, request: Request) -> None:
        """Write a request; the connection must be idle."""
        if self._transport.is_closing():
            self._client.closed_early(request, unanswered=self._was_idle)
            return
        self._reset()
        self._request, request.connection = request, self
        self._transport.writelines((self._client.head % len(request.body), request.body))

    def on_message_begin(self) -> None:
        self._answered = True

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"content-type":
            self._content_type = value

    def on_message_complete(self) -> None:
        self._complete = True
        self._keep_alive = self._parser.should_keep_alive()  # known only at the end

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.fail(f"the answer is not HTTP: {error}")
            return
        if self._first_s is None or self._complete:
            self._advance(perf_counter())

    def _advance(self, now: float) -> None:
        """Handle the first token or the end of the answer, which arrived at `now`."""
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
            body = excerpt(b"".join(self._parts))
            self.fail(f"HTTP {self._parser.get_status_code()}, {self._content_type.decode('latin-1')}: {body}")

    def _free(self) -> None:
        self._request = None
        if self._keep_alive:
            self.release()
        else:
            self._transport.close()

    def release(self) -> None:
        """Make the connection available for the next request."""
        self._was_idle = True
        self._client.idle.append(self)

    def _is_stream(self) -> bool:
        return self._parser.get_status_code() == 200 and self._content_type.startswith(b"text/event-stream")

    def fail(self, reason: str) -> None:
        """Fail the request and close the connection, whose state is unknown."""
        request, self._request = self._request, None
        self._transport.abort()
        if request:
            self._client.failed(request, reason)

    def connection_lost(self, exc: Exception | None) -> None:
        if self in self._client.idle:
            self._client.idle.remove(self)
        request, self._request = self._request, None
        if request:
            self._client.closed_early(request, unanswered=self._was_idle and not self._answered)
