"""What a user asks of benchmark.yml: its public settings, checked and completed, and the name of the run."""

import re
import time
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError, computed_field, model_validator

from harness.errors import BadInput
from harness.files import read_json, write_json
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


class Request(Record):
    """One benchmark as it is going to be, or was, started.

    `directory` is where its results go on the controller, `plan` the content of plan.json (empty when there is none).
    `begun` says that request.json is there, `ended` that it was brought to its end, well or not. `topology` is the one
    in effect: a node alone is always `per_node`. `loadgen_hosts` may drive LoadGen, in the order of preference.
    """

    run_id: str
    asked: Asked
    directory: Path
    begun: bool
    ended: bool
    plan: dict[str, Any]
    nodes: tuple[str, ...]
    topology: Topology
    loadgen_hosts: tuple[str, ...]

    @computed_field
    def attempts_most(self) -> int:
        """How many performance runs there may be."""
        return self.asked.attempts_most

    @model_validator(mode="after")
    def _enough_samples(self) -> Self:
        if self.topology is Topology.PER_NODE and self.asked.samples < len(self.nodes):
            raise ValueError(
                f"samples = {self.asked.samples}: give at least one for each of the {len(self.nodes)} nodes, "
                "or topology=fleet"
            )
        if self.topology is Topology.PER_NODE and self.asked.target_qps == "peak" and len(self.nodes) > 1:
            raise ValueError(
                f"target_qps = peak: {len(self.nodes)} nodes would each search on their own, and end apart; give "
                "--limit NODE, or topology=fleet"
            )
        return self

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """Back from the JSON form, which may hold more."""
        return cls.model_validate({name: document[name] for name in cls.model_fields})

    def spec(self, **more: Any) -> dict[str, Any]:
        """The run of a LoadGen as plain values: what is asked, and `more` of its node; without engines and rate."""
        asked = self.asked.model_dump(mode="json", include={"scenario", "mode", "samples"})
        return {**asked, "rate_attempts": self.attempts_most, **more}

    def begin(self) -> tuple[Path, bool]:
        """Write request.json, once; (its path, whether it was missing). With it a run counts as begun."""
        file = self.directory / "request.json"
        new = not file.exists()
        if new:
            write_json(file, self.document())
        return file, new

    def document(self) -> dict[str, Any]:
        """The content of request.json."""
        return {"schema": 1, **self.model_dump(mode="json", include={"run_id", "asked", "nodes"})}


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
            "scenario server or interactive; leave it out"
        )
    if reason := why_no_peak(asked.target_qps, asked.scenario, asked.mode, asked.samples):
        raise BadInput(reason)
    if given.get("peak_budget_minutes") is not None and asked.target_qps != "peak":
        raise BadInput(f"peak_budget_minutes = {asked.peak_budget_minutes:g}: it is for target_qps=peak; leave it out")
    return asked


def resolve(
    given: Mapping[str, Any],
    *,
    defaults: Mapping[str, Any],
    nodes: Sequence[str],
    controllers: Sequence[str],
    forks: int,
    results: Path,
    now: time.struct_time | None = None,
) -> Request:
    """One complete request of what a user gave, what an earlier start of the same run was given, and defaults.

    Args:
        given: public settings as the user gave them; an empty one counts as not given.
        defaults: public settings of the inventory.
        nodes, controllers: hosts of this play that have engines, and those that only steer.
        forks: how many hosts Ansible works on at once.
        results: directory of all results; it is read, and nothing is written.
        now: the time that a run without a name is called by; None is this moment.

    Raises:
        BadInput: a value is wrong, contradicts the earlier start, or an unfinished run is in the way.
    """
    given = {name: value.strip() if isinstance(value, str) else value for name, value in given.items() if value != ""}
    _check_hosts(nodes, controllers, forks)
    several = len(nodes) > 1
    known = {"topology": Topology.FLEET if several else Topology.PER_NODE, **defaults}
    run_id = given.get("run_id", "")
    check({name: value for name, value in given.items() if name == "run_id"})
    before = _earlier(results / run_id, nodes) if run_id else {}
    asked = check(given, {**known, **before})
    _refuse_contradiction(run_id, asked, given, before)
    if not run_id:
        if open_runs := unfinished(results):
            raise BadInput("; ".join(f"run {name} is not finished: {how_to_go_on(name)}" for name in open_runs))
        run_id = f"{time.strftime('%Y%m%d-%H%M%S', now or time.localtime())}-{asked.scenario}-{asked.samples}"
    directory = results / run_id
    topology = asked.topology if several else Topology.PER_NODE
    plan = directory / "plan.json"
    try:
        return Request(
            run_id=run_id,
            asked=asked,
            directory=directory,
            begun=bool(before),
            ended=(directory / "failures.json").is_file(),
            plan=read_json(plan, "plan") if plan.exists() else {},
            nodes=tuple(nodes),
            topology=topology,
            loadgen_hosts=(*controllers, *nodes) if topology is Topology.FLEET else tuple(nodes),
        )
    except ValidationError as error:
        raise BadInput("; ".join(item["msg"].removeprefix("Value error, ") for item in error.errors())) from None


def unfinished(results: Path) -> list[str]:
    """Names of the runs that were begun and not brought to their end."""
    folders = sorted(results.iterdir()) if results.is_dir() else []
    return [
        folder.name
        for folder in folders
        if (folder / "request.json").is_file() and not (folder / "failures.json").is_file()
    ]


def how_to_go_on(run_id: str) -> str:
    """What to do about a run that is not finished."""
    return (
        f"pick it up with `ansible-playbook benchmark.yml -e run_id={run_id}`, "
        f"or end it with `ansible-playbook playbooks/stop.yml -e run_id={run_id}`"
    )


def _check_hosts(nodes: Sequence[str], controllers: Sequence[str], forks: int) -> None:
    hosts = len({*nodes, *controllers})
    if not nodes:
        raise BadInput("no host of group gpu_nodes is in this play: check the inventory and --limit")
    if forks < hosts:
        raise BadInput(f"forks = {forks} is less than the {hosts} hosts to watch at once: call with -f {hosts}")


def _earlier(directory: Path, nodes: Sequence[str]) -> dict[str, Any]:
    """The public settings of an earlier start of the run; empty when there was none."""
    file = directory / "request.json"
    if not file.exists():
        if directory.is_dir() and any(directory.iterdir()):
            raise BadInput(f"run_id {directory.name}: {directory} holds files of something else; choose another run_id")
        return {}
    document = read_json(file, "request")
    try:
        before, asked = document["nodes"], {name: document["asked"][name] for name in document["asked"]}
    except (TypeError, KeyError) as missing:
        raise BadInput(f"{file} is damaged ({missing} is missing); choose another run_id") from None
    if before != list(nodes):
        raise BadInput(
            f"run_id {directory.name} was begun on other nodes (it has {', '.join(before)}, this play has "
            f"{', '.join(nodes)}); choose another run_id or the same --limit"
        )
    return asked


def _refuse_contradiction(run_id: str, asked: Asked, given: Mapping[str, Any], before: Mapping[str, Any]) -> None:
    now = asked.model_dump(mode="json")
    other = [name for name in now if name in given and name in before and now[name] != before[name]]
    if other:
        values = "; ".join(f"{name}: existing {before[name]!r}, requested {now[name]!r}" for name in other)
        raise BadInput(f"run_id {run_id} was begun with other settings ({values}); choose another run_id")


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
