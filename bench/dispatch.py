"""Rules of dispatch beside each other in virtual time: which engine should get the next sample?

A request weighs more until its first token has come, and an engine's weight may be divided by its speed. Two engines,
equal or 1 : 0.6, at 90 % of the sum of what they reach alone, Poisson arrivals, five seeds each; every rule sees the
same requests and the same noise. Ratios to least requests in flight (weight 1), medians of the seeds.

    python -m bench.dispatch [--seeds 5] [--samples 6000]
"""

import argparse
from random import Random
from statistics import median

from bench import fleets, pairs
from bench.fleets import EQUAL, SETTINGS, TODAY, UNLIKE, Fleet, Rule, Setting, p99
from tests.engine_model import StepCosts


def fixed(weight: int, by_speed: bool) -> Rule:
    """The same weight for every request."""
    return Rule(lambda tokens: weight, by_speed)


RULES = {
    "1 (in flight)": TODAY,
    "8": fixed(8, False),
    "16": fixed(16, False),
    "1, by speed": fixed(1, True),
    "8, by speed": fixed(8, True),
    "16, by speed": fixed(16, True),
    "32, by speed": fixed(32, True),
    "1,000, by speed": fixed(1000, True),  # in practice: fewest without a first token, then fewest in flight
    "tokens / 49, by speed": Rule(lambda tokens: 1 + round(tokens / 49), True),  # 16 for the usual prompt
}
FULL = Setting(StepCosts(17, 0.1, 0.12, 2048, 48), 780)
EMBEDDED = Setting(StepCosts(4, 0.06, 0.08, 4096, 64), 400)
STALL_S = 1.3


def compare(setting: Setting, speeds: tuple[float, ...], seeds: int, samples: int) -> dict[str, tuple[float, float]]:
    """For each rule the medians over the seeds of TTFT p99 and TPOT p99, as ratios to TODAY's; its own are in ms."""
    rate = fleets.UTILISATION * sum(fleets.alone(setting, speed) for speed in speeds)
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in RULES}
    for seed in range(seeds):
        source = Random(seed)
        lengths, due_s = setting.lengths(source, samples), fleets.arrivals(source, rate, samples)
        for name, rule in RULES.items():
            latencies = Fleet(setting, speeds, rule, seed).run(due_s, lengths)
            seen[name].append((p99(latencies.ttft_ms), p99(latencies.tpot_ms)))
    base = seen["1 (in flight)"]
    ratios = {
        name: tuple(
            median(one[side] / today[side] for one, today in zip(figures, base, strict=True)) for side in (0, 1)
        )
        for name, figures in seen.items()
    }
    return {**ratios, "1 (in flight)": (median(one[0] for one in base), median(one[1] for one in base))}


def stalls(seeds: int, samples: int) -> list[tuple[str, ...]]:
    """Two equal small engines of which one stands still for 1.3 s now and then, at half their sum."""
    rate = 0.5 * 2 * fleets.alone(EMBEDDED, 1.0)
    rows = []
    for name in ("1 (in flight)", "8", "16"):
        late, together, ttft = [], [], []
        for seed in range(seeds):
            source = Random(seed)
            lengths, due_s = EMBEDDED.lengths(source, samples), fleets.arrivals(source, rate, samples)
            fleet = Fleet(EMBEDDED, EQUAL, RULES[name], seed, STALL_S)
            latencies = fleet.run(due_s, lengths)
            late.append(sum(value > 1000 for value in latencies.ttft_ms))
            together.append(max(fleet.prefilled_together))
            ttft.append(p99(latencies.ttft_ms))
        rows.append((name, f"{median(ttft):.0f}", f"{median(late):.0f}", f"{median(together):.0f}"))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=6000, help="requests of each run")
    asked = parser.parse_args()
    for speeds, title in ((EQUAL, "equal engines"), (UNLIKE, "engines 1 : 0.6")):
        for name, setting in {**SETTINGS, "few slots (see README)": FULL}.items():
            found = compare(setting, speeds, asked.seeds, asked.samples)
            rows = [(f"{title}, {name}: weight", "TTFT p99", "TPOT p99")]
            for rule, (ttft, tpot) in found.items():
                digits = 0 if rule == "1 (in flight)" else 2
                rows.append((rule, f"{ttft:.{digits}f}", f"{tpot:.{digits}f}"))
            pairs.table(rows)
            print(flush=True)
    pairs.table(
        [
            ("one engine stalls: weight", "TTFT p99, ms", "first tokens over 1 s", "most prompts in a step"),
            *stalls(asked.seeds, asked.samples),
        ]
    )


if __name__ == "__main__":
    main()
