"""HTTP client of one engine: takes prepared request bodies, returns validated token ids, over persistent connections.

The caller decides how many requests are in flight.
"""

import asyncio
import contextlib
from collections import deque
from time import perf_counter
from urllib.parse import urlsplit

from harness import servers
from harness.load.answer import Answer
from harness.load.connection import Connection, Request
from harness.load.stream import answered_ids

_PARSED_PER_ITERATION = 4
_DIALED_AT_ONCE = 64  # thousands at once would overflow the server's listen queue, which refuses or drops the rest
_OPENING_S = 10.0


class Dials(asyncio.Semaphore):
    """How many connections are made at once."""

    def __init__(self) -> None:
        super().__init__(_DIALED_AT_ONCE)


class Client:
    """Connections to one engine. All methods must be called on the event loop on which it was created.

    Args:
        url: base URL, `http://host:port`, asked as `servers` knows.
        vocab_size: answered ids must be in [0, vocab_size).
        timeout_s: limit for one request, from sending (or connecting) to the end of the answer.
        dials: those at one address share it, as engines behind one proxy do; None has its own.

    `resent` counts the requests that were sent again, `connecting_s` has how long opening each connection took.
    """

    def __init__(self, url: str, vocab_size: int, timeout_s: float, dials: Dials | None = None) -> None:
        parts = urlsplit(url)
        self.url, self.vocab_size, self.timeout_s = url, vocab_size, timeout_s
        self._tls = servers.tls(url) if parts.scheme == "https" else None
        self._host, self._port = parts.hostname or "", parts.port or (443 if self._tls else 80)
        headers = {"Host": parts.netloc, "Content-Type": "application/json", **servers.headers(url)}
        lines = [f"POST {parts.path}/v1/completions HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        self.head = "\r\n".join(lines).replace("%", "%%").encode() + b"\r\nContent-Length: %d\r\n\r\n"
        self.idle: list[Connection] = []
        self.resent = 0
        self.connecting_s: list[float] = []
        self._ended: deque[tuple[Request, list[bytes], float, float]] = deque()
        self._loop = asyncio.get_running_loop()
        self._dials = dials or Dials()

    async def open(self, count: int) -> None:
        """Open connections in advance, for a few seconds; one that fails is tried again, and reported, by `send`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(_OPENING_S, self.timeout_s)):
                await asyncio.gather(*(self._open_idle() for _ in range(count)), return_exceptions=True)

    async def _open_idle(self) -> None:
        (await self._create_connection()).release()

    def send(self, request: Request) -> None:
        """Send a request; its callbacks are called in later iterations of the loop."""
        request.sent_s = perf_counter()
        request.deadline = self._loop.call_later(self.timeout_s, self._expire, request)
        if self.idle:
            self.idle.pop().send(request)
        else:
            self._connect(request)

    async def _create_connection(self) -> Connection:
        async with self._dials:
            began = perf_counter()
            _, connection = await self._loop.create_connection(
                lambda: Connection(self), self._host, self._port, ssl=self._tls
            )
            self.connecting_s.append(perf_counter() - began)
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
        if isinstance(request.connection, Connection):
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
        request.on_failed(reason)
        request.on_over()

    def cancel(self, request: Request) -> None:
        """Give up an unfinished request: none of its callbacks is called any more."""
        if request.deadline:
            request.deadline.cancel()
        if isinstance(request.connection, Connection):
            request.connection.abandon()
        elif request.connection:
            request.connection.cancel()

    def close(self) -> None:
        """Close the idle connections."""
        while self.idle:
            self.idle.pop().abandon()

    def closed_early(self, request: Request, unanswered: bool, untaken: bool = False) -> None:
        """Called when a connection was closed during a request.

        `unanswered` means that the connection had been idle before and returned nothing for this request. Servers close
        idle connections at any time, also just as a request is written. `untaken` means that nothing acknowledged the
        first request of a connection, which is open on this side alone where the server's listen queue was full.
        Sending it again on a new connection then hides no failure of the engine; `sent_s` is kept, so the delay counts
        as latency.
        """
        if untaken or (unanswered and not request.resent):
            request.resent = request.resent or unanswered
            self.resent += 1
            self._connect(request)
        else:
            self.failed(request, f"{self.url} closed the connection before the answer was complete")
