"""docs/reliability.md is the table of faults."""

import dataclasses

import pytest

from tests.faults.ending import BUSY_S, Ending, Expected
from tests.faults.page import PAGE, page
from tests.faults.table import FAULTS


def test_the_page_is_what_the_table_gives() -> None:
    assert PAGE.read_text() == page(), "write it with `python -m tests.faults`"


def test_the_table_has_every_fault_once() -> None:
    names = [fault.name for fault in FAULTS]
    assert len(set(names)) == len(names) >= 45
    assert len({fault.what for fault in FAULTS}) == len(names)


def test_every_fault_has_a_time_to_notice_unless_its_run_comes_to_its_end() -> None:
    assert sum(fault.expected.within_s is not None for fault in FAULTS) >= 45
    for fault in FAULTS:
        expected = fault.expected
        survived = expected.level == "UNOFFICIAL" and expected.complete
        finished = expected.level == "INVALID" and "RUN_FINISHED" not in expected.broken
        ended_well = expected.exit_code == 0 and (survived or finished)
        assert expected.within_s is not None or ended_well, f"{fault.name} says not in what time it is noticed"


def test_a_fault_that_is_never_noticed_or_too_late_fails_its_row() -> None:
    expected, ending = Expected(exit_code=0, within_s=2.0), Ending(exit_code=0, output="", noticed_s=1.0)
    ending.check(expected)
    with pytest.raises(AssertionError, match="never noticed"):
        dataclasses.replace(ending, noticed_s=None).check(expected)
    with pytest.raises(AssertionError, match="33"):
        dataclasses.replace(ending, noticed_s=3.0 + BUSY_S).check(expected)
    dataclasses.replace(ending, noticed_s=None).check(Expected(exit_code=0))
