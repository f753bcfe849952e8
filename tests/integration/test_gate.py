"""The sandbox gate: correct answers pass, and every kind of wrong answer is caught.

Wrong answers are made from the reference's own, or by Transformers from corrupted prompts; once the real vLLM answers
correct and corrupted prompts through the real LoadGen.
"""

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.dataset import Dataset, load
from harness.report import report
from harness.report.accuracy_rules import reference_gate
from harness.report.record import Level
from harness.report.rules import Rule
from harness.sandbox import build
from harness.sandbox.model import BEGIN, model_files
from harness.sandbox.references import BLOCK, Transformers, read
from harness.scoring import accuracy, judge
from harness.scoring.scores import Score
from tests.engines import harness
from tests.integration.conftest import Vllms
from tests.punkt_data import punkt_data

# All but the last tests share a sandbox that takes long to build.
pytestmark = pytest.mark.xdist_group("gate")
SAMPLES = 2 * BLOCK
Answers = dict[int, list[int]]


class Box:
    """A real sandbox and its parts."""

    def __init__(self, folder: Path) -> None:
        lines: list[str] = []
        self.folder = folder
        info = build(folder, SAMPLES, 42, lines.append)
        assert any("answered 64 of 64 samples" in line for line in lines)
        self.model, self.references = Path(info.model), Path(info.reference_ids)
        self.dataset: Dataset = load(Path(info.dataset))
        self.answers: Answers = read(self.references)


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Box:
    return Box(tmp_path_factory.mktemp("sandbox"))


@pytest.fixture(scope="module")
def transformers(box: Box) -> Transformers:
    return Transformers(box.model)


def judged(box: Box, folder: Path, answers: Mapping[int, Sequence[int]], model: Path | None = None) -> Score:
    entries = [
        {"seq_id": index, "qsl_idx": index, "data": struct.pack(f"<{len(ids)}i", *ids).hex()}
        for index, ids in answers.items()
    ]
    (folder / "log.json").write_text(json.dumps(entries))
    return accuracy.score(
        folder / "log.json",
        box.dataset,
        model or box.model,
        reference_ids=box.references,
        punkt_dir=punkt_data(),
        out_dir=folder,
        workers=1,
    )


def broken_rules(score: Score) -> set[str]:
    """Names of the broken rules of the gate; none means that the answers pass."""
    assert score.reference
    return {reason.code for reason in reference_gate(score, score.reference) if reason.level is Level.INVALID}


IDS, FAULT = Rule.REFERENCE_IDS.name, Rule.REFERENCE_FAULT.name


def test_correct_answers_pass(box: Box, tmp_path: Path) -> None:
    score = judged(box, tmp_path, box.answers)
    assert broken_rules(score) == set()
    assert score.reference and score.reference.identical == SAMPLES
    assert (score.rouge1, score.rouge2, score.rougeL, score.rougeLsum) == (100.0, 100.0, 100.0, 100.0)
    assert score.end_token_violations == () and score.one_token_answers == ()


def test_answers_are_those_of_a_language_model_not_of_a_loop(box: Box) -> None:
    lengths = [len(ids) for ids in box.answers.values()]
    assert min(lengths) > 1 and max(lengths) == 128
    assert 0.8 < sum(length == 128 for length in lengths) / SAMPLES < 1
    assert all(len(set(ids)) > len(ids) / 3 for ids in box.answers.values())
    assert len({tuple(ids[:4]) for ids in box.answers.values()}) > SAMPLES * 0.9


def test_an_answer_does_not_depend_on_its_batch(box: Box, transformers: Transformers) -> None:
    alone = {index: transformers([box.dataset.inputs[index]])[0] for index in range(12)}
    assert alone == {index: box.answers[index] for index in range(12)}


def test_broken_decode_that_keeps_special_tokens(box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Keeping:
        def __init__(self, tokenizer: Any) -> None:
            self._tokenizer = tokenizer

        def decode_batch(self, answers: Any, skip_special_tokens: bool) -> Any:
            return self._tokenizer.decode_batch(answers, skip_special_tokens=False)

    real = judge.load_tokenizer
    monkeypatch.setattr(judge, "load_tokenizer", lambda folder: Keeping(real(folder)))
    score = judged(box, tmp_path, box.answers)
    complete = tuple(index for index, ids in box.answers.items() if len(ids) < 128)
    assert FAULT in broken_rules(score) and score.reference
    assert set(complete) <= set(score.reference.decode_differing)
    assert score.rouge1 > 99, "ROUGE alone would have let it pass"


def test_broken_decode_with_another_tokenizer(box: Box, tmp_path: Path) -> None:
    other = tmp_path / "model"
    other.mkdir()
    for name, content in model_files(43).items():
        (other / name).write_bytes(content)
    score = judged(box, tmp_path, box.answers, other)
    assert broken_rules(score) >= {IDS, FAULT}
    assert score.reference and len(score.reference.decode_differing) == SAMPLES


def test_broken_decode_of_the_log(box: Box, tmp_path: Path) -> None:
    swapped = {index: [(item & 0xFF) << 3 | item >> 8 for item in ids] for index, ids in box.answers.items()}
    assert IDS in broken_rules(judged(box, tmp_path, swapped))


POSITION: dict[str, Callable[[list[int]], list[int]]] = {
    "first dropped, one invented": lambda ids: [*ids[1:], 7],
    "first dropped": lambda ids: ids[1:],
    "rotated": lambda ids: [*ids[1:], ids[0]],
    "begins with BOS": lambda ids: [BEGIN, *ids],
    "last dropped": lambda ids: ids[:-1],
}


@pytest.mark.parametrize("spoil", POSITION.values(), ids=POSITION.keys())
def test_one_tokens_position(box: Box, tmp_path: Path, spoil: Callable[[list[int]], list[int]]) -> None:
    every = judged(box, tmp_path, {index: spoil(ids) for index, ids in box.answers.items()})
    assert broken_rules(every) >= {IDS, FAULT}
    assert every.reference and every.reference.identical == 0
    one = judged(box, tmp_path, {**box.answers, 5: spoil(box.answers[5])})
    assert FAULT in broken_rules(one)
    assert one.reference and one.reference.differing == one.reference.shifted == (5,)
    assert one.rouge1 > 99, "ROUGE alone would have let it pass"


def test_one_samples_place(box: Box, tmp_path: Path) -> None:
    swapped = {**box.answers, 3: box.answers[40], 40: box.answers[3]}
    score = judged(box, tmp_path, swapped)
    assert FAULT in broken_rules(score)
    assert score.reference and score.reference.differing == score.reference.misplaced == (3, 40)


PROMPT: dict[str, Callable[[list[int]], list[int]]] = {
    "BOS missing": lambda ids: ids[1:],
    "BOS twice": lambda ids: [BEGIN, *ids],
    "one id changed": lambda ids: [*ids[:50], (ids[50] + 1) % BEGIN, *ids[51:]],
    "one id dropped": lambda ids: [*ids[:50], *ids[51:]],
    "last id dropped": lambda ids: ids[:-1],
}


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(spoil, id=name, marks=[pytest.mark.long] if number else [])
        for number, (name, spoil) in enumerate(PROMPT.items())
    ],
)
def test_broken_prompt(
    box: Box, transformers: Transformers, tmp_path: Path, spoil: Callable[[list[int]], list[int]]
) -> None:
    corrupted = transformers([spoil(ids) for ids in box.dataset.inputs[:BLOCK]])
    score = judged(box, tmp_path, dict(enumerate(corrupted)))
    assert IDS in broken_rules(score)
    assert score.reference and score.reference.identical <= BLOCK // 8, "nearly every answer shows it"


def run_accuracy(vllms: Vllms, sandbox: Path, root: Path, dataset: Path) -> tuple[Any, Any]:
    """Verdict and score of an accuracy run that sends this data set's prompts to the real engine."""
    words = ["--sandbox", sandbox, "--dataset", dataset, "--punkt", punkt_data(), "--root", root, "--run-id", "given"]
    words += ["--samples", SAMPLES, "--scenario", "offline", "--mode", "accuracy", "--target-qps", 50]
    key = ["--api-key-file", vllms.key_file("node1")]
    harness(vllms.python, "run", *words, "--endpoint", vllms.url("node1"), *key, codes=(0, 5))
    folder = root / "runs" / "given"
    score = json.loads((folder / "accuracy" / "score.json").read_text())
    return report(folder).verdict.model_dump(mode="json"), score


@pytest.mark.vllm
def test_real_engine_passes(vllms: Vllms, sandbox: Path, tmp_path: Path) -> None:
    verdict, score = run_accuracy(vllms, sandbox, tmp_path, sandbox / "cnn_eval.json")
    assert score["reference"]["compared"] == SAMPLES
    assert score["reference"]["identical_percent"] >= 99, score["reference"]
    assert not {IDS, FAULT} & {reason["code"] for reason in verdict["reasons"]}
    assert verdict["level"] == "UNOFFICIAL", verdict["reasons"]


@pytest.mark.vllm
def test_real_engine_with_a_broken_prompt_is_caught(vllms: Vllms, sandbox: Path, tmp_path: Path) -> None:
    records = json.loads((sandbox / "cnn_eval.json").read_text())
    for record in records:
        record["tok_input"] = record["tok_input"][1:]
    (tmp_path / "no_bos.json").write_text(json.dumps(records))
    verdict, score = run_accuracy(vllms, sandbox, tmp_path, tmp_path / "no_bos.json")
    assert verdict["level"] == "INVALID"
    assert IDS in {reason["code"] for reason in verdict["reasons"]}
    assert score["reference"]["identical"] < SAMPLES / 8
