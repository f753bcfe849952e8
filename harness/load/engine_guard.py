"""Engines that are lost during a run: how that is noticed, what becomes of their samples, and how they come back.

A failed request may be the fault of the sample or of its engine, so the engine's health is checked, and it gets no
samples meanwhile. An unhealthy engine is lost, as is one that sends no byte for long while others do. A lost engine is
probed every few seconds for its identity and for an answer, and rejoins once it gives both.
"""

import asyncio
import dataclasses
from collections.abc import Callable, Coroutine, Iterable, Sequence
from time import perf_counter
from typing import Any

from harness.errors import HarnessError
from harness.load.answer import Answer
from harness.load.connection import Request
from harness.load.lane import Lane, Sent
from harness.node import probe

_CHECK_S = 1.0
_LIVELY = 0.25  # part of the longest silence in which an engine that others are measured by was heard
_RETURN_S = 2.0  # between two questions whether a lost engine is back
_DYING_S = 2.5  # how long an engine that dies may still say that it is well, or one that is well refuse connections
_ASK_S = 0.25  # between two questions whether it is


@dataclasses.dataclass(slots=True)
class EngineLoss:
    """An engine that was lost, and how many samples went to others because of it; times by `perf_counter`."""

    engine: str
    node: str
    reason: str
    lost_s: float
    moved: int = 0
    rejoined_s: float | None = None

    def document(self, mode: str, start_s: float, start_unix: float) -> dict[str, Any]:
        """Its JSON form, for a run in this mode that began at `start_s` by `perf_counter`, `start_unix` by the wall
        clock: `at_s` are seconds of the run."""
        rejoined = self.rejoined_s
        return {
            "mode": mode,
            "engine": self.engine,
            "node": self.node,
            "at_unix": round(start_unix + self.lost_s - start_s, 6),
            "at_s": round(self.lost_s - start_s, 6),
            "reason": self.reason,
            "moved": self.moved,
            "rejoined_unix": None if rejoined is None else round(start_unix + rejoined - start_s, 6),
        }


class EngineGuard:
    """Watches over the engines of a dispatcher, on its event loop.

    Args:
        lanes: all engines.
        bodies: the request bodies of all samples for a model, by its name.
        silence_s: an engine that owes answers and sends no byte for so long is lost, provided that others answer.
        send_again: takes samples that have to be sent to an engine again, or to fail where none is left.
        pump: sends what waits.
    """

    def __init__(
        self,
        lanes: Sequence[Lane],
        bodies: Callable[[str], list[bytes]],
        silence_s: float,
        send_again: Callable[[Iterable[Sent]], None],
        pump: Callable[[], None],
    ) -> None:
        self._lanes, self._bodies, self._silence_s = lanes, bodies, silence_s
        self._send_again, self._pump = send_again, pump
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._check_s = min(_CHECK_S, silence_s / 4)
        self._asked: set[Lane] = set()
        self.losses: list[EngineLoss] = []
        self._loop.call_later(self._check_s, self._check)

    def failed(self, sent: Sent, reason: str) -> None:
        """A request failed, or its answer was wrong."""
        lane = sent.lane
        if lane.lost:
            self._move(lane, [sent])
            return
        lane.doubted.append((sent, reason))
        if len(lane.doubted) == 1:
            lane.pause()
            self._begin(self._examine(lane))

    def lose(self, lane: Lane, reason: str) -> None:
        """Take an engine out of the run: its samples go to the others."""
        lane.pause()
        lane.lost = reason
        self.losses.append(EngineLoss(lane.ref.name, lane.ref.node, reason, perf_counter()))
        doubted, lane.doubted = lane.doubted, []
        self._move(lane, [*(sent for sent, _ in doubted), *lane.take_back()])
        self._begin(self._await_return(lane))

    def _move(self, lane: Lane, samples: Sequence[Sent]) -> None:
        for sent in samples:
            sent.moved += 1
        self._loss_of(lane).moved += len(samples)
        self._send_again(samples)

    def _loss_of(self, lane: Lane) -> EngineLoss:
        return next(loss for loss in reversed(self.losses) if loss.engine == lane.ref.name)

    async def _examine(self, lane: Lane) -> None:
        """Find out whether it is the engine that failed, or single samples, which several looks must agree on.

        So must they where all that failed was a refused connection: an engine refuses a look like any other.
        """
        end = self._loop.time() + _DYING_S
        while True:
            problem = await asyncio.to_thread(probe.health_problem, lane.ref.url)
            over = self._loop.time() > end
            if problem and (over or not all(sent.request.unsent for sent, _ in lane.doubted)):
                self.lose(lane, f"{lane.doubted[0][1]}; {problem}")
                return
            if over or (not problem and all(self._may_be_sent_again(sent) for sent, _ in lane.doubted)):
                break
            await asyncio.sleep(_ASK_S)
        doubted, lane.doubted = lane.doubted, []
        lane.resume()
        again = []
        for sent, reason in doubted:
            if self._may_be_sent_again(sent):
                sent.refused_by |= {lane}
                again.append(sent)
            else:
                sent.fail(reason)
        lane.client.resent += len(again)
        self._send_again(again)

    def _may_be_sent_again(self, sent: Sent) -> bool:
        """Whether a failed request was refused the connection, so that trying again hides no failure: it is tried at
        each of the other engines, or once more where there is no other."""
        others = {lane for lane in self._lanes if not lane.lost} - {sent.lane} - sent.refused_by
        return sent.request.unsent and bool(others or not sent.refused_by)

    def _check(self) -> None:
        """Look for engines that owe answers and are silent.

        Silence is counted in checks, so that a pause of this process is not taken for one of the engine, and only while
        others are heard, so that one of the network is not either.
        """
        watched = [lane for lane in self._lanes if not lane.lost and not lane.doubted]
        for lane in watched:
            lane.listen(self._check_s)
        lively = {lane for lane in watched if lane.quiet_s <= self._silence_s * _LIVELY}
        if not lively and any(lane.unheard_s for lane in watched):
            for lane in watched:
                if not lane.in_flight and lane not in self._asked:
                    self._begin(self._hear(lane))
        for lane in watched:
            if lane.unheard_s and lively - {lane}:
                lane.silent_s += self._check_s
            if lane.silent_s >= self._silence_s:
                self.lose(
                    lane,
                    f"no byte of {lane.in_flight} answers for {lane.silent_s:.0f} s while other engines answered",
                )
        self._loop.call_later(self._check_s, self._check)

    async def _hear(self, lane: Lane) -> None:
        """Check the health of an idle engine; bytes of its response count like any others."""
        self._asked.add(lane)
        if not await asyncio.to_thread(probe.health_problem, lane.ref.url):
            lane.quiet_s = 0.0
        self._asked.discard(lane)

    async def _await_return(self, lane: Lane) -> None:
        while not await self._is_back(lane):
            await asyncio.sleep(_RETURN_S)
        self._loss_of(lane).rejoined_s = perf_counter()
        lane.resume()
        self._pump()

    async def _is_back(self, lane: Lane) -> bool:
        """Whether it is the same engine and answers: the server of an engine that hangs may still name its model.

        One that was away from the start must be like one of the others.
        """
        try:
            served = await asyncio.to_thread(probe.served, lane.ref.url)
        except HarnessError:
            return False
        known = [lane.served] if lane.served else [other.served for other in self._lanes if other.served]
        if not any(served.may_be(one) for one in known):
            loss, another = self._loss_of(lane), f"; came back as another: {served}"
            loss.reason = loss.reason.removesuffix(another) + another
            return False
        if lane.bodies is None:
            lane.served, lane.bodies = served, await asyncio.to_thread(self._bodies, served.model)
        return await self._answers(lane, lane.bodies[0])

    async def _answers(self, lane: Lane, body: bytes) -> bool:
        answered: asyncio.Future[bool] = self._loop.create_future()

        def done(answer: Answer) -> None:
            answered.set_result(True)

        def failed(reason: str) -> None:
            answered.set_result(False)

        lane.client.send(Request(body, lambda token_ids: None, lambda: None, done, failed))
        return await answered

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self._loop.call_exception_handler({"message": "watching over an engine failed", "exception": error})
