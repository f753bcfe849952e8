"""Scores LoadGen's accuracy log as MLPerf's reference does, on all cores.

Per sample the first entry counts. Its ids are decoded without special tokens and stripped, Punkt's sentences are joined
by newlines, prediction and target alike, and ROUGE F-measures are taken with a stemmer; a figure is 100 times their
mean. Without Punkt's data rougeLsum and gen_len are not measured; the other figures do not depend on sentences.
"""

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from harness.accuracy_parts import Part, answered_in
from harness.dataset import Dataset, end_tokens, vocab_size
from harness.errors import BadInput
from harness.files import sha256_file
from harness.scoring import scores
from harness.scoring.id_width import id_type
from harness.scoring.judge import Chunk, Judge, Judged, load_tokenizer
from harness.scoring.pool import cores, spread
from harness.scoring.scores import Score, describe, merge

__all__ = ["Score", "describe", "merge", "score"]

_CHUNK = 100
_PAIRS_WORTH_A_PROCESS = 400
_PROGRESS_EVERY_S = 2.0
_SHORTEST_UNIQUE = 8
"""Shorter lists of ids may be equal by chance."""


@dataclass
class _Log:
    """Content of accuracy logs: the first answer by global qsl_idx, the indexes that break a rule, each log's hash."""

    answers: dict[int, list[int]] = field(default_factory=dict)
    duplicates: set[int] = field(default_factory=set)
    foreign: set[int] = field(default_factory=set)
    sha256: dict[str, str] = field(default_factory=dict)


def score(
    log: Path | Sequence[Part],
    dataset: Dataset,
    model_dir: Path,
    *,
    reference_ids: Path | None,
    punkt_dir: Path | None,
    out_dir: Path,
    kept: Mapping[int, list[int]] | None = None,
    workers: int | None = None,
    identity: Mapping[str, str] | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> Score:
    """Score one LoadGen's mlperf_log_accuracy.json and write score.json, scores.csv and accuracy.txt.

    Args:
        log: the whole accuracy log, whose qsl_idx count from the start of `dataset`; or the parts of a run that was
            resumed, of which only those that ended have a whole log; one that was interrupted may have none.
        dataset: the samples LoadGen was given.
        kept: answers by global qsl_idx that the journal has; those of a part whose log is cut are taken from here.
        model_dir: for the tokenizer, the size of the vocabulary and the end tokens.
        reference_ids: lines {"qsl_idx" (global), "token_ids"} of an independent engine to compare with.
        punkt_dir: Punkt's English data, from `punkt.find`.
        out_dir: where the three files go.
        identity: of the specification of the run whose log it is; None of a log alone.
        workers: processes; None for as many as there are cores, fewer where that is little work.
        on_progress: called with a line every other second.

    Raises:
        BadInput: the log is missing, cut short or broken, or model files or references are.
        RunFailed: a scoring process died.
    """
    began = time.monotonic()
    parts = [Part(log.parent, range(dataset.start, dataset.start + len(dataset)))] if isinstance(log, Path) else log
    logs = [log] if isinstance(log, Path) else [part.log for part in parts]
    answered = _read_all(parts, logs, dataset, vocab_size(model_dir), kept or {})
    ends = end_tokens(model_dir)
    load_tokenizer(model_dir)
    references = _references(reference_ids, dataset) if reference_ids else None
    processes = workers or min(cores(), math.ceil(len(answered.answers) / _PAIRS_WORTH_A_PROCESS))
    judged = _judge(partial(Judge, model_dir, punkt_dir), _chunks(answered, dataset), processes, on_progress)
    window = scores.Window(dataset.start, dataset.start + len(dataset))
    rows = [item.row for item in judged]
    answers = sorted(answered.answers.items())
    result = Score(
        **scores.figures(rows),
        samples_expected=len(dataset),
        missing=tuple(index for index in range(window.start, window.stop) if index not in answered.answers),
        duplicates=tuple(sorted(answered.duplicates)),
        foreign=tuple(sorted(answered.foreign)),
        end_token_violations=tuple(index for index, ids in answers if not ends.isdisjoint(ids[:-1])),
        one_token_answers=tuple(index for index, ids in answers if len(ids) < 2),
        punkt=punkt_dir is not None,
        reference=None if references is None else _compare(answered.answers, judged, references),
        log_sha256=answered.sha256.get(parts[0].folder.name) if len(parts) == 1 else None,
        part_logs_sha256=answered.sha256 if len(parts) > 1 else {},
        share=window,
        seconds=round(time.monotonic() - began, 3),
        workers=processes,
    )
    scores.save(out_dir, result, rows, identity)
    return result


def _read_all(
    parts: Sequence[Part], logs: Sequence[Path], dataset: Dataset, vocabulary: int, kept: Mapping[int, list[int]]
) -> _Log:
    """The answers of all parts: of a sample that was asked again, those of the last part that had it."""
    union = _Log()
    for part, log, own in zip(parts, logs, answered_in(parts), strict=True):
        if kept and not part.whole:
            union.answers |= _kept(part, own & kept.keys(), kept)
            if log.exists():
                union.sha256[log.parent.name] = sha256_file(log)
            continue
        content = _content(log)
        union.sha256[log.parent.name] = hashlib.sha256(content).hexdigest()
        read = _read(log, content, part.qsl_idx, dataset, vocabulary)
        union.answers |= {index: read.answers[index] for index in read.answers.keys() & own}
        union.duplicates |= read.duplicates
        union.foreign |= read.foreign
    if not union.answers:
        raise BadInput(f"accuracy log {logs[0]} answers none of the {len(dataset)} samples of {dataset.path}")
    return union


def _content(log: Path) -> bytes:
    try:
        return log.read_bytes()
    except FileNotFoundError:
        raise BadInput(f"accuracy log {log} does not exist; run LoadGen in accuracy mode first") from None
    except OSError as error:
        raise BadInput(f"accuracy log {log} cannot be read: {error.strerror}") from None


def _kept(part: Part, own: Set[int], kept: Mapping[int, list[int]]) -> dict[int, list[int]]:
    """A part's answers from the journal, which must be those of its cut log as far as that goes.

    Raises:
        BadInput: journal and log have different answers to the same sample.
    """
    for index, ids in part.entries():
        if index in own and ids != np.array(kept[index], "<i4").tobytes():
            raise BadInput(f"accuracy log {part.log} and the journal differ in sample {index}; one of them was changed")
    return {index: kept[index] for index in own}


def _read(log: Path, content: bytes, qsl_idx: Sequence[int], dataset: Dataset, vocabulary: int) -> _Log:
    """One whole log; `qsl_idx` has the global index of each of its samples."""
    try:
        entries = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise BadInput(f"accuracy log {log} is cut short or broken ({error}); give the whole file") from None
    if not isinstance(entries, list) or not entries:
        raise BadInput(f"accuracy log {log} holds no list of answers; run LoadGen in accuracy mode again")
    answered, kind = _Log(), id_type(log, entries)
    for position, entry in enumerate(entries):
        try:
            local, ids = _entry(entry, vocabulary, kind)
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(f"accuracy log {log}: entry {position} is broken: {error!s}") from None
        if not 0 <= local < len(qsl_idx):
            answered.foreign.add(dataset.start + local)
        elif qsl_idx[local] in answered.answers:
            answered.duplicates.add(qsl_idx[local])
        else:
            answered.answers[qsl_idx[local]] = ids
    return answered


def _entry(entry: Any, vocabulary: int, kind: str) -> tuple[int, list[int]]:
    """An entry's qsl_idx and token ids; `data` is hex of little-endian integers of numpy type `kind`."""
    local = entry["qsl_idx"]
    if type(local) is not int:
        raise TypeError(f"qsl_idx = {local!r} is not an integer")
    ids = _ids(local, entry["data"], kind)
    wrong = next((item for item in ids if not 0 <= item < vocabulary), None)
    if wrong is not None:
        raise ValueError(f"qsl_idx {local} holds token id {wrong}, outside the vocabulary of {vocabulary} ids")
    return local, ids


def _ids(local: int, data: str, kind: str) -> list[int]:
    raw, width = bytes.fromhex(data), np.dtype(kind).itemsize
    if len(raw) % width:
        raise ValueError(f"qsl_idx {local} holds {len(raw)} bytes, not a multiple of {width}")
    ids: list[int] = np.frombuffer(raw, dtype=kind).tolist()
    return ids


def _chunks(log: _Log, dataset: Dataset) -> list[Chunk]:
    indexes = sorted(log.answers)
    parts = (indexes[first : first + _CHUNK] for first in range(0, len(indexes), _CHUNK))
    return [
        Chunk(part, [log.answers[index] for index in part], [dataset.targets[index - dataset.start] for index in part])
        for part in parts
    ]


def _judge(
    make: Callable[[], Callable[[Chunk], list[Judged]]],
    chunks: Sequence[Chunk],
    workers: int,
    on_progress: Callable[[str], None] | None,
) -> list[Judged]:
    """Judge all chunks; the answers come back in the order of their qsl_idx."""
    total = sum(len(chunk.indexes) for chunk in chunks)
    results: dict[int, list[Judged]] = {}
    done, reported = 0, time.monotonic()
    for number, result in spread(make, chunks, workers):
        results[number] = result
        done += len(result)
        if on_progress and time.monotonic() - reported >= _PROGRESS_EVERY_S:
            reported = time.monotonic()
            on_progress(f"scored {done} of {total} answers")
    return [item for number in sorted(results) for item in results[number]]


def _references(path: Path, dataset: Dataset) -> dict[int, list[int]]:
    """An independent engine's answers to the samples of `dataset`, by global qsl_idx."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise BadInput(f"reference answers {path} cannot be read: {error.strerror}") from None
    references = {}
    for number, line in enumerate(lines, 1):
        try:
            entry = orjson.loads(line)
            index, ids = entry["qsl_idx"], entry["token_ids"]
        except (KeyError, TypeError, ValueError):
            raise BadInput(f"reference answers {path}: line {number} is broken; build them again") from None
        if dataset.start <= index < dataset.start + len(dataset):
            references[index] = ids
    return references


def _compare(
    answers: Mapping[int, list[int]], judged: Sequence[Judged], references: Mapping[int, list[int]]
) -> scores.Reference:
    common = answers.keys() & references.keys()
    other_ids = {index for index in common if answers[index] != references[index]}
    other_text = {item.row.qsl_idx for item in judged if not item.decodes_to_target} & common - other_ids
    all_references = {tuple(ids) for ids in references.values() if len(ids) >= _SHORTEST_UNIQUE}
    return scores.reference(
        len(common),
        other_ids,
        misplaced=(index for index in other_ids if tuple(answers[index]) in all_references),
        shifted=(index for index in other_ids if _shifted(answers[index], references[index])),
        other_text=other_text,
    )


def _shifted(ids: list[int], expected: list[int]) -> bool:
    """The expected ids with one dropped or put in front, or with some missing at either end."""
    kept = min(len(ids), len(expected)) - 1
    moved = kept >= _SHORTEST_UNIQUE and (ids[:kept] == expected[1 : kept + 1] or ids[1 : kept + 1] == expected[:kept])
    return moved or ids == expected[: len(ids)] or ids == expected[len(expected) - len(ids) :]
