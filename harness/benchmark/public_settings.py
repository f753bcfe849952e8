"""The public settings of benchmark.yml: what each may be, and one check for `-e` and for Python callers alike."""

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from pydantic import ValidationError

from harness.errors import BadInput
from harness.spec import (
    CALIBRATION_SUFFIX,
    DEFAULT_RATE_ATTEMPTS,
    FULL_SAMPLES,
    MAX_RATE_ATTEMPTS,
    RUN_ID_PATTERN,
    Mode,
    PeakBudget,
    RateAttempts,
    Record,
    Samples,
    Scenario,
    TargetQps,
    why_no_peak,
)


class Topology(StrEnum):
    """Whether one LoadGen drives the engines of all nodes, or each node's own its share."""

    FLEET = "fleet"
    PER_NODE = "per_node"


class Launcher(StrEnum):
    """What starts engines and runs on a node."""

    PROCESS = "process"
    KUBERNETES = "kubernetes"
    TORCHX = "torchx"


class Asked(Record):
    """The public settings of one benchmark, complete. `rate_attempts` bounds how often a performance run is repeated
    at a lower rate, where the rate is found on the running engines; `peak_budget_minutes` bounds the search for the
    highest rate and the accuracy run after it."""

    scenario: Scenario = Scenario.SERVER
    mode: Mode = Mode.BOTH
    samples: Samples = FULL_SAMPLES
    target_qps: TargetQps = "auto"
    rate_attempts: RateAttempts = DEFAULT_RATE_ATTEMPTS
    peak_budget_minutes: PeakBudget | None = None
    topology: Topology = Topology.FLEET
    launcher: Launcher = Launcher.PROCESS

    @property
    def attempts_most(self) -> int:
        """How many performance runs there may be: several only where latency limits judge a rate that was found."""
        found = self.target_qps == "auto" and self.scenario is not Scenario.OFFLINE
        return self.rate_attempts if found and self.mode is not Mode.ACCURACY else 1


PUBLIC = (*Asked.model_fields, "run_id")
"""The settings that `-e` takes."""
_NUMBERS = ("samples", "target_qps", "rate_attempts", "peak_budget_minutes")
_RIGHT = {
    "samples": f"a whole number from 1 to {FULL_SAMPLES}",
    "target_qps": "samples per second as a number above 0, or auto, or peak",
    "rate_attempts": f"a whole number from 1 to {MAX_RATE_ATTEMPTS}",
    "peak_budget_minutes": "minutes as a number above 0",
    "scenario": " or ".join(Scenario),
    "mode": " or ".join(Mode),
    "topology": " or ".join(Topology),
    "launcher": " or ".join(Launcher),
    "run_id": f"letters, digits, dot, dash and underscore only, {100 - len(CALIBRATION_SUFFIX)} at most",
}


def check(given: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> Asked:
    """The public settings, complete; `given` may hold numbers as text, as a command line does.

    Raises:
        BadInput: every wrong value in one message, or a setting that there is not.
    """
    unknown = sorted(set(given) - set(PUBLIC))
    if unknown:
        raise BadInput(f"{', '.join(unknown)} is no setting of benchmark.yml; choose from {', '.join(PUBLIC)}")
    run_id = given.get("run_id")
    if run_id and not re.fullmatch(RUN_ID_PATTERN, f"{run_id}{CALIBRATION_SUFFIX}"):
        raise BadInput(f"run_id = {run_id!r}: give {_RIGHT['run_id']}")
    values = {**(defaults or {}), **{name: value for name, value in given.items() if name != "run_id"}}
    try:
        asked = Asked.model_validate({n: _number(value) if n in _NUMBERS else value for n, value in values.items()})
    except ValidationError as error:
        wrong = dict.fromkeys(str(item["loc"][0]) for item in error.errors())
        raise BadInput("; ".join(f"{name} = {values[name]!r}: give {_RIGHT[name]}" for name in wrong)) from None
    if "rate_attempts" in given and asked.rate_attempts > asked.attempts_most:
        raise BadInput(
            f"rate_attempts = {asked.rate_attempts}: a performance run is repeated only with target_qps=auto and "
            "scenario server or interactive, where mode is performance or both; leave it out"
        )
    if reason := why_no_peak(asked.target_qps, asked.scenario, asked.mode, asked.samples):
        raise BadInput(reason)
    if given.get("peak_budget_minutes") is not None and asked.target_qps != "peak":
        raise BadInput(f"peak_budget_minutes = {asked.peak_budget_minutes:g}: it is for target_qps=peak; leave it out")
    return asked


def _number(value: Any) -> Any:
    """A number of its text; anything else, also True, as a text that is no number."""
    if isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        return value
    if re.fullmatch("[0-9]+", value):
        return int(value)
    try:
        return float(value)
    except ValueError:
        return value
