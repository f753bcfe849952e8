"""Which engine gets which sample: the least loaded first, within each engine's limit, on its own thread."""

import asyncio
import threading
import traceback
from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, Self

import uvloop

from harness.load.client import Answer, Client, Request
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


@dataclass(eq=False)
class _Lane:
    """One engine with its load."""

    ref: EngineRef
    client: Client
    bodies: list[bytes]
    in_flight: int = 0


class Dispatcher:
    """Sends samples to engines. Used as a context manager, which starts and ends its thread.

    Args:
        engines: where to send; each is given at most `max_in_flight` requests at once, the rest waits here in order.
        prompts: token ids per sample; a sample is named by its index here.
        listener: hears of every answer.
        vocab_size: an answered id must lie in [0, vocab_size).
        seed: sampling seed sent with each request.
        timeout_s: longest time an engine may take for one request.

    Raises:
        NotReady: an engine cannot be reached (on making it).
        BadInput: an engine is no OpenAI server (on making it).
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
    ) -> None:
        self._listener = listener
        self._waiting: deque[tuple[Hashable, int]] = deque()
        self._inbox: deque[Sequence[tuple[Hashable, int]]] = deque()
        self._woken = False
        self._turn = 0
        self._names = {engine: probe.model_card(engine.url)["id"] for engine in engines}
        # Built once and shared by engines that serve under the same name: nothing is encoded while the clock runs.
        self._bodies = {
            name: [request_body(name, prompt, seed) for prompt in prompts] for name in set(self._names.values())
        }
        self._vocab_size, self._timeout_s = vocab_size, timeout_s
        self._lanes: list[_Lane] = []
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

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._live())

    async def _live(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._loop.set_exception_handler(self._crashed)
        for ref, name in self._names.items():
            lane = _Lane(ref, Client(ref.url, self._vocab_size, self._timeout_s), self._bodies[name])
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
            if not self._waiting or not (lane := self._least_loaded()):
                return
            key, sample = self._waiting.popleft()
            lane.in_flight += 1
            lane.client.send(
                Request(
                    lane.bodies[sample],
                    partial(self._listener.on_first, key, sample),
                    partial(self._over, lane),
                    partial(self._listener.on_done, key, sample, lane.ref.name),
                    partial(self._listener.on_failed, key, sample, lane.ref.name),
                )
            )
        self._loop.call_soon(self._pump)

    def _least_loaded(self) -> _Lane | None:
        """The engine with room that has the fewest requests in flight; equals take turns."""
        order = self._lanes[self._turn :] + self._lanes[: self._turn]
        free = [lane for lane in order if lane.in_flight < lane.ref.max_in_flight]
        if not free:
            return None
        best = min(free, key=lambda lane: lane.in_flight)
        self._turn = (self._lanes.index(best) + 1) % len(self._lanes)
        return best

    def _over(self, lane: _Lane) -> None:
        lane.in_flight -= 1
        self._pump()
