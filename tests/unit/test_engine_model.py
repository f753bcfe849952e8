"""The engine model that the fake server and simulations share."""

import pytest

from tests.engine_model import EngineModel, StepCosts

COSTS = StepCosts(base_ms=10, prefill_ms_per_token=1, decode_ms_per_sequence=2, tokens_per_step=100, sequences=3)


def test_a_request_gets_its_first_token_from_prefill_and_one_more_from_each_step() -> None:
    model = EngineModel[str](COSTS)
    model.add("a", prompt_tokens=40, new_tokens=3)
    steps = [model.step() for _ in range(4)]
    assert [step and (round(step.seconds, 6), step.first, step.done) for step in steps] == [
        (0.050, ["a"], []),
        (0.012, [], []),
        (0.012, [], ["a"]),
        None,
    ]


def test_prefill_delays_decoding_and_decoding_takes_from_the_cap_of_prefill() -> None:
    model = EngineModel[str](COSTS)
    model.add("a", 1, 10)
    model.step()
    model.add("b", 250, 1)  # 99 + 99 + 52 tokens beside a's own
    steps = [model.step() for _ in range(4)]
    assert [round(step.seconds, 6) for step in steps if step] == [0.111, 0.111, 0.064, 0.012]
    assert [step.first for step in steps if step] == [[], [], ["b"], []]
    assert [step.done for step in steps if step] == [[], [], ["b"], []]


def test_prompts_share_a_step_in_order_and_the_cap_cuts_the_last() -> None:
    model = EngineModel[str](COSTS)
    for name in "abc":
        model.add(name, 45, 2)
    first = model.step()
    assert first and first.first == ["a", "b"] and first.seconds == pytest.approx(0.110)
    assert (model.running, model.waiting) == (3, 0)  # the third is prefilled in part
    second = model.step()
    assert second and second.first == ["c"] and second.seconds == pytest.approx(0.010 + 0.035 + 0.004)
    assert second.done == ["a", "b"]


def test_no_more_sequences_run_than_there_are_slots() -> None:
    model = EngineModel[int](COSTS)
    for number in range(5):
        model.add(number, 1, 2)
    first, second, third = model.step(), model.step(), model.step()
    assert first and first.first == [0, 1, 2] and (model.running, model.waiting) == (2, 0)
    assert second and second.first == [] and second.done == [0, 1, 2]
    assert third and third.first == [3, 4]


def test_a_request_can_leave_from_anywhere() -> None:
    model = EngineModel[str](COSTS)
    model.add("decoding", 1, 9)
    model.step()
    for name in ("begun", "queued", "kept"):
        model.add(name, 150, 1)
    model.step()
    assert (model.running, model.waiting) == (2, 2)
    for name in ("begun", "queued", "decoding", "unknown"):
        model.remove(name)
    assert (model.running, model.waiting) == (0, 1)
    model.step()
    last = model.step()
    assert last and last.first == last.done == ["kept"] and last.seconds == pytest.approx(0.060)
    assert model.step() is None
