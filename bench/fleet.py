"""Two engines behind one dispatcher: do they reach their sum (Offline), and how soon do first tokens come (Server)?

Offline, engines of unlike speed: one LoadGen over both, which knows their speeds as after a calibration, against the
sum of what each reaches alone. The engines are fake ones with 64 sequences at once, 5 ms a token; one is slowed to 0.6.

Server, equal engines and unlike ones at 90 % of their sum, in the settings of bench/fleets.py: TTFT p99 from the time a
sample is due, with the dispatcher's choice against least requests in flight. Both get the same samples at the same
times. Runs in turn; medians of ratios.

    python bench/fleet.py [--runs 5] [--samples 4000] [--server-samples 1500] [--only offline|server]
"""

import argparse
import threading
import time
from collections.abc import Hashable
from contextlib import ExitStack
from random import Random
from typing import cast

from bench import fleets, pairs
from bench.fleets import EQUAL, SETTINGS, UNLIKE, Setting, p99
from bench.pairs import Figures
from harness.load.answer import Answer
from harness.load.balance import FIRST_TOKEN_WEIGHT
from harness.load.dispatch import Dispatcher
from harness.spec import EngineRef
from tests.fake_server import FakeServer

SLOTS, SLOWED, VOCABULARY = 64, 0.6, 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="paired runs")
    parser.add_argument(
        "--samples", type=int, default=4000, help="samples of the fleet's Offline run; alone, its share of them"
    )
    parser.add_argument("--server-samples", type=int, default=1500, help="samples of a Server run")
    parser.add_argument("--only", choices=("offline", "server"), help="half of the measurement")
    parser.add_argument("--setting", action="append", choices=list(SETTINGS), help="of Server; all by default")
    options = parser.parse_args()
    pairs.idle_machine()
    if options.only != "server":
        offline(options.runs, options.samples)
    if options.only != "offline":
        rows = [
            (
                "Server at 90 % of the sum",
                "TTFT p99 with weight 1, ms",
                "weight 16 by speed, ms",
                "ratio of pairs",
                "target",
                "TPOT p99",
            )
        ]
        for name in options.setting or SETTINGS:
            for speeds, fleet, target in ((EQUAL, "equal", "<= 1.05"), (UNLIKE, "1 : 0.6", "<= 0.85")):
                print(f"{name}, {fleet}", flush=True)
                figures = server(SETTINGS[name], speeds, options.runs, options.server_samples)
                shipped, least = [first for first, _ in figures], [second for _, second in figures]
                ttft = [f"{pairs.middle(side, 'ttft_p99_ms'):.0f}" for side in (least, shipped)]
                ratios = [f"{pairs.ratio(figures, figure):.2f}" for figure in ("ttft_p99_ms", "tpot_p99_ms")]
                rows.append((f"{name}, {fleet}", *ttft, ratios[0], target, ratios[1]))
        pairs.table(rows)


def offline(runs: int, samples: int) -> None:
    """Measure and print the Offline half."""
    pace = {"ms_per_token": 5, "tokens": 128, "tokens_per_chunk": 4, "slots": SLOTS}
    with FakeServer(**pace) as full, FakeServer(**pace, speed=SLOWED) as slowed:

        def alone() -> Figures:
            part = round(samples / (1 + SLOWED))
            rates = [rate(part, (full, 1.0)), rate(samples - part, (slowed, SLOWED))]
            return {"full": rates[0], "slowed": rates[1], "samples_per_s": sum(rates)}

        figures = pairs.paired(runs, lambda: {"samples_per_s": rate(samples, (full, 1.0), (slowed, SLOWED))}, alone)
    together, single = [first for first, _ in figures], [second for _, second in figures]
    pairs.table(
        [
            ("samples/s (medians)", "figure", "target"),
            ("engine at full speed, alone", f"{pairs.middle(single, 'full'):.1f}", ""),
            (f"engine slowed to {SLOWED}, alone", f"{pairs.middle(single, 'slowed'):.1f}", ""),
            ("sum of the two", f"{pairs.middle(single, 'samples_per_s'):.1f}", ""),
            ("fleet", f"{pairs.middle(together, 'samples_per_s'):.1f}", ""),
            ("fleet / sum (median of pairs)", f"{pairs.ratio(figures, 'samples_per_s'):.3f}", ">= 0.99"),
        ]
    )


def rate(samples: int, *servers: tuple[FakeServer, float]) -> float:
    """Samples/s of one Offline run over engines with their speeds."""
    engines = [
        {"name": f"engine{number}", "url": server.url, "max_in_flight": SLOTS, "samples_per_s": speed}
        for number, (server, speed) in enumerate(servers)
    ]
    with pairs.prompts_on_disk(samples, 100) as data:
        with pairs.offline({**data, "samples": samples, "engines": engines}) as (_, run_dir, _):
            return pairs.samples_per_s(run_dir)


def server(setting: Setting, speeds: tuple[float, ...], runs: int, samples: int) -> list[tuple[Figures, Figures]]:
    """Pairs of runs at 90 % of the engines' sum: with the dispatcher's choice, and by requests in flight."""
    target = fleets.UTILISATION * sum(fleets.alone(setting, speed) for speed in speeds)
    with ExitStack() as stack:
        servers = [stack.enter_context(FakeServer(**fleets.fake_server(setting, speed))) for speed in speeds]
        engines = [
            EngineRef(name=f"engine{number}", url=one.url, max_in_flight=setting.max_in_flight)
            for number, one in enumerate(servers)
        ]
        speed_of = {engine.name: speed for engine, speed in zip(engines, speeds, strict=True)}
        seeds = {True: iter(range(runs)), False: iter(range(runs))}  # both sides of a pair see the same

        def run(shipped: bool) -> Figures:
            source = Random(next(seeds[shipped]))
            prompts = [[source.randrange(VOCABULARY)] * tokens for tokens in setting.lengths(source, samples)]
            listener = _Listener(samples)
            choice = (speed_of, FIRST_TOKEN_WEIGHT) if shipped else (None, 1)
            with Dispatcher(
                engines,
                prompts,
                listener,
                vocab_size=VOCABULARY,
                seed=1,
                timeout_s=300,
                speeds=choice[0],
                first_token_weight=choice[1],
            ) as dispatcher:
                start_s = time.perf_counter() + 0.1
                for sample, after_s in enumerate(fleets.arrivals(source, target, samples)):
                    time.sleep(max(0.0, start_s + after_s - time.perf_counter()))
                    dispatcher.submit([(start_s + after_s, sample)])
                listener.wait()
            return {"ttft_p99_ms": p99(listener.ttft_ms), "tpot_p99_ms": p99(listener.tpot_ms)}

        return pairs.paired(runs, lambda: run(True), lambda: run(False))


class _Listener:
    """Notes latencies; keys are the times at which samples were due."""

    def __init__(self, samples: int) -> None:
        self.ttft_ms: list[float] = []
        self.tpot_ms: list[float] = []
        self._left, self._over, self._reason = samples, threading.Event(), ""

    def on_first(self, key: Hashable, sample: int, token_ids: list[int]) -> None:
        self.ttft_ms.append((time.perf_counter() - cast(float, key)) * 1000)

    def on_done(self, key: Hashable, sample: int, engine: str, answer: Answer) -> None:
        self.tpot_ms.append((answer.last_s - answer.first_s) * 1000 / (len(answer.token_ids) - 1))
        self._left -= 1
        if not self._left:
            self._over.set()

    def on_failed(self, key: Hashable, sample: int, engine: str, reason: str) -> None:
        self.on_crash(f"{engine}: {reason}")

    def on_crash(self, reason: str) -> None:
        self._reason = reason
        self._over.set()

    def wait(self) -> None:
        """Wait for every answer; RuntimeError when one failed or after ten minutes."""
        if not self._over.wait(600) or self._reason:
            raise RuntimeError(self._reason or "not every sample was answered within ten minutes")


if __name__ == "__main__":
    main()
