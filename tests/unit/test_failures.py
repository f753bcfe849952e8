"""What failed on a host, from the result of the task that failed."""

from pathlib import Path
from typing import Any

import pytest

from harness.benchmark import failures
from harness.errors import BadInput
from tests.unit.ansible_modules import call

STOP = "; its engines may still run: when it is back, stop them with `ansible-playbook playbooks/stop.yml -e run_id=r1`"
GOOD, BAD = {"failed": False, "msg": "started"}, {"failed": True, "msg": "port 8101 is taken"}


@pytest.mark.parametrize(
    ("result", "unreachable", "reason", "log", "lost"),
    [
        (BAD, False, "port 8101 is taken", None, False),
        # What was watched has a reason and a log of its own.
        ({"msg": "x", "reason": "it died", "log": "/l", "state": "failed"}, False, "it died", "/l", False),
        ({"msg": "x", "reason": "no answer", "log": "", "state": "lost"}, False, f"no answer{STOP}", None, True),
        ({"msg": "jw2 became unreachable"}, True, f"jw2 became unreachable{STOP}", None, True),
        # Of a loop, the first item that failed counts, not the sentence about all of them.
        ({"msg": "One or more items failed", "results": [GOOD, BAD]}, False, "port 8101 is taken", None, False),
        ({"msg": "All items skipped", "results": [GOOD]}, False, "All items skipped", None, False),
        ({"failed": True, "msg": ""}, False, "it failed without a message", None, False),
    ],
)
def test_failure_of_a_task(result: dict[str, Any], unreachable: bool, reason: str, log: str | None, lost: bool) -> None:
    arguments = {
        "result": result,
        "phase": "engine",
        "end": "ansible-playbook playbooks/stop.yml -e run_id=r1",
        "unreachable": unreachable,
    }
    recorded = call("mlperf_failure", arguments, variables={"inventory_hostname": "jw2"})
    assert recorded["failure"] == {"host": "jw2", "phase": "engine", "reason": reason, "log": log, "lost": lost}
    assert (recorded["lost"], recorded["changed"]) == (lost, False)


LOST, DIED = {"host": "jw2", "phase": "run", "reason": "lost"}, {"host": "jw3", "phase": "engine", "reason": "it died"}


@pytest.mark.parametrize(
    ("known", "given", "more", "merged", "changed"),
    [
        (None, None, {}, [], False),
        ([LOST], None, {}, [LOST], False),
        (None, [], {}, [], True),
        ([LOST], [DIED], {}, [DIED], True),
        ([LOST], [LOST], {}, [LOST], False),
        # What failed before a run ended stays.
        ([LOST], [DIED], {"ended": True}, [LOST, DIED], False),
        ([LOST, DIED], [], {"ended": True, "overruled": [LOST]}, [DIED], True),
        ([DIED], [], {"ended": True, "overruled": [LOST]}, [DIED], False),
    ],
)
def test_failures_of_a_start_are_merged_with_the_recorded_ones(
    known: Any, given: Any, more: dict[str, Any], merged: Any, changed: bool
) -> None:
    assert failures.merge(known, given, **more) == (merged, changed)


def test_a_stop_on_request_is_no_failure() -> None:
    stop = {"host": "jw2", "phase": failures.STOPPED, "reason": "on request"}
    assert failures.result([DIED, stop]) == {"failures": ["jw3 | engine | it died"], "stopped": True}


def test_a_damaged_record_of_failures_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "failures.json"
    assert failures.recorded(file) is None
    file.write_text('["x"]')
    with pytest.raises(BadInput, match="is damaged: it is no list of objects; delete it"):
        failures.recorded(file)
