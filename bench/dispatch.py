"""Rules of dispatch beside each other in virtual time: which engine should get the next sample?

A request weighs more until its first token has come, and an engine's weight may be divided by its speed. Two engines,
equal or 1 : 0.6, at 90 % of the sum of what they reach alone, Poisson arrivals, five seeds each; every rule sees the
same requests and the same noise. Ratios to least requests in flight (weight 1), medians of the seeds.

    python -m bench.dispatch [--seeds 5] [--samples 6000]
"""

import argparse
from dataclasses import replace
from random import Random
from statistics import median

from bench import fleets, pairs
from bench.fleets import EQUAL, LEAST_REQUESTS, SETTINGS, SHIPPED, UNLIKE, Fleet, Rule, Setting, p99
from harness.spec import FULL_SAMPLES
from tests.engine_model import StepCosts


def fixed(weight: int, by_speed: bool) -> Rule:
    """The same weight for every request."""
    return Rule(lambda tokens: weight, by_speed)


IN_FLIGHT = "1 (in flight)"
RULES = {
    IN_FLIGHT: LEAST_REQUESTS,
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
STALLED = ((IN_FLIGHT, 4096), ("8", 4096), ("16", 4096), ("16", 2048), ("16", 1024), ("16", 512))
"""Rules and most tokens of a step."""
STALLS = "stalls"
MISJUDGED = ((EQUAL, (1.0, 0.75)), (UNLIKE, (1.0, 0.45)), (UNLIKE, (1.0, 0.75)))
WRONG_SPEEDS = "wrong speeds"
OFFLINE = "offline"
OTHERS = ("few slots", STALLS, WRONG_SPEEDS, OFFLINE)
STALL_HEADING = (
    "one engine stalls for 1.3 s now and then: weight",
    "tokens a step",
    "TTFT p99, ms",
    "first tokens over 1 s",
    "most prompts in a step",
)


def compare(setting: Setting, speeds: tuple[float, ...], seeds: int, samples: int) -> dict[str, list[float]]:
    """For each rule TTFT p99, TPOT p99 and the rate of Offline, where all is due at once: medians over the seeds, as
    ratios to those of LEAST_REQUESTS, whose own are in ms and samples/s."""
    rate = fleets.UTILISATION * sum(fleets.alone(setting, speed) for speed in speeds)
    by_rule: dict[str, list[tuple[float, ...]]] = {name: [] for name in RULES}
    for seed in range(seeds):
        source = Random(seed)
        lengths, due_s = setting.lengths(source, samples), fleets.arrivals(source, rate, samples)
        for name, rule in RULES.items():
            latencies = Fleet(setting, speeds, rule, seed).run(due_s, lengths)
            offline = Fleet(setting, speeds, rule, seed).run([0.0] * samples, lengths)
            by_rule[name].append((p99(latencies.ttft_ms), p99(latencies.tpot_ms), samples / offline.seconds))
    base_figures = by_rule[IN_FLIGHT]
    ratios = {
        name: [median(one[n] / base[n] for one, base in zip(figures, base_figures, strict=True)) for n in range(3)]
        for name, figures in by_rule.items()
    }
    return ratios | {IN_FLIGHT: [median(one[n] for one in base_figures) for n in range(3)]}


def stalls(seeds: int, samples: int) -> list[tuple[str, ...]]:
    """Two equal small engines of which one stands still for 1.3 s now and then, at half their sum."""
    rate = 0.5 * 2 * fleets.alone(EMBEDDED, 1.0)
    rows = []
    for name, tokens in STALLED:
        setting = replace(EMBEDDED, costs=replace(EMBEDDED.costs, tokens_per_step=tokens))
        late, together, ttft = [], [], []
        for seed in range(seeds):
            source = Random(seed)
            lengths, due_s = setting.lengths(source, samples), fleets.arrivals(source, rate, samples)
            fleet = Fleet(setting, EQUAL, RULES[name], seed, stall_s=STALL_S)
            latencies = fleet.run(due_s, lengths)
            late.append(sum(value > 1000 for value in latencies.ttft_ms))
            together.append(max(fleet.prefilled_together))
            ttft.append(p99(latencies.ttft_ms))
        rows.append((name, f"{tokens:,}", f"{median(ttft):.0f}", f"{median(late):.0f}", f"{median(together):.0f}"))
    return rows


def misjudged(seeds: int, samples: int) -> list[tuple[str, ...]]:
    """TTFT p99 of the shipped rule as a ratio to requests in flight, where it assumes wrong speeds."""
    rows = []
    for name, setting in SETTINGS.items():
        cells = []
        for speeds, assumed in MISJUDGED:
            rate = fleets.UTILISATION * sum(fleets.alone(setting, speed) for speed in speeds)
            ratios = []
            for seed in range(seeds):
                source = Random(seed)
                lengths, due_s = setting.lengths(source, samples), fleets.arrivals(source, rate, samples)
                ours = Fleet(setting, speeds, SHIPPED, seed, assumed=assumed).run(due_s, lengths)
                ratios.append(
                    p99(ours.ttft_ms) / p99(Fleet(setting, speeds, LEAST_REQUESTS, seed).run(due_s, lengths).ttft_ms)
                )
            cells.append(f"{median(ratios):.2f}")
        rows.append((name, *cells))
    return rows


def offline(seeds: int) -> list[tuple[str, ...]]:
    """Rate of a fleet of unlike engines over the sum of theirs, of whole data sets; medians of seeds."""
    rows = []
    for name, setting in SETTINGS.items():
        by_rule = (
            [fleets.of_sum(setting, UNLIKE, rule, seed, FULL_SAMPLES) for seed in range(seeds)]
            for rule in (LEAST_REQUESTS, SHIPPED)
        )
        rows.append((name, *(f"{median(ratios):.3f}" for ratios in by_rule)))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=6000, help="requests of each run")
    parser.add_argument("--setting", action="append", choices=[*SETTINGS, *OTHERS], help="all by default")
    options = parser.parse_args()
    settings = {**SETTINGS, "few slots": FULL}
    for name in options.setting or [*SETTINGS, *OTHERS]:
        if name == WRONG_SPEEDS:
            heading = [f"1 : {true[1]:g}, assumed 1 : {assumed[1]:g}" for true, assumed in MISJUDGED]
            pairs.table([("TTFT p99 with wrong speeds", *heading), *misjudged(options.seeds, options.samples)])
            continue
        if name == OFFLINE:
            pairs.table([("Offline, 1 : 0.6, over the sum", "weight 1", "weight 16 by speed"), *offline(options.seeds)])
            continue
        if name == STALLS:
            pairs.table([STALL_HEADING, *stalls(options.seeds, options.samples)])
            continue
        for speeds, fleet in ((EQUAL, "equal"), (UNLIKE, "1 : 0.6")):
            rows = [(f"{name}, {fleet}: weight", "TTFT p99", "TPOT p99", "Offline samples/s")]
            for rule, figures in compare(settings[name], speeds, options.seeds, options.samples).items():
                digits = (0, 1, 1) if rule == IN_FLIGHT else (2, 2, 3)
                rows.append((rule, *(f"{value:.{digit}f}" for value, digit in zip(figures, digits, strict=True))))
            pairs.table(rows)
            print(flush=True)


if __name__ == "__main__":
    main()
