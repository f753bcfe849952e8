"""Samples/s of our Offline run against `vllm bench serve`, on the same CPU engine, prompts and concurrency.

The engine is a real vLLM serving the sandbox's tiny Llama; both clients ask greedily for at most 128 tokens of the same
articles. Runs in turn; median of ratios.

    python bench/engine.py --sandbox DIR [--runs 5] [--samples 400] [--in-flight 64]
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from tokenizers import Tokenizer

from bench import pairs
from bench.pairs import Figures
from bench.vllm_serve import VllmServe
from harness import dataset, engine, sandbox

NAME = "bench"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sandbox", type=Path, required=True, help="what `harness sandbox --dir DIR` built")
    parser.add_argument("--runs", type=int, default=5, help="paired runs")
    parser.add_argument("--samples", type=int, default=400)
    parser.add_argument("--in-flight", type=int, default=64, help="requests at once, for both")
    parser.add_argument("--port", type=int, default=8190, help="of the engine")
    parser.add_argument("--vllm-python", default=sys.executable, help="a Python that can import vLLM")
    options = parser.parse_args()
    parts = sandbox.paths(options.sandbox.absolute())
    pairs.idle_machine()
    with tempfile.TemporaryDirectory() as folder, VllmServe(options.vllm_python) as vllm:
        prompts = Path(folder, "prompts.jsonl")
        write_prompts(prompts, parts["model"], parts["dataset"], options.samples)
        values = {"name": NAME, "model": str(parts["model"]), "port": options.port, "dtype": "float32"}
        values |= {"max_num_seqs": options.in_flight, "kv_cache_gib": 1}
        print("starting the engine", flush=True)
        try:
            running = engine.up(
                Path(folder),
                engine.parse_config(values),
                wait=True,
                on_progress=lambda line: None,
                die_with_parent=True,
            )
            served = {"url": running.url, "model": str(parts["model"])}
            figures = pairs.paired(
                options.runs,
                lambda: ours(parts, running.url, options.samples, options.in_flight),
                lambda: theirs(vllm, served, prompts, options.samples, options.in_flight),
            )
        finally:
            engine.down(Path(folder), NAME)
    us, them = [first for first, _ in figures], [second for _, second in figures]
    rows = [("measure (medians)", "ours", "vllm bench serve", "ratio of pairs", "target")]
    for title, name, target in (("samples/s", "samples_per_s", ">= 1.0"), ("tokens/s", "tokens_per_s", "")):
        values_ = [f"{pairs.middle(side, name):.1f}" for side in (us, them)]
        rows.append((title, *values_, f"{pairs.ratio(figures, name):.3f}", target))
    pairs.table(rows)


def write_prompts(out: Path, model: Path, data: Path, samples: int) -> None:
    """The samples' prompts as text, which the server turns back into the same ids with BOS in front."""
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    texts = tokenizer.decode_batch(dataset.load(data, limit=samples).inputs, skip_special_tokens=True)
    out.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))


def ours(parts: dict[str, Path], url: str, samples: int, in_flight: int) -> Figures:
    """One Offline run."""
    engines = [{"name": NAME, "url": url, "max_in_flight": in_flight}]
    spec = {"model": str(parts["model"]), "dataset": str(parts["dataset"]), "samples": samples, "engines": engines}
    with pairs.offline(spec) as (outcome, run_dir, _):
        rate = pairs.samples_per_s(run_dir)
        return {"samples_per_s": rate, "tokens_per_s": rate * outcome.tokens / outcome.samples}


def theirs(vllm: VllmServe, served: dict[str, str], prompts: Path, samples: int, in_flight: int) -> Figures:
    """One run of `vllm bench serve` over the same prompts in the same order."""
    result = vllm.run(
        served["url"],
        served["model"],
        served["model"],
        dataset_name="custom",
        dataset_path=str(prompts),
        custom_output_len=128,
        skip_chat_template=True,
        disable_shuffle=True,
        num_prompts=samples,
        max_concurrency=in_flight,
    )
    return {"samples_per_s": result["request_throughput"], "tokens_per_s": result["output_throughput"]}


if __name__ == "__main__":
    main()
