"""Whether the LoadGens of a benchmark repeat their performance runs: together, or none of them."""

from collections.abc import Mapping, Sequence
from typing import Any

from harness.state_file import ENDED


def repeat(number: int, looks: Sequence[Mapping[str, Any] | None]) -> bool | None:
    """Whether all make another attempt after attempt `number`; None while one of them has not ended it.

    They do when the attempt of at least one did not hold, and a lower rate may help each of those. Where one was lost,
    nothing is repeated: the benchmark has failed.

    Args:
        number: the attempt, from 1.
        looks: the newest line of progress.jsonl about each LoadGen's run; None for one that there is none about.
    """
    ended = [_attempt(number, look) for look in looks]
    if any(look and (look["lost"] or _is_over(look)) and made is None for look, made in zip(looks, ended, strict=True)):
        return False
    made = [attempt for attempt in ended if attempt is not None]
    if len(made) < len(ended):
        return None
    broken = [attempt for attempt in made if attempt["verdict"] != "VALID"]
    return bool(broken) and all(attempt["repeatable"] for attempt in broken)


def _attempt(number: int, look: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    status = (look or {}).get("status") or {}
    return next((attempt for attempt in status.get("attempts") or () if attempt["number"] == number), None)


def _is_over(look: Mapping[str, Any]) -> bool:
    return bool(look["status"]["state"] in ENDED)
