"""The completion request as MLPerf requires it, and the token ids in the streamed answer."""

import re
from collections.abc import Sequence
from typing import Any

import orjson

from harness.spec import MAX_NEW_TOKENS


def request_body(model: str, prompt: Sequence[int], seed: int) -> bytes:
    """The request body for one prompt: greedy decoding, 1 to 128 new tokens, streamed with their ids."""
    return orjson.dumps(
        {
            "model": model,
            "prompt": prompt,
            "temperature": 0,
            "top_p": 1,
            "top_k": 1,
            "seed": seed,
            "max_tokens": MAX_NEW_TOKENS,
            "min_tokens": 1,
            "stream": True,
            "return_token_ids": True,
        }
    )


_FINISHED = ("stop", "length")
_KEY = b'"token_ids"'
_IDS = _KEY + b":["
_NONEMPTY_IDS = re.compile(_KEY + rb"\s*:\s*(\[[\s\d,]*\d\s*\])")
_EVENT = b"data: {"
_END = b"\n\ndata: [DONE]\n\n"

# JSON escapes quotes and line ends in strings, so the key and the blank line before an event can be searched for in the
# raw text.


def first_ids(text: bytes) -> list[int]:
    """The ids of the first chunk that has any, from the start of a stream; empty when there is none yet."""
    match = _NONEMPTY_IDS.search(text, max(text.find(_KEY), 0))
    ids: list[int] = orjson.loads(match[1]) if match else []
    return ids


def answered_ids(text: bytes, vocab_size: int) -> list[int]:
    """The ids of a complete stream, 1 to 128, each in [0, vocab_size).

    Raises:
        ValueError: the stream ended early, reports an error, or has too few, too many or invalid ids.
    """
    ids = _parse_vllm(text) or _parse_any(text)
    if not 1 <= len(ids) <= MAX_NEW_TOKENS:
        raise ValueError(f"{len(ids)} tokens, not 1 to {MAX_NEW_TOKENS}")
    if set(map(type, ids)) != {int}:
        raise ValueError("token_ids has an element that is not an integer")
    if min(ids) < 0 or max(ids) >= vocab_size:
        invalid = next(item for item in ids if not 0 <= item < vocab_size)
        raise ValueError(f"token id {invalid} is outside the vocabulary of {vocab_size} ids")
    return ids


def _parse_vllm(text: bytes) -> list[int] | None:
    """The ids of a stream in exactly vLLM's format, without parsing every event; None for any other stream."""
    if not text.startswith(_EVENT) or not text.endswith(_END):
        return None
    _, *pieces = text.split(_IDS)
    if text.count(b"\n\n" + _EVENT) + 1 != len(pieces):
        return None
    try:
        reason = orjson.loads(text[text.rfind(_EVENT) + 6 : -len(_END)])["choices"][0]["finish_reason"]
        ids: list[int] = orjson.loads(b"[%b]" % b",".join([piece[: piece.index(b"]")] for piece in pieces]))
    except (ValueError, LookupError, TypeError):
        return None
    return ids if reason in _FINISHED else None


def _parse_any(text: bytes) -> list[int]:
    """The ids of any stream of completion chunks; ValueError when it is incomplete or invalid."""
    lines = [line[5:].strip() for line in text.split(b"\n") if line.startswith(b"data:")]
    done = bool(lines) and lines.pop() == b"[DONE]"
    ids: list[int] = []
    reason = None
    try:
        for event in map(orjson.loads, lines):
            for choice in event["choices"]:
                ids += choice["token_ids"]
                reason = choice["finish_reason"] or reason
    except orjson.JSONDecodeError:
        raise ValueError(f"a streamed event is not JSON: {excerpt(text)}") from None
    except (LookupError, TypeError):
        raise ValueError(_describe_problem(event)) from None
    if not done:
        raise ValueError(f"the stream ended after {len(ids)} tokens without [DONE]")
    if reason not in _FINISHED:
        raise ValueError(f"finish_reason {reason!r} after {len(ids)} tokens, not 'stop' or 'length'")
    return ids


def excerpt(body: bytes) -> str:
    """The start of a body on one line, for messages."""
    return " ".join(body[:200].decode(errors="replace").split())


def _describe_problem(event: Any) -> str:
    if isinstance(event, dict) and "error" in event:
        return f"the engine reported an error: {excerpt(orjson.dumps(event['error']))}"
    return f"an event without token_ids (does the server know return_token_ids?): {excerpt(orjson.dumps(event))}"
