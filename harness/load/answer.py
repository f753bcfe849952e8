"""What an engine answered to one sample."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete, valid answer: 1 to 128 token ids, and `perf_counter` timestamps in seconds."""

    token_ids: list[int]
    sent_s: float
    first_s: float
    last_s: float
