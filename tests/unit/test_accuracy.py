import hashlib
import json
import random
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rouge_score.rouge_scorer import RougeScorer
from tokenizers import Tokenizer

from harness.accuracy_parts import Part, begin, parts
from harness.dataset import Dataset
from harness.errors import BadInput
from harness.sandbox.model import BEGIN, ENDS, VOCABULARY, model_files
from harness.scoring import punkt
from harness.scoring.accuracy import describe, merge, score
from harness.spec import Share
from tests.punkt_data import punkt_data

METRICS = ("rouge1", "rouge2", "rougeL", "rougeLsum")
_TEXT = """Dr. Smith met the runners. They were running happily! Were the ponies running? The U.S. team won at 5 p.m. on
Monday. A café opened; nobody came. He said: nothing. The economy grew by 3.5 per cent in 2026. It rained."""
ENGLISH = _TEXT.split()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    for name, content in model_files(1).items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def tokenizer(model: Path) -> Any:
    return Tokenizer.from_file(str(model / "tokenizer.json"))


def dataset(targets: Sequence[str], start: int = 0) -> Dataset:
    return Dataset(Path("cnn_eval.json"), [[BEGIN, 1]] * len(targets), list(targets), "0" * 64, "0" * 64, start)


def entry(index: int, ids: Sequence[int]) -> dict[str, Any]:
    data = struct.pack(f"<{len(ids)}i", *ids).hex().upper()
    return {"seq_id": index, "qsl_idx": index, "data": data, "token_data": "", "token_count": len(ids)}


def write_log(path: Path, answers: Mapping[int, Sequence[int]] | Sequence[tuple[int, Sequence[int]]]) -> Path:
    pairs = answers.items() if isinstance(answers, Mapping) else answers
    path.write_text("[\n" + ",\n".join(json.dumps(entry(index, ids)) for index, ids in pairs) + "\n]\n")
    return path


def write_references(path: Path, answers: Mapping[int, Sequence[int]]) -> Path:
    path.write_text("".join(json.dumps({"qsl_idx": i, "token_ids": list(ids)}) + "\n" for i, ids in answers.items()))
    return path


def samples(tokenizer: Any, count: int) -> tuple[dict[int, list[int]], list[str]]:
    """Answers and targets that have some words in common; some answers are empty or end early."""
    draw = random.Random(3)
    answers, targets = {}, []
    for index in range(count):
        target = draw.choices(ENGLISH, k=draw.randrange(1, 60))
        words = [word for word in target if draw.random() < 0.6] + draw.choices(ENGLISH, k=draw.randrange(0, 9))
        ids = tokenizer.encode(" ".join(words), add_special_tokens=False).ids if index % 20 else []
        answers[index] = [*ids, ENDS[2]] if index % 3 else ids
        targets.append(" ".join(target) if index % 25 != 7 else "")
    return answers, targets


@pytest.mark.parametrize("workers", [1, 2])
def test_figures_equal_those_of_a_plain_loop(tmp_path: Path, model: Path, tokenizer: Any, workers: int) -> None:
    answers, targets = samples(tokenizer, 300)
    folder = punkt_data()
    scored = score(
        write_log(tmp_path / "log.json", answers),
        dataset(targets, start=40),
        model,
        reference_ids=None,
        punkt_dir=folder,
        out_dir=tmp_path,
        workers=workers,
    )
    split, scorer = punkt.splitter(folder), RougeScorer(METRICS, use_stemmer=True)
    expected: dict[str, list[float]] = {metric: [] for metric in METRICS}
    characters = []
    for index, target in enumerate(targets):
        text = "\n".join(split(tokenizer.decode(answers[index], skip_special_tokens=True).strip()))
        for metric, value in scorer.score("\n".join(split(target.strip())), text).items():
            expected[metric].append(value.fmeasure)
        characters.append(len(text))
    for metric in METRICS:
        assert getattr(scored, metric) == round(100 * sum(expected[metric]) / 300, 4)
    assert 20 < scored.rougeLsum < 99 and scored.rougeLsum != scored.rougeL
    assert (scored.gen_len, scored.gen_num, scored.punkt, scored.workers) == (
        sum(characters),
        300,
        True,
        workers,
    )
    lines = (tmp_path / "scores.csv").read_text().splitlines()
    assert lines[0] == "qsl_idx,rouge1,rouge2,rougeL,rougeLsum,gen_len,n_tokens"
    for index in (0, 1, 7, 299):
        figures = [repr(float(expected[metric][index])) for metric in METRICS]
        assert lines[1 + index].split(",") == [
            str(40 + index),
            *figures,
            str(characters[index]),
            str(len(answers[index])),
        ]


def test_files_written(tmp_path: Path, model: Path, tokenizer: Any) -> None:
    answers, targets = samples(tokenizer, 30)
    log = write_log(tmp_path / "log.json", answers)
    scored = score(log, dataset(targets), model, reference_ids=None, punkt_dir=punkt_data(), out_dir=tmp_path / "out")
    stored = json.loads((tmp_path / "out" / "score.json").read_text())
    assert stored["schema"] == 1 and stored["share"] == {"start": 0, "stop": 30} and stored["reference"] is None
    assert stored["rouge2"] == scored.rouge2 and stored["samples_expected"] == 30
    assert stored["log_sha256"] == hashlib.sha256(log.read_bytes()).hexdigest()
    first, second = (tmp_path / "out" / "accuracy.txt").read_text().splitlines()
    pattern = r"\{'rouge1': '([\d.]+)', 'rouge2': '([\d.]+)', 'rougeL': '([\d.]+)', 'rougeLsum': '([\d.]+)', "
    matched = re.fullmatch(pattern + r"'gen_len': (\d+), 'gen_num': (\d+)\}", first)
    assert matched and matched.groups() == tuple(
        str(getattr(scored, name)) for name in (*METRICS, "gen_len", "gen_num")
    )
    assert second == f"hash={stored['log_sha256']}"


def perfect(tokenizer: Any, count: int) -> tuple[dict[int, list[int]], list[str]]:
    """Random answers and the targets they decode to."""
    draw = random.Random(5)
    answers = {index: [draw.randrange(BEGIN) for _ in range(128)] for index in range(count)}
    return answers, [tokenizer.decode(answers[index], skip_special_tokens=True) for index in range(count)]


def compare(tmp_path: Path, model: Path, answers: Any, targets: Sequence[str], references: Any, start: int = 0) -> Any:
    return score(
        write_log(tmp_path / "log.json", answers),
        dataset(targets, start),
        model,
        reference_ids=write_references(tmp_path / "reference_ids.jsonl", references),
        punkt_dir=punkt_data(),
        out_dir=tmp_path,
        workers=1,
    )


def test_errors_in_a_log_are_listed_by_global_index(tmp_path: Path, model: Path, tokenizer: Any) -> None:
    answers, targets = perfect(tokenizer, 10)
    answers[1] = [*answers[1][:60], ENDS[0], *answers[1][61:]]
    answers[2] = [7]
    answers[3] = [*answers[3][:-1], ENDS[1]]
    answers[4] = []
    del answers[6]
    log = [*answers.items(), (5, answers[8]), (8, [1, 2]), (5, [3, 4]), (10, [1, 2]), (-1, [1, 2])]
    scored = compare(tmp_path, model, log, targets, {}, start=100)
    assert scored.end_token_violations == (101,)
    assert scored.one_token_answers == (102, 104)
    assert scored.missing == (106,)
    assert scored.duplicates == (105, 108)
    assert scored.foreign == (99, 110)
    assert (scored.gen_num, scored.samples_expected) == (9, 10)
    figures = {
        int(line.split(",")[0]): line.split(",")[1] for line in (tmp_path / "scores.csv").read_text().split()[1:]
    }
    assert figures[105] == "1.0" and figures[108] == "1.0", "the first entry of a sample counts"
    assert "missing: 1 (qsl_idx 106)" in describe(scored)


def test_answers_are_compared_id_by_id(tmp_path: Path, model: Path, tokenizer: Any) -> None:
    references, targets = perfect(tokenizer, 12)
    same = compare(tmp_path, model, references, targets, {100 + i: ids for i, ids in references.items()}, start=100)
    assert (same.rouge1, same.rougeLsum) == (100.0, 100.0)
    assert (same.reference.compared, same.reference.identical, same.reference.identical_percent) == (12, 12, 100.0)
    assert same.reference.differing == ()

    answers = dict(references)
    answers[0] = [*references[0][:80], *reversed(references[0][80:])]
    answers[1] = [*references[1][1:], 5]
    answers[2] = [BEGIN, *references[2]]
    answers[3] = references[3][:-1]
    answers[4], answers[5] = references[5], references[4]
    targets[6] += "!"
    other = {100 + i: ids for i, ids in references.items() if i != 7}
    comparison = compare(tmp_path, model, answers, targets, other, start=100).reference
    assert (comparison.compared, comparison.identical) == (11, 4)
    assert comparison.identical_percent == pytest.approx(100 * 4 / 11)
    assert comparison.differing == (100, 101, 102, 103, 104, 105, 106)
    assert comparison.shifted == (101, 102, 103)
    assert comparison.misplaced == (104, 105)
    assert comparison.decode_differing == (106,)


def test_without_punkt_only_what_needs_sentences_is_missing(tmp_path: Path, model: Path, tokenizer: Any) -> None:
    answers, targets = samples(tokenizer, 40)
    log = write_log(tmp_path / "log.json", answers)
    arguments: dict[str, Any] = {"reference_ids": None, "workers": 1}
    whole = score(log, dataset(targets), model, punkt_dir=punkt_data(), out_dir=tmp_path / "a", **arguments)
    bare = score(log, dataset(targets), model, punkt_dir=None, out_dir=tmp_path / "b", **arguments)
    assert (bare.punkt, bare.rougeLsum, bare.gen_len) == (False, None, None)
    assert (bare.rouge1, bare.rouge2, bare.rougeL) == (whole.rouge1, whole.rouge2, whole.rougeL)
    assert merge([tmp_path / "b"]) == bare and "unofficial" in describe(bare)


def shares(tmp_path: Path, model: Path, answers: Any, targets: Sequence[str], bounds: Sequence[tuple[int, int]]) -> Any:
    folders = []
    for start, stop in bounds:
        folder = tmp_path / f"{start}-{stop}"
        folder.mkdir()
        own = {index - start: answers[index] for index in range(start, stop)}
        compare(folder, model, own, targets[start:stop], answers, start)
        folders.append(folder)
    return folders


def test_merged_shares_are_one_log(tmp_path: Path, model: Path, tokenizer: Any) -> None:
    answers, targets = samples(tokenizer, 90)
    one = compare(tmp_path, model, answers, targets, answers)
    merged = merge(shares(tmp_path, model, answers, targets, [(37, 90), (0, 37)]))
    for name in (*METRICS, "gen_len", "gen_num", "samples_expected", "missing", "duplicates", "one_token_answers"):
        assert getattr(merged, name) == getattr(one, name), name
    assert merged.share == one.share and merged.reference == one.reference and merged.log_sha256 is None


def test_merging_shows_gaps_and_overlaps(tmp_path: Path, model: Path, tokenizer: Any) -> None:
    answers, targets = perfect(tokenizer, 12)
    merged = merge(shares(tmp_path, model, answers, targets, [(0, 4), (3, 6), (8, 12)]))
    assert merged.missing == (6, 7) and merged.duplicates == (3,)
    assert (merged.gen_num, merged.samples_expected, merged.rouge1) == (10, 12, 100.0)


def test_shares_that_cannot_be_merged(tmp_path: Path, model: Path, tokenizer: Any) -> None:
    answers, targets = perfect(tokenizer, 6)
    folders = shares(tmp_path, model, answers, targets, [(0, 3), (3, 6)])
    with pytest.raises(BadInput, match="no scores to merge"):
        merge([])
    (folders[1] / "scores.csv").write_text("qsl_idx,rouge1\n3,x\n")
    with pytest.raises(BadInput, match=r"scores\.csv is not a table of scores"):
        merge(folders)
    (folders[1] / "score.json").write_text('{"rouge1": "many"}')
    with pytest.raises(BadInput, match=r"score\.json is not a score: rouge1"):
        merge(folders)


BROKEN = [
    ('[{"seq_id": 0, "qsl_idx": 0, "data": "0100', "is cut short or broken"),
    ("[\n]\n", "holds no list of answers"),
    ("{}", "holds no list of answers"),
    (json.dumps([entry(0, [1]), {"qsl_idx": 1}]), "entry 1 is broken: 'data'"),
    (json.dumps([{**entry(0, [1]), "data": "010000"}]), "qsl_idx 0 holds 3 bytes, not a multiple of 4"),
    (json.dumps([{**entry(0, [1]), "data": "zz"}]), "entry 0 is broken: non-hexadecimal"),
    (json.dumps([{**entry(0, [1]), "qsl_idx": "0"}]), "qsl_idx = '0' is not an integer"),
    (json.dumps([entry(0, [1, VOCABULARY])]), f"holds token id {VOCABULARY}, outside the vocabulary of {VOCABULARY}"),
    (json.dumps([entry(0, [1, -2])]), "holds token id -2"),
    (json.dumps([entry(9, [1, 2])]), "answers none of the 2 samples"),
]


@pytest.mark.parametrize(("content", "message"), BROKEN)
def test_broken_logs_give_one_clear_error(tmp_path: Path, model: Path, content: str, message: str) -> None:
    log = tmp_path / "log.json"
    log.write_text(content)
    with pytest.raises(BadInput, match=re.escape(message)):
        score(log, dataset(["a", "b"]), model, reference_ids=None, punkt_dir=None, out_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_missing_files_give_one_clear_error(tmp_path: Path, model: Path) -> None:
    log = write_log(tmp_path / "log.json", {0: [1, 2]})

    def attempt(log: Path, folder: Path, references: Path | None = None) -> None:
        score(log, dataset(["a"]), folder, reference_ids=references, punkt_dir=None, out_dir=tmp_path)

    with pytest.raises(BadInput, match=r"accuracy log .*none\.json does not exist"):
        attempt(tmp_path / "none.json", model)
    with pytest.raises(BadInput, match=r"reference answers .*none cannot be read"):
        attempt(log, model, tmp_path / "none")
    (tmp_path / "references").write_text('{"qsl_idx": 0, "token_ids": [1, 2]}\n{"qsl_idx": 1, "tok')
    with pytest.raises(BadInput, match="line 2 is broken"):
        attempt(log, model, tmp_path / "references")
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_bytes((model / "config.json").read_bytes())
    with pytest.raises(BadInput, match=r"tokenizer\.json does not exist"):
        attempt(log, bare)
    (bare / "tokenizer.json").write_text("{}")
    with pytest.raises(BadInput, match=r"tokenizer\.json cannot be read"):
        attempt(log, bare)


def parts_of(folder: Path, answers: dict[int, list[int]], first: int, start: int = 0) -> list[Part]:
    """Parts of a run that was killed after its `first` answers and resumed."""
    window = Share(start=start, stop=start + len(answers))
    indexes = list(answers)
    killed = begin(folder, window, [start + index for index in indexes])
    whole = write_log(killed.log, {index: answers[index] for index in indexes[:first]}).read_text()
    killed.log.write_text(whole.rstrip("]\n") + ',\n{ "seq_id" : 99, "qsl_i')
    resumed = begin(folder, window, [start + index for index in indexes[first:]])
    write_log(resumed.log, {local: answers[index] for local, index in enumerate(indexes[first:])})
    return parts(folder, window)


def test_a_resumed_run_is_scored_as_one_that_nothing_interrupted(tmp_path: Path, model: Path, tokenizer: Any) -> None:
    answers, targets = samples(tokenizer, 60)
    options: dict[str, Any] = {"reference_ids": None, "punkt_dir": punkt_data(), "workers": 1}
    log = write_log(tmp_path / "log.json", answers)
    expected = score(log, dataset(targets, 40), model, out_dir=tmp_path / "whole", **options)
    union = parts_of(tmp_path / "run", answers, 25, start=40)
    kept = {40 + index: answers[index] for index in range(25)}
    merged_score = score(union, dataset(targets, 40), model, out_dir=tmp_path / "parts", kept=kept, **options)
    assert (tmp_path / "parts/scores.csv").read_bytes() == (tmp_path / "whole/scores.csv").read_bytes()
    hashes = {part.folder.name: hashlib.sha256(part.log.read_bytes()).hexdigest() for part in union}
    assert merged_score.part_logs_sha256 == hashes and merged_score.log_sha256 is None
    assert replace(merged_score, seconds=0, log_sha256=None, part_logs_sha256={}) == replace(
        expected, seconds=0, log_sha256=None
    )


def test_an_interrupted_part_without_a_log_is_scored_from_the_journal(
    tmp_path: Path, model: Path, tokenizer: Any
) -> None:
    """Fault: a machine loses power before LoadGen's log is on its disk."""
    answers, targets = samples(tokenizer, 20)
    union = parts_of(tmp_path, answers, 10)
    union[0].log.unlink()
    kept = {index: answers[index] for index in range(10)}
    options: dict[str, Any] = {"reference_ids": None, "punkt_dir": None, "out_dir": tmp_path, "workers": 1}
    merged_score = score(union, dataset(targets), model, kept=kept, **options)
    assert not merged_score.missing and set(merged_score.part_logs_sha256) == {"accuracy.2"}


def test_a_part_whose_making_is_interrupted_does_not_prevent_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault: a run is killed while it makes the folder of an accuracy run's part."""
    window = Share(start=0, stop=10)
    begin(tmp_path, window, range(10))

    def kill(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("harness.accuracy_parts.write_json", kill)
        begin(tmp_path, window, [3, 4])
    assert [part.folder.name for part in parts(tmp_path, window)] == ["accuracy"]
    assert begin(tmp_path, window, [3, 4]).folder.name == "accuracy.2"
    assert parts(tmp_path, window)[1].qsl_idx == [3, 4]


def test_an_answer_that_is_lost_in_all_parts_is_missing(tmp_path: Path, model: Path, tokenizer: Any) -> None:
    answers, targets = samples(tokenizer, 20)
    union = parts_of(tmp_path, answers, 10)
    kept = {index: answers[index] for index in range(9)}
    merged_score = score(
        union, dataset(targets), model, reference_ids=None, punkt_dir=None, out_dir=tmp_path, kept=kept, workers=1
    )
    assert merged_score.missing == (9,)


def test_a_journal_that_contradicts_a_cut_log_is_refused(tmp_path: Path, model: Path, tokenizer: Any) -> None:
    answers, targets = samples(tokenizer, 20)
    union = parts_of(tmp_path, answers, 10)
    kept = {index: answers[index] for index in range(10)} | {3: [1, 2, 3]}
    with pytest.raises(BadInput, match=r"accuracy\.json and the journal differ in sample 3; one of them was changed"):
        score(union, dataset(targets), model, reference_ids=None, punkt_dir=None, out_dir=tmp_path, kept=kept)
