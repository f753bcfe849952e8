"""Fleets of modelled engines for comparing rules of dispatch: the settings, and a fleet in virtual time."""

import heapq
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, count
from random import Random
from typing import Any

from harness.load.balance import FIRST_TOKEN_WEIGHT, Balance, EngineLoad
from tests.engine_model import EngineModel, Step, StepCosts

NEW_TOKENS = 128
EQUAL, UNLIKE = (1.0, 1.0), (1.0, 0.6)
UTILISATION = 0.9  # of the sum of what the engines reach alone
STEP_NOISE = 0.1  # standard deviation of a step's length, as a part of it


@dataclass(frozen=True)
class Setting:
    """An engine at full speed and the prompts it gets; lengths are lognormal with sigma 0.5, at most 2,540 tokens."""

    costs: StepCosts
    prompt_tokens: int

    @property
    def max_in_flight(self) -> int:
        """As the harness gives engines of its own: the sequences and an eighth."""
        return self.costs.sequences + max(4, self.costs.sequences // 8)

    def at(self, speed: float) -> StepCosts:
        """The costs of an engine of this speed."""
        base, prefill, decode = (
            cost / speed
            for cost in (self.costs.base_ms, self.costs.prefill_ms_per_token, self.costs.decode_ms_per_sequence)
        )
        return replace(self.costs, base_ms=base, prefill_ms_per_token=prefill, decode_ms_per_sequence=decode)

    def lengths(self, source: Random, number: int) -> list[int]:
        """Tokens of so many prompts."""
        mean = math.log(self.prompt_tokens) - 0.125
        return [max(20, min(2540, round(source.lognormvariate(mean, 0.5)))) for _ in range(number)]


SETTINGS = {
    "512 tokens a step": Setting(StepCosts(8, 0.03, 0.04, 512, 256), 780),
    "2,048 tokens a step": Setting(StepCosts(8, 0.03, 0.04, 2048, 256), 780),
    "8,192 tokens a step, long prompts": Setting(StepCosts(8, 0.03, 0.04, 8192, 256), 1600),
    "small engine, dear prefill": Setting(StepCosts(4, 0.06, 0.08, 2048, 64), 400),
}


@dataclass(frozen=True)
class Rule:
    """How a fleet chooses: what a request of so many tokens weighs until its first token, and whether by speed."""

    weight: Callable[[int], int]
    by_speed: bool


LEAST_REQUESTS = Rule(lambda tokens: 1, by_speed=False)
SHIPPED = Rule(lambda tokens: FIRST_TOKEN_WEIGHT, by_speed=True)


@dataclass(frozen=True)
class Latencies:
    """What a run saw: times of first tokens and per further token in ms by request, and its length in seconds."""

    ttft_ms: list[float]
    tpot_ms: list[float]
    seconds: float


def arrivals(source: Random, rate: float, number: int) -> list[float]:
    """So many times of a Poisson process, in seconds."""
    return list(accumulate(source.expovariate(rate) for _ in range(number)))


def p99(values: Sequence[float]) -> float:
    """The value that one in a hundred exceeds."""
    return sorted(values)[math.ceil(0.99 * len(values)) - 1]


class Fleet:
    """Engines of some speeds under one rule, in virtual time.

    Args:
        speeds: of the engines, full speed being 1.
        stall_s: seconds that the first engine stands still for, on average every ten seconds, as a process does whose
            core is taken.
        assumed: the speeds that the rule assumes; None for the true ones.
    """

    def __init__(
        self,
        setting: Setting,
        speeds: Sequence[float],
        rule: Rule,
        seed: int,
        *,
        stall_s: float = 0.0,
        assumed: Sequence[float] | None = None,
    ) -> None:
        self._rule, self._stall_s = rule, stall_s
        self._noise = [Random(f"{seed} {number}") for number in range(len(speeds))]
        self._stalls = Random(f"{seed} stalls")
        self._models = [EngineModel[int](setting.at(speed)) for speed in speeds]
        self._busy = [False] * len(speeds)
        weights = (assumed or speeds) if rule.by_speed else [1.0] * len(speeds)
        self._loads = [EngineLoad(setting.max_in_flight, speed) for speed in weights]
        self._balance = Balance(self._loads)
        self._ends: list[tuple[float, int, int, Step[int]]] = []
        self._order = count()
        self._still_until = self._next_stall = 0.0
        self.prefilled_together: list[int] = []  # prompts that became whole in one step

    def run(self, due_s: Sequence[float], prompt_tokens: Sequence[int]) -> Latencies:
        """Issue requests at these times and run until all are answered."""
        waiting: deque[int] = deque()
        requests = len(due_s)
        weights = [self._rule.weight(tokens) for tokens in prompt_tokens]
        first_s, last_s = [0.0] * requests, [0.0] * requests
        issued, now = 0, 0.0
        while issued < requests or self._ends:
            if issued < requests and (not self._ends or due_s[issued] <= self._ends[0][0]):
                now = due_s[issued]
                waiting.append(issued)
                issued += 1
            else:
                now, _, position, step = heapq.heappop(self._ends)
                load = self._loads[position]
                for request in step.first:
                    first_s[request] = now
                    load.weight -= weights[request] - 1
                for request in step.done:
                    last_s[request] = now
                    load.over(1)
                self._begin(position, now)
            while waiting and (choice := self._balance.choose(len(waiting) - 1)) is not None:
                request = waiting.popleft()
                self._loads[choice].sent(weights[request])
                self._models[choice].add(request, prompt_tokens[request], NEW_TOKENS)
                if not self._busy[choice]:
                    self._begin(choice, now)
        return Latencies(
            [(first - due) * 1000 for first, due in zip(first_s, due_s, strict=True)],
            [(last - first) * 1000 / (NEW_TOKENS - 1) for first, last in zip(first_s, last_s, strict=True)],
            now,
        )

    def _begin(self, position: int, now: float) -> None:
        step = self._models[position].step()
        self._busy[position] = step is not None
        if step is None:
            return
        if step.first:
            self.prefilled_together.append(len(step.first))
        seconds = step.seconds * max(0.5, self._noise[position].gauss(1, STEP_NOISE))
        end_s = now + seconds + (self._stalled(now + seconds) if self._stall_s and position == 0 else 0.0)
        heapq.heappush(self._ends, (end_s, next(self._order), position, step))

    def _stalled(self, end_s: float) -> float:
        """How long a step that would end then is held up."""
        if end_s < self._next_stall:
            return 0.0
        self._next_stall = end_s + self._stall_s + self._stalls.expovariate(0.1)
        return self._stall_s


def alone(setting: Setting, speed: float) -> float:
    """Samples/s of an engine that always has `max_in_flight` requests, between a third and the end but a tenth."""
    number = 12 * setting.max_in_flight
    fleet = Fleet(setting, [speed], LEAST_REQUESTS, seed=0)
    latencies = fleet.run([0.0] * number, setting.lengths(Random(0), number))
    ends = sorted(
        (first + per_token * (NEW_TOKENS - 1)) / 1000
        for first, per_token in zip(latencies.ttft_ms, latencies.tpot_ms, strict=True)
    )
    begin, end = number // 3, number * 9 // 10
    return (end - begin) / (ends[end] - ends[begin])


def of_sum(setting: Setting, speeds: Sequence[float], rule: Rule, seed: int, samples: int) -> float:
    """Offline rate of a fleet over the sum of what its engines reach alone, each with its part of the samples."""
    lengths = setting.lengths(Random(seed), samples)
    fleet = samples / Fleet(setting, speeds, rule, seed).run([0.0] * samples, lengths).seconds
    total, start = 0.0, 0
    for number, speed in enumerate(speeds):
        part = lengths[start : start + round(samples * speed / sum(speeds))]
        start += len(part)
        total += len(part) / Fleet(setting, [speed], rule, seed + 1000 + number).run([0.0] * len(part), part).seconds
    return fleet / total


def fake_server(setting: Setting, speed: float) -> dict[str, Any]:
    """The same engine as settings of `tests.fake_server`."""
    return {
        "step_ms": setting.costs.base_ms,
        "prefill_ms_per_token": setting.costs.prefill_ms_per_token,
        "decode_ms_per_sequence": setting.costs.decode_ms_per_sequence,
        "tokens_per_step": setting.costs.tokens_per_step,
        "slots": setting.costs.sequences,
        "tokens": NEW_TOKENS,
        "tokens_per_chunk": 16,
        "speed": speed,
    }
