"""Logs of others have ids of int64; their answers score as the same answers in int32."""

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.dataset import Dataset
from harness.errors import BadInput
from harness.sandbox.model import BEGIN, model_files
from harness.scoring.accuracy import score
from harness.scoring.id_width import NARROW, WIDE, id_type

LONG = [7, 8, 0, 9, 11, 12, 13, 14, 15]


def entry(kind: str, ids: Sequence[int], count: int | None = None, index: int = 0) -> dict[str, Any]:
    data = struct.pack(f"<{len(ids)}{'q' if kind == WIDE else 'i'}", *ids).hex().upper()
    return {"seq_id": index, "qsl_idx": index, "data": data, **({} if count is None else {"token_count": count})}


@pytest.mark.parametrize(
    ("entries", "kind"),
    [
        ([entry(WIDE, LONG)], WIDE),
        ([entry(NARROW, LONG)], NARROW),
        ([entry(WIDE, LONG), {"data": "zz"}, {}, 4], WIDE),  # broken entries are reported by who reads them
        ([entry(WIDE, [5, 6], 2)], WIDE),
        ([entry(NARROW, [5, 0], 2)], NARROW),
        ([entry(NARROW, [0] * 64)], NARROW),  # a broken engine's answer
        ([entry(NARROW, [5, 0] * 16, 32)], NARROW),
        ([entry(WIDE, LONG, 0)], WIDE),  # an implementation that does not count
        ([entry(NARROW, LONG), entry(NARROW, [5, 0] * 16), entry(NARROW, LONG)], NARROW),
        ([], NARROW),
    ],
)
def test_width_is_recognised(entries: list[Any], kind: str) -> None:
    assert id_type(Path("log.json"), entries) == kind


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([entry(WIDE, LONG), entry(WIDE, LONG), entry(NARROW, [5, 6, 7])], "2 of 3 answers look like int64"),
        ([entry(WIDE, [5, 6])], "too short to tell"),
    ],
)
def test_logs_that_are_neither_are_refused(entries: list[Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        id_type(Path("log.json"), entries)


def test_int64_log_scores_as_the_same_answers_in_int32(tmp_path: Path) -> None:
    for name, content in model_files(1).items():
        (tmp_path / name).write_bytes(content)
    samples = Dataset(Path("cnn_eval.json"), [[BEGIN, 1]] * 2, ["a b", "c"], "0" * 64, "0" * 64, 0)
    texts = []
    for kind in (NARROW, WIDE):
        log = tmp_path / f"{kind}.json"
        log.write_text(json.dumps([entry(kind, LONG), entry(kind, LONG[3:], index=1)]))
        out = tmp_path / f"out{kind}"
        score(log, samples, tmp_path, reference_ids=None, punkt_dir=None, out_dir=out, workers=1)
        texts.append((out / "scores.csv").read_text())
    assert texts[0] == texts[1]
