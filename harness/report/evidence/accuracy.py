"""The accuracy log is that of the journal and of the score, and the score follows from its rows."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from harness import accuracy_parts
from harness.accuracy_parts import Part
from harness.compliance import LLAMA_END_TOKENS
from harness.errors import BadInput
from harness.files import sha256_file
from harness.report.accuracy_rules import few, is_real
from harness.report.load_inputs import Inputs, LoadGenRun
from harness.report.record import Reason
from harness.report.rules import Rule
from harness.scoring.scores import Row, Score, accuracy_text, figures
from harness.spec import Spec


@dataclass(frozen=True, slots=True)
class _Answers:
    """First answer of each sample, by global index as little-endian int32, and how often each was answered.

    `faults` are contradictions within LoadGen's logs, in words.
    """

    first: dict[int, bytes]
    times: Counter[int]
    faults: list[str] = field(default_factory=list)


def reasons(inputs: Inputs, run: LoadGenRun) -> Iterator[Reason]:
    """Where accuracy log, journal and score contradict each other."""
    if run.spec is None or not (run.path / accuracy_parts.FIRST).is_dir() or not run.finished:
        return
    folder = run.path / accuracy_parts.FIRST
    try:
        parts = accuracy_parts.parts(run.path, run.spec.window)
        if run.score and _hashes(run.score, parts) != _hashes_of(parts):
            yield Rule.ACCURACY_LOG.reason(node=run.host)
        answers = _read(parts, run)
    except _Unreadable as error:
        yield Rule.ANSWERS_LOGGED.reason(file=inputs.shown(error.path), what=error.what)
        return
    except BadInput as error:
        yield Rule.FILES_WHOLE.reason(what=f"{run.host}: {error}")
        return
    for what in (*answers.faults, *_coverage(answers, run.spec), *_journal(answers, run)):
        yield Rule.ANSWERS_LOGGED.reason(file=inputs.shown(parts[0].log), what=what)
    if run.score:
        for name, what in _score(run.score, run.score_rows, answers, run):
            yield Rule.SCORES_FOLLOW.reason(file=inputs.shown(folder / name), what=what)
        printed = folder / "accuracy.txt"
        if not printed.is_file() or printed.read_bytes() != accuracy_text(run.score).encode():
            yield Rule.SCORES_FOLLOW.reason(file=inputs.shown(printed), what="does not print the figures of score.json")


def _hashes(score: Score, parts: Sequence[Part]) -> Mapping[str, str]:
    """The hashes of the logs that were scored."""
    if len(parts) > 1:
        return score.part_logs_sha256
    return {parts[0].folder.name: score.log_sha256} if score.log_sha256 else {}


def _hashes_of(parts: Sequence[Part]) -> Mapping[str, str]:
    return {part.folder.name: sha256_file(part.log) for part in parts if part.log.is_file()}


class _Unreadable(Exception):
    """A log that is missing, or is no accuracy log."""

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(what)
        self.path, self.what = path, what


def _read(parts: Sequence[Part], run: LoadGenRun) -> _Answers:
    """The answers of all parts: of a sample that was asked again, those of the last part that had it.

    LoadGen's log of a part that was interrupted is cut or missing: what it lacks, the journal has.
    """
    answers, first = _Answers({}, Counter()), run.spec.window.start if run.spec else 0
    rows = run.journal.of("accuracy")
    kept = dict(zip(rows["qsl_idx"].tolist(), rows["ids"], strict=True))
    resumed = len(parts) > 1 or bool(run.outcome.resumed)
    for part, own in zip(parts, accuracy_parts.answered_in(parts), strict=True):
        if resumed and not part.whole:
            ids_by_index = {index: kept[index] for index in own if index in kept}
            ids_by_index.update((index, ids) for index, ids in part.entries() if index in ids_by_index)
            answers.first.update(ids_by_index)
            answers.times.update(ids_by_index.keys())
            continue
        for local, data in _entries(part.log, answers):
            inside = 0 <= local < len(part.qsl_idx)
            index = part.qsl_idx[local] if inside else first + local
            if index in own or not inside:
                answers.times[index] += 1
                answers.first.setdefault(index, data)
    return answers


def _entries(path: Path, answers: _Answers) -> list[tuple[int, bytes]]:
    """The index and the token ids of each entry of an accuracy log; faults are added to those of the answers."""
    try:
        entries = orjson.loads(path.read_bytes())
        logged = [(_whole(entry["qsl_idx"]), bytes.fromhex(entry["data"])) for entry in entries]
        queries = Counter(_whole(entry["seq_id"]) for entry in entries)
        counts = [_whole(entry["token_count"]) for entry in entries]
    except FileNotFoundError:
        raise _Unreadable(path, "does not exist") from None
    except (OSError, orjson.JSONDecodeError) as error:
        raise _Unreadable(path, f"cannot be read: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _Unreadable(path, f"is no list of LoadGen's answers: {type(error).__name__} {error}") from None
    if miscounted := [index for (index, data), count in zip(logged, counts, strict=True) if count * 4 != len(data)]:
        answers.faults.append(f"counts another number of tokens than the answer has, at samples {few(miscounted)}")
    if again := [query for query, times in queries.items() if times > 1]:
        answers.faults.append(f"has answers to one query more than once: seq_id {few(again)}")
    return logged


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"{value!r} is no whole number")
    return value


def _coverage(answers: _Answers, spec: Spec) -> Iterator[str]:
    window = range(spec.window.start, spec.window.stop)
    lists = {
        "does not answer": [index for index in window if index not in answers.times],
        "answers more than once": [index for index, times in answers.times.items() if times > 1],
        "answers, though they are not of the share,": [index for index in answers.times if index not in window],
    }
    for what, indexes in lists.items():
        if indexes:
            yield f"{what} {len(indexes)} samples: {few(indexes)}"


def _journal(answers: _Answers, run: LoadGenRun) -> Iterator[str]:
    """Answers that differ from those in the journal."""
    rows = run.journal.of("accuracy")
    own = dict(zip(rows["qsl_idx"].tolist(), rows["ids"], strict=True))
    other = [index for index, ids in answers.first.items() if own.get(index) != ids]
    if other:
        yield f"holds other token ids than journal.jsonl for {len(other)} samples: {few(other)}"


def _score(score: Score, rows: tuple[Row, ...], answers: _Answers, run: LoadGenRun) -> Iterator[tuple[str, str]]:
    """Where score.json and scores.csv differ from the answers: the file and what is wrong."""
    if run.spec is None or run.unreadable("accuracy/scores.csv"):
        return
    window = run.spec.window
    tokens = {index: len(ids) // 4 for index, ids in answers.first.items()}
    if Counter((row.qsl_idx, row.n_tokens) for row in rows) != Counter(tokens.items()):
        yield "scores.csv", "is not one row for each answer in mlperf_log_accuracy.json, with its number of tokens"
    if score.punkt and any(None in (row.rougeLsum, row.gen_len) for row in rows):
        yield "scores.csv", "lacks rougeLsum or gen_len"
    followed = figures(rows) | {
        "one_token_answers": tuple(sorted(index for index, count in tokens.items() if count < 2)),
        "duplicates": tuple(sorted(index for index, times in answers.times.items() if times > 1)),
        "missing": tuple(index for index in range(window.start, window.stop) if index not in answers.times),
        "foreign": tuple(sorted(index for index in answers.times if not window.start <= index < window.stop)),
        "samples_expected": window.stop - window.start,
    }
    if is_real(run.manifest.model):
        followed["end_token_violations"] = tuple(sorted(index for index, ids in answers.first.items() if _goes_on(ids)))
    for name, value in followed.items():
        if getattr(score, name) != value:
            yield "score.json", f"{name} is {_shown(getattr(score, name))}; {_shown(value)} follows from the answers"
    if (score.share.start, score.share.stop) != (window.start, window.stop):
        yield (
            "score.json",
            f"share is {score.share.start} to {score.share.stop}, the run's {window.start} to {window.stop}",
        )
    if score.punkt and None in (score.rougeLsum, score.gen_len):
        yield "score.json", "lacks rougeLsum or gen_len"


def _goes_on(ids: bytes) -> bool:
    """Whether a token follows an end token."""
    tokens = memoryview(ids[: len(ids) // 4 * 4]).cast("i")
    return not LLAMA_END_TOKENS.isdisjoint(tokens[:-1])


def _shown(value: Any) -> str:
    return f"[{few(value)}]" if isinstance(value, tuple) else str(value)
