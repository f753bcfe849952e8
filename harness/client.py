"""HTTP client of one engine: a prebuilt body in, checked token ids out, over kept-alive connections on one uvloop.

It knows nothing of scheduling: the caller says how many requests are in flight. Per streamed chunk the only Python that
runs is `_Connection.data_received`; ids are parsed once, and only the first token's arrival is stamped.
"""

import asyncio
import http.client
import socket
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

import httptools
import orjson

from harness.errors import NotReady
from harness.stream import TokenStream, excerpt

_LOOK_TIMEOUT_S = 20.0


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

    `on_first` gets the ids of the first chunk that holds a token. Then, or without it, exactly one of `on_done` and
    `on_failed` (with the reason) is called.
    """

    body: bytes
    on_first: Callable[[list[int]], None]
    on_done: Callable[[Answer], None]
    on_failed: Callable[[str], None]
    sent_s: float = 0.0
    resent: bool = False
    deadline: asyncio.TimerHandle | None = None
    carrier: "_Connection | asyncio.Task[None] | None" = None


def served_model(url: str) -> str:
    """The name the engine at `url` serves its model under, from /v1/models. Blocks.

    Raises:
        NotReady: the engine cannot be reached or does not answer as an OpenAI server does.
    """
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.netloc, timeout=_LOOK_TIMEOUT_S)
    try:
        connection.request("GET", "/v1/models")
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise NotReady(f"engine {url} cannot be asked for its model: {_said(error)}; is it up?") from None
    finally:
        connection.close()
    try:
        name = orjson.loads(body)["data"][0]["id"]
    except (ValueError, LookupError, TypeError):
        name = None
    if response.status != 200 or not isinstance(name, str):
        shown = f"HTTP {response.status}, {response.getheader('content-type')}: {excerpt(body)!r}"
        raise NotReady(f"engine {url}: /v1/models answered {shown}; give the address of an OpenAI server")
    return name


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
        self._tls = parts.scheme == "https"
        self._address = (parts.hostname or "", parts.port or (443 if self._tls else 80))
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
        self.head = head.encode() + b"Content-Length: %d\r\n\r\n"
        self.idle: list[_Connection] = []
        self._loop = asyncio.get_running_loop()

    def send(self, request: Request) -> None:
        """Send a request now; its callbacks come in a later turn of the loop."""
        request.sent_s = perf_counter()
        request.deadline = self._loop.call_later(self.timeout_s, self._expire, request)
        if self.idle:
            self.idle.pop().carry(request)
        else:
            self._connect(request)

    def _connect(self, request: Request) -> None:
        request.carrier = self._loop.create_task(self._open(request))

    async def _open(self, request: Request) -> None:
        try:
            _, connection = await self._loop.create_connection(
                lambda: _Connection(self), *self._address, ssl=self._tls or None
            )
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

    def finished(self, request: Request, answer: Answer) -> None:
        """A connection hands over a whole answer."""
        if request.deadline:
            request.deadline.cancel()
        request.on_done(answer)

    def failed(self, request: Request, reason: str) -> None:
        """A connection gives a request up."""
        if request.deadline:
            request.deadline.cancel()
        request.on_failed(reason)

    def closed_early(self, request: Request, unanswered: bool) -> None:
        """A connection was closed under a request.

        `unanswered`: it had served an earlier request and gave no byte for this one. Servers close idle connections at
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
        self._used = False
        self._reset()

    def _reset(self) -> None:
        self._parts.clear()
        self._stream = TokenStream()
        self._kind = b""
        self._answered = self._complete = False
        self._first_s: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def carry(self, request: Request) -> None:
        """Write a request; the connection is idle."""
        if self._transport.is_closing():
            self._client.closed_early(request, unanswered=self._used)
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
        request, answer = self._request, None
        if request is None:
            self.fail("data without a request")
            return
        try:
            first = self._first_s is None and self._holds_first(now)
            if self._complete:
                answer = Answer(self._checked(), request.sent_s, self._first_s or now, now)
        except ValueError as error:
            self.fail(str(error))
            return
        if first:
            request.on_first(self._stream.token_ids[:])
        if answer:
            self._free()
            self._client.finished(request, answer)

    def _holds_first(self, now: float) -> bool:
        """Whether a token has come; stamps it. What is parsed here is dropped as text, so nothing is parsed twice."""
        text = b"".join(self._parts)
        end = text.rfind(b"\n\n") + 2
        if end < 2 or not self._is_stream():
            return False
        self._parts[:] = [text[end:]]
        self._stream.take(text[:end])
        if self._stream.token_ids:
            self._first_s = now
        return self._first_s is not None

    def _checked(self) -> list[int]:
        text = b"".join(self._parts)
        status = self._parser.get_status_code()
        if status != 200:
            raise ValueError(f"HTTP {status}: {excerpt(text)}")
        if not self._is_stream():
            raise ValueError(f"answered {self._kind.decode('latin-1')!r}, not an event stream: {excerpt(text)}")
        self._stream.take(text)
        return self._stream.checked(self._client.vocab_size)

    def _free(self) -> None:
        self._request, self._used = None, True
        if self._parser.should_keep_alive():
            self._client.idle.append(self)
        else:
            self._transport.close()

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
            self._client.closed_early(request, unanswered=self._used and not self._answered)


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__
