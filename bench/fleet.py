"""Two engines of unlike speed: one LoadGen over both (`fleet`) against the sum of what each reaches alone.

The engines are fake ones with 64 sequences at once, 5 ms a token; one is slowed to 0.6. Nothing is told how fast they
are: samples go to the engine with the fewest requests in flight. Runs in turn; medians of ratios.

    python bench/fleet.py [--runs 5] [--samples 4000]
"""

import argparse

from bench import pairs
from bench.pairs import Figures
from tests.fake_server import FakeServer

SLOTS, SLOWED = 64, 0.6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="paired runs")
    parser.add_argument(
        "--samples", type=int, default=4000, help="samples of the fleet's run; alone, its share of them"
    )
    asked = parser.parse_args()
    pairs.idle_machine()
    pace = {"ms_per_token": 5, "tokens": 128, "tokens_per_chunk": 4, "slots": SLOTS}
    with FakeServer(**pace) as full, FakeServer(**pace, speed=SLOWED) as slowed:

        def alone() -> Figures:
            part = round(asked.samples / (1 + SLOWED))
            rates = [rate(part, full), rate(asked.samples - part, slowed)]
            return {"full": rates[0], "slowed": rates[1], "samples_per_s": sum(rates)}

        found = pairs.paired(asked.runs, lambda: {"samples_per_s": rate(asked.samples, full, slowed)}, alone)
    together, single = [first for first, _ in found], [second for _, second in found]
    pairs.table(
        [
            ("samples/s (medians)", "figure", "wanted"),
            ("engine at full speed, alone", f"{pairs.middle(single, 'full'):.1f}", ""),
            (f"engine slowed to {SLOWED}, alone", f"{pairs.middle(single, 'slowed'):.1f}", ""),
            ("sum of the two", f"{pairs.middle(single, 'samples_per_s'):.1f}", ""),
            ("fleet", f"{pairs.middle(together, 'samples_per_s'):.1f}", ""),
            ("fleet / sum (median of pairs)", f"{pairs.ratio(found, 'samples_per_s'):.3f}", ">= 0.97"),
        ]
    )


def rate(samples: int, *servers: FakeServer) -> float:
    """Samples/s of one Offline run."""
    engines = [
        {"name": f"engine{number}", "url": server.url, "max_in_flight": SLOTS} for number, server in enumerate(servers)
    ]
    with pairs.prompts_on_disk(samples, 100) as data:
        with pairs.offline({**data, "samples": samples, "engines": engines}) as (_, run_dir, _):
            return pairs.samples_per_s(run_dir)


if __name__ == "__main__":
    main()
