"""The request of a benchmark: its public settings completed, the name of its run, and whether it was begun before."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError, computed_field, model_validator

from harness.benchmark.public_settings import Asked, Topology, check
from harness.errors import BadInput
from harness.files import read_json, write_json
from harness.spec import Record


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

    def begin(self) -> None:
        """Write request.json where there is none. With it a run counts as begun."""
        file = self.directory / "request.json"
        if not file.exists():
            write_json(file, self.document())

    def document(self) -> dict[str, Any]:
        """The content of request.json."""
        return {"schema": 1, **self.model_dump(mode="json", include={"run_id", "asked", "nodes"})}


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
