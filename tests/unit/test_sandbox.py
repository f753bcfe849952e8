import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from statistics import quantiles
from typing import Any, ClassVar

import pytest
from tokenizers import Tokenizer

from harness import sandbox
from harness.dataset import end_tokens, load, vocab_size
from harness.errors import BadInput, NotReady
from harness.sandbox import build, paths, references
from harness.sandbox.model import BEGIN, ENDS, VOCABULARY, model_files
from harness.sandbox.text import PROMPT, Language
from tests.unit.ansible_modules import call


def silent(line: str) -> None:
    pass


class Mirror:
    """Answers a prompt with its own last tokens, so that the answer identifies the prompt."""

    blocks: ClassVar[list[int]] = []
    fail_after: ClassVar[int | None] = None

    def __init__(self, model_dir: Path) -> None:
        assert (model_dir / "model.safetensors").is_file()

    def __call__(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        if Mirror.fail_after is not None and len(Mirror.blocks) >= Mirror.fail_after:
            raise KeyboardInterrupt
        Mirror.blocks.append(len(prompts))
        return [[*prompt[-40:-20], ENDS[0]] for prompt in prompts]


_model_files = cache(model_files)


@pytest.fixture(autouse=True)
def _mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    Mirror.blocks, Mirror.fail_after = [], None
    monkeypatch.setattr(references, "Transformers", Mirror)
    monkeypatch.setattr(references, "cores", lambda: 1)
    monkeypatch.setattr(sandbox, "model_files", _model_files)  # training the tokenizer is most of a small build


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in (".lock", "sandbox.json")
    }


def sha256(value: str | bytes) -> str:
    return hashlib.sha256(value.encode() if isinstance(value, str) else value).hexdigest()


def test_bytes_are_the_recorded_ones() -> None:
    """The same on every machine and Python; changing them requires a new recipe number."""
    assert sandbox._RECIPE == 1
    language = Language(42)
    assert (
        sha256("".join(language.article(number) for number in range(100)))
        == "322c1889608404fe6932f17eac27ee90928fcf04bb64d0a625ff7d904145303a"
    )
    files = model_files(42)
    assert sha256(files["model.safetensors"]) == "15796be2e10c6e53a0b5f70c5b32e09b3e4dd8dd926c020dddf285b9d9b24854"
    assert sha256(files["tokenizer.json"]) == "58dd3b3c8896e588984661365a6625f69a50584403005af9e7ab1bd05f44d7c1"
    assert model_files(43)["model.safetensors"] != files["model.safetensors"]


def test_bytes_do_not_depend_on_the_process() -> None:
    program = (
        "import hashlib, sys; from harness.sandbox.model import model_files; "
        "print({name: hashlib.sha256(value).hexdigest() for name, value in model_files(42).items()})"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path.cwd()), *sys.path]), "PYTHONHASHSEED": "77"}
    printed = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert printed.stdout.strip() == str({name: sha256(value) for name, value in model_files(42).items()})


def test_prompt_lengths_are_a_quarter_of_the_real_ones(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(model_files(42)["tokenizer.json"])
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    language = Language(42)
    texts = [PROMPT.format(input=language.article(number)) for number in range(2000)]
    lengths = [len(encoding.ids) for encoding in tokenizer.encode_batch(texts)]
    low, lower, middle, upper, high = (quantiles(lengths, n=100)[percent - 1] for percent in (5, 25, 50, 75, 95))
    assert 780 / 4 * 0.95 < middle < 780 / 4 * 1.05
    assert 0.8 * 2540 / 4 < max(lengths) <= 2540 / 4
    assert 95 < low < 115 and 140 < lower < 160 and 240 < upper < 265 and 360 < high < 410


def test_format_is_mlperfs(tmp_path: Path) -> None:
    info = build(tmp_path, 40, 7, silent)
    assert (info.samples, info.seed, info.changed) == (40, 7, True)
    records = json.loads(Path(info.dataset).read_text())
    model = Path(info.model)
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    assert len(records) == 40 and {tuple(record) for record in records} == {
        ("instruction", "input", "tok_input", "output")
    }
    for index, record in enumerate(records):
        prompt = record["instruction"].format(input=record["input"])
        assert record["input"] == Language(7).article(index)
        assert record["tok_input"] == [BEGIN, *tokenizer.encode(prompt, add_special_tokens=False).ids]
    lines = [json.loads(line) for line in Path(info.reference_ids).read_text().splitlines()]
    assert [line["qsl_idx"] for line in lines] == list(range(40))
    for line, record in zip(lines, records, strict=True):
        assert line["token_ids"] == [*record["tok_input"][-40:-20], ENDS[0]]
        assert record["output"] == tokenizer.decode(line["token_ids"]).strip()
    assert len(load(Path(info.dataset), vocab_size=vocab_size(model))) == 40
    assert vocab_size(model) == VOCABULARY == tokenizer.get_vocab_size()
    assert end_tokens(model) == set(ENDS) and BEGIN not in ENDS
    config = json.loads((model / "config.json").read_text())
    assert config["tie_word_embeddings"] is False and config["max_position_embeddings"] >= 2668


def test_second_build_changes_nothing(tmp_path: Path) -> None:
    build(tmp_path, 10, 1, silent)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.name != ".lock"}
    for samples in (10, 5):
        again = build(tmp_path, samples, 1, silent)
        assert (again.changed, again.samples) == (False, 10)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.name != ".lock"}
    assert Mirror.blocks == [32]


def test_growing_keeps_samples_and_answers(tmp_path: Path) -> None:
    build(tmp_path / "grown", 40, 1, silent)
    small = json.loads((tmp_path / "grown" / "cnn_eval.json").read_text())
    Mirror.blocks = []
    grown = build(tmp_path / "grown", 100, 1, silent)
    assert grown.changed and Mirror.blocks == [32, 32, 32], "the first block was whole and is not answered again"
    assert json.loads((tmp_path / "grown" / "cnn_eval.json").read_text())[:40] == small
    build(tmp_path / "fresh", 100, 1, silent)
    assert content(tmp_path / "grown") == content(tmp_path / "fresh")


def test_an_interrupted_build_resumes(tmp_path: Path) -> None:
    Mirror.fail_after = 2
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "stopped", 120, 1, silent)
    with pytest.raises(BadInput, match="has no finished sandbox"):
        paths(tmp_path / "stopped")
    (journal,) = (tmp_path / "stopped").glob("*.partial.jsonl")
    with journal.open("a") as stream:
        stream.write('{"qsl_idx":64,"token_ids":[1,')
    Mirror.blocks, Mirror.fail_after = [], 1
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "stopped", 120, 1, silent)
    Mirror.blocks, Mirror.fail_after = [], None
    build(tmp_path / "stopped", 120, 1, silent)
    assert Mirror.blocks == [32]
    build(tmp_path / "whole", 120, 1, silent)
    assert content(tmp_path / "stopped") == content(tmp_path / "whole")


@pytest.mark.parametrize("name", ["model/model.safetensors", "cnn_eval.json", "reference_ids.jsonl"])
def test_missing_or_changed_files_are_built_again(tmp_path: Path, name: str) -> None:
    build(tmp_path, 40, 1, silent)
    whole = content(tmp_path)
    progress: list[str] = []
    (tmp_path / name).write_bytes(whole[name][:-50] + b"x" * 50)
    assert build(tmp_path, 40, 1, progress.append).changed
    (tmp_path / name).unlink()
    assert build(tmp_path, 40, 1, progress.append).changed
    assert content(tmp_path) == whole
    assert progress.count(f"{name} is missing or was changed: building it again") == 2


def test_concurrent_builds_build_once(tmp_path: Path) -> None:
    results: list[Any] = []
    threads = [
        threading.Thread(target=lambda: results.append(build(tmp_path, 200, 1, silent).changed)) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [False, False, True]
    assert len(Mirror.blocks) == 7


def test_plays_know_without_the_harness_whether_a_build_is_needed(tmp_path: Path) -> None:
    def complete(samples: int = 40, seed: int = 1) -> bool:
        arguments = {"path": str(tmp_path), "samples": samples, "seed": seed}
        return bool(call("mlperf_sandbox_info", arguments)["complete"])

    assert not complete()
    build(tmp_path, 40, 1, silent)
    assert complete() and complete(1)
    assert not complete(41) and not complete(seed=2)
    record = json.loads((tmp_path / "sandbox.json").read_text())
    for content in (json.dumps({**record, "recipe": 0}), "{}", "[]", "{"):
        (tmp_path / "sandbox.json").write_text(content)
        assert not complete()


def test_invalid_arguments_are_rejected(tmp_path: Path) -> None:
    for samples in (0, -1, 13_369):
        with pytest.raises(BadInput, match=f"samples = {samples}: must be 1 to 13368"):
            build(tmp_path, samples, 1, silent)
    with pytest.raises(BadInput, match="seed = -1: must be 0"):
        build(tmp_path, 1, -1, silent)
    build(tmp_path, 1, 1, silent)
    with pytest.raises(BadInput, match=r"seed = 2: .* has a sandbox with seed 1; choose another"):
        build(tmp_path, 1, 2, silent)
    (tmp_path / "file").write_text("")
    with pytest.raises(NotReady, match="cannot be written"):
        build(tmp_path / "file", 1, 1, silent)
