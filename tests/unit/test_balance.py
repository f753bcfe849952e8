"""The choice of an engine as a function of the load of each."""

import pytest

from harness.load.balance import FIRST_TOKEN_WEIGHT, Balance, EngineLoad


def choices(loads: list[EngineLoad], count: int, weight: int = FIRST_TOKEN_WEIGHT) -> list[int | None]:
    """The engines of so many requests, none of which gets its first token."""
    balance, positions = Balance(loads), list[int | None]()
    for _ in range(count):
        position = balance.choose()
        positions.append(position)
        if position is not None:
            loads[position].sent(weight)
    return positions


def test_equal_engines_take_turns() -> None:
    balance = Balance([EngineLoad(9), EngineLoad(9), EngineLoad(9)])
    assert [balance.choose() for _ in range(7)] == [0, 1, 2, 0, 1, 2, 0]
    assert choices([EngineLoad(9, 0.3), EngineLoad(9, 0.3), EngineLoad(9, 0.3)], 9) == [0, 1, 2] * 3


def test_a_request_without_its_first_token_outweighs_many_with_theirs() -> None:
    prefilling, decoding = EngineLoad(99), EngineLoad(99)
    prefilling.sent(FIRST_TOKEN_WEIGHT)
    for _ in range(FIRST_TOKEN_WEIGHT - 1):
        decoding.sent(1)
    assert Balance([prefilling, decoding]).choose() == 1
    decoding.sent(1)
    decoding.sent(1)
    assert Balance([prefilling, decoding]).choose() == 0


def test_finished_requests_weigh_nothing() -> None:
    load = EngineLoad(99)
    for weight in (FIRST_TOKEN_WEIGHT, 1):
        load.sent(weight)
        load.over(weight)
    assert (load.in_flight, load.weight) == (0, 0)


@pytest.mark.parametrize("speeds", [(2.0, 1.0), (97.4, 48.7)])
def test_a_faster_engine_gets_proportionally_more(speeds: tuple[float, float]) -> None:
    positions = choices([EngineLoad(99, speed) for speed in speeds], 30)
    assert positions.count(0) == 20 and positions.count(1) == 10


def test_towards_the_end_an_engine_gets_no_more_than_its_part_of_what_is_unanswered() -> None:
    fast, slow = EngineLoad(50, 2.0), EngineLoad(50, 1.0)
    for _ in range(45):
        fast.sent(FIRST_TOKEN_WEIGHT)
    for _ in range(23):
        slow.sent(1)
    balance = Balance([fast, slow])
    assert balance.choose(waiting=100) == balance.choose() == 1  # the least loaded
    assert balance.choose(waiting=1) == 0  # of 69 unanswered ones the slow engine has a third already


def test_limits_hold_whatever_the_speed() -> None:
    loads = [EngineLoad(2, 100.0), EngineLoad(1, 1.0)]
    assert choices(loads, 5) == [0, 1, 0, None, None]
    assert [load.in_flight for load in loads] == [2, 1]
    loads[1].over(FIRST_TOKEN_WEIGHT)
    assert Balance(loads).choose() == 1
