"""The request of a benchmark: its public settings completed, the name of its run, and whether it was begun before."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import Field, ValidationError, computed_field, model_validator

from harness.benchmark.earlier import Recorded, earlier_settings, has_result, kept_plan, recorded, unfinished
from harness.benchmark.failures import noted
from harness.benchmark.origin import Commands, Origin
from harness.benchmark.public_settings import OF_THIS_START, Asked, Topology, check, is_resumed
from harness.errors import BadInput
from harness.files import write_json
from harness.spec import Record
from harness.state_file import CALIBRATION_SUFFIX, SHARE_SUFFIX


class Request(Record):
    """One benchmark as it is going to be, or was, started.

    `directory` is where its results go on the controller, `plan` the content of plan.json (empty when there is none).
    `begun` says that request.json is there, `ended` that it was brought to its end, well or not. `topology` is the one
    in effect: a node alone is always `per_node`. `nodes` have engines, `controllers` only steer; `loadgen_hosts` may
    drive LoadGen, in the order of preference.
    `replay_of` is the run that this one replays, `repeat_of` that of the same benchmark that it repeats, and `resume`
    says that it ended without a result and goes on now.
    `failures` is what has been noted of an earlier start that was brought to its end, `warnings` are about other runs.
    `origin` is where this start comes from; `others` are the commands about other runs that are not finished.
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
    controllers: tuple[str, ...] = ()
    failures: tuple[dict[str, Any], ...] = ()
    warnings: tuple[str, ...] = ()
    replay_of: str | None = None
    repeat_of: str | None = None
    resume: bool = False
    origin: Origin = Origin()
    others: dict[str, Commands] = Field(default_factory=dict)

    @computed_field
    def commands(self) -> Commands:
        """What is typed to go on with this run."""
        return self.origin.commands(self.run_id)

    @computed_field
    def attempts_most(self) -> int:
        """How many performance runs there may be."""
        return self.asked.attempts_most

    @computed_field
    def calibration_id(self) -> str:
        """The name of the run that calibrates its engines."""
        return f"{self.run_id}{CALIBRATION_SUFFIX}"

    @computed_field
    def share_ids(self) -> list[str]:
        """Names of the runs in which nodes may have taken over accuracy shares of others."""
        several = self.topology is Topology.PER_NODE and len(self.nodes) > 1
        return [f"{self.run_id}{SHARE_SUFFIX}{number + 1}" for number in range(len(self.nodes) if several else 0)]

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
        return cls.model_validate({name: document[name] for name in cls.model_fields if name in document})

    def spec(self, **more: Any) -> dict[str, Any]:
        """The run of a LoadGen as plain values: what is asked, and `more` of its node; without engines and rate."""
        asked = self.asked.model_dump(mode="json", include={"scenario", "mode", "samples", "on_engine_loss"})
        return {**asked, "rate_attempts": self.attempts_most, "replay_of": self.replay_of, **more}

    def begin(self) -> None:
        """Write request.json where there is none. With it a run counts as begun."""
        file = self.directory / "request.json"
        if not file.exists():
            write_json(file, self.document())

    def move_aside(self) -> None:
        """Move what an earlier start collected and reported into `interrupted/N`; the plan stays, and so does the
        request."""
        numbers = [int(folder.name) for folder in (self.directory / "interrupted").glob("*") if folder.name.isdigit()]
        aside = self.directory / "interrupted" / str(max(numbers, default=0) + 1)
        aside.mkdir(parents=True)
        for path in sorted(self.directory.iterdir()):
            if path.name not in ("request.json", "plan.json", "interrupted"):
                path.rename(aside / path.name)

    def document(self) -> dict[str, Any]:
        """The content of request.json."""
        of = {"replay_of": self.replay_of, "repeat_of": self.repeat_of}
        plain = self.model_dump(mode="json", include={"run_id", "asked", "nodes", "origin"})
        return {"schema": 1, **plain, **{name: run for name, run in of.items() if run}}


def resolve(
    given: Mapping[str, Any],
    *,
    defaults: Mapping[str, Any],
    nodes: Sequence[str],
    controllers: Sequence[str],
    forks: int,
    results: Path,
    replay_of: str | None = None,
    origin: Origin | None = None,
    now: time.struct_time | None = None,
) -> Request:
    """One complete request of what a user gave, what an earlier start of the same run was given, and defaults.

    Args:
        given: public settings as the user gave them; an empty one counts as not given.
        defaults: public settings of the inventory.
        nodes, controllers: hosts of this play that have engines, and those that only steer.
        forks: how many hosts Ansible works on at once.
        results: directory of all results; it is read, and nothing is written.
        replay_of: the run that this one repeats.
        origin: where this start comes from.
        now: the time that a run without a name is called by; None is this moment.

    Raises:
        BadInput: a value is wrong, contradicts the earlier start, or an unfinished run is in the way.
    """
    given = {name: value.strip() if isinstance(value, str) else value for name, value in given.items() if value != ""}
    if not nodes:
        raise BadInput("no host of group gpu_nodes is in this play: check the inventory and --limit")
    several = len(nodes) > 1
    known = {"topology": Topology.FLEET if several else Topology.PER_NODE, **defaults}
    run_id, origin = given.get("run_id", ""), origin or Origin()
    check({name: value for name, value in given.items() if name in OF_THIS_START})
    before = earlier_settings(results / run_id, nodes) if run_id else {}
    asked = check(given, {**known, **before})
    _refuse_contradiction(run_id, asked, given, before)
    open_runs, unreadable = unfinished(results)
    if not run_id:
        unreadable += _look_at_others(open_runs, origin, nodes)
        run_id = f"{time.strftime('%Y%m%d-%H%M%S', now or time.localtime())}-{asked.scenario}-{asked.samples}"
    directory = results / run_id
    resume = is_resumed(given)
    if resume:
        _refuse_resume(directory, bool(before))
    topology = asked.topology if several else Topology.PER_NODE
    if topology is Topology.PER_NODE and forks < len(nodes):
        raise BadInput(
            f"forks = {forks} is less than the {len(nodes)} runs to watch at once: call with -f {len(nodes)}"
        )
    try:
        return Request(
            run_id=run_id,
            asked=asked,
            directory=directory,
            begun=bool(before),
            ended=(directory / "failures.json").is_file() and not resume,
            plan=kept_plan(directory / "plan.json"),
            nodes=tuple(nodes),
            controllers=tuple(controllers),
            topology=topology,
            loadgen_hosts=(*controllers, *nodes) if topology is Topology.FLEET else tuple(nodes),
            failures=noted(directory / "failures.json"),
            warnings=tuple(unreadable),
            replay_of=recorded(directory).replay_of if before else replay_of,
            repeat_of=recorded(directory).repeat_of if before else None,
            resume=resume,
            origin=origin,
            others={name: run.origin.commands(name) for name, run in open_runs.items() if name != run_id},
        )
    except ValidationError as error:
        raise BadInput("; ".join(item["msg"].removeprefix("Value error, ") for item in error.errors())) from None


def _look_at_others(runs: Mapping[str, Recorded], origin: Origin, nodes: Sequence[str]) -> list[str]:
    """A sentence for each unfinished run of another inventory that has hosts of these names, too.

    Raises:
        BadInput: one of this inventory has a host of this start.
    """
    sentences = {True: list[str](), False: list[str]()}
    for name, run in runs.items():
        if shared := [node for node in nodes if node in run.nodes]:
            own = run.origin.inventory == origin.inventory
            whose = "" if own else f", of another inventory, on hosts of the same names ({', '.join(shared)}),"
            sentences[own].append(f"run {name}{whose} is not finished: {run.origin.commands(name).advice}")
    if sentences[True]:
        raise BadInput("; ".join(sentences[True]))
    return sentences[False]


def _refuse_resume(directory: Path, begun: bool) -> None:
    if not begun:
        raise BadInput(f"run_id {directory.name} was never begun, so there is nothing to resume; leave resume out")
    if (directory / "failures.json").is_file() and has_result(directory):
        raise BadInput(
            f"run {directory.name} has finished, so there is nothing to resume: see {directory / 'report.md'}, or "
            "choose another run_id"
        )


def _refuse_contradiction(run_id: str, asked: Asked, given: Mapping[str, Any], before: Mapping[str, Any]) -> None:
    now = asked.model_dump(mode="json", exclude={"allow_long"})
    other = [name for name in now if name in given and name in before and now[name] != before[name]]
    if other:
        values = "; ".join(f"{name}: existing {before[name]!r}, requested {now[name]!r}" for name in other)
        raise BadInput(f"run_id {run_id} was begun with other settings ({values}); choose another run_id")
