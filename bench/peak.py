"""The search for the highest VALID rate (`target_qps=peak`) in virtual time, against a queueing model of an engine.

The engine is `tests/engine_model.py` with costs assumed for an engine of about an A30's size, noise of 10 % on each
step and a speed that wanders by 2 % over 60 s; the schedule and the rules are LoadGen's, for 13,368 queries. The truth
is the rate at which half of 50 runs are VALID. No seed of a search is one of the truth's.

    python bench/peak.py [--seeds 20] [--first 0] [--truth RATE] [--start 1.0]
"""

import argparse
import math
from dataclasses import dataclass
from statistics import median

import numpy as np

from bench import pairs
from harness.early_stopping import forgiven
from harness.load.forecast import Trace, Workload
from harness.load.peak import LENGTHS
from harness.load.schedule import arrivals
from harness.load.search import Question, Run, Step, next_step
from harness.spec import FULL_SAMPLES, MAX_INPUT_TOKENS, MAX_NEW_TOKENS, Scenario
from tests.engine_model import EngineModel, StepCosts

STEP_NOISE, SPEED_NOISE, SPEED_NOISE_S = 0.1, 0.02, 60.0
A30 = StepCosts(21.6, 0.195, 0.148, tokens_per_step=2048, sequences=48)
TTFT_S, TPOT_S = (limit / 1000 for limit in (Scenario.SERVER.ttft_limit_ms or 0, Scenario.SERVER.tpot_limit_ms or 0))
TRUTH_RUNS = 50
TRUTH_QPS = 3.472
"""What `truth` found, in samples/s."""
_MEAN_TOKENS, _SPREAD = 780, 0.5


def workload(queries: int = FULL_SAMPLES) -> Workload:
    """LoadGen's schedule, with prompts as long as articles are (a lognormal distribution with mean 780)."""
    lengths = np.random.default_rng(7).lognormal(math.log(_MEAN_TOKENS) - _SPREAD**2 / 2, _SPREAD, queries)
    tokens = np.clip(lengths, 50, MAX_INPUT_TOKENS).astype(np.int64)
    return Workload(arrivals(queries), tokens, tokens_per_step=A30.tokens_per_step, sequences=A30.sequences)


@dataclass
class _Noise:
    """How slow a step is, as a factor; drawn anew for every run."""

    random: np.random.Generator

    def __post_init__(self) -> None:
        self._kept = math.exp(-1 / SPEED_NOISE_S)
        self._speeds = [1 + SPEED_NOISE * float(self.random.standard_normal())]
        self._steps: list[float] = []

    def factor(self, now_s: float) -> float:
        while len(self._speeds) <= now_s:
            push = SPEED_NOISE * math.sqrt(1 - self._kept**2) * float(self.random.standard_normal())
            self._speeds.append(1 + self._kept * (self._speeds[-1] - 1) + push)
        if not self._steps:
            self._steps = np.exp(STEP_NOISE * self.random.standard_normal(4096)).tolist()
        return self._steps.pop() / self._speeds[int(now_s)]


def run(load: Workload, step: Step, seed: int) -> Run:
    """A probe or an attempt in virtual time, ended as the harness ends it."""
    noise, model = _Noise(np.random.default_rng(seed)), EngineModel[int](A30)
    due, prompts = (load.arrivals / step.target_qps).tolist(), load.prompt_tokens.tolist()
    first, last = np.full(len(due), np.nan), np.full(len(due), np.nan)
    now, arrived, finished, over_ttft, over_tpot, forgives = 0.0, 0, 0, 0, 0, forgiven(len(due))
    while finished < step.samples and max(over_ttft, over_tpot) <= forgives:
        while arrived < len(due) and due[arrived] <= now:
            model.add(arrived, prompts[arrived], MAX_NEW_TOKENS)
            arrived += 1
        batch = model.step()
        if batch is None:
            now = due[arrived]
            continue
        now += batch.seconds * noise.factor(now)
        for query in batch.first:
            first[query] = now
            over_ttft += now - due[query] > TTFT_S
        for query in batch.done:
            last[query] = now
            over_tpot += now - first[query] > TPOT_S * (MAX_NEW_TOKENS - 1)
        finished += len(batch.done)
    complete = ~np.isnan(last)
    issued, count = np.array(due)[complete], int(complete.sum())
    trace = Trace(issued, first[complete], last[complete], load.prompt_tokens[complete], np.full(count, MAX_NEW_TOKENS))
    return Run(step.kind, step.target_qps, now, max(over_ttft, over_tpot) <= forgives, trace)


def truth(load: Workload) -> float:
    """The rate at which half of 50 runs are VALID, within 0.1 %."""
    low, high = 3.0, 4.0
    while high / low > 1.001:
        rate = math.sqrt(low * high)
        valid = sum(run(load, Step("attempt", rate, len(load.arrivals)), seed).held for seed in range(TRUTH_RUNS))
        print(f"{valid} of {TRUTH_RUNS} runs at {rate:.4f} samples/s are VALID", flush=True)
        low, high = (rate, high) if 2 * valid > TRUTH_RUNS else (low, rate)
    return math.sqrt(low * high)


@dataclass(frozen=True)
class SearchResult:
    """A search that has ended: its steps and runs."""

    steps: list[Step]
    runs: list[Run]

    @property
    def valid(self) -> bool:
        return self.runs[-1].kind == "attempt" and self.runs[-1].held

    @property
    def rate(self) -> float:
        return self.runs[-1].target_qps

    @property
    def lengths(self) -> float:
        """Queries answered by all runs, in lengths of a whole one."""
        return sum(len(one.trace.issued_s) for one in self.runs) / FULL_SAMPLES

    def count(self, kind: str) -> int:
        return sum(one.kind == kind for one in self.runs)

    def __str__(self) -> str:
        summary = (
            f"{one.kind} {one.target_qps:.3f} {'held' if one.held else 'failed'} {len(one.trace.issued_s)}"
            for one in self.runs
        )
        return ", ".join(summary)


def search(load: Workload, seed: int, capacity: float) -> SearchResult:
    """A search from where calibration would start it: 0.8 of what the engine makes, seen with an error of 3 %."""
    start = 0.8 * capacity * math.exp(0.03 * float(np.random.default_rng(seed).standard_normal()))
    question = Question(
        workload=load,
        ttft_limit_s=TTFT_S,
        tpot_limit_s=TPOT_S,
        queries=lambda rate: len(load.arrivals),
        start_qps=start,
        highest_qps=3 * start,
        budget_s=LENGTHS * len(load.arrivals) / start,
    )
    steps, runs = list[Step](), list[Run]()
    while step := next_step(question, runs):
        steps.append(step)
        runs.append(run(load, step, 1000 * (seed + 1) + len(runs)))
    return SearchResult(steps, runs)


def capacity() -> float:
    """Samples/s with the batch always full."""
    per_sample = A30.prefill_ms_per_token * _MEAN_TOKENS + A30.decode_ms_per_sequence * MAX_NEW_TOKENS
    return 1000 / (per_sample + A30.base_ms * MAX_NEW_TOKENS / A30.sequences)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20, help="searches")
    parser.add_argument("--first", type=int, default=0, help="seed of the first search")
    parser.add_argument("--start", type=float, default=1.0, help="where searches start, times what calibration finds")
    parser.add_argument("--truth", type=float, help="samples/s, where it is known from an earlier call")
    options = parser.parse_args()
    load = workload()
    true = options.truth or truth(load)
    print(f"truth: {true:.4f} samples/s", flush=True)
    searches = []
    for seed in range(options.first, options.first + options.seeds):
        searches.append(result := search(load, seed, options.start * capacity()))
        print(f"seed {seed}: {result.rate / true:.3f} of the truth, {result.lengths:.2f} lengths: {result}", flush=True)
    ratios, lengths = [one.rate / true for one in searches], [one.lengths for one in searches]
    pairs.table(
        [
            (f"{options.seeds} searches", "median", "worst", "target"),
            ("rate found / truth", f"{median(ratios):.3f}", f"{min(ratios):.3f}", ">= 0.97"),
            ("last run VALID", "", f"{sum(one.valid for one in searches)} of {options.seeds}", "all"),
            ("probes", f"{median(one.count('probe') for one in searches):.0f}",
             f"{max(one.count('probe') for one in searches)}", "<= 12"),
            ("attempts", f"{median(one.count('attempt') for one in searches):.0f}",
             f"{max(one.count('attempt') for one in searches)}", ""),
            ("lengths of a whole run", f"{median(lengths):.2f}", f"{max(lengths):.2f}", "<= 2.5"),
        ]
    )  # fmt: skip


if __name__ == "__main__":
    main()
