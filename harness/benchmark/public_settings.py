"""The public settings of benchmark.yml: what each may be, and one check for `-e` and for Python callers alike."""

import difflib
import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field, ValidationError

from harness.errors import BadInput
from harness.spec import (
    DEFAULT_RATE_ATTEMPTS,
    FULL_SAMPLES,
    HIGHEST_TARGET_QPS,
    LOWEST_TARGET_QPS,
    MAX_RATE_ATTEMPTS,
    RUN_ID_PATTERN,
    Mode,
    OnEngineLoss,
    PeakBudget,
    RateAttempts,
    Record,
    Samples,
    Scenario,
    TargetQps,
    attempts_most,
    why_no_peak,
)
from harness.state_file import CALIBRATION_SUFFIX


class Topology(StrEnum):
    """Whether one LoadGen drives the engines of all nodes, or each node's own its share."""

    FLEET = "fleet"
    PER_NODE = "per_node"


class Launcher(StrEnum):
    """What starts engines and runs on a node."""

    PROCESS = "process"
    KUBERNETES = "kubernetes"
    TORCHX = "torchx"


MOST_REPEATS = 20


class Asked(Record):
    """The public settings of one benchmark, complete. `rate_attempts` bounds how often a performance run is repeated
    at a lower rate, where the rate is found on the running engines; `peak_budget_minutes` bounds the search for the
    highest rate and the accuracy run after it. `on_engine_loss` says whether a run goes on that loses one of several
    engines, `allow_long` whether a benchmark may take more than a day. `repeats` is how often the whole request runs,
    at the rate that was found once, on the same engines unless `restart_engines`. `baseline` is what the runs are
    compared with; slower than it by more than `regression_percent` is a failure."""

    scenario: Scenario = Scenario.SERVER
    mode: Mode = Mode.BOTH
    samples: Samples = FULL_SAMPLES
    target_qps: TargetQps = "auto"
    rate_attempts: RateAttempts = DEFAULT_RATE_ATTEMPTS
    peak_budget_minutes: PeakBudget | None = None
    on_engine_loss: OnEngineLoss = OnEngineLoss.CONTINUE
    allow_long: bool = False
    topology: Topology = Topology.FLEET
    launcher: Launcher = Launcher.PROCESS
    repeats: Annotated[int, Field(ge=1, le=MOST_REPEATS)] = 1
    restart_engines: bool = False
    baseline: Annotated[str, Field(pattern=f"^{RUN_ID_PATTERN}$")] | None = None
    regression_percent: Annotated[float, Field(gt=0, lt=100)] | None = None

    @property
    def attempts_most(self) -> int:
        """How many performance runs there may be."""
        return attempts_most(self.rate_attempts, self.target_qps, self.scenario, self.mode)


OF_THIS_START = ("run_id", "resume")
"""Settings of one start of a benchmark, which are not recorded with it."""
PUBLIC = (*Asked.model_fields, *OF_THIS_START)
"""The settings that `-e` takes."""
_A_DAY_H = 24.0
_SWITCHES = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False, "": False}
_NEARLY = 0.75  # similarity of names, by difflib
_NUMBERS = ("samples", "target_qps", "rate_attempts", "peak_budget_minutes", "repeats", "regression_percent")
_RIGHT = {
    "samples": f"a whole number from 1 to {FULL_SAMPLES}",
    "target_qps": f"samples per second as a number from {LOWEST_TARGET_QPS} to {HIGHEST_TARGET_QPS:.0f}, the whole "
    "data set in a second, or auto, or peak",
    "rate_attempts": f"a whole number from 1 to {MAX_RATE_ATTEMPTS}",
    "peak_budget_minutes": "minutes as a number above 0",
    "scenario": " or ".join(Scenario),
    "mode": " or ".join(Mode),
    "allow_long": "true or false",
    "on_engine_loss": " or ".join(OnEngineLoss),
    "topology": " or ".join(Topology),
    "launcher": " or ".join(Launcher),
    "repeats": f"a whole number from 1 to {MOST_REPEATS}",
    "restart_engines": "true or false",
    "baseline": "a run_id of the results folder, or latest, or pinned",
    "regression_percent": "a number above 0 and below 100",
    "resume": "true or false",
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
    if is_resumed(given) and not run_id:
        raise BadInput("resume = true: give the run_id of the run that is to be resumed")
    values = {**(defaults or {}), **{name: value for name, value in given.items() if name not in OF_THIS_START}}
    try:
        asked = Asked.model_validate({n: _number(value) if n in _NUMBERS else value for n, value in values.items()})
    except ValidationError as error:
        wrong = dict.fromkeys(str(item["loc"][0]) for item in error.errors())
        raise BadInput("; ".join(f"{name} = {values[name]!r}: give {_RIGHT[name]}" for name in wrong)) from None
    if "rate_attempts" in given and asked.rate_attempts > asked.attempts_most:
        raise BadInput(
            f"rate_attempts = {asked.rate_attempts}: a performance run is repeated only with target_qps=auto and "
            "scenario server or interactive, where mode is performance, both or all; leave it out"
        )
    if reason := why_no_peak(asked.target_qps, asked.scenario, asked.mode, asked.samples):
        raise BadInput(reason)
    if given.get("peak_budget_minutes") is not None and asked.target_qps != "peak":
        raise BadInput(
            f"peak_budget_minutes = {asked.peak_budget_minutes:g}: only target_qps=peak has a budget; leave it out"
        )
    _refuse_lone(asked)
    refuse_long(asked, _least_hours(asked))
    return asked


def _refuse_lone(asked: Asked) -> None:
    """Raise BadInput where a setting means nothing without another."""
    if asked.restart_engines and asked.repeats == 1:
        raise BadInput("restart_engines = true needs more than one repeat; add repeats=3, or leave it out")
    if asked.regression_percent is not None and asked.baseline is None:
        raise BadInput(
            f"regression_percent = {asked.regression_percent:g}: nothing to compare with; give baseline=RUN, latest "
            "or pinned"
        )
    if asked.repeats > 1 and asked.target_qps == "peak":
        raise BadInput(
            f"repeats = {asked.repeats}: with target_qps=peak a run is the whole search, and a repeat at the rate that "
            "it found would be none; start the benchmark several times, and compare them (harness compare BASE1,BASE2 "
            "NEW1,NEW2)"
        )
    if asked.repeats > 1 and asked.launcher is not Launcher.PROCESS:
        raise BadInput(
            f"repeats = {asked.repeats}: on a cluster engines belong to one run; start the benchmark several times, "
            "or give launcher=process"
        )


def refuse_long(asked: Asked, hours: float) -> None:
    """Raise BadInput when a benchmark may take more than a day, `hours`, and nobody has allowed it."""
    if hours > _A_DAY_H and not asked.allow_long:
        raise BadInput(
            f"this benchmark may take {hours:,.0f} h, which is more than a day: give fewer samples or a higher "
            "target_qps, or allow it with allow_long=true"
        )


def _least_hours(asked: Asked) -> float:
    """Hours that a benchmark takes at least, as far as its settings say: those of a rate or of a budget."""
    if asked.target_qps == "peak":
        return (asked.peak_budget_minutes or 0.0) / 60
    if isinstance(asked.target_qps, str) or asked.scenario is Scenario.OFFLINE:
        return 0.0
    return asked.repeats * len(asked.mode.runs) * asked.samples / asked.target_qps / 3600


def is_resumed(given: Mapping[str, Any]) -> bool:
    """Whether a run is to be resumed, by the setting `resume`.

    Raises:
        BadInput: it is neither true nor false.
    """
    value = given.get("resume", False)
    switched = _SWITCHES.get(str(value).strip().lower())
    if switched is None:
        raise BadInput(f"resume = {value!r}: give {_RIGHT['resume']}")
    return switched


def reject_misspelt(given: Iterable[str], variables: Iterable[str]) -> None:
    """Find misspelt settings, which Ansible would ignore.

    Args:
        given: names given with `-e`.
        variables: names that the roles know, with one prefix in common, as in `harness_root`.

    Raises:
        BadInput: a name is nearly one of those, or has their prefix and is none of them.
    """
    known = {*PUBLIC, *variables}
    prefixes = tuple({name.split("_")[0] + "_" for name in variables})
    wrong = []
    for name in sorted(set(given) - known):
        candidates = known if name.startswith(prefixes) else PUBLIC
        if nearest := difflib.get_close_matches(name, candidates, 1, _NEARLY):
            wrong.append(f"{name} (did you mean {nearest[0]}?)")
        elif name.startswith(prefixes):
            wrong.append(name)
    if wrong:
        raise BadInput(f"there is no setting {', '.join(wrong)}; docs/settings.md lists all of them")


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
