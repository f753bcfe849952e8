"""The fake server's pace by an engine model: the tokens of a step are sent when it ends."""

import asyncio
import time
from collections import defaultdict
from typing import Protocol

from tests.engine_model import EngineModel, Step, StepCosts


class Sender(Protocol):
    """An answer that is sent piece by piece."""

    prompt_tokens: int
    answer_tokens: int

    def send(self) -> int:
        """Send the next piece; returns how many tokens the one after it holds, 0 when this was the last."""


class StepPace:
    """Sends the pieces of all answers by the steps of one engine."""

    def __init__(self, costs: StepCosts) -> None:
        self.model = EngineModel[Sender](costs)
        self._number = 0
        self._due: defaultdict[int, list[Sender]] = defaultdict(list)  # who sends a further piece, by step
        self._busy = False

    def admit(self, sender: Sender) -> None:
        """Queue a request; the next step may take it."""
        self.model.add(sender, sender.prompt_tokens, sender.answer_tokens)
        if not self._busy:
            self._begin(time.monotonic())

    def _begin(self, start_s: float) -> None:
        step = self.model.step()
        self._busy = step is not None
        if step:
            end_s = start_s + step.seconds
            delay_s = max(0.0, end_s - time.monotonic())
            asyncio.get_running_loop().call_later(delay_s, self._end, step, end_s)

    def _end(self, step: Step[Sender], end_s: float) -> None:
        self._number += 1
        for sender in (*step.first, *self._due.pop(self._number, ())):
            if following := sender.send():
                self._due[self._number + following].append(sender)
        self._begin(end_s)  # not from now: a late timer must not slow the pace
