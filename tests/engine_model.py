"""A model of one engine with continuous batching, without a clock: what each step does and how long it takes.

The fake server runs it in real time, simulations in virtual time. As in vLLM, a step first gives every decoding
sequence one token; what is left of its cap on tokens goes to the prompts in order of arrival, the last of them in part.
The step that completes a prompt also makes its first token. So prefill delays decoding, and decoding prefill.
"""

from collections import defaultdict, deque
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Request = TypeVar("Request", bound=Hashable)


@dataclass(frozen=True)
class StepCosts:
    """What a step costs, in milliseconds, and its caps.

    Attributes:
        base_ms: every step, however little it does.
        prefill_ms_per_token: each token of a prompt.
        decode_ms_per_sequence: each sequence that gets a further token.
        tokens_per_step: most tokens of a step, of prompts and of answers together.
        sequences: most sequences at once; the rest waits.
    """

    base_ms: float
    prefill_ms_per_token: float
    decode_ms_per_sequence: float
    tokens_per_step: int = 2048
    sequences: int = 256


@dataclass(frozen=True, slots=True)
class Step(Generic[Request]):
    """One step: its length in seconds, the requests whose first and whose last token it makes (either may be both)."""

    seconds: float
    first: list[Request]
    done: list[Request]


class EngineModel(Generic[Request]):
    """An engine's queue and its batch. A step costs the same to simulate whatever the batch size."""

    def __init__(self, costs: StepCosts) -> None:
        self._costs = costs
        self._steps = 0
        self._queue: deque[list[Any]] = deque()  # [tokens of the prompt to do, tokens of the answer, request]
        self._begun = False  # the first of the queue is prefilled in part
        self._last_step: dict[Request, int] = {}  # of each decoding request
        self._ends: defaultdict[int, list[Request]] = defaultdict(list)  # the same by step

    @property
    def running(self) -> int:
        """Sequences in the batch."""
        return len(self._last_step) + self._begun

    @property
    def waiting(self) -> int:
        """Requests not begun."""
        return len(self._queue) - self._begun

    def add(self, request: Request, prompt_tokens: int, new_tokens: int) -> None:
        """Queue a request of at least one token each way; the next step may take it."""
        self._queue.append([prompt_tokens, new_tokens, request])

    def remove(self, request: Request) -> None:
        """Forget a request, wherever it is; a finished one is not an error."""
        if request in self._last_step:
            self._ends[self._last_step.pop(request)].remove(request)
            return
        for position, (_, _, queued) in enumerate(self._queue):
            if queued == request:
                del self._queue[position]
                self._begun = self._begun and position > 0
                return

    def step(self) -> Step[Request] | None:
        """Do one step; None when there is nothing to do."""
        if not self._queue and not self._last_step:
            return None
        decoding = len(self._last_step)
        first, prefilled = self._prefill(self._costs.tokens_per_step - decoding, self._costs.sequences - decoding)
        finished = self._ends.pop(self._steps, [])
        for request in finished:
            del self._last_step[request]
        self._steps += 1
        costs = self._costs
        prefill_ms, decode_ms = costs.prefill_ms_per_token * prefilled, costs.decode_ms_per_sequence * decoding
        return Step((costs.base_ms + prefill_ms + decode_ms) / 1000, first, finished)

    def _prefill(self, tokens: int, sequences: int) -> tuple[list[Request], int]:
        """Prefill up to so many tokens of so many prompts; returns the completed requests and the tokens."""
        first: list[Request] = []
        remaining = tokens
        while self._queue and remaining > 0 and len(first) < sequences:
            prompt_tokens, new_tokens, request = self._queue[0]
            self._begun = prompt_tokens > remaining
            if self._begun:
                self._queue[0][0] -= remaining
                return first, tokens
            remaining -= prompt_tokens
            self._queue.popleft()
            first.append(request)
            last = self._steps + new_tokens - 1
            self._last_step[request] = last
            self._ends[last].append(request)
        return first, tokens - remaining
