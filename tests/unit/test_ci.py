"""The CI entry's checks: nothing may start on bad input."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness import ci
from harness.errors import BadInput

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"samples": 0}, "samples = 0: give a whole number from 1 to 13368"),
        ({"samples": -5}, "samples = -5"),
        ({"samples": 13_369}, "samples = 13369"),
        ({"samples": "many"}, "samples = 'many'"),
        ({"samples": True}, "samples = True"),
        ({"scenario": "singlestream"}, "scenario = 'singlestream': give server or offline or interactive"),
        ({"mode": "submission"}, "mode = 'submission'"),
        ({"topology": "ring"}, "topology = 'ring': give fleet or per_node"),
        ({"target_qps": 0}, "target_qps = 0: give samples per second as a number above 0, or auto"),
        ({"target_qps": "fast"}, "target_qps = 'fast'"),
        ({"rate_attempts": 11}, "rate_attempts = 11: give a whole number from 1 to 10"),
        ({"target_qps": 3, "rate_attempts": 2}, "rate_attempts = 2: a performance run is repeated only with"),
        ({"run_id": "a/b"}, "run_id = 'a/b'"),
        ({"batch_size": 4}, "batch_size is no setting of benchmark.yml"),
        ({"inventory": "/nonexistent/hosts"}, "inventory /nonexistent/hosts does not exist"),
        ({"project": Path("/nonexistent")}, "has no benchmark.yml"),
    ],
)
def test_bad_input_is_refused_before_anything_starts(given: dict[str, object], sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        ci.benchmark(**({"project": REPOSITORY} | given))  # type: ignore[arg-type]


def run_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": f"{REPOSITORY}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    return subprocess.run(
        [sys.executable, "-m", "harness.ci", *arguments],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env=environment,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize("arguments", [["--samples", "0"], ["--samples", "many"], ["--mode", "x"], ["--surprise"]])
def test_command_refuses_bad_input_with_2(arguments: list[str]) -> None:
    done = run_command(*arguments)
    assert done.returncode == 2
    assert done.stderr and "Traceback" not in done.stderr
