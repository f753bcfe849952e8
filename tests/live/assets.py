"""Weights and a data set for measuring speed where the real ones are not at hand.

Speed depends on the shape of the model and on the lengths of prompts and answers, not on what the numbers say: the
model has Llama-3.1-8B's shape and seeded random weights, the data set CNN/DailyMail's lengths. Accuracy means nothing
with either, and power may differ from that with real weights.

    .mlperf/env/bin/python -m tests.live.assets --model DIR --dataset FILE [--shape miniature] [--samples 13368]

runs in a node's environment, since it needs PyTorch. What is there already and complete is kept.
"""

import json
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import orjson

from harness.errors import BadInput
from harness.files import write_atomic, write_json
from harness.node.model import model_files
from harness.sandbox.model import Shape, matrices, norms, text_files
from harness.sandbox.text import PROMPT, Language, length
from harness.spec import FULL_SAMPLES, MAX_INPUT_TOKENS, SAMPLING_SEED

SHAPES = {
    "llama-3.1-8b": Shape(128_256, 4096, 32, 32, 8, 128, 14_336, 128_000, (128_001, 128_008, 128_009)),
    "miniature": Shape(4096, 256, 2, 8, 2, 32, 896, 3840, (3841, 3848, 3849)),
}
"""The real shape, and one with its proportions that a rehearsal on a CPU can bear."""
MEDIAN_TOKENS = 780
"""Of CNN/DailyMail's prompts, the longest of which has `MAX_INPUT_TOKENS`."""
_BATCH = 512


def model(folder: Path, shape: Shape, seed: int = SAMPLING_SEED) -> None:
    """Write a model directory with bf16 weights that are random, one file for each layer."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    weight_map: dict[str, str] = {}
    for number, (name, layer) in enumerate(_files(shape).items()):
        weight_map |= dict.fromkeys(layer, name)
        if (folder / name).exists():
            continue
        click.echo(f"writing {folder / name}")
        generator = torch.Generator().manual_seed(seed * 1000 + number)
        tensors = {}
        for tensor, (rows, columns, spread) in layer.items():
            size = (rows, columns) if columns else (rows,)
            bound = spread * 3**0.5
            empty = torch.empty(size, dtype=torch.bfloat16)
            tensors[tensor] = empty.uniform_(-bound, bound, generator=generator) if columns else empty.fill_(1)
            if tensor == "lm_head.weight":
                tensors[tensor][shape.begin :] = 0  # special tokens are never generated: answers have 128 tokens
        partial = folder / f".{name}.partial"
        save_file(tensors, partial, metadata={"format": "pt"})
        partial.replace(folder / name)
    for name, content in text_files(shape, seed, "bfloat16").items():
        write_atomic(folder / name, content)
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})
    model_files(folder)


def _files(shape: Shape) -> dict[str, dict[str, tuple[int, int, float]]]:
    """The tensors of each weight file: rows, columns (0 of a norm) and standard deviation by name."""
    tensors = {name: (rows, columns, spread) for name, rows, columns, spread in matrices(shape)}
    tensors |= dict.fromkeys(norms(shape), (shape.hidden, 0, 0.0))
    files: dict[str, dict[str, tuple[int, int, float]]] = {}
    for name, size in tensors.items():
        layer = name.split(".")[2] if name.startswith("model.layers.") else "ends"
        files.setdefault(f"model-{layer}.safetensors", {})[name] = size
    return files


def dataset(file: Path, model_dir: Path, samples: int, seed: int = SAMPLING_SEED) -> None:
    """Write a data set in MLPerf's format: invented articles as long as CNN/DailyMail's, without reference summaries.

    Sample i is the same in every size.

    Raises:
        BadInput: the model's tokenizer cannot be read.
    """
    from tokenizers import Tokenizer

    if not (model_dir / "tokenizer.json").is_file():
        raise BadInput(f"{model_dir} has no tokenizer.json, with which the data set is made; copy it there")
    tokenizer = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
    click.echo(f"writing {file}: {samples} invented articles with CNN/DailyMail's lengths")
    records = b",\n".join(orjson.dumps(record) for record in _records(tokenizer, samples, seed))
    write_atomic(file, b"[\n" + records + b"\n]\n")


def _records(tokenizer: Any, samples: int, seed: int) -> Iterator[Mapping[str, Any]]:
    language = Language(seed)
    for first in range(0, samples, _BATCH):
        numbers = range(first, min(samples, first + _BATCH))
        lengths = [tokens(number, seed) for number in numbers]
        # A word is a token at least.
        articles = [language.article(number, words) for number, words in zip(numbers, lengths, strict=True)]
        prompts = tokenizer.encode_batch([PROMPT.format(input=article) for article in articles])
        for article, prompt, size in zip(articles, prompts, lengths, strict=True):
            yield {"instruction": PROMPT, "input": article, "tok_input": prompt.ids[:size], "output": ""}


def tokens(number: int, seed: int = SAMPLING_SEED) -> int:
    """Length in tokens of the prompt of sample `number`."""
    share = random.Random(f"length {seed} {number}").random()
    return min(MAX_INPUT_TOKENS, length(share, MEDIAN_TOKENS))


@click.command()
@click.option("--model", "model_dir", type=click.Path(path_type=Path), required=True, help="Model directory.")
@click.option("--dataset", "file", type=click.Path(path_type=Path), help="Data set to write.")
@click.option(
    "--shape", type=click.Choice(list(SHAPES)), help="Build the model in this shape; without it, it is there."
)
@click.option("--samples", type=click.IntRange(1, FULL_SAMPLES), default=FULL_SAMPLES, show_default=True)
def main(model_dir: Path, file: Path | None, shape: str | None, samples: int) -> None:
    """Build what is missing of a model with random weights and of a data set of real lengths."""
    if shape:
        model(model_dir, SHAPES[shape])
    if file and not (file.is_file() and len(json.loads(file.read_bytes())) >= samples):
        dataset(file, model_dir, samples)


if __name__ == "__main__":
    main()
