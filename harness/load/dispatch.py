"""Sends samples to engines and receives their answers, on a thread of its own.

`balance` says which engine gets which sample, `engine_guard` which engines are lost; their samples go to the others.
"""

import asyncio
import threading
import traceback
from collections import defaultdict, deque
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from typing import Any, Self
from urllib.parse import urlsplit

import uvloop

from harness.errors import BadInput, HarnessError, NotReady, RunFailed
from harness.load.balance import FIRST_TOKEN_WEIGHT, Balance
from harness.load.client import Client, Dials
from harness.load.engine_guard import EngineGuard, EngineLoss
from harness.load.lane import Lane, Listener, Sent
from harness.load.stream import request_body
from harness.node import probe
from harness.spec import EngineRef

_OPENED = 256  # connections made to each engine before the first sample; more are made when needed
_SENT_PER_TURN = 16
_DOUBT_S = 2.0  # silence of an engine that owes answers; busy machines stop one for up to 1.5 s
_START_S = 60.0  # for making the connections, each engine's of which are given up after a few seconds


class Dispatcher:
    """Sends samples to engines. Used as a context manager, which starts and ends its thread.

    Args:
        engines: where to send; each is given at most `max_in_flight` requests at once, the rest waits here in order.
        prompts: token ids per sample; a sample is named by its index here.
        listener: is notified of every answer.
        vocab_size: an answered id must lie in [0, vocab_size).
        seed: sampling seed sent with each request.
        timeout_s: longest time an engine may take for one request; less where its calibration says so.
        speeds: how fast each engine is, by name, in any one unit above 0, such as the samples/s of a calibration; None
            takes them as equally fast.
        first_token_weight: what a request weighs until its first token has come.
        silence_s: go on without an engine that dies, cannot be reached, or sends no byte for so long while others do:
            its samples go to the others, and only where none is left they fail. None: samples fail with their engine.

    Raises:
        NotReady: an engine cannot be reached (by the constructor).
        BadInput: an engine is no OpenAI server, or `speeds` has none above 0 for it (by the constructor).
            With `silence_s` both are raised of engines only where none is left.
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
        silence_s: float | None = None,
    ) -> None:
        self._listener = listener
        self._waiting: deque[tuple[Hashable, int]] = deque()
        self._again: deque[Sent] = deque()
        self._inbox: deque[Sequence[tuple[Hashable, int]]] = deque()
        self._woken = False
        self._silence_s = silence_s
        self._guard: EngineGuard | None = None
        self._absent: dict[EngineRef, HarnessError] = {}
        self._served = {engine: self._look(engine) for engine in engines}
        if len(self._absent) == len(engines):
            raise next(iter(self._absent.values()))
        self._prompts, self._seed = prompts, seed
        # Built once and shared by engines that serve under the same name: nothing is encoded while the clock runs.
        self._bodies: dict[str, list[bytes]] = {}
        for served in filter(None, self._served.values()):
            self._bodies_for(served.model)
        self._vocab_size, self._timeout_s = vocab_size, timeout_s
        self._weight = first_token_weight
        self._lanes: list[Lane] = []
        self.set_speeds(speeds)
        self._balance = Balance(self._lanes)
        self._ready = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="dispatch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._ready.wait(_START_S):
            names = ", ".join(engine.name for engine in self._served)
            raise RunFailed(f"could not connect to the engines ({names}) within {_START_S:g} s; check their logs")
        if self._error:
            self._thread.join()
            raise RunFailed(f"cannot connect to the engines: {self._error}") from self._error
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

    @property
    def losses(self) -> list[EngineLoss]:
        """The engines that were lost so far; may be read from any thread."""
        return self._guard.losses[:] if self._guard else []

    @property
    def in_doubt(self) -> bool:
        """Whether an engine may be about to be lost; may be read from any thread."""
        return any(lane.doubted or lane.unheard_s >= _DOUBT_S for lane in self._lanes)

    @property
    def resent(self) -> dict[str, int]:
        """By engine, the requests that were sent again because it had closed an idle connection, had no room for one in
        its listen queue, or had refused one while it was well. Samples that were moved because of a loss are counted
        there."""
        return {lane.ref.name: lane.client.resent for lane in self._lanes if lane.client.resent}

    @property
    def over(self) -> dict[str, int]:
        """By engine, the requests that are over; may be read from any thread."""
        return {lane.ref.name: lane.over_count for lane in self._lanes}

    @property
    def connect_ms(self) -> dict[str, float]:
        """By engine, the least time that opening a connection took: of the network, without waiting for a processor."""
        return {lane.ref.name: 1e3 * min(lane.client.connecting_s) for lane in self._lanes if lane.client.connecting_s}

    def set_speeds(self, speeds: Mapping[str, float] | None) -> None:
        """Set the engines' speeds from now on; from any thread. `speeds`, BadInput: as in the constructor."""
        slow = [engine.name for engine in self._served if speeds is not None and not speeds.get(engine.name, 0) > 0]
        if slow:
            raise BadInput(f"speeds = {speeds}: {', '.join(slow)} must have one above 0; give one for every engine")
        self._speeds = speeds
        for lane in self._lanes:
            lane.set_speed(self._speed(lane.ref))

    def _speed(self, engine: EngineRef) -> float:
        return 1.0 if self._speeds is None else self._speeds[engine.name]

    def _look(self, engine: EngineRef) -> probe.Served | None:
        """The identity of an engine; None for one that the run starts without."""
        try:
            return probe.served(engine.url)
        except (NotReady, BadInput) as error:  # a proxy in front of a lost engine answers, too
            if self._silence_s is None:
                raise
            self._absent[engine] = error
            return None

    def _bodies_for(self, model: str) -> list[bytes]:
        if model not in self._bodies:
            self._bodies[model] = [request_body(model, prompt, self._seed) for prompt in self._prompts]
        return self._bodies[model]

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._live())
        except BaseException as error:
            if self._ready.is_set():
                raise
            self._error = error  # of the start, for the thread that waits for it
            self._ready.set()

    async def _live(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._loop.set_exception_handler(self._crashed)
        dials: defaultdict[str, Dials] = defaultdict(Dials)
        for ref, served in self._served.items():
            at = dials[urlsplit(ref.url).netloc]
            client = Client(ref.url, self._vocab_size, ref.request_timeout_s(self._timeout_s), at)
            bodies = self._bodies_for(served.model) if served else None
            self._lanes.append(Lane(ref, self._speed(ref), client, served, bodies))
        served_ones = [lane for lane in self._lanes if lane.bodies]
        counts = [min(lane.ref.max_in_flight, len(lane.bodies or ()), _OPENED) for lane in served_ones]
        await asyncio.gather(*(lane.client.open(count) for lane, count in zip(served_ones, counts, strict=True)))
        if self._silence_s is not None:
            # Before a request takes too long, which fails it for good where the engine's server still answers.
            shortest_s = min(ref.request_timeout_s(self._timeout_s) for ref in self._served)
            silence_s = min(self._silence_s, shortest_s / 2)
            self._guard = EngineGuard(self._lanes, self._bodies_for, silence_s, self._send_again, self._pump)
            for lane in self._lanes:
                if error := self._absent.get(lane.ref):
                    self._guard.lose(lane, str(error))
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
        if self._waiting and self._none_left():
            self._give_up()
        self._pump()

    def _none_left(self) -> bool:
        return all(lane.lost for lane in self._lanes)

    def _failed(self, sent: Sent, reason: str) -> None:
        if self._guard:
            self._guard.failed(sent, reason)
        else:
            sent.fail(reason)

    def _send_again(self, samples: Iterable[Sent]) -> None:
        self._again.extend(samples)
        if self._none_left():
            self._give_up()
        self._pump()

    def _give_up(self) -> None:
        """Fail all samples that wait: no engine is left."""
        reason = "no engine is left: " + "; ".join(f"{lane.ref.name}: {lane.lost}" for lane in self._lanes)
        while self._again:
            self._again.popleft().fail(reason)
        while self._waiting:
            key, sample = self._waiting.popleft()
            self._listener.on_failed(key, sample, self._lanes[-1].ref.name, reason)

    def _avoided(self) -> Collection[Lane]:
        """The engines that have refused the next sample, while there is another one."""
        refused_by = self._again[0].refused_by if self._again else ()
        return refused_by if any(not lane.lost and lane not in refused_by for lane in self._lanes) else ()

    def _pump(self) -> None:
        """Send what may be sent, a few per turn of the loop: it writes them only when the turn ends."""
        for _ in range(_SENT_PER_TURN):
            left = len(self._waiting) + len(self._again)
            if not left or (position := self._balance.choose(left - 1, self._avoided())) is None:
                return
            before = self._again.popleft() if self._again else None
            key, sample = (before.key, before.sample) if before else self._waiting.popleft()
            lane = self._lanes[position]
            sent = Sent(lane, self._weight, key, sample, self._listener, self._pump, self._failed)
            if before:
                sent.follow(before)
            sent.send()
        self._loop.call_soon(self._pump)
