"""An engine as the dispatcher sees it, and the samples under way there."""

from collections.abc import Callable, Hashable
from typing import Protocol

from harness.load.answer import Answer
from harness.load.balance import EngineLoad
from harness.load.client import Client
from harness.load.connection import Request
from harness.node.probe import Served
from harness.spec import EngineRef


class Listener(Protocol):
    """Callbacks for the answers to samples, called on the dispatcher's one thread; they must return at once."""

    def on_first(self, key: Hashable, sample: int, token_ids: list[int]) -> None:
        """The first token of a sample has come; `token_ids` is what came with it. Called once a sample, whatever
        becomes of the engine afterwards."""

    def on_done(self, key: Hashable, sample: int, engine: str, answer: Answer) -> None:
        """A sample's whole answer has come, all of it from this engine."""

    def on_failed(self, key: Hashable, sample: int, engine: str, reason: str) -> None:
        """A sample failed for good."""

    def on_crash(self, reason: str) -> None:
        """An internal error of the harness: some samples may never be answered."""


class Lane(EngineLoad):
    """One engine with its load and its requests.

    `served` and `bodies` are None while its model is not known. `lost` is the reason why it gets no samples, `doubted`
    are the samples that failed while its health is being checked, each with its reason. No byte has come from it for
    `quiet_s`. While it owes answers, that is `unheard_s`, of which others sent bytes for `silent_s`.
    """

    __slots__ = (
        "_heard",
        "bodies",
        "client",
        "doubted",
        "lost",
        "over_count",
        "quiet_s",
        "ref",
        "served",
        "silent_s",
        "under_way",
        "unheard_s",
    )

    def __init__(
        self, ref: EngineRef, speed: float, client: Client, served: Served | None, bodies: list[bytes] | None
    ) -> None:
        super().__init__(ref.max_in_flight, speed)
        self.ref, self.client, self.served, self.bodies = ref, client, served, bodies
        self.under_way: dict[Sent, None] = {}
        self.over_count = 0
        self._heard = (0, 0)
        self.doubted: list[tuple[Sent, str]] = []
        self.lost: str | None = None
        self.unheard_s = self.silent_s = 0.0
        self.quiet_s = float("inf")

    def listen(self, passed_s: float) -> None:
        """Record whether anything has arrived since the last call, which was `passed_s` ago."""
        before, self._heard = self._heard, (self.over_count, sum(sent.request.pieces for sent in self.under_way))
        came = self._heard != before
        self.quiet_s = 0.0 if came else self.quiet_s + passed_s
        if came or not self.in_flight:
            self.unheard_s = self.silent_s = 0.0
        else:
            self.unheard_s += passed_s

    def pause(self) -> None:
        """Get no samples until `resume`."""
        self.limit = 0

    def resume(self) -> None:
        """Get samples again."""
        self.limit, self.lost = self.ref.max_in_flight, None
        self.unheard_s, self.silent_s, self.quiet_s = 0.0, 0.0, float("inf")

    def take_back(self) -> list["Sent"]:
        """Give up every request under way; returns them in the order in which they were sent."""
        sent = list(self.under_way)
        self.under_way.clear()
        for one in sent:
            self.client.cancel(one.request)
        self.client.close()
        self.in_flight = self.weight = 0
        return sent


class Sent:
    """A sample at an engine. Where that engine is lost another one follows it, which counts `moved` on.

    A follower keeps the time of the first sending and of the first token that the listener was notified of, and
    `refused_by`: the engines that refused the connection for it.
    """

    __slots__ = (
        "_failed",
        "_first_s",
        "_listener",
        "_pump",
        "_sent_s",
        "_weight",
        "key",
        "lane",
        "moved",
        "refused_by",
        "request",
        "sample",
    )

    def __init__(
        self,
        lane: Lane,
        weight: int,
        key: Hashable,
        sample: int,
        listener: Listener,
        pump: Callable[[], None],
        failed: Callable[["Sent", str], None],
    ) -> None:
        self.lane, self._weight, self.key, self.sample = lane, weight, key, sample
        self._listener, self._pump, self._failed = listener, pump, failed
        self.moved = 0
        self.refused_by: frozenset[Lane] = frozenset()
        self._sent_s: float | None = None
        self._first_s: float | None = None

    def follow(self, before: "Sent") -> None:
        """Be the next attempt at a sample."""
        self.moved, self.refused_by = before.moved, before.refused_by
        self._sent_s = before._sent_s or before.request.sent_s
        self._first_s = before._first_s or before.request.first_s

    def send(self) -> None:
        """Send the request."""
        lane = self.lane
        assert lane.bodies is not None
        lane.sent(self._weight)
        lane.under_way[self] = None
        self.request = Request(lane.bodies[self.sample], self._first, self._over, self._done, self._fail)
        lane.client.send(self.request)

    def _first(self, token_ids: list[int]) -> None:
        """The first token has arrived: from now on the request weighs less."""
        self.lane.weight -= self._weight - 1
        self._weight = 1
        if self._first_s is None:
            self._listener.on_first(self.key, self.sample, token_ids)

    def _over(self) -> None:
        """The engine has finished the request, successfully or not."""
        lane = self.lane
        lane.over(self._weight)
        lane.over_count += 1
        del lane.under_way[self]
        self._pump()

    def _done(self, answer: Answer) -> None:
        """The whole answer has come."""
        if self._sent_s is not None:
            first_s = self._first_s or answer.first_s
            answer = Answer(answer.token_ids, self._sent_s, first_s, answer.last_s, self.moved)
        self._listener.on_done(self.key, self.sample, self.lane.ref.name, answer)

    def _fail(self, reason: str) -> None:
        self._failed(self, reason)

    def fail(self, reason: str) -> None:
        """Tell the listener that it failed for good."""
        self._listener.on_failed(self.key, self.sample, self.lane.ref.name, reason)
