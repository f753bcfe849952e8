"""News articles in an invented language: the same seed gives the same text on every machine.

All randomness comes from `random.random()`, the only method whose sequence Python keeps between versions.
"""

import math
import random
from bisect import bisect
from collections.abc import Callable, Sequence
from itertools import accumulate
from statistics import NormalDist
from typing import TypeVar

PROMPT = "Sum up this article in 128 tokens or less. Print the summary, nothing else.\n\nArticle:\n{input}\n\nSummary:"

MEDIAN_WORDS = 124
SIGMA = 0.45
CUT = 0.002
"""Lengths are log-normal, truncated at both ends. With the tokens of PROMPT around them, 13,368 articles have 69 to 661
tokens, median 199: about a quarter of CNN/DailyMail's, whose median is 780 and whose longest has 2,540."""

_WORDS = 1500
_ONSETS = (
    "b", "br", "d", "dr", "f", "fl", "g", "gl", "k", "kl", "l", "m", "n", "p", "pl", "r", "s", "st", "t", "tr", "v",
)  # fmt: skip
_VOWELS = ("a", "a", "a", "e", "e", "e", "i", "i", "o", "o", "u", "ai", "ea", "ou")
_CODAS = ("", "", "", "", "l", "m", "n", "n", "nd", "r", "r", "rn")
_SYLLABLES = (1, 1, 2, 2, 2, 3)

_Draw = Callable[[], float]
_T = TypeVar("_T")


class Language:
    """Words with Zipf's frequencies, drawn once from the seed; each article is drawn by its own number."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        draw = random.Random(f"words {seed}").random  # noqa: S311
        words: dict[str, None] = {}
        while len(words) < _WORDS:
            words["".join(_syllable(draw) for _ in range(_pick(_SYLLABLES, draw)))] = None
        self._words = list(words)
        self._reach = list(accumulate(1.0 / (rank + 3) for rank in range(_WORDS)))

    def article(self, number: int, words: int | None = None) -> str:
        """Article `number` (from 0), independent of the size of the data set, with `words` words or a drawn length."""
        draw = random.Random(f"article {self._seed} {number}").random  # noqa: S311
        left = words or length(draw(), MEDIAN_WORDS)
        sentences = []
        while left > 0:
            size = min(left, 6 + int(13 * draw()))
            left -= size
            sentences.append(self._sentence(size, draw))
        return " ".join(sentences)

    def _sentence(self, size: int, draw: _Draw) -> str:
        words = [self._words[bisect(self._reach, draw() * self._reach[-1])] for _ in range(size)]
        if size > 8:
            words[size // 2] += ","
        return " ".join(words).capitalize() + _pick(".....?!", draw)


def length(share: float, median: int) -> int:
    """The length of an article that is longer than `share` (0 to 1) of all, whose median is `median`."""
    return round(math.exp(NormalDist(math.log(median), SIGMA).inv_cdf(CUT + (1 - 2 * CUT) * share)))


def _syllable(draw: _Draw) -> str:
    return _pick(_ONSETS, draw) + _pick(_VOWELS, draw) + _pick(_CODAS, draw)


def _pick(options: Sequence[_T], draw: _Draw) -> _T:
    return options[int(draw() * len(options))]
