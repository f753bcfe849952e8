import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from harness.dataset import end_tokens, load, vocab_size
from harness.errors import BadInput

RECORDS: list[dict[str, Any]] = [
    {"instruction": "Summarise", "input": f"article {n}", "tok_input": [1, 5 + n, 7], "output": f"summary {n}"}
    for n in range(5)
]


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_loads_every_field_in_order(tmp_path: Path) -> None:
    path = write(tmp_path / "cnn_eval.json", RECORDS)
    data = load(path, vocab_size=20)
    assert data.inputs == [[1, 5, 7], [1, 6, 7], [1, 7, 7], [1, 8, 7], [1, 9, 7]]
    assert data.targets == [f"summary {n}" for n in range(5)]
    assert data.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert len(data) == 5 and data.start == 0
    assert data.facts() == {"path": str(path), "sha256": data.sha256, "samples_sha256": data.samples_sha256}


def test_share_maps_local_to_global(tmp_path: Path) -> None:
    data = load(write(tmp_path / "d.json", RECORDS), limit=4)
    part = data.share(1, 4).share(1, 3)
    assert (part.start, len(part)) == (2, 2)
    assert part.inputs == [[1, 7, 7], [1, 8, 7]] and part.targets == ["summary 2", "summary 3"]
    assert (part.sha256, part.samples_sha256) == (data.sha256, data.samples_sha256)
    for start, stop in ((0, 5), (2, 2), (-1, 2)):
        with pytest.raises(BadInput, match=rf"\[{start}, {stop}\) does not fit the 4 samples"):
            data.share(start, stop)


def test_hash_covers_the_requested_samples(tmp_path: Path) -> None:
    part = load(write(tmp_path / "d.json", RECORDS), limit=3)
    grown = load(write(tmp_path / "grown.json", RECORDS * 2), limit=3)
    assert grown.samples_sha256 == part.samples_sha256 and grown.sha256 != part.sha256
    assert load(tmp_path / "d.json", limit=4).samples_sha256 != part.samples_sha256
    for field, value in (("tok_input", [1, 5, 8]), ("output", "another")):
        other = [*RECORDS[:2], {**RECORDS[2], field: value}]
        assert load(write(tmp_path / "other.json", other)).samples_sha256 != part.samples_sha256


def without(field: str) -> Any:
    return lambda record: record.pop(field)


def setting(field: str, value: Any) -> Any:
    return lambda record: record.__setitem__(field, value)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (without("tok_input"), "tok_input is missing"),
        (without("input"), "input is missing"),
        (without("output"), "output is missing"),
        (setting("tok_input", []), "tok_input is empty"),
        (setting("tok_input", "1 2 3"), "tok_input is text, not a list"),
        (setting("output", None), "output is null, not text"),
        (setting("tok_input", [1, True]), r"tok_input\[1\] = True is not an integer"),
        (setting("tok_input", [1, 5, 2.0]), r"tok_input\[2\] = 2.0 is not an integer"),
        (setting("tok_input", [1, "5"]), r"tok_input\[1\] = '5' is not an integer"),
        (setting("tok_input", [1, 5, -3]), r"tok_input\[2\] = -3 is negative"),
        (setting("tok_input", [1, 20]), r"tok_input\[1\] = 20 is beyond the vocabulary of 20 ids"),
        (setting("tok_input", [1] * 2541), "tok_input has 2541 tokens, more than 2540"),
    ],
)
def test_first_bad_record_is_named_also_beyond_the_limit(tmp_path: Path, harm: Any, message: str) -> None:
    records = copy.deepcopy(RECORDS)
    harm(records[3])
    records[4].clear()
    path = write(tmp_path / "d.json", records)
    with pytest.raises(BadInput, match=f"d.json: record 3: {message}"):
        load(path, vocab_size=20, limit=2)


def test_largest_allowed_values_pass(tmp_path: Path) -> None:
    record = {**RECORDS[0], "tok_input": [0, 19] * 1270}
    assert len(load(write(tmp_path / "d.json", [record]), vocab_size=20).inputs[0]) == 2540


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"input": "cut sho', "is not JSON"),
        ("", "is not JSON"),
        ("{}", "holds an object, not a list"),
        ("[]", "is an empty list"),
        ("[7]", "record 0: the number 7 instead of an object"),
    ],
)
def test_files_that_are_not_a_data_set(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        load(write(tmp_path / "d.json", content))


def test_missing_file_and_too_many_samples(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="none does not exist"):
        load(tmp_path / "none")
    with pytest.raises(BadInput, match="cannot be read: Is a directory"):
        load(tmp_path)
    with pytest.raises(BadInput, match=r"samples = 6, but data set .* has 5"):
        load(write(tmp_path / "d.json", RECORDS), limit=6)


def test_model_files(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="nowhere does not exist"):
        vocab_size(tmp_path / "nowhere")
    with pytest.raises(BadInput, match=r"config\.json does not exist"):
        vocab_size(tmp_path)
    write(tmp_path / "config.json", {"vocab_size": 128256, "eos_token_id": 128001})
    assert vocab_size(tmp_path) == 128256
    assert end_tokens(tmp_path) == {128001}
    write(tmp_path / "generation_config.json", {"eos_token_id": [128008, 128009]})
    assert end_tokens(tmp_path) == {128001, 128008, 128009}
    write(tmp_path / "config.json", {"vocab_size": "many"})
    (tmp_path / "generation_config.json").unlink()
    with pytest.raises(BadInput, match="vocab_size = 'many'"):
        vocab_size(tmp_path)
    with pytest.raises(BadInput, match="eos_token_id is in neither"):
        end_tokens(tmp_path)
