"""Sends samples to engines and hears their answers, on a thread of its own; `balance` says which engine gets which."""

import asyncio
import threading
import traceback
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Protocol, Self

import uvloop

from harness.errors import BadInput
from harness.load.answer import Answer
from harness.load.balance import FIRST_TOKEN_WEIGHT, Balance, EngineLoad
from harness.load.client import Client, Request
from harness.load.stream import request_body
from harness.node import probe
from harness.spec import EngineRef

_OPENED = 256  # connections made to each engine before the first sample; more are made when needed
_SENT_PER_TURN = 16


class Listener(Protocol):
    """Who hears of answers. Every method is called on the dispatcher's one thread and must return at once."""

    def on_first(self, key: Hashable, sample: int, token_ids: list[int]) -> None:
        """The first token of a sample has come; `token_ids` is what came with it."""

    def on_done(self, key: Hashable, sample: int, engine: str, answer: Answer) -> None:
        """A sample's whole answer has come."""

    def on_failed(self, key: Hashable, sample: int, engine: str, reason: str) -> None:
        """A sample failed for good."""

    def on_crash(self, reason: str) -> None:
        """A defect of the harness itself: something may never be answered."""


class _Lane(EngineLoad):
    """One engine with its load."""

    __slots__ = ("bodies", "client", "ref")

    def __init__(self, ref: EngineRef, speed: float, client: Client, bodies: list[bytes]) -> None:
        super().__init__(ref.max_in_flight, speed)
        self.ref, self.client, self.bodies = ref, client, bodies


class _Sent:
    """A request under way: its load on the engine, and who hears of it."""

    __slots__ = ("_key", "_lane", "_listener", "_pump", "_sample", "_weight")

    def __init__(
        self, lane: _Lane, weight: int, key: Hashable, sample: int, listener: Listener, pump: Callable[[], None]
    ) -> None:
        self._lane, self._weight, self._key, self._sample = lane, weight, key, sample
        self._listener, self._pump = listener, pump
        lane.sent(weight)

    def first(self, token_ids: list[int]) -> None:
        """The first token has come: what is left is light."""
        self._lane.weight -= self._weight - 1
        self._weight = 1
        self._listener.on_first(self._key, self._sample, token_ids)

    def over(self) -> None:
        """The engine is through with it, well or not."""
        self._lane.over(self._weight)
        self._pump()

    def done(self, answer: Answer) -> None:
        """The whole answer has come."""
        self._listener.on_done(self._key, self._sample, self._lane.ref.name, answer)

    def failed(self, reason: str) -> None:
        """It failed for good."""
        self._listener.on_failed(self._key, self._sample, self._lane.ref.name, reason)


class Dispatcher:
    """Sends samples to engines. Used as a context manager, which starts and ends its thread.

    Args:
        engines: where to send; each is given at most `max_in_flight` requests at once, the rest waits here in order.
        prompts: token ids per sample; a sample is named by its index here.
        listener: hears of every answer.
        vocab_size: an answered id must lie in [0, vocab_size).
        seed: sampling seed sent with each request.
        timeout_s: longest time an engine may take for one request.
        speeds: how fast each engine is, by name, in any one unit above 0, such as the samples/s of a calibration; None
            takes them as equally fast.
        first_token_weight: what a request weighs until its first token has come.

    Raises:
        NotReady: an engine cannot be reached (on making it).
        BadInput: an engine is no OpenAI server, or `speeds` has none above 0 for it (on making it).
    """

    def __init__(
        self,
        engines: Sequence[EngineRef],
        prompts: Sequence[Sequence[int]],
        listener: Listener,
        *,
        vocab_size: int,
        seed: int,
        timeout_s: float,
        speeds: Mapping[str, float] | None = None,
        first_token_weight: int = FIRST_TOKEN_WEIGHT,
    ) -> None:
        self._listener = listener
        self._waiting: deque[tuple[Hashable, int]] = deque()
        self._inbox: deque[Sequence[tuple[Hashable, int]]] = deque()
        self._woken = False
        self._names = {engine: probe.model_card(engine.url)["id"] for engine in engines}
        # Built once and shared by engines that serve under the same name: nothing is encoded while the clock runs.
        self._bodies = {
            name: [request_body(name, prompt, seed) for prompt in prompts] for name in set(self._names.values())
        }
        self._vocab_size, self._timeout_s = vocab_size, timeout_s
        self._weight = first_token_weight
        self._lanes: list[_Lane] = []
        self.set_speeds(speeds)
        self._balance = Balance(self._lanes)
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dispatch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def submit(self, batch: Sequence[tuple[Hashable, int]]) -> None:
        """Hand over (key, sample) pairs from any thread; keys come back with the answers."""
        self._inbox.append(batch)
        if not self._woken:
            self._woken = True
            self._loop.call_soon_threadsafe(self._take)

    @property
    def in_flight(self) -> int:
        """Requests sent and not answered, over all engines; may be read from any thread."""
        return sum(lane.in_flight for lane in self._lanes)

    def set_speeds(self, speeds: Mapping[str, float] | None) -> None:
        """Take the engines as so fast from now on; from any thread. `speeds`, BadInput: as on making it."""
        slow = [engine.name for engine in self._names if speeds is not None and not speeds.get(engine.name, 0) > 0]
        if slow:
            raise BadInput(f"speeds = {speeds}: {', '.join(slow)} must have one above 0; give one for every engine")
        self._speeds = speeds
        for lane in self._lanes:
            lane.set_speed(self._speed(lane.ref))

    def _speed(self, engine: EngineRef) -> float:
        return 1.0 if self._speeds is None else self._speeds[engine.name]

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._live())

    async def _live(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._loop.set_exception_handler(self._crashed)
        for ref, name in self._names.items():
            lane = _Lane(ref, self._speed(ref), Client(ref.url, self._vocab_size, self._timeout_s), self._bodies[name])
            self._lanes.append(lane)
            await lane.client.open(min(ref.max_in_flight, len(lane.bodies), _OPENED))
        self._ready.set()
        await self._stop.wait()

    def _crashed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        detail = "".join(traceback.format_exception(error)) if error else ""
        self._listener.on_crash(f"{context.get('message')}\n{detail}".strip())

    def _take(self) -> None:
        self._woken = False  # before emptying the inbox, so that what comes meanwhile wakes the loop again
        while self._inbox:
            self._waiting.extend(self._inbox.popleft())
        self._pump()

    def _pump(self) -> None:
        """Send what may be sent, a few per turn of the loop: it writes them only when the turn ends."""
        for _ in range(_SENT_PER_TURN):
            if not self._waiting or (position := self._balance.choose()) is None:
                return
            key, sample = self._waiting.popleft()
            lane = self._lanes[position]
            sent = _Sent(lane, self._weight, key, sample, self._listener, self._pump)
            lane.client.send(Request(lane.bodies[sample], sent.first, sent.over, sent.done, sent.failed))
        self._loop.call_soon(self._pump)
