"""Decoding answers and scoring each against its target, in worker processes."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from harness.errors import BadInput
from harness.scoring import punkt
from harness.scoring.rouge import Scorer
from harness.scoring.scores import Row

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class Chunk(NamedTuple):
    """Answers to score together: their global qsl_idx, token ids and target texts."""

    indexes: Sequence[int]
    answers: Sequence[list[int]]
    targets: Sequence[str]


class Judged(NamedTuple):
    """One answer's figures, and whether it decodes to exactly its target's text."""

    row: Row
    decodes_to_target: bool


class Judge:
    """Scores chunks of answers.

    Args:
        model_dir: holds tokenizer.json.
        punkt_dir: Punkt's English data; None leaves rougeLsum and gen_len unmeasured.

    Raises:
        BadInput: tokenizer.json is missing or broken.
    """

    def __init__(self, model_dir: Path, punkt_dir: Path | None) -> None:
        self._tokenizer = load_tokenizer(model_dir)
        self._split = punkt.splitter(punkt_dir) if punkt_dir else None
        self._scorer = Scorer()

    def __call__(self, chunk: Chunk) -> list[Judged]:
        texts = self._tokenizer.decode_batch(chunk.answers, skip_special_tokens=True)
        return [self._judge(*parts) for parts in zip(*chunk, texts, strict=True)]

    def _judge(self, index: int, answer: list[int], target: str, text: str) -> Judged:
        text, target = text.strip(), target.strip()
        same = text == target
        if self._split is None:
            rouge1, rouge2, rouge_l, _ = self._scorer.score(target, text)
            return Judged(Row(index, rouge1, rouge2, rouge_l, None, None, len(answer)), same)
        text, target = "\n".join(self._split(text)), "\n".join(self._split(target))
        return Judged(Row(index, *self._scorer.score(target, text), len(text), len(answer)), same)


def load_tokenizer(model_dir: Path) -> "Tokenizer":
    """The model's tokenizer.

    Raises:
        BadInput: tokenizer.json is missing or broken.
    """
    from tokenizers import Tokenizer  # what merges scores for a report needs none

    path = model_dir / "tokenizer.json"
    if not path.is_file():
        raise BadInput(f"tokenizer {path} does not exist; give a complete model directory")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare exceptions
        raise BadInput(f"tokenizer {path} cannot be read: {error}; fetch the model again") from None
