"""One scenario's folder in a submission's tree, with LoadGen's logs as the official checker reads them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.errors import BadInput
from harness.spec import Scenario
from harness.submission.rules import SCENARIOS

DETAIL, SUMMARY = "mlperf_log_detail.txt", "mlperf_log_summary.txt"
PERFORMANCE, ACCURACY = "performance/run_1", "accuracy"
_MARK = ":::MLLOG"
_JUDGED = ("effective_", "requested_", "result_", "early_stopping_", "loadgen_")
"""How the keys begin whose value must not depend on which of several lines is read."""


@dataclass(frozen=True)
class Log:
    """A detail log: the first value of each key, which is the one that the official checker takes, and the errors."""

    values: Mapping[str, Any]
    errors: tuple[str, ...]
    repeated: tuple[str, ...]

    @classmethod
    def read(cls, path: Path) -> "Log":
        """Raises BadInput when a line is damaged."""
        values: dict[str, Any] = {}
        errors, repeated = [], set()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if not line.startswith(_MARK):
                continue
            try:
                entry = json.loads(line.removeprefix(_MARK))
                key, value, is_error = entry["key"], entry["value"], entry["metadata"]["is_error"]
            except (KeyError, TypeError, ValueError):
                raise BadInput(f"{path.name} line {number} is damaged") from None
            if is_error:
                errors.append(str(value))
            elif values.setdefault(key, value) != value and key.startswith(_JUDGED):
                repeated.add(key)
        return cls(values, tuple(errors), tuple(sorted(repeated)))


@dataclass(frozen=True)
class Part:
    """One scenario's folder in a tree."""

    path: Path
    name: str
    closed: bool

    @property
    def scenario(self) -> Scenario:
        """The scenario as the harness calls it."""
        return SCENARIOS[self.name]

    @property
    def offline(self) -> bool:
        """Whether it is Offline, which has no latency limits."""
        return self.scenario is Scenario.OFFLINE

    @cached_property
    def performance(self) -> Log:
        """Detail log of the performance run."""
        return Log.read(self.path / PERFORMANCE / DETAIL)

    @cached_property
    def accuracy(self) -> Log:
        """Detail log of the accuracy run."""
        return Log.read(self.path / ACCURACY / DETAIL)

    @property
    def logs(self) -> dict[str, Log]:
        """Both, by mode."""
        return {"performance": self.performance, "accuracy": self.accuracy}
