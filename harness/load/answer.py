"""What an engine answered to one sample."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete, valid answer: 1 to 128 token ids, and `perf_counter` timestamps in seconds.

    `moved` is how many engines were lost while they owed it. The sample was first sent at `sent_s`, and its first
    token, from whichever engine, came at `first_s`.
    """

    token_ids: list[int]
    sent_s: float
    first_s: float
    last_s: float
    moved: int = 0
