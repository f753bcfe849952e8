"""MLPerf's `cnn_eval.json`: prompts as token ids and target summaries; QSL index = position in the list."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from harness.errors import BadInput
from harness.files import read_json, reject_lfs_pointer
from harness.spec import MAX_INPUT_TOKENS


@dataclass(frozen=True)
class Dataset:
    """Validated samples, ready to send.

    Attributes:
        path: the file they were read from.
        inputs: per sample, 1 to 2,540 token ids, BOS included as in the file.
        targets: per sample, the reference summary as text.
        sha256: hex hash of the whole file, whichever part of it is held here.
        samples_sha256: hex hash of prompts and targets of the requested samples, whichever share of them is held here
            and however many more the file has.
        start: position in the file of the first sample held here; local index i is global index start + i.
    """

    path: Path
    inputs: list[list[int]]
    targets: list[str]
    sha256: str
    samples_sha256: str
    start: int = 0

    def __len__(self) -> int:
        return len(self.inputs)

    def facts(self) -> dict[str, str]:
        """The entry `dataset` of manifest.json."""
        return {"path": str(self.path), "sha256": self.sha256, "samples_sha256": self.samples_sha256}

    def share(self, start: int, stop: int) -> "Dataset":
        """Samples [start, stop) of this one.

        Raises:
            BadInput: the share is empty or reaches beyond the samples there are.
        """
        if not 0 <= start < stop <= len(self):
            raise BadInput(f"share [{start}, {stop}) does not fit the {len(self)} samples of {self.path}")
        return replace(self, inputs=self.inputs[start:stop], targets=self.targets[start:stop], start=self.start + start)


def load(
    path: Path,
    *,
    vocab_size: int | None = None,
    max_input_tokens: int = MAX_INPUT_TOKENS,
    limit: int | None = None,
) -> Dataset:
    """Read a data set and validate every record, also those beyond `limit`.

    Args:
        path: a JSON list of objects with `tok_input` (token ids), `input` and `output` (text).
        vocab_size: exclusive upper limit of token ids; None checks no upper limit.
        max_input_tokens: longest `tok_input` allowed, in tokens.
        limit: keep the first `limit` samples; None keeps all.

    Raises:
        BadInput: the file cannot be read, has fewer than `limit` samples, or a record is invalid; the message names
            the first invalid record by its index and field.
    """
    content = _read(path)
    try:
        records = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise BadInput(f"data set {path} is not JSON: {error}; download or build it again") from None
    if not isinstance(records, list):
        raise BadInput(f"data set {path} holds {_kind(records)}, not a list of records; use MLPerf's cnn_eval.json")
    if not records:
        raise BadInput(f"data set {path} is an empty list; use MLPerf's cnn_eval.json")
    for index, record in enumerate(records):
        if problem := _problem(record, vocab_size, max_input_tokens):
            raise BadInput(f"data set {path}: record {index}: {problem}; download or build the file again")
    if limit is not None and limit > len(records):
        raise BadInput(f"samples = {limit}, but data set {path} has {len(records)}; use {len(records)} or fewer")
    kept = records[:limit]
    inputs, targets = [record["tok_input"] for record in kept], [record["output"] for record in kept]
    return Dataset(
        path=path,
        inputs=inputs,
        targets=targets,
        sha256=hashlib.sha256(content).hexdigest(),
        samples_sha256=hashlib.sha256(orjson.dumps([inputs, targets])).hexdigest(),
    )


def vocab_size(model_dir: Path) -> int:
    """The size of the model's vocabulary, from its config.json.

    Raises:
        BadInput: the directory or its config.json is missing, or has no valid vocab_size.
    """
    size = _model_json(model_dir, "config.json").get("vocab_size")
    if type(size) is not int or size < 1:
        raise BadInput(f"vocab_size = {size!r} in {model_dir / 'config.json'}; use a complete model directory")
    return size


def end_tokens(model_dir: Path) -> frozenset[int]:
    """The token ids that end an answer: `eos_token_id` (one or several) of generation_config.json and config.json.

    Raises:
        BadInput: the directory or its config.json is missing, or neither file has an eos_token_id.
    """
    documents = [_model_json(model_dir, "config.json")]
    if (model_dir / "generation_config.json").is_file():
        documents.append(_model_json(model_dir, "generation_config.json"))
    values = [document.get("eos_token_id") for document in documents]
    items = [item for value in values for item in (value if isinstance(value, list) else [value])]
    tokens = frozenset(item for item in items if type(item) is int)
    if not tokens:
        raise BadInput(
            f"model {model_dir}: eos_token_id is in neither config.json nor generation_config.json; "
            "use a complete model directory"
        )
    return tokens


def _model_json(model_dir: Path, name: str) -> dict[str, Any]:
    if not model_dir.is_dir():
        raise BadInput(f"model directory {model_dir} does not exist; check the path")
    document = read_json(model_dir / name, "model file")
    if not isinstance(document, dict):
        raise BadInput(f"model file {model_dir / name} holds {_kind(document)}, not an object")
    return document


def _read(path: Path) -> bytes:
    try:
        reject_lfs_pointer(path)
        return path.read_bytes()
    except FileNotFoundError:
        raise BadInput(f"data set {path} does not exist; check the path, or build one with `harness sandbox`") from None
    except OSError as error:
        raise BadInput(f"data set {path} cannot be read: {error.strerror}; check its permissions") from None


def _problem(record: Any, vocab_size: int | None, max_input_tokens: int) -> str | None:
    """What is wrong with a record, starting with the field's name; None when it is valid."""
    if not isinstance(record, dict):
        return f"{_kind(record)} instead of an object"
    for field, expected in (("tok_input", list), ("input", str), ("output", str)):
        if field not in record:
            return f"{field} is missing"
        if not isinstance(record[field], expected):
            return f"{field} is {_kind(record[field])}, not {'a list' if expected is list else 'text'}"
    ids = record["tok_input"]
    if not ids:
        return "tok_input is empty"
    if set(map(type, ids)) != {int}:
        position = next(position for position, item in enumerate(ids) if type(item) is not int)
        return f"tok_input[{position}] = {ids[position]!r} is not an integer"
    if len(ids) > max_input_tokens:
        return f"tok_input has {len(ids)} tokens, more than {max_input_tokens}"
    if min(ids) < 0:
        return f"tok_input[{ids.index(min(ids))}] = {min(ids)} is negative"
    if vocab_size is not None and max(ids) >= vocab_size:
        return f"tok_input[{ids.index(max(ids))}] = {max(ids)} is beyond the vocabulary of {vocab_size} ids"
    return None


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "a boolean", type(None): "null"}
    return names.get(type(value), f"the number {value!r}")
