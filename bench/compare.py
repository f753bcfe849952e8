"""Whether `harness compare` says the truth, in virtual time: sets of runs that are alike, and of runs that are not.

A run is 13,368 samples. Its speed differs from the next run's by 0.5 % (standard deviation) and wanders within the run
by 2 %, correlated over up to a hundredth of its length. Each set has three runs a side.

    python bench/compare.py [--sets 200] [--first 0]
"""

import argparse
from collections.abc import Sequence

import numpy as np
from scipy import signal

from bench import pairs
from harness.compare.comparison import Comparison, Word, compare
from harness.report.work import Asked, Figures, Machine, Node, Percentiles, Run, Verdict

SAMPLES, REPEATS = 13_368, 3
RUN_NOISE, WITHIN_NOISE = 0.005, 0.02
_RATE = 4.0
_NODES = (Node(name="n1", machine=Machine.model_validate({"model_sha256": "a" * 64})),)


def run(run_id: str, slower_percent: float, random: np.random.Generator) -> Run:
    """One Offline run of an engine that is so much slower than the base."""
    speed = (1 - slower_percent / 100) * np.exp(RUN_NOISE * random.standard_normal())
    kept = np.exp(-1 / random.uniform(1, SAMPLES / 100))
    pushes = np.sqrt(1 - kept**2) * WITHIN_NOISE * random.standard_normal(SAMPLES)
    wander = np.exp(signal.lfilter([1.0], [1.0, -kept], pushes))
    seconds = random.gamma(50, 1 / 50, SAMPLES) / (_RATE * speed * wander)
    ttft = 1000 * random.lognormal(-1.5, 0.5, SAMPLES) / (speed * wander)
    tpot = 50 * random.gamma(100, 1 / 100, SAMPLES) / (speed * wander)
    rate = SAMPLES / float(seconds.sum())
    figures = Figures(
        samples_per_s=rate,
        tokens_per_s=128 * rate,
        ttft=_percentiles(ttft),
        tpot=_percentiles(tpot),
        end_to_end=_percentiles(ttft + 127 * tpot),
    )
    return Run(
        run_id=run_id, asked=Asked(scenario="offline"), verdict=Verdict(level="VALID"), together=figures, nodes=_NODES
    )


def _percentiles(values: np.ndarray) -> Percentiles:
    p50, p99 = np.percentile(values, [50, 99], method="higher")
    return Percentiles(p50_ms=float(p50), p99_ms=float(p99))


def one_set(slower_percent: float, seed: int, regression_percent: float | None = None) -> Comparison:
    """Three runs against three runs that are so much slower."""
    random = np.random.default_rng(seed)
    sides = [
        [run(f"{side}-{i}", slow, random) for i in range(REPEATS)] for side, slow in (("a", 0.0), ("b", slower_percent))
    ]
    return compare(*sides, regression_percent)


def called(comparisons: Sequence[Comparison], words: set[Word]) -> int:
    """In how many comparisons at least one figure gets one of these words."""
    return sum(any(row.word in words for row in comparison.rows) for comparison in comparisons)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=200, help="sets of each kind")
    parser.add_argument("--first", type=int, default=0, help="seed of the first set")
    options = parser.parse_args()
    rows: list[tuple[str, ...]] = [("slower by", "called different", "called slower", "gate at 3 % fails", "wanted")]
    wanted = {0.0: "at most 7.5 % different", 1.0: "", 5.0: "at least 95 % slower"}
    for number, percent in enumerate((0.0, 1.0, 3.0, 5.0)):
        seeds = range(options.first + 10_000 * number, options.first + 10_000 * number + options.sets)
        sets = [one_set(percent, seed, 3.0) for seed in seeds]
        different = called(sets, {Word.FASTER, Word.SLOWER})
        slower = called(sets, {Word.SLOWER})
        failed = sum(comparison.gate is not None and comparison.gate.failed for comparison in sets)
        counts = [f"{count} of {options.sets}" for count in (different, slower, failed)]
        rows.append((f"{percent:g} %", *counts, wanted.get(percent, "")))
    pairs.table(rows)


if __name__ == "__main__":
    main()
