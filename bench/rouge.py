"""Scoring an accuracy log: `harness score`'s way against the plain loop of the reference, figure for figure the same.

The plain loop decodes, splits with Punkt and calls `rouge_score` pair by pair in one process. Ours reads the log from
disk and writes its files, the start of its processes included. Paired runs in turn; medians and their ratio.

    python bench/rouge.py [--pairs 13368] [--runs 5]
"""

import argparse
import json
import struct
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from rouge_score.rouge_scorer import RougeScorer
from tokenizers import Tokenizer

from harness.dataset import Dataset
from harness.sandbox.model import model_files
from harness.sandbox.text import Language
from harness.scoring import punkt
from harness.scoring.accuracy import score
from harness.scoring.pool import cores
from harness.scoring.scores import METRICS

WORDS = 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=13_368, help="answers to score")
    parser.add_argument("--runs", type=int, default=5, help="paired runs")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model, data, answers = prepare(folder, options.pairs)
        sentences = punkt.find(None, Path(".mlperf"))
        if sentences is None:
            punkt.fetch(folder / "punkt")
            sentences = folder / "punkt"
        plain_s, ours_s = [], []
        for run in range(options.runs):
            start = time.perf_counter()
            expected = plain(model, sentences, data.targets, answers)
            plain_s.append(time.perf_counter() - start)
            start = time.perf_counter()
            score(folder / "log.json", data, model, reference_ids=None, punkt_dir=sentences, out_dir=folder / str(run))
            ours_s.append(time.perf_counter() - start)
            assert figures(folder / str(run) / "scores.csv") == expected, "the figures differ"
            print(f"run {run + 1}: plain loop {plain_s[-1]:.2f} s, ours {ours_s[-1]:.2f} s", flush=True)
    print(f"{options.pairs} pairs, {cores()} cores, every figure the same")
    print(
        f"medians: plain loop {median(plain_s):.2f} s, ours {median(ours_s):.2f} s, ratio {ratio(plain_s, ours_s):.2f}"
    )


def ratio(plain_s: list[float], ours_s: list[float]) -> float:
    """Median of the paired ratios; above 1 ours is faster."""
    return median(one / other for one, other in zip(plain_s, ours_s, strict=True))


def prepare(folder: Path, pairs: int) -> tuple[Path, Dataset, list[list[int]]]:
    """A model directory, targets of 60 words, and a log of answers that share about half of their words with them."""
    model = folder / "model"
    model.mkdir()
    for name, content in model_files(1).items():
        (model / name).write_bytes(content)
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    language = Language(1)
    texts = [language.article(number).split() for number in range(pairs)]
    targets = [" ".join((words * 2)[:WORDS]) for words in texts]
    half = WORDS // 2
    mixed = [" ".join(words[:half] + texts[number - 1][:half]) for number, words in enumerate(texts)]
    answers = [encoding.ids for encoding in tokenizer.encode_batch(mixed, add_special_tokens=False)]
    entries = [
        {"seq_id": index, "qsl_idx": index, "data": struct.pack(f"<{len(ids)}i", *ids).hex(), "token_count": len(ids)}
        for index, ids in enumerate(answers)
    ]
    (folder / "log.json").write_text(json.dumps(entries))
    return model, Dataset(folder / "cnn_eval.json", [[0]] * pairs, targets, "", ""), answers


def plain(model: Path, sentences: Path, targets: list[str], answers: list[list[int]]) -> list[tuple[float, ...]]:
    """F-measures of every pair, one after the other."""
    tokenizer: Any = Tokenizer.from_file(str(model / "tokenizer.json"))
    split, scorer = punkt.splitter(sentences), RougeScorer(METRICS, use_stemmer=True)
    scores = []
    for target, ids in zip(targets, answers, strict=True):
        text = tokenizer.decode(ids, skip_special_tokens=True)
        result = scorer.score("\n".join(split(target.strip())), "\n".join(split(text.strip())))
        scores.append(tuple(result[metric].fmeasure for metric in METRICS))
    return scores


def figures(table: Path) -> list[tuple[float, ...]]:
    """The same from scores.csv."""
    return [tuple(map(float, line.split(",")[1:5])) for line in table.read_text().splitlines()[1:]]


if __name__ == "__main__":
    main()
