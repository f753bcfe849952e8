"""MLPerf's completion request and the token ids in its streamed answer."""

from collections.abc import Sequence
from typing import Any

import orjson

from harness.spec import MAX_NEW_TOKENS


def request_body(model: str, prompt: Sequence[int], seed: int) -> bytes:
    """The body of MLPerf's request for one prompt: greedy, 1 to 128 new tokens, streamed with their ids."""
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


class TokenStream:
    """What the server-sent events of one answer have said so far.

    Attributes:
        token_ids: the ids received, in order.
    """

    __slots__ = ("_done", "_finish_reason", "token_ids")

    def __init__(self) -> None:
        self.token_ids: list[int] = []
        self._finish_reason: str | None = None
        self._done = False

    def take(self, text: bytes) -> None:
        """Read whole events.

        Raises:
            ValueError: one is no completion chunk with ids, or reports an error.
        """
        lines = [line[6:] for line in text.split(b"\n") if line.startswith(b"data: ")]
        if lines and lines[-1].rstrip() == b"[DONE]":
            self._done = True
            lines.pop()
        try:
            events = orjson.loads(b"[%b]" % b",".join(lines))
        except orjson.JSONDecodeError:
            raise ValueError(f"a streamed event is not JSON: {excerpt(text)}") from None
        try:
            for event in events:
                for choice in event["choices"]:
                    self.token_ids += choice["token_ids"]
                    self._finish_reason = choice["finish_reason"] or self._finish_reason
        except (LookupError, TypeError):
            raise ValueError(_wrong(event)) from None

    def checked(self, vocab_size: int) -> list[int]:
        """The ids of the complete answer, each in [0, vocab_size).

        Raises:
            ValueError: the stream ended early, or count or range of the ids is wrong.
        """
        ids = self.token_ids
        if not self._done:
            raise ValueError(f"the stream ended after {len(ids)} tokens without [DONE]")
        if self._finish_reason not in ("stop", "length"):
            raise ValueError(f"finish_reason {self._finish_reason!r} after {len(ids)} tokens, not 'stop' or 'length'")
        if not 1 <= len(ids) <= MAX_NEW_TOKENS:
            raise ValueError(f"{len(ids)} tokens, not 1 to {MAX_NEW_TOKENS}")
        if set(map(type, ids)) != {int}:
            raise ValueError("token_ids holds something that is no integer")
        if min(ids) < 0 or max(ids) >= vocab_size:
            wrong = next(item for item in ids if not 0 <= item < vocab_size)
            raise ValueError(f"token id {wrong} is outside the vocabulary of {vocab_size} ids")
        return ids


def excerpt(body: bytes) -> str:
    """The beginning of a body on one line, for a message."""
    return " ".join(body[:200].decode(errors="replace").split())


def _wrong(event: Any) -> str:
    if isinstance(event, dict) and "error" in event:
        return f"the engine reported an error: {excerpt(orjson.dumps(event['error']))}"
    return f"an event without token_ids (does the server know return_token_ids?): {excerpt(orjson.dumps(event))}"
