"""What the measurements here share: paired runs in turn, medians, ratios, one table."""

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from harness import dataset
from harness import journal as journals
from harness.load.loadgen import Outcome, run_loadgen
from harness.spec import Spec, parse_spec

Figures = dict[str, float]


def paired(runs: int, one: Callable[[], Figures], other: Callable[[], Figures]) -> list[tuple[Figures, Figures]]:
    """Run both so many times, in turn and each first every second time: the machine drifts."""
    pairs = []
    for run in range(runs):
        if run % 2:
            second = other()
            first = one()
        else:
            first, second = one(), other()
        pairs.append((first, second))
        print(f"pair {run + 1} of {runs}: {_line(first)} | {_line(second)}", flush=True)
    return pairs


def _line(figures: Figures) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in figures.items())


def middle(figures: list[Figures], name: str) -> float:
    """Median of one figure."""
    return median(one[name] for one in figures)


def ratio(pairs: list[tuple[Figures, Figures]], name: str) -> float:
    """Median of the paired ratios, first over second."""
    return median(first[name] / second[name] for first, second in pairs)


def table(rows: list[tuple[str, ...]]) -> None:
    """Print rows of text in columns, the first row as heading."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for number, row in enumerate(rows):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")
        if not number:
            print("|" + "|".join("-" * (width + 2) for width in widths) + "|")


@contextmanager
def prompts_on_disk(count: int, tokens: int, vocabulary: int = 1024) -> Iterator[dict[str, str]]:
    """A data set of random prompts of one length and a model directory that names the vocabulary, for a spec."""
    source = np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as folder:
        model, data = Path(folder, "model"), Path(folder, "data.json")
        model.mkdir()
        (model / "config.json").write_text(json.dumps({"vocab_size": vocabulary, "eos_token_id": 2}))
        ids = source.integers(0, vocabulary, (count, tokens)).tolist()
        data.write_text(json.dumps([{"tok_input": one, "input": "a", "output": "b"} for one in ids]))
        yield {"model": str(model), "dataset": str(data)}


@contextmanager
def offline(values: dict[str, Any]) -> Iterator[tuple[Outcome, Path, Spec]]:
    """One Offline performance run of a spec given without run_id; yields its outcome and directory."""
    with tempfile.TemporaryDirectory() as folder:
        spec = parse_spec({"run_id": "bench", "scenario": "offline", **values})
        samples = dataset.load(spec.dataset, limit=spec.samples)
        outcome = run_loadgen(spec, samples, "performance", Path(folder), 1.0, lambda progress: None)
        yield outcome, Path(folder), spec


def samples_per_s(run_dir: Path) -> float:
    """LoadGen's own figure of an Offline run."""
    for line in (run_dir / "performance" / "mlperf_log_summary.txt").read_text().splitlines():
        name, _, value = line.partition(": ")
        if name == "Samples per second":
            return float(value)
    raise ValueError(f"no figure in {run_dir}")


def journal(run_dir: Path) -> list[dict[str, Any]]:
    """The lines of journal.jsonl."""
    return list(journals.read(run_dir / "journal.jsonl").lines)


def idle_machine() -> None:
    """Say how busy the machine was: figures of a busy one mean little."""
    load = Path("/proc/loadavg").read_text().split()[0]
    print(f"{time.strftime('%Y-%m-%d %H:%M')}, load average before: {load}", flush=True)
