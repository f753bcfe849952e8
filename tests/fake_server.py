"""A fake OpenAI completions server that streams as vLLM 0.32 does, at a set pace and with set faults.

`python -m tests.fake_server --help` says what can be set; `POST /fake/settings` changes the same settings while it
runs, `GET /fake/records` returns what it sent and when, `POST /fake/reset` forgets that, `POST /fake/refuse` has it
refuse connections for so many seconds. Stamps are CLOCK_MONOTONIC seconds, so they compare with `time.monotonic()` and
`time.perf_counter()` of any process on this machine.

From Python: `with FakeServer(ms_per_token=10) as server: ... server.url, server.records(), server.set(slots=8)`.
"""

import argparse
import asyncio
import ctypes
import dataclasses
import functools
import heapq
import http.client
import itertools
import json
import os
import random
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from typing import Any, Self

import httptools
import orjson
import uvloop

from tests.engine_model import StepCosts
from tests.fake_steps import StepPace

FAULTS = {
    "http500": "answers HTTP 500",
    "html": "answers 200 with an HTML page",
    "hang": "takes the request and never answers",
    "drop": "closes the connection without answering",
    "close": "answers well, then closes the kept-alive connection without saying so beforehand",
    "truncate": "closes the connection in mid-answer, before [DONE]",
    "no_done": "ends the stream without [DONE]",
    "no_finish": "never gives a finish_reason",
    "no_ids": "streams text without token_ids",
    "error_event": "streams an error object in place of the second half",
    "bad_id": "one token id beyond the vocabulary",
    "too_many": "one token more than max_tokens",
    "one_token": "an answer of one token",
    "empty": "an answer of no token",
    "after_end": "an end token in the middle of the answer",
    "die": "the process exits with status 1 in mid-answer",
}
PROMPT_POOL = 65_536


@dataclasses.dataclass
class Settings:
    """What the server does. A fault KIND:N hits every Nth completion request, counted over all of them from 1.

    Answers go out at `ms_per_token`, each for itself, after `first_ms`. With any of `step_ms`, `prefill_ms_per_token`
    and `decode_ms_per_sequence` they go out by the steps of `engine_model.EngineModel` instead, in which requests delay
    each other: the first token alone, then `tokens_per_chunk` at once. `speed` divides all of these times, `slots` is
    the most sequences at once either way.

    `website` makes it answer HTML to every request but those for /fake/, like somebody's front page.
    `prefix` is a path that everything but those is below; with `api_key` what is below /v1 wants that key.
    `backlog` is the length of the listen queue, out of which one connection is taken in `accept_ms`.
    """

    ms_per_token: float = 0.0
    first_ms: float = 0.0
    tokens_per_chunk: int = 1
    tokens: int = 128
    slots: int = 1024
    speed: float = 1.0
    step_ms: float = 0.0
    prefill_ms_per_token: float = 0.0
    decode_ms_per_sequence: float = 0.0
    tokens_per_step: int = 2048
    vocab: int = 1024
    end_token: int = 2
    model: str = "fake"
    max_model_len: int = 2668
    prefix_caching: bool = False
    website: bool = False
    prefix: str = ""
    api_key: str = ""
    backlog: int = 4096
    accept_ms: float = 0.0
    faults: dict[str, int] = dataclasses.field(default_factory=dict)

    def update(self, values: dict[str, Any]) -> None:
        """Change settings by name; an unknown name or fault is a ValueError."""
        for name, value in values.items():
            if name not in self.__dataclass_fields__:
                raise ValueError(f"unknown setting {name!r}")
            if name == "faults" and (unknown := set(value) - set(FAULTS)):
                raise ValueError(f"unknown fault {unknown}; there are {sorted(FAULTS)}")
            setattr(self, name, value)

    @property
    def step_costs(self) -> StepCosts | None:
        """What the engine's steps cost; None when answers go out each for itself."""
        costs = (self.step_ms, self.prefill_ms_per_token, self.decode_ms_per_sequence)
        if not any(costs):
            return None
        return StepCosts(*(cost / self.speed for cost in costs), self.tokens_per_step, self.slots)


@functools.cache
def _pool(vocab: int, end_token: int) -> list[int]:
    source = random.Random(vocab)
    ids = [token for token in range(min(vocab, 4096)) if token != end_token]
    return source.choices(ids, k=PROMPT_POOL + 4096)


def answer(prompt: list[int], settings: Settings) -> list[int]:
    """The ids this server answers to a prompt: a function of its ids and the settings alone, never an end token."""
    start = hash(tuple(prompt)) % PROMPT_POOL
    return _pool(settings.vocab, settings.end_token)[start : start + settings.tokens]


def _event(payload: dict[str, Any]) -> bytes:
    return _framed(b"data: " + orjson.dumps(payload) + b"\n\n")


def _framed(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _chunk(settings: Settings, created: int, ids: list[int], finish: str | None, prompt: list[int] | None) -> bytes:
    choice: dict[str, Any] = {"index": 0, "text": "".join(f" w{token}" for token in ids), "logprobs": None}
    choice |= {"finish_reason": finish, "stop_reason": None, "prompt_token_ids": prompt, "token_ids": ids}
    return _event(_envelope(settings.model, created) | {"choices": [choice]})


def _textual(settings: Settings, created: int, ids: list[int], finish: str | None) -> bytes:
    choice = {"index": 0, "text": "".join(f" w{token}" for token in ids), "logprobs": None, "finish_reason": finish}
    return _event(_envelope(settings.model, created) | {"choices": [choice | {"stop_reason": None}]})


def _envelope(model: str, created: int) -> dict[str, Any]:
    return {"id": f"cmpl-{created:032x}", "object": "text_completion", "created": created, "model": model}


DONE = _framed(b"data: [DONE]\n\n") + b"0\r\n\r\n"
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nserver: fake\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)


class Server:
    """All state of one fake engine: its queue, its slots, its pacing clock and its records."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.created = int(time.time())
        self.count, self.connections = itertools.count(1), itertools.count(1)
        self.records: list[dict[str, Any]] = []
        self.waiting: deque[Stream] = deque()
        self.running = 0
        self._due: list[tuple[float, int, Stream]] = []
        self._order = itertools.count()
        self._timer: asyncio.TimerHandle | None = None
        self.steps: StepPace | None = None
        self.listener: socket.socket | None = None
        self.set({})

    def listen(self, host: str, port: int) -> str:
        """Take connections from now on; returns the URL."""
        self.listener = socket.create_server((host, port), backlog=self.settings.backlog)
        self.listener.setblocking(False)
        self._accepting = asyncio.get_running_loop().create_task(self._accept(self.listener))
        return f"http://{host}:{self.listener.getsockname()[1]}"

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            connection, _ = await loop.sock_accept(listener)
            await loop.connect_accepted_socket(functools.partial(Connection, self), connection)
            if self.settings.accept_ms:
                await asyncio.sleep(self.settings.accept_ms / 1000)

    def refuse(self, seconds: float) -> None:
        """Refuse connections for so long; those that are open serve on, each until the end of its answer."""
        if self.listener:
            address = self.listener.getsockname()
            self._accepting.cancel()
            self.listener.close()
            self.listener = None
            asyncio.get_running_loop().call_later(seconds, self.listen, *address)

    def set(self, values: dict[str, Any]) -> None:
        """Change settings; requests taken before keep theirs."""
        settings = dataclasses.replace(self.settings)
        settings.update(values)
        costs = settings.step_costs
        if costs != self.settings.step_costs or self.steps is None:
            self.steps = StepPace(costs) if costs else None
        self.settings = settings
        if self.listener:
            self.listener.listen(settings.backlog)
        # Made here once for all prompts: taking a request must cost little, or the pace is not kept.
        pool = _pool(settings.vocab, settings.end_token)
        chunks = {token: _chunk(settings, self.created, [token], None, None) for token in set(pool)}
        self._chunks = [chunks[token] for token in pool]

    def chunks(self, start: int, stop: int) -> list[bytes]:
        """The one-token chunks of the first `stop` tokens of the answer that starts there in the pool."""
        return self._chunks[start : start + stop]

    def admit(self, stream: "Stream") -> None:
        """Start a stream, or queue it until a slot is free."""
        if stream.steps:
            stream.begin(time.monotonic())
            stream.steps.admit(stream)
            return
        if self.running >= self.settings.slots:
            self.waiting.append(stream)
            return
        self.running += 1
        self.schedule(stream, stream.begin(time.monotonic()))

    def leave(self, stream: "Stream") -> None:
        """Give a stream's slot to the next in the queue."""
        if stream.steps:
            stream.steps.model.remove(stream)
        elif stream.started:
            self.running -= 1
            asyncio.get_running_loop().call_soon(self._fill)
        elif stream in self.waiting:
            self.waiting.remove(stream)

    def _fill(self) -> None:
        while self.waiting and self.running < self.settings.slots:
            self.admit(self.waiting.popleft())

    def schedule(self, stream: "Stream", due: float) -> None:
        """Call the stream's `step` at a monotonic time."""
        if due <= time.monotonic():
            following = stream.step(due)
            if following is None:
                return
            due = following
        heapq.heappush(self._due, (due, next(self._order), stream))
        if self._timer is None:
            self._tick()

    def _tick(self) -> None:
        now = time.monotonic()
        self._timer = None
        while self._due and self._due[0][0] <= now:
            due, _, stream = heapq.heappop(self._due)
            following = stream.step(due)
            if following is not None:
                heapq.heappush(self._due, (following, next(self._order), stream))
        if self._due and self._timer is None:
            delay = max(0.001, self._due[0][0] - time.monotonic())  # the loop's timers count whole milliseconds
            self._timer = asyncio.get_running_loop().call_later(delay, self._tick)

    def metrics(self) -> str:
        """The gauges a harness looks at, as vLLM prints them."""
        labels = f'engine="0",model_name="{self.settings.model}"'
        running, waiting = self.running, len(self.waiting)
        if self.steps:
            running, waiting = running + self.steps.model.running, waiting + self.steps.model.waiting
        usage = min(1.0, running / self.settings.slots)
        lines = []
        for name, value, text in (
            ("num_requests_running", float(running), "Number of requests in model execution batches."),
            ("num_requests_waiting", float(waiting), "Number of requests waiting to be processed."),
            ("kv_cache_usage_perc", usage, "KV-cache usage. 1 means 100 percent usage."),
        ):
            lines += [f"# HELP vllm:{name} {text}", f"# TYPE vllm:{name} gauge", f"vllm:{name}{{{labels}}} {value}"]
        info = f'block_size="16",cache_dtype="auto",enable_prefix_caching="{self.settings.prefix_caching}",engine="0"'
        lines += [
            "# HELP vllm:cache_config_info Information of the LLMEngine CacheConfig",
            "# TYPE vllm:cache_config_info gauge",
            f"vllm:cache_config_info{{{info}}} 1.0",
        ]
        return "\n".join(lines) + "\n"


class Stream:
    """One completion request being answered."""

    def __init__(self, server: Server, connection: int, transport: Any, body: dict[str, Any], on_end: Any) -> None:
        self.server, self.transport, self.done = server, transport, on_end
        self.settings, self.steps = server.settings, server.steps
        number = next(server.count)
        self.fault = next((kind for kind, every in self.settings.faults.items() if number % every == 0), None)
        self.prompt: list[int] = body["prompt"] if isinstance(body["prompt"], list) else list(body["prompt"].encode())
        self.usage = bool((body.get("stream_options") or {}).get("include_usage"))
        self.with_ids = bool(body.get("return_token_ids"))
        self.started = False
        self.sent = 1  # tokens, once the first has gone out alone
        limit = int(body.get("max_tokens") or 16)
        digest = hash(tuple(self.prompt))
        self.start = digest % PROMPT_POOL
        pool = _pool(self.settings.vocab, self.settings.end_token)
        self.ids = self._faulty(pool[self.start : self.start + min(limit, self.settings.tokens)], limit)
        self.finish = "length" if len(self.ids) >= limit else "stop"
        self.prompt_tokens, self.answer_tokens = max(1, len(self.prompt)), max(1, len(self.ids))
        self.record: dict[str, Any] = {
            "number": number, "connection": connection, "prompt": digest, "fault": self.fault,
            "arrived_s": time.monotonic(), "first_s": None, "last_s": None, "tokens": 0,
        }  # fmt: skip
        server.records.append(self.record)

    def _faulty(self, ids: list[int], limit: int) -> list[int]:
        middle = len(ids) // 2
        match self.fault:
            case "bad_id":
                return [*ids[:middle], self.settings.vocab, *ids[middle + 1 :]]
            case "too_many":
                return (ids * 2)[: limit + 1]
            case "one_token":
                return ids[:1]
            case "empty":
                return []
            case "after_end":
                return [*ids[:middle], self.settings.end_token, *ids[middle + 1 :]]
        return ids

    def begin(self, now: float) -> float:
        """Take the slot; returns when the first chunk is due."""
        self.started = True
        self.interval = self.settings.ms_per_token * self.settings.tokens_per_chunk / 1000 / self.settings.speed
        self.pieces = deque([] if self.fault in WHOLE_ANSWERS else self._pieces())
        if self.pieces and not self.interval and not self.steps:
            self.pieces = deque([b"".join(self.pieces)])
        return now + self.settings.first_ms / 1000 / self.settings.speed + self.interval

    def step(self, due: float) -> float | None:
        """Send the next chunk (everything when unpaced); returns when the following one is due."""
        return due + self.interval if self.send() else None

    def send(self) -> int:
        """Send the next chunk; returns how many tokens the one after it holds, 0 when this was the last."""
        if self.fault in WHOLE_ANSWERS:
            WHOLE_ANSWERS[self.fault](self)
            return 0
        now = time.monotonic()  # before writing: by the next line's end the client may have read it
        self.transport.write(self.pieces.popleft())
        self.record["first_s"] = self.record["first_s"] or now
        if self.pieces:
            following = max(1, min(self.settings.tokens_per_chunk, len(self.ids) - self.sent))
            self.sent += following
            return following
        self.record["last_s"], self.record["tokens"] = now, len(self.ids)
        if self.fault == "die":
            os._exit(1)
        self.close(keep=self.fault not in ("close", "truncate"))
        return 0

    def _pieces(self) -> list[bytes]:
        """What is written, chunk by chunk; the last piece holds the end of the stream as well."""
        size, created, settings = self.settings.tokens_per_chunk, self.server.created, self.settings
        finish = None if self.fault == "no_finish" else self.finish
        if size == 1 and self.with_ids and self.fault is None:
            chunks = self.server.chunks(self.start, len(self.ids))
            chunks[-1] = _chunk(settings, created, self.ids[-1:], finish, None)
            if len(chunks) > 1:
                chunks[0] = _chunk(settings, created, self.ids[:1], None, self.prompt)
            chunks[0] = STREAM_HEAD + chunks[0]
            chunks[-1] += self._ending()
            return chunks
        first = 1 if self.steps else size  # what comes alone
        starts = range(first, len(self.ids), size)
        groups = [self.ids[:first], *(self.ids[start : start + size] for start in starts)]
        if self.with_ids and self.fault != "no_ids":
            chunks = [_chunk(settings, created, ids, None, None) for ids in groups[:-1]]
            chunks.append(_chunk(settings, created, groups[-1], finish, None))
            if len(groups) > 1:
                chunks[0] = _chunk(settings, created, groups[0], None, self.prompt)
        else:
            chunks = [_textual(settings, created, ids, None) for ids in groups[:-1]]
            chunks.append(_textual(settings, created, groups[-1], finish))
        chunks[0] = STREAM_HEAD + chunks[0]
        if self.fault in ("truncate", "die", "error_event"):
            chunks = chunks[: max(1, len(chunks) // 2)]
        if self.fault not in ("truncate", "die"):
            chunks[-1] += self._ending()
        return chunks

    def _ending(self) -> bytes:
        if self.fault == "error_event":
            error = {"message": "fake failure", "type": "InternalServerError", "param": None, "code": 500}
            return _event({"error": error}) + DONE
        if self.fault == "no_done":
            return b"0\r\n\r\n"
        if not self.usage:
            return DONE
        count = {"prompt_tokens": len(self.prompt), "completion_tokens": len(self.ids)}
        usage = count | {"total_tokens": sum(count.values())}
        return _event(_envelope(self.settings.model, self.server.created) | {"choices": [], "usage": usage}) + DONE

    def plain(self, status: str, kind: str, text: str) -> None:
        """Answer with something other than a stream."""
        self.transport.write(_plain(status, kind, text.encode()))
        self.close(keep=True)

    def close(self, keep: bool) -> None:
        """End the answer; the connection stays open when `keep`."""
        self.server.leave(self)
        self.done()
        if not keep or not self.server.listener:
            self.transport.close()


WEBSITE = b"<html><body>It works!</body></html>"
WHOLE_ANSWERS: dict[str | None, Any] = {
    "http500": lambda s: s.plain(
        "500 Internal Server Error", "application/json", '{"error":{"message":"fake failure"}}'
    ),
    "html": lambda s: s.plain("200 OK", "text/html", WEBSITE.decode()),
    "hang": lambda s: None,
    "drop": lambda s: s.close(keep=False),
}


def _plain(status: str, kind: str, body: bytes) -> bytes:
    return f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


class Connection(asyncio.Protocol):
    """HTTP on one connection; requests on it come one after the other."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.number = next(server.connections)
        self.stream: Stream | None = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.parser = httptools.HttpRequestParser(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.stream:
            self.server.leave(self.stream)
            self.stream.send = lambda: 0  # type: ignore[method-assign]

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_begin(self) -> None:
        self.path, self.body, self.authorization = b"", b"", b""

    def on_url(self, url: bytes) -> None:
        self.path += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"authorization":
            self.authorization = value

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        method, path = self.parser.get_method().decode(), self.path.decode()
        settings = self.server.settings
        if settings.website and not path.startswith("/fake/"):
            self.transport.write(_plain("200 OK", "text/html", WEBSITE))
            return
        if not path.startswith("/fake/"):
            path = path.removeprefix(settings.prefix) if path.startswith(settings.prefix) else ""
        if path.startswith("/v1") and settings.api_key and self.authorization.decode() != f"Bearer {settings.api_key}":
            self.transport.write(_plain("401 Unauthorized", "application/json", b'{"error":"Unauthorized"}'))
            return
        if (method, path) == ("POST", "/v1/completions"):
            self.stream = Stream(self.server, self.number, self.transport, orjson.loads(self.body), self._done)
            self.server.admit(self.stream)
            return
        try:
            status, kind, text = self._answer(method, path)
        except ValueError as error:
            status, kind, text = "400 Bad Request", "text/plain", str(error)
        self.transport.write(_plain(status, kind, text.encode()))

    def _done(self) -> None:
        self.stream = None

    def _answer(self, method: str, path: str) -> tuple[str, str, str]:
        server, settings = self.server, self.server.settings
        match method, path:
            case "GET", "/health":
                return "200 OK", "text/plain", ""
            case "GET", "/metrics":
                return "200 OK", "text/plain; version=0.0.4; charset=utf-8", server.metrics()
            case "GET", "/version":
                return "200 OK", "application/json", '{"version":"0.32.0"}'
            case "GET", "/v1/models":
                card = {"id": settings.model, "object": "model", "created": server.created, "owned_by": "vllm"}
                card |= {"root": settings.model, "parent": None, "max_model_len": settings.max_model_len}
                return "200 OK", "application/json", json.dumps({"object": "list", "data": [card]})
            case "GET", "/fake/records":
                return "200 OK", "application/json", json.dumps(server.records)
            case "POST", "/fake/reset":
                server.records.clear()
                server.count = itertools.count(1)
                return "200 OK", "application/json", "{}"
            case "POST", "/fake/settings":
                server.set(orjson.loads(self.body))
                return "200 OK", "application/json", json.dumps(dataclasses.asdict(server.settings))
            case "POST", "/fake/refuse":
                server.refuse(float(self.body))
                return "200 OK", "application/json", "{}"
        return "404 Not Found", "application/json", '{"detail":"Not Found"}'


async def serve(settings: Settings, host: str, port: int, servers: int) -> None:
    """Serve until SIGTERM or SIGINT; the first line on stdout says where. Further servers are on free ports."""
    loop = asyncio.get_running_loop()
    ports = [port] + [0] * (servers - 1)
    urls = [Server(dataclasses.replace(settings)).listen(host, each) for each in ports]
    print(f"fake server ready on {' '.join(urls)}", flush=True)
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    await stopped.wait()
    os._exit(0)  # streams in flight are of no interest any more


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one; the first line printed names it")
    parser.add_argument("--servers", type=int, default=1, help="how many servers, each with a port of its own")
    parser.add_argument("--die-with-parent", action="store_true", help="end when the process that started it ends")
    for field in dataclasses.fields(Settings):
        flag = f"--{field.name.replace('_', '-')}"
        if field.name == "faults":
            kinds = "; ".join(f"{kind}: {text}" for kind, text in FAULTS.items())
            parser.add_argument("--fault", dest="faults", action="append", default=[], metavar="KIND:N", help=kinds)
        elif field.type is bool:
            parser.add_argument(flag, action="store_true")
        else:
            parser.add_argument(flag, type=field.type, default=field.default)  # type: ignore[arg-type]
    return parser.parse_args()


def main() -> None:
    """Parse the command line and serve."""
    values = vars(_arguments())
    host, port, servers = (values.pop(name) for name in ("host", "port", "servers"))
    if values.pop("die_with_parent"):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    values["faults"] = {kind: int(every) for kind, _, every in (item.partition(":") for item in values["faults"])}
    settings = Settings()
    settings.update(values)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    uvloop.run(serve(settings, host, port, servers))


class FakeServer:
    """The server in a process of its own, for tests and benches; settings as in `Settings`.

    The process plays `servers` at `urls`, of which `url` is the first: alone it is asked for records and told settings.
    """

    def __init__(self, port: int = 0, servers: int = 1, **settings: Any) -> None:
        self._settings = settings
        self._port, self._servers = port, servers

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "tests.fake_server", "--port", str(self._port), "--die-with-parent"]
        command += ["--servers", str(self._servers)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert self.process.stdout
        ready, _, _ = select.select([self.process.stdout], [], [], 90)
        line = self.process.stdout.readline() if ready else ""
        if "ready on " not in line:
            self.__exit__()
            raise RuntimeError(f"the fake server did not start: {line!r}")
        self.urls = line.split()[4:]
        for url in reversed(self.urls):
            self.url = url
            self.set(**self._settings)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait(10)
        assert self.process.stdout
        self.process.stdout.close()

    @property
    def pid(self) -> int:
        """Process id, for a test that kills it."""
        return self.process.pid

    def request(self, method: str, path: str, body: Any = None) -> str:
        """One HTTP exchange; its body as text."""
        connection = http.client.HTTPConnection(self.url.removeprefix("http://"), timeout=20)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            response = connection.getresponse()
            text = response.read().decode()
            if response.status != 200:
                raise ValueError(f"{method} {path}: {response.status} {text}")
            return text
        finally:
            connection.close()

    def set(self, **settings: Any) -> Settings:
        """Change settings while it runs; returns all of them."""
        return Settings(**json.loads(self.request("POST", "/fake/settings", settings)))

    def records(self) -> list[dict[str, Any]]:
        """What was sent: number, connection, prompt (hash of the tuple of its ids), arrived_s, first_s, last_s, ..."""
        records: list[dict[str, Any]] = json.loads(self.request("GET", "/fake/records"))
        return records

    def reset(self) -> None:
        """Forget the records and count faults from 1 again."""
        self.request("POST", "/fake/reset", {})

    def refuse(self, seconds: float) -> None:
        """Refuse connections for so long; those that are open serve on, each until the end of its answer."""
        self.request("POST", "/fake/refuse", seconds)


if __name__ == "__main__":
    main()
