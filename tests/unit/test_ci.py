"""Checks of the interface for CI: nothing may start on bad input."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness import ci, report
from harness.errors import BadInput, HarnessError, RunFailed
from tests.unit.results_tree import benchmark

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"samples": 0}, "samples = 0: give a whole number from 1 to 13368"),
        ({"samples": -5}, "samples = -5"),
        ({"samples": 13_369}, "samples = 13369"),
        ({"samples": "many"}, "samples = 'many'"),
        ({"samples": True}, "samples = True"),
        ({"scenario": "singlestream"}, "scenario = 'singlestream': give server or offline or interactive"),
        ({"mode": "submission"}, "mode = 'submission'"),
        ({"topology": "ring"}, "topology = 'ring': give fleet or per_node"),
        ({"target_qps": 0}, "target_qps = 0: give samples per second as a number from 0.001 to 13368"),
        ({"target_qps": "fast"}, "target_qps = 'fast'"),
        ({"rate_attempts": 11}, "rate_attempts = 11: give a whole number from 1 to 10"),
        ({"target_qps": 3, "rate_attempts": 2}, "rate_attempts = 2: a performance run is repeated only with"),
        ({"run_id": "a/b"}, "run_id = 'a/b'"),
        ({"batch_size": 4}, "batch_size is no setting of benchmark.yml"),
        ({"inventory": "/nonexistent/hosts"}, "inventory /nonexistent/hosts does not exist"),
        ({"project": Path("/nonexistent")}, "has no benchmark.yml"),
    ],
)
def test_bad_input_is_refused_before_anything_starts(settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        ci.benchmark(**({"project": REPOSITORY} | settings))  # type: ignore[arg-type]


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
    result = run_command(*arguments)
    assert result.returncode == 2
    assert result.stderr and "Traceback" not in result.stderr


class Ended:
    """A playbook that has ended: it reports the run, then does what the test says."""

    def __init__(self, act: Callable[[], None], error: HarnessError | None) -> None:
        self._act, self._error = act, error

    def running(self) -> bool:
        self._act()
        return False

    @property
    def return_code(self) -> int:
        return 2 if self._error else 0

    def error(self, what: str) -> HarnessError:
        assert self._error
        return self._error


@pytest.mark.parametrize(
    ("products", "error", "code"),
    [
        ({}, None, 0),
        ({}, RunFailed("a repeat failed"), 4),
        ({}, BadInput("the baseline has other weights"), 2),
        ({"compare.json": {"gate": {"failed": True}}}, RunFailed("slower"), 6),
        ({"compare.json": {"gate": {"failed": False}}}, None, 0),
        ({"compare.json": {"gate": None}}, None, 0),
        ({"repeats.json": {"verdicts": ["UNOFFICIAL", "INVALID"]}}, RunFailed("a repeat is INVALID"), 5),
        (
            {"repeats.json": {"verdicts": ["INVALID"]}, "compare.json": {"gate": {"failed": True}}},
            RunFailed("a repeat is INVALID"),
            5,
        ),
    ],
)
def test_exit_codes_say_what_came_of_repeats_and_baseline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, products: dict[str, Any], error: HarnessError | None, code: int
) -> None:
    run = ci.benchmark(project=REPOSITORY, run_id="run")
    run.directory = tmp_path / "run"

    def act() -> None:
        if not run.directory.exists():
            report.report(benchmark(run.directory))
        for name, content in products.items():
            (run.directory / name).write_text(json.dumps(content))

    monkeypatch.setattr(ci, "Play", lambda *_: Ended(act, error))
    assert list(run) == []
    assert run.exit_code == code
