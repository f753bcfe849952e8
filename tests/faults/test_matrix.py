"""Every fault of the table, made to happen."""

import os
from pathlib import Path

import pytest

from tests.faults.ending import Fault
from tests.faults.table import FAULTS


def _parameter(fault: Fault) -> object:
    marks = [pytest.mark.long] if fault.long else []
    if fault.root:
        marks.append(pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount and limit memory"))
    return pytest.param(fault, id=fault.name, marks=marks)


@pytest.mark.parametrize("fault", [_parameter(fault) for fault in FAULTS])
def test_fault(fault: Fault, tmp_path: Path) -> None:
    fault.scene.play(tmp_path).check(fault.expected)
