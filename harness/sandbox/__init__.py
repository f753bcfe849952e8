"""A sandbox for machines without the real model: a tiny Llama, a data set in MLPerf's format, and reference answers.

The file formats are the real ones. Figures measured with it say nothing about Llama-3.1-8B.
"""

import fcntl
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from platform import python_version
from typing import Any

import orjson

from harness.errors import BadInput, NotReady
from harness.files import read_json, sha256_file, write_atomic, write_json
from harness.sandbox import references
from harness.sandbox.model import model_files
from harness.sandbox.text import PROMPT, Language
from harness.spec import FULL_SAMPLES

__all__ = ["SandboxInfo", "build", "is_complete", "paths"]

_RECIPE = 1
"""Must be raised when the same seed would give other bytes."""
_MODEL, _DATASET, _REFERENCES = "model", "cnn_eval.json", "reference_ids.jsonl"
_RECORD = "sandbox.json"
_JOURNAL = f"references-{_RECIPE}-{{seed}}.partial.jsonl"
_LARGEST_SEED = 2**32 - 1


@dataclass(frozen=True)
class SandboxInfo:
    """A finished sandbox: its paths, size and seed, whether this call changed it, and how long that took."""

    dir: str
    model: str
    dataset: str
    reference_ids: str
    samples: int
    seed: int
    changed: bool
    seconds: float


def build(out: Path, samples: int, seed: int, on_progress: Callable[[str], None]) -> SandboxInfo:
    """Build a sandbox in `out`, or complete, repair or enlarge the existing one; a larger one is kept.

    The same seed gives the same files, and sample i is the same in every size. Reference answers are saved as they are
    computed: an interrupted build resumes where it was. Builds in one directory wait for each other.

    Args:
        out: directory, created if missing.
        samples: minimum size of the data set, 1 to 13,368.
        seed: 0 to 2**32 - 1.
        on_progress: called with a line of progress now and then.

    Raises:
        BadInput: samples or seed out of range, or `out` has a sandbox with another seed.
        NotReady: the directory cannot be written, or a package is missing.
        RunFailed: a process that computes answers died.
    """
    started = time.monotonic()
    if not 1 <= samples <= FULL_SAMPLES:
        raise BadInput(f"samples = {samples}: must be 1 to {FULL_SAMPLES}")
    if not 0 <= seed <= _LARGEST_SEED:
        raise BadInput(f"seed = {seed}: must be 0 to {_LARGEST_SEED}")
    try:
        out.mkdir(parents=True, exist_ok=True)
        with _locked(out, on_progress):
            size, changed = _build(out, samples, seed, on_progress)
    except OSError as error:
        raise NotReady(
            f"sandbox {out} cannot be written: {error.strerror}; free some space or choose another --dir"
        ) from None
    parts = {key: str(path) for key, path in paths(out).items()}
    seconds = round(time.monotonic() - started, 3)
    return SandboxInfo(str(out), **parts, samples=size, seed=seed, changed=changed, seconds=seconds)


def paths(folder: Path) -> dict[str, Path]:
    """The paths of a finished sandbox under the Spec's names: `model`, `dataset` and `reference_ids`.

    Raises:
        BadInput: `folder` has no sandbox, or its build has not finished.
    """
    if not (folder / _RECORD).is_file():
        raise BadInput(f"{folder} has no finished sandbox; build one with `harness sandbox --dir {folder}`")
    return {"model": folder / _MODEL, "dataset": folder / _DATASET, "reference_ids": folder / _REFERENCES}


def is_complete(record: Mapping[str, Any], samples: int, seed: int) -> bool:
    """Whether the sandbox of a sandbox.json has `samples` samples of `seed`, so that nothing is to be built."""
    return bool(record["recipe"] == _RECIPE and record["seed"] == seed and record["samples"] >= samples)


def _build(out: Path, samples: int, seed: int, on_progress: Callable[[str], None]) -> tuple[int, bool]:
    """Returns the size of the data set, and whether anything was written."""
    record = _record(out, seed)
    hashes: Mapping[str, str] = record["sha256"] if record else {}
    broken = [
        name for name, sha256 in hashes.items() if not (out / name).is_file() or sha256_file(out / name) != sha256
    ]
    if record and is_complete(record, samples, seed) and not broken:
        return record["samples"], False
    for name in broken:
        on_progress(f"{name} is missing or was changed: building it again")
    kept = references.read(out / _REFERENCES) if record and _REFERENCES not in broken else {}
    size = max(samples, len(kept))
    for package in ("torch", "transformers"):
        if find_spec(package) is None:
            raise NotReady(f"{package} is missing in {sys.executable}; run the harness of the node's environment")
    on_progress(f"building a sandbox of {size} samples from seed {seed} in {out}")
    model = model_files(seed)
    for name, content in model.items():
        if not (out / _MODEL / name).is_file() or (out / _MODEL / name).read_bytes() != content:
            write_atomic(out / _MODEL / name, content)
    _complete(out, size, seed, kept, on_progress)
    names = [*(f"{_MODEL}/{name}" for name in model), _DATASET, _REFERENCES]
    record = {
        "schema": 1,
        "recipe": _RECIPE,
        "seed": seed,
        "samples": size,
        "sha256": {name: sha256_file(out / name) for name in names},
        "versions": {"python": python_version()}
        | {name: version(name) for name in ("numpy", "safetensors", "tokenizers", "torch", "transformers")},
    }
    write_json(out / _RECORD, record)
    (out / _JOURNAL.format(seed=seed)).unlink(missing_ok=True)
    return size, True


def _record(out: Path, seed: int) -> dict[str, Any] | None:
    """sandbox.json of a finished build with this recipe, or None."""
    if not (out / _RECORD).is_file():
        return None
    record: dict[str, Any] = read_json(out / _RECORD, "sandbox record")
    if record["seed"] != seed:
        raise BadInput(f"seed = {seed}: {out} has a sandbox with seed {record['seed']}; choose another --dir")
    return record if record["recipe"] == _RECIPE else None


def _complete(out: Path, size: int, seed: int, kept: dict[int, list[int]], on_progress: Callable[[str], None]) -> None:
    """Write the data set and the reference answers."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(out / _MODEL / "tokenizer.json"))
    language = Language(seed)
    whole = -(-size // references.BLOCK) * references.BLOCK
    articles = [language.article(number) for number in range(whole)]
    prompts = [item.ids for item in tokenizer.encode_batch([PROMPT.format(input=article) for article in articles])]
    journal = out / _JOURNAL.format(seed=seed)
    kept = references.read(journal) | kept
    references.answer(prompts, out / _MODEL, kept, journal, on_progress)
    texts = tokenizer.decode_batch([kept[number] for number in range(size)], skip_special_tokens=True)
    records = (
        {"instruction": PROMPT, "input": article, "tok_input": prompt, "output": text.strip()}
        for article, prompt, text in zip(articles, prompts, texts, strict=False)
    )
    write_atomic(out / _DATASET, b"[\n" + b",\n".join(map(orjson.dumps, records)) + b"\n]\n")
    write_atomic(out / _REFERENCES, "".join(references.line(number, kept[number]) for number in range(size)))


@contextmanager
def _locked(out: Path, on_progress: Callable[[str], None]) -> Iterator[None]:
    with (out / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_progress(f"waiting for another build in {out}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
