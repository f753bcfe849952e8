"""The performance run's answers are those of the accuracy run, as far as greedy decoding repeats itself.

LoadGen logs answers in the accuracy run alone, and only these are scored. An engine that answered the performance run
with other tokens, or with fewer, would be fast for nothing.
"""

import math
from collections import Counter
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from harness.report.accuracy_rules import is_real
from harness.report.load_inputs import Inputs, LoadGenRun
from harness.report.record import Reason
from harness.report.rules import Rule

PART = 0.05
"""At each token, the part of answers that were the same so far and may now go on differently. Rounding depends on what
is computed together, so honest answers part; float32 and bfloat16 of one random model did so at 0.014 per token."""
CHANCE = 5.0
"""Standard deviations of the number of answers that part, for small runs."""
SHARED = 0.2
"""What the rests of Llama's answers that parted share at least of their tokens: both go on about the same article."""
FEW = 0.01
"""Part of all tokens; where the rests hold fewer, nothing is concluded from them."""
LEAST_ANSWERS, LEAST_TOKENS = 30, 2_000
"""Fewer answers, or answers or rests with fewer tokens, are not judged: chance may explain anything there. A run over
the whole data set has more."""

_Ids = NDArray[np.int32]
_Pairs = list[tuple[_Ids, _Ids, int]]


def reasons(inputs: Inputs, run: LoadGenRun) -> Iterator[Reason]:
    """Answers of the performance run that are not those of the accuracy run, further than rounding explains."""
    rows, scored = run.journal.of("performance"), run.journal.of("accuracy")
    if not run.finished or not len(rows):
        return
    known = dict(zip(scored["qsl_idx"].tolist(), scored["ids"], strict=True))
    answers = zip(rows["qsl_idx"].tolist(), rows["ids"], strict=True)
    pairs = [(ids, known[index]) for index, ids in answers if index in known]
    if len(pairs) < LEAST_ANSWERS or sum(len(scored_ids) // 4 for _, scored_ids in pairs) < LEAST_TOKENS:
        return
    parted = [_parted(one, other) for one, other in pairs if one != other]
    what = _too_many(len(pairs), parted) or (is_real(run.manifest.model) and _other_text(len(pairs), parted))
    if what:
        yield Rule.SAME_ANSWERS.reason(file=inputs.shown(run.judged / "journal.jsonl"), what=what)


def _parted(one: bytes, other: bytes) -> tuple[_Ids, _Ids, int]:
    """The token ids of two answers, and the place of their first difference; an end is one."""
    left, right = np.frombuffer(one, np.dtype("<i4")), np.frombuffer(other, np.dtype("<i4"))
    length = min(len(left), len(right))
    different = np.flatnonzero(left[:length] != right[:length])
    return left, right, int(different[0]) if len(different) else length


def _too_many(number: int, parted: _Pairs) -> str | None:
    """The first number of tokens within which too many of the answers part."""
    places = np.array([place for _, _, place in parted], dtype=int)
    for tokens, count in enumerate(np.cumsum(np.bincount(places, minlength=1)).tolist(), 1):
        part = 1 - (1 - PART) ** tokens
        most = number * part + CHANCE * math.sqrt(number * part * (1 - part))
        if count > most:
            return (
                f"{count:,} of {number:,} performance answers differ from the accuracy run's within the first "
                f"{'token' if tokens == 1 else f'{tokens} tokens'}; rounding explains {most:,.0f} at most"
            )
    return None


def _other_text(number: int, parted: _Pairs) -> str | None:
    """Whether the answers that part go on with a text that has nothing to do with the other one."""
    shared = rest = whole = 0
    for one, other, place in parted:
        shared += (Counter(one[place:].tolist()) & Counter(other[place:].tolist())).total()
        rest += max(len(one), len(other)) - place
        whole += max(len(one), len(other))
    mean = whole / max(len(parted), 1)
    if rest < max(FEW * number * mean, LEAST_TOKENS) or shared >= SHARED * rest:
        return None
    return (
        f"{len(parted):,} of {number:,} performance answers differ from the accuracy run's, and what follows shares "
        f"{100 * shared / rest:.0f} % of its tokens; the same model's answers share {100 * SHARED:.0f} % at least"
    )
