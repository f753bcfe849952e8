"""The whole run path (LoadGen, dispatch, client, journal, status) against a paced fake server, beside vLLM's own.

The server sends a token every 10 ms, 128 tokens an answer, one per chunk; 256 requests are in flight, so 200 requests/s
are possible. Then the same without pace and 64 in flight. Latencies stand beside what the server itself wrote down.
Paired runs in turn, medians, ratios of pairs.

    python bench/client.py [--runs 5] [--vllm-python PYTHON]
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from statistics import median

import numpy as np

from bench import pairs
from bench.pairs import Figures
from bench.vllm_serve import VllmServe
from harness.sandbox.model import model_files
from tests.fake_server import FakeServer

FEW, MANY, UNPACED = 512, 2048, 2048
PROMPT_TOKENS = 400


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="paired runs")
    parser.add_argument("--vllm-python", default=sys.executable, help="a Python that can import vLLM")
    options = parser.parse_args()
    pairs.idle_machine()
    with tempfile.TemporaryDirectory() as model, VllmServe(options.vllm_python) as vllm:
        for name, content in model_files(1).items():
            Path(model, name).write_bytes(content)
        paced = pairs.paired(options.runs, ours_paced, lambda: theirs_paced(vllm, model))
        unpaced = pairs.paired(options.runs, ours_unpaced, lambda: theirs_unpaced(vllm, model))
    report(paced, unpaced)


def ours(server: FakeServer, samples: int, in_flight: int) -> Figures:
    """One Offline run of ours: its own figures and the server's."""
    server.reset()
    engines = [{"name": "fake", "url": server.url, "max_in_flight": in_flight}]
    with pairs.prompts_on_disk(samples, PROMPT_TOKENS) as data:
        prompts = [tuple(record["tok_input"]) for record in json.loads(Path(data["dataset"]).read_text())]
        with pairs.offline({**data, "samples": samples, "engines": engines}) as (outcome, run_dir, _):
            lines = pairs.journal(run_dir)
            rate = pairs.samples_per_s(run_dir)
    ttft_ms = [(line["first_s"] - line["sent_s"]) * 1000 for line in lines]
    tpot_ms = [(line["last_s"] - line["first_s"]) * 1000 / (line["n_tokens"] - 1) for line in lines]
    records = {record["prompt"]: record for record in server.records()}
    both = [(line, records[hash(prompts[line["qsl_idx"]])]) for line in lines]
    # Both clocks are the same but for where they start; no request arrives before it is sent.
    start = min(record["arrived_s"] - line["sent_s"] for line, record in both)
    true_ms = [(record["first_s"] - start - line["sent_s"]) * 1000 for line, record in both]
    measured = {"ttft_p99_ms": p99(ttft_ms), "tpot_p99_ms": p99(tpot_ms), "true_ttft_p99_ms": p99(true_ms)}
    return {"requests_per_s": rate, "cpu_s": outcome.client_cpu_s, **measured, **sent_by(server)}


def theirs(vllm: VllmServe, model: str, server: FakeServer, samples: int, in_flight: int) -> Figures:
    """One run of `vllm bench serve`."""
    server.reset()
    result = vllm.run(
        server.url, "fake", model, num_prompts=samples, max_concurrency=in_flight, random_input_len=PROMPT_TOKENS
    )
    measured = {"ttft_p99_ms": result["p99_ttft_ms"], "tpot_p99_ms": result["p99_tpot_ms"]}
    return {"requests_per_s": result["request_throughput"], "cpu_s": result["cpu_s"], **measured, **sent_by(server)}


def sent_by(server: FakeServer) -> Figures:
    """The server's own record: from a request's arrival to its first token, and between tokens."""
    records = server.records()
    ttft_ms = [(record["first_s"] - record["arrived_s"]) * 1000 for record in records]
    tpot_ms = [(record["last_s"] - record["first_s"]) * 1000 / (record["tokens"] - 1) for record in records]
    return {"sent_ttft_p99_ms": p99(ttft_ms), "sent_tpot_p99_ms": p99(tpot_ms)}


def p99(values: list[float]) -> float:
    return float(np.percentile(values, 99))


def further(few: Figures, many: Figures) -> Figures:
    """The larger run's figures with the CPU time that each request beyond the smaller run's cost."""
    return {**many, "cpu_ms_per_request": (many["cpu_s"] - few["cpu_s"]) * 1000 / (MANY - FEW)}


def ours_paced() -> Figures:
    with FakeServer(ms_per_token=10) as server:
        return further(ours(server, FEW, 256), ours(server, MANY, 256))


def theirs_paced(vllm: VllmServe, model: str) -> Figures:
    with FakeServer(ms_per_token=10) as server:
        return further(theirs(vllm, model, server, FEW, 256), theirs(vllm, model, server, MANY, 256))


def ours_unpaced() -> Figures:
    with FakeServer() as server:
        return {"requests_per_s": ours(server, UNPACED, 64)["requests_per_s"]}


def theirs_unpaced(vllm: VllmServe, model: str) -> Figures:
    with FakeServer() as server:
        return {"requests_per_s": theirs(vllm, model, server, UNPACED, 64)["requests_per_s"]}


def report(paced: list[tuple[Figures, Figures]], unpaced: list[tuple[Figures, Figures]]) -> None:
    """Print the table; the last two columns are figures of another day, on a quiet machine of this size."""
    us, them = [first for first, _ in paced], [second for _, second in paced]
    rows = [("measure (medians)", "ours", "vllm bench serve", "ratio of pairs", "target", "prototype", "vllm then")]

    def row(title: str, name: str, digits: int, target: str, then: tuple[str, str]) -> None:
        values = [f"{pairs.middle(side, name):.{digits}f}" for side in (us, them)]
        rows.append((title, *values, f"{pairs.ratio(paced, name):.2f}", target, *then))

    def off(title: str, name: str, reference: str, target: str, sides: list[list[Figures]]) -> None:
        values = [f"{median(one[name] - one[reference] for one in side):+.2f}" for side in sides]
        rows.append((title, *values, *[""] * (2 - len(sides)), "", target, "", ""))

    row("requests/s of 200", "requests_per_s", 1, ">= 197", ("197", "179"))
    row("CPU per further request, ms", "cpu_ms_per_request", 2, "ratio <= 0.3", ("1.3", "6.1"))
    row("TTFT p99 measured, ms", "ttft_p99_ms", 1, "", ("12", "183"))
    off("- the server's, from sending to its first token", "ttft_p99_ms", "true_ttft_p99_ms", "<= 5", [us])
    off("- the server's, from arrival to its first token", "ttft_p99_ms", "sent_ttft_p99_ms", "", [us, them])
    row("TPOT p99 measured, ms", "tpot_p99_ms", 2, "", ("10.06", "10.26"))
    off("- the server's", "tpot_p99_ms", "sent_tpot_p99_ms", "<= 0.10", [us, them])
    rates = [f"{pairs.middle([pair[side] for pair in unpaced], 'requests_per_s'):.0f}" for side in (0, 1)]
    ratio = f"{pairs.ratio(unpaced, 'requests_per_s'):.2f}"
    rows.append(("unpaced, 64 in flight, requests/s", *rates, ratio, "ratio >= 1.5", "1200", "619"))
    pairs.table(rows)


if __name__ == "__main__":
    main()
