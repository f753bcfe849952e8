"""Signals that ask a process to stop."""

import os
import signal
from collections.abc import Iterator

import pytest

from harness.errors import Stopped
from harness.linux import STOP_SIGNALS, stoppable, stops_held


@pytest.fixture(autouse=True)
def heard() -> Iterator[list[int]]:
    """The signals that reached this process while nothing was stoppable; pytest's own handlers are restored."""
    signals: list[int] = []
    before = {number: signal.signal(number, lambda number, _frame: signals.append(number)) for number in STOP_SIGNALS}
    yield signals
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_stop_before_a_process_can_be_stopped_is_heard_when_it_can(heard: list[int], number: int) -> None:
    reached = []
    with stops_held():
        os.kill(os.getpid(), number)
        reached.append("held")
        with pytest.raises(Stopped, match=signal.Signals(number).name), stoppable():
            reached.append("not reached")
        reached.append("closed")
    assert reached == ["held", "closed"] and heard == []


def test_a_second_stop_does_not_end_the_recording_of_the_first(heard: list[int]) -> None:
    with stops_held():
        with pytest.raises(Stopped), stoppable():
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
    assert heard == []


def test_a_stop_while_the_end_is_recorded_waits_for_it(heard: list[int]) -> None:
    with stops_held():
        with stoppable():
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        assert heard == []
    assert heard == [signal.SIGTERM]


def test_the_first_stop_ends_and_later_ones_let_cleaning_up_finish(heard: list[int]) -> None:
    cleaned = False
    with pytest.raises(Stopped), stoppable():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGINT)
            cleaned = True
    assert cleaned and heard == []
    os.kill(os.getpid(), signal.SIGINT)
    assert heard == [signal.SIGINT]
