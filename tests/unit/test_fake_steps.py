"""The fake server by the steps of an engine: the cost of a request, and how requests delay each other."""

import json
import threading
import time
from http.client import HTTPException
from typing import Any

import pytest

from tests.fake_server import FakeServer, Settings, answer

STEPS = {"step_ms": 2, "prefill_ms_per_token": 1, "decode_ms_per_sequence": 1, "tokens_per_step": 100}


def ask(server: FakeServer, prompt: list[int], **values: Any) -> str:
    """One completion, read to its end."""
    body = {"model": "fake", "prompt": prompt, "max_tokens": 128, "stream": True, "return_token_ids": True}
    return server.request("POST", "/v1/completions", body | values)


def ids(text: str) -> list[list[int]]:
    """Token ids of a stream, chunk by chunk."""
    events = [line[6:] for line in text.splitlines() if line.startswith("data: {")]
    return [json.loads(event)["choices"][0]["token_ids"] for event in events]


def test_the_first_token_comes_alone_after_its_prefill_and_the_others_step_by_step() -> None:
    with FakeServer(**STEPS, tokens=20, tokens_per_chunk=8) as server:
        settings = server.set()
        text = ask(server, [5] * 250)
        [record] = server.records()
    chunks = ids(text)
    assert [len(chunk) for chunk in chunks] == [1, 8, 8, 3]
    assert [token for chunk in chunks for token in chunk] == answer([5] * 250, settings)
    assert record["first_s"] - record["arrived_s"] >= 0.254  # 250 tokens in three steps, less the timer's rounding
    assert record["last_s"] - record["arrived_s"] >= 0.254 + 19 * 0.003
    assert record["tokens"] == 20


def test_a_prompt_delays_decoding_requests_and_metrics_count_running_ones() -> None:
    with FakeServer(**STEPS, tokens=100, slots=2) as server:
        prompts = [[7], [8] * 300, [9]]
        threads = [threading.Thread(target=ask, args=(server, prompt)) for prompt in prompts]
        for thread in threads:
            thread.start()
            time.sleep(0.05)
        response = server.request("GET", "/metrics")
        for thread in threads:
            thread.join(20)
        records = {record["prompt"]: record for record in server.records()}
    assert 'num_requests_running{engine="0",model_name="fake"} 2.0' in response
    assert 'num_requests_waiting{engine="0",model_name="fake"} 1.0' in response
    first, second, third = (records[hash(tuple(prompt))] for prompt in prompts)
    assert first["last_s"] - first["arrived_s"] >= 0.001 + 99 * 0.003 + 0.300
    assert third["first_s"] >= min(first["last_s"], second["last_s"])


def test_a_change_of_speed_applies_to_later_requests() -> None:
    with FakeServer(**STEPS, tokens=1, speed=0.5) as server:
        ask(server, [5] * 100)
        server.set(step_ms=0, prefill_ms_per_token=0, decode_ms_per_sequence=0)
        assert Settings().step_costs is None
        ask(server, [6] * 100)
        slow, quick = server.records()
    assert slow["first_s"] - slow["arrived_s"] >= 0.201
    assert quick["tokens"] == 1


@pytest.mark.parametrize("fault", ["http500", "drop", "truncate", "error_event", "too_many", "empty", "close"])
def test_faults_leave_no_sequence_behind(fault: str) -> None:
    with FakeServer(**STEPS, tokens=4, slots=1, faults={fault: 2}) as server:
        for number in range(4):
            try:
                ask(server, [number])
            except (OSError, ValueError, HTTPException):
                assert fault in ("http500", "drop", "truncate")
        assert [record["fault"] for record in server.records()] == [None, fault] * 2
        assert "num_requests_running" in (text := server.request("GET", "/metrics"))
        assert 'running{engine="0",model_name="fake"} 0.0' in text
