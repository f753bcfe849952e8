"""Ids from a stream: the fast path gives the same as parsing every event."""

from typing import Any

import orjson
import pytest

from harness.load.stream import _parse_any, _parse_vllm, answered_ids, first_ids, request_body

DONE = b"data: [DONE]\n\n"


def event(ids: list[Any] | None, reason: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "text": more.pop("text", "x"), "finish_reason": reason, **more}
    if ids is not None:
        choice["token_ids"] = ids
    return b"data: " + orjson.dumps({"id": "1", "choices": [choice]}) + b"\n\n"


USUAL = [
    event([5], prompt_token_ids=[1, 2, 3]) + event([6, 7]) + event([8], "length") + DONE,
    event([5], "stop") + DONE,
    event([5], text='"token_ids":[9]} \n\ndata: {"token_ids":[4]') + event([6], "stop") + DONE,
    event([5], text="data: [DONE]\n\n") + event([6], "stop", text=']}"token_ids":[') + DONE,
]


@pytest.mark.parametrize("text", USUAL)
def test_the_fast_path_equals_parsing_every_event(text: bytes) -> None:
    assert _parse_vllm(text) == _parse_any(text)
    assert answered_ids(text, 100) == _parse_any(text)


def test_a_usage_chunk_comments_and_spaced_json_are_parsed() -> None:
    spaced = b'data: {"choices": [{"token_ids": [5], "finish_reason": "stop"}]}\n\n'
    usage = b'data: {"choices":[],"usage":{"total_tokens":3}}\n\n'
    for text in (spaced + DONE, b": ping\n\n" + spaced + DONE, event([5], "stop") + usage + DONE):
        assert _parse_vllm(text) is None
        assert answered_ids(text, 100) == [5]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (event([5], "length"), "without [DONE]"),
        (event([5]) + DONE, "finish_reason None"),
        (event([5], "abort") + DONE, "finish_reason 'abort'"),
        (event([], "stop") + DONE, "0 tokens, not 1 to 128"),
        (event([1] * 129, "length") + DONE, "129 tokens, not 1 to 128"),
        (event([100], "stop") + DONE, "token id 100 is outside"),
        (event([-1], "stop") + DONE, "token id -1 is outside"),
        (event([1.0], "stop") + DONE, "not an integer"),
        (event([True], "stop") + DONE, "not an integer"),
        (event(["1"], "stop") + DONE, "not an integer"),
        (event(None, "stop") + DONE, "without token_ids"),
        (event([1]) + event(None, "stop") + DONE, "without token_ids"),
        (event([1]) + b'data: {"error":{"message":"out of memory"}}\n\n' + DONE, "out of memory"),
        (b"data: {nonsense\n\n" + DONE, "not JSON"),
        (b"", "without [DONE]"),
    ],
)
def test_an_invalid_answer_has_a_reason(text: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason.replace("[", r"\[")):
        answered_ids(text, 100)


def test_the_first_ids_are_the_answers_and_not_the_prompts() -> None:
    echo = event([], prompt_token_ids=[1, 2, 3])
    assert first_ids(echo) == []
    assert first_ids(echo + event([8, 9])) == [8, 9]
    assert first_ids(event([8], text='"token_ids":[5]', prompt_token_ids=[1])) == [8]
    assert first_ids(echo + event([812])[:-8]) == []
    assert first_ids(b'data: {"choices": [{"token_ids": [5, 6]}]}\n\n') == [5, 6]


def test_the_request_is_mlperfs() -> None:
    assert orjson.loads(request_body("m", [1, 2], 42)) == {
        "model": "m", "prompt": [1, 2], "temperature": 0, "top_p": 1, "top_k": 1, "seed": 42,
        "max_tokens": 128, "min_tokens": 1, "stream": True, "return_token_ids": True,
    }  # fmt: skip
