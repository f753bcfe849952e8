"""The accuracy score of one node or several: the record, its files, and merging. Pure functions."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ConfigDict, TypeAdapter, ValidationError

from harness.errors import BadInput
from harness.files import read_json, write_atomic, write_json
from harness.spec import explain

MOST_CHARACTERS = 512
"""More than any token of a vocabulary stands for; Llama-3.1's longest has 128."""
METRICS = ("rouge1", "rouge2", "rougeL", "rougeLsum")


@dataclass(frozen=True)
class Window:
    """Samples [start, stop) of the data set."""

    start: int
    stop: int


@dataclass(frozen=True)
class Reference:
    """How answers compare, sample by sample, with those of an independent engine.

    An answer is identical when its whole list of ids is and when it decodes to the data set's target, which for such a
    data set is the text of the reference answer. Two engines may differ at a near tie of two logits, so a few answers
    may differ; rounding cannot explain three kinds among `differing`, so that a single one shows a fault: `misplaced`
    are another sample's answer, `shifted` have the right ids one position off or not all of them, `decode_differing`
    have the right ids but another text.
    """

    compared: int
    identical: int
    identical_percent: float | None
    differing: tuple[int, ...]
    misplaced: tuple[int, ...]
    shifted: tuple[int, ...]
    decode_differing: tuple[int, ...]


@dataclass(frozen=True)
class Score:
    """score.json. Every index is a global qsl_idx; ROUGE is times 100 with four decimals; gen_len is in characters.

    `missing`: samples of the share without an answer. `duplicates`: answered more than once. `foreign`: answered but
    not of the share. `end_token_violations`: a token follows an end token. `one_token_answers`: fewer than two tokens.
    None means not measured: rougeLsum and gen_len without Punkt's data, log_sha256 where several logs were merged.
    `part_logs_sha256`: of a run that was resumed, the hash of each part's log by its folder.
    """

    __pydantic_config__ = ConfigDict(allow_inf_nan=False)

    rouge1: float
    rouge2: float
    rougeL: float  # noqa: N815 - the published names of the metrics
    rougeLsum: float | None  # noqa: N815
    gen_len: int | None
    gen_num: int
    samples_expected: int
    missing: tuple[int, ...]
    duplicates: tuple[int, ...]
    foreign: tuple[int, ...]
    end_token_violations: tuple[int, ...]
    one_token_answers: tuple[int, ...]
    punkt: bool
    reference: Reference | None
    log_sha256: str | None
    share: Window
    seconds: float
    workers: int
    part_logs_sha256: dict[str, str] = field(default_factory=dict)
    schema: int = 1


_SCORE = TypeAdapter(Score)


class Row(NamedTuple):
    """A line of scores.csv: one answer's F-measures (0 to 1), characters and tokens; None when not measured."""

    qsl_idx: int
    rouge1: float
    rouge2: float
    rougeL: float  # noqa: N815
    rougeLsum: float | None  # noqa: N815
    gen_len: int | None
    n_tokens: int


def figures(rows: Sequence[Row]) -> dict[str, Any]:
    """The fields of a Score that are means or sums over answers."""
    means: dict[str, Any] = {name: _percent([getattr(row, name) for row in rows]) for name in METRICS}
    lengths = [row.gen_len for row in rows if row.gen_len is not None]
    return {**means, "gen_len": sum(lengths) if len(lengths) == len(rows) else None, "gen_num": len(rows)}


def reference(
    compared: int, other_ids: Iterable[int], misplaced: Iterable[int], shifted: Iterable[int], other_text: Iterable[int]
) -> Reference:
    """A Reference over `compared` answers; the lists hold indexes, all but `other_text` parts of `other_ids`."""
    differing = _union([other_ids, other_text])
    same = compared - len(differing)
    percent = 100 * same / compared if compared else None
    return Reference(compared, same, percent, differing, _union([misplaced]), _union([shifted]), _union([other_text]))


def save(folder: Path, score: Score, rows: Sequence[Row], identity: Mapping[str, str] | None = None) -> None:
    """Write scores.csv, accuracy.txt and, last, score.json, which names the run of this `identity`."""
    table = io.StringIO()
    lines = csv.writer(table, lineterminator="\n")
    lines.writerow(Row._fields)
    lines.writerows(rows)
    write_atomic(folder / "scores.csv", table.getvalue())
    write_atomic(folder / "accuracy.txt", accuracy_text(score))
    write_json(folder / "score.json", {**(identity or {}), **asdict(score)})


def accuracy_text(score: Score) -> str:
    """The figures in the form that the submission checker's patterns accept, then the log's hash."""
    printed: dict[str, Any] = {name: str(getattr(score, name)) for name in METRICS}
    printed |= {"gen_len": score.gen_len, "gen_num": score.gen_num}
    return f"{printed}\nhash={score.log_sha256}\n"


def merge(folders: Sequence[Path]) -> Score:
    """The score of several nodes' shares together, from the score.json and scores.csv in each folder.

    Every sample weighs the same, whichever node answered it. A sample that two nodes answered counts once, for the
    first folder, and is in `duplicates`; one between the first share and the last that none answered is missing.

    Raises:
        BadInput: no folder, or a file is missing or broken.
    """
    if not folders:
        raise BadInput("no scores to merge; give at least one folder with score.json and scores.csv")
    scores = [_load_score(folder) for folder in folders]
    if len(scores) == 1:
        return scores[0]
    rows: dict[int, Row] = {}
    twice = set(_union(score.duplicates for score in scores))
    for row in (row for folder in folders for row in load_rows(folder)):
        if rows.setdefault(row.qsl_idx, row) is not row:
            twice.add(row.qsl_idx)
    window = Window(min(score.share.start for score in scores), max(score.share.stop for score in scores))
    return Score(
        **figures([rows[index] for index in sorted(rows)]),
        samples_expected=window.stop - window.start,
        missing=tuple(index for index in range(window.start, window.stop) if index not in rows),
        duplicates=tuple(sorted(twice)),
        foreign=_union(score.foreign for score in scores),
        end_token_violations=_union(score.end_token_violations for score in scores),
        one_token_answers=_union(score.one_token_answers for score in scores),
        punkt=all(score.punkt for score in scores),
        reference=_merge_references([score.reference for score in scores if score.reference]),
        log_sha256=None,
        share=window,
        seconds=round(sum(score.seconds for score in scores), 3),
        workers=max(score.workers for score in scores),
    )


def describe(score: Score) -> str:
    """A score as a few lines of text."""
    values = ((name, getattr(score, name)) for name in METRICS)
    lines = ["  ".join(f"{name} {'–' if value is None else f'{value:.4f}'}" for name, value in values)]
    length = "–" if score.gen_len is None else f"{score.gen_len} characters"
    lines.append(f"{score.gen_num} of {score.samples_expected} samples answered, gen_len {length}")
    if not score.punkt:
        lines.append("Punkt's data was not found: rougeLsum and gen_len are not measured, the score is unofficial")
    for name in ("missing", "duplicates", "foreign", "end_token_violations", "one_token_answers"):
        if indexes := getattr(score, name):
            lines.append(f"{name.replace('_', ' ')}: {_few(indexes)}")
    if score.reference:
        lines.append(f"identical to the reference: {score.reference.identical} of {score.reference.compared}")
        for name in ("differing", "misplaced", "shifted", "decode_differing"):
            if indexes := getattr(score.reference, name):
                lines.append(f"{name.replace('_', ' ')}: {_few(indexes)}")
    return "\n".join(lines)


def _few(indexes: Sequence[int]) -> str:
    return f"{len(indexes)} (qsl_idx {', '.join(map(str, indexes[:10]))}{', …' if len(indexes) > 10 else ''})"


def _percent(values: Sequence[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    if not numbers or len(numbers) < len(values):
        return None
    # fsum does not depend on the order, so shares merge to the very figure of one log.
    return round(100 * math.fsum(numbers) / len(numbers), 4)


def _union(lists: Iterable[Iterable[int]]) -> tuple[int, ...]:
    return tuple(sorted({index for one in lists for index in one}))


def _merge_references(parts: Sequence[Reference]) -> Reference | None:
    if not parts:
        return None
    return reference(
        sum(part.compared for part in parts),
        _union(part.differing for part in parts),
        _union(part.misplaced for part in parts),
        _union(part.shifted for part in parts),
        _union(part.decode_differing for part in parts),
    )


def _load_score(folder: Path) -> Score:
    try:
        return _SCORE.validate_python(read_json(folder / "score.json", "score"))
    except ValidationError as error:
        raise BadInput(f"{folder / 'score.json'} is not a score: {explain(error)}; score the log again") from None


def load_rows(folder: Path) -> list[Row]:
    """The lines of `folder`/scores.csv.

    Raises:
        BadInput: it is missing or broken.
    """
    path = folder / "scores.csv"
    try:
        with path.open(newline="") as stream:
            return [_row(line) for line in csv.DictReader(stream)]
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}; score the log again") from None
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise BadInput(f"{path} is not a table of scores: {error}; score the log again") from None


def _row(line: dict[str, str]) -> Row:
    row = Row(
        qsl_idx=int(line["qsl_idx"]),
        rouge1=_measure(line["rouge1"]),
        rouge2=_measure(line["rouge2"]),
        rougeL=_measure(line["rougeL"]),
        rougeLsum=_measure(line["rougeLsum"]) if line["rougeLsum"] else None,
        gen_len=int(line["gen_len"]) if line["gen_len"] else None,
        n_tokens=int(line["n_tokens"]),
    )
    if row.gen_len is not None and not 0 <= row.gen_len <= MOST_CHARACTERS * row.n_tokens:
        raise ValueError(f"{row.gen_len} characters cannot be {row.n_tokens} tokens")
    return row


def _measure(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise ValueError(f"{text} is no F-measure between 0 and 1")
    return value
