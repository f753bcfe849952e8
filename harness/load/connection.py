"""One persistent connection to an engine, with one request at a time.

The only Python code that runs per streamed chunk is `Connection.data_received`; ids are parsed once, and only the
arrival of the first and the last token is timed.
"""

import asyncio
import errno
import socket
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

import httptools

from harness.load.answer import Answer
from harness.load.stream import excerpt, first_ids

if TYPE_CHECKING:
    from harness.load.client import Client

_TAKEN_MS = 3000  # until the server's system must have acknowledged the first request; it is sent four times meanwhile

_NOT_TAKEN = {errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH}


@dataclass(slots=True, eq=False)
class Request:
    """One completion request; its callbacks run on the client's event loop.

    `on_first` gets the ids of the first chunk that has any, at `first_s`. `on_over` is called once, when the engine has
    finished the request, successfully or not. Either `on_done` or `on_failed` (with the reason) is called as well:
    after it where the answer was complete and had to be read, before it where the request broke off.
    """

    body: bytes
    on_first: Callable[[list[int]], None]
    on_over: Callable[[], None]
    on_done: Callable[[Answer], None]
    on_failed: Callable[[str], None]
    sent_s: float = 0.0
    first_s: float | None = None
    resent: bool = False
    deadline: asyncio.TimerHandle | None = None
    connection: "Connection | asyncio.Task[None] | None" = None

    @property
    def unsent(self) -> bool:
        """Whether no connection could be made for it."""
        return not isinstance(self.connection, Connection)

    @property
    def pieces(self) -> int:
        """How many pieces of the answer have come."""
        return self.connection.pieces if isinstance(self.connection, Connection) else 0


class Connection(asyncio.Protocol):
    """One persistent connection, with one request at a time."""

    _transport: Any

    def __init__(self, client: "Client") -> None:
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
        self._set(socket.TCP_NODELAY, 1)
        self._set(socket.TCP_USER_TIMEOUT, _TAKEN_MS)

    def _set(self, option: int, value: int) -> None:
        self._transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, option, value)

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
            self._first_s = request.first_s = now
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
            self._set(socket.TCP_USER_TIMEOUT, 0)  # it is taken: from now on the network may pause for longer
            self.release()
        else:
            self._transport.close()

    def release(self) -> None:
        """Make the connection available for the next request."""
        self._was_idle = True
        self._client.idle.append(self)

    @property
    def pieces(self) -> int:
        """How many pieces of the present answer have come."""
        return len(self._parts)

    def abandon(self) -> None:
        """Close the connection and forget its request."""
        self._request = None
        self._transport.abort()

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
            untaken = isinstance(exc, OSError) and exc.errno in _NOT_TAKEN and not self._answered
            self._client.closed_early(request, unanswered=self._was_idle and not self._answered, untaken=untaken)
