"""The figures must be `rouge_score`'s to the last bit."""

import random
import string

import pytest
from rouge_score.rouge_scorer import RougeScorer

from harness.scoring.rouge import Scorer

METRICS = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
_TEXT = """the a of in running runs ran runner happily happiness ponies sky skies generalization argument 2026 3.5 U.S.
naïve café über İstanbul straße Ⅻ x1y2 don't he's – € 東京 emergency's news dying died ion national"""
WORDS = _TEXT.split()


def text(draw: random.Random, longest: int, words: list[str]) -> str:
    parts = []
    for _ in range(draw.randrange(longest)):
        parts.append(draw.choice(words))
        parts.append(draw.choice([" ", " ", " ", " ", "\n", ". ", ".\n", "\n\n", "\t"]))
    return "".join(parts)


def pairs() -> list[tuple[str, str]]:
    draw = random.Random(7)
    result = [(text(draw, 60, WORDS), text(draw, 60, WORDS)) for _ in range(200)]
    # A tiny vocabulary repeats words, so that there are many longest common subsequences to choose from.
    result += [(text(draw, 40, list("abcd")), text(draw, 40, list("abcd"))) for _ in range(300)]
    letters = ["".join(draw.choices(string.ascii_lowercase, k=draw.randrange(1, 12))) for _ in range(400)]
    result += [(text(draw, 90, letters), text(draw, 90, letters)) for _ in range(60)]
    return result


FIXED = [
    ("", ""),
    ("", "some words"),
    ("some words", ""),
    ("...", "words"),
    ("\n\n", "\n"),
    ("one", "one"),
    ("a b c d", "d c b a"),
    ("the cat\nthe cat\nthe cat", "the cat"),
    ("the cat sat\non the mat", "on the mat the cat sat"),
    ("Same sentence. Twice.\nSame sentence. Twice.", "Same sentence. Twice.\nSame sentence. Twice."),
]


@pytest.mark.parametrize("reused", [True, False])
def test_same_figures_as_rouge_score(reused: bool) -> None:
    reference = RougeScorer(METRICS, use_stemmer=True)
    scorer = Scorer()
    for target, prediction in FIXED + pairs():
        expected = reference.score(target, prediction)
        ours = (scorer if reused else Scorer()).score(target, prediction)
        assert ours == tuple(expected[metric].fmeasure for metric in METRICS), (target, prediction)


def test_known_figures() -> None:
    scores = Scorer().score("the cat sat", "the cat ran home")
    assert scores.rouge1 == pytest.approx(2 * (2 / 4) * (2 / 3) / (2 / 4 + 2 / 3))
    assert scores.rouge2 == pytest.approx(2 * (1 / 3) * (1 / 2) / (1 / 3 + 1 / 2))
    assert Scorer().score("ponies running", "pony runs") == (1.0, 1.0, 1.0, 1.0)
