"""A host's part in a benchmark: whether it may start, what it calibrates, runs and takes over, and what it stops."""

import json
from pathlib import Path
from typing import Any

import pytest

from harness.benchmark.part import Host, Part, of_all
from harness.benchmark.request import Request
from harness.spec import parse_spec
from tests.unit.ansible_modules import call

STOP = "`ansible-playbook playbooks/stop.yml -e run_id={}`"
PICK_UP = "`ansible-playbook benchmark.yml -e run_id={}`"
FAILURE = {"host": "jw2", "phase": "reach", "reason": "jw2 is unreachable: no route", "log": None, "lost": True}
ASKED = {"scenario": "server", "mode": "both", "samples": 600, "target_qps": "auto"}


def engine(host: str) -> dict[str, Any]:
    return {"name": host, "url": f"http://{host}:8101", "node": host, "max_in_flight": 72}


def host(name: str, engines: bool = True, **more: Any) -> Host:
    spec = {"samples": 600, "model": "/m", "dataset": "/d.json", "scenario": "server", "mode": "both", "node": name}
    folders = {"runs_folder": "/runs", "engines_folder": "/engines"}
    return Host(engines=[engine(name)] if engines else [], spec=spec, **{"state": "absent", **folders, **more})


def plan_values(topology: str = "fleet", **more: Any) -> dict[str, Any]:
    loadgens = ["jw1"] if topology == "fleet" else ["jw2", "jw3"]
    shares = {"jw2": {"start": 0, "stop": 400}, "jw3": {"start": 400, "stop": 600}} if topology == "per_node" else {}
    nodes = {
        name: {
            "engines": [engine(name)] if name != "jw1" else [], "loadgen": name in loadgens,
            "share": shares.get(name), "target_qps": 12.5, "why": "speed",
        }
        for name in ("jw1", "jw2", "jw3") if name in loadgens or name != "jw1"
    }  # fmt: skip
    asked = {**ASKED, "topology": topology, **more}
    return {
        "schema": 1, "run_id": "r1", "topology": topology, "launcher": "process", "asked": asked, "nodes": nodes,
        "loadgens": loadgens,
    }  # fmt: skip


def part(name: str, topology: str = "fleet", hosts: dict[str, dict[str, Any]] | None = None, **more: Any) -> Part:
    """The part of a host of jw1 (a controller), jw2 and jw3; `hosts` says what is special about some of them.

    `earlier` is the plan that was there when the request was worked out, `plan` the one there is now.
    """
    every = {each: host(each, engines=each != "jw1", **(hosts or {}).get(each, {})) for each in ("jw1", "jw2", "jw3")}
    plan, stops = more.pop("plan", {}), more.pop("stops", False)
    request = Request.of(
        {
            "run_id": "r1", "asked": {**ASKED, **more.pop("asked", {})}, "directory": "/results/r1", "begun": False,
            "ended": False, "plan": more.pop("earlier", {}), "nodes": ["jw2", "jw3"], "topology": topology,
            "loadgen_hosts": ["jw1", "jw2", "jw3"] if topology == "fleet" else ["jw2", "jw3"], **more,
        }
    )  # fmt: skip
    return Part(name, request, every, plan, stops)


def shared(one: Part, **more: Any) -> dict[str, Any]:
    """What all hosts of a part's benchmark have in common, with their parts."""
    return of_all(one.request, one.hosts, one.plan, stops=one.stops, **more)


def names(spec: dict[str, Any]) -> list[str]:
    return [one["name"] for one in spec["engines"]]


def test_the_specs_of_a_fleet_are_those_of_one_loadgen_over_all_engines() -> None:
    driver = part("jw1", plan=plan_values())
    assert names(driver.spec_to_check()) == names(driver.calibration()) == names(driver.run()) == ["jw2", "jw3"]
    assert driver.calibration()["calibrate_only"] is True
    spec = parse_spec({**driver.run(), "run_id": "r1"})
    assert (spec.target_qps, spec.share, spec.attempts_together, spec.node) == (12.5, None, False, "jw1")
    other = part("jw2", plan=plan_values())
    assert names(other.spec_to_check()) == ["jw2", "jw3"]
    assert (other.calibration(), other.run()) == ({}, {})


def test_with_one_loadgen_per_node_each_has_its_own_engines_and_share() -> None:
    node = part("jw3", "per_node", plan=plan_values("per_node"))
    assert names(node.calibration()) == names(node.run()) == ["jw3"]
    spec = parse_spec({**node.run(), "run_id": "r1"})
    assert (spec.window.start, spec.window.stop, spec.attempts_together) == (400, 600, True)
    check = node.spec_to_check()
    assert (check["run_id"], check["attempts_together"], names(check)) == ("r1", True, ["jw2", "jw3"])
    assert part("jw1", "per_node").spec_to_check() == {}


def test_hosts_that_failed_calibrate_nothing_and_the_next_one_drives_the_fleet() -> None:
    broken = {"jw1": {"failures": [FAILURE]}, "jw3": {"failures": [FAILURE]}}
    assert part("jw1", hosts=broken).calibration() == part("jw3", hosts=broken).calibration() == {}
    assert names(part("jw2", hosts=broken).calibration()) == ["jw2"]
    assert part("jw3", "per_node", broken).calibration() == {}
    assert part("jw1", "per_node").calibration() == {}  # a controller without engines
    assert names(part("jw3", "per_node").calibration()) == ["jw3"]
    values = shared(part("jw2", hosts=broken))
    assert (values["ready"], values["well"], values["loadgen_host"]) == (["jw2"], ["jw2"], "jw2")
    assert (values["calibrating"], values["planning"]) == (["jw2"], ["jw1"])
    assert part("jw2", hosts={name: {"failures": [FAILURE]} for name in ("jw1", "jw2", "jw3")}).loadgen_host == ""


def test_a_rate_that_is_not_known_is_calibrated_and_a_search_starts_from_the_calibrated_one() -> None:
    plan = plan_values()
    plan["nodes"]["jw1"]["target_qps"] = None
    assert part("jw1", plan=plan).run()["target_qps"] == "auto"
    search = part("jw1", plan=plan_values(), asked={"target_qps": "peak", "peak_budget_minutes": 30.0}).run()
    assert (search["target_qps"], search["peak_from_qps"], search["peak_budget_minutes"]) == ("peak", 12.5, 30.0)
    parse_spec({**search, "run_id": "r1", "samples": 13_368})


def test_shares_of_lost_nodes_are_accuracy_runs_of_those_that_finished() -> None:
    plan = plan_values("per_node")
    hosts: dict[str, dict[str, Any]] = {"jw2": {"lost": True}, "jw3": {"finished": True}}
    node = part("jw3", "per_node", hosts, plan=plan)
    (share,) = node.shares()
    assert (share["run_id"], share["lost"]) == ("r1.share1", "jw2")
    spec = parse_spec({**share["spec"], "run_id": share["run_id"]})
    assert (spec.window.start, spec.window.stop, spec.mode, spec.rate_attempts) == (0, 400, "accuracy", 1)
    assert node.directories() == [
        {"source": "/runs/r1"}, {"source": "/runs/r1.calibration", "target": "calibration"},
        {"source": "/engines", "target": "engines", "only": ["jw3"]},
        {"source": "/runs/r1.share1", "target": "shares/jw2"},
    ]  # fmt: skip
    assert part("jw3", "per_node", hosts, plan=plan, ended=True).shares() == []
    assert part("jw2", "per_node", hosts, plan=plan).shares() == []


@pytest.mark.parametrize(
    ("hosts", "request_", "sentence"),
    [
        ({}, {}, ""),
        ({"jw2": {"running": ["r1"]}}, {"begun": True}, ""),
        (
            {"jw2": {"running": ["r0"]}}, {},
            f"jw2 is busy with run r0: pick it up with {PICK_UP}, or end it with {STOP}.".replace("{}", "r0"),
        ),
        (
            {"jw2": {"lost": True, "failures": [FAILURE]}}, {},
            "jw2 is unreachable: no route. Start it or correct its address in the inventory, or leave it out with "
            "--limit '!jw2'.",
        ),
        ({"jw2": {"lost": True, "failures": [FAILURE]}}, {"begun": True}, ""),
        (
            {"jw2": {"lost": True, "failures": [FAILURE]}},
            {"begun": True, "resume": True, "earlier": plan_values()}, "",
        ),
        (
            {"jw2": {"lost": True, "failures": [FAILURE]}},
            {"topology": "per_node", "begun": True, "resume": True, "earlier": plan_values("per_node")}, "",
        ),
        ({"jw2": {"lost": True, "failures": [FAILURE]}}, {"begun": True, "resume": True}, ""),
        (
            {"jw1": {"lost": True}, "jw2": {"lost": True, "failures": [FAILURE]}},
            {"begun": True, "resume": True, "earlier": plan_values()},
            "jw2 is unreachable: no route. Start it or correct its address in the inventory, or choose another run_id.",
        ),
        (
            {"jw2": {"running": ["r1"]}}, {"begun": True, "resume": True},
            "run r1 is still running on jw2, so it cannot be resumed: pick it up with "
            f"{PICK_UP}, or end it first with {STOP}.".replace("{}", "r1"),
        ),
        (
            {"jw1": {"state": "finished"}}, {"begun": True, "resume": True, "earlier": plan_values()},
            "run r1 has finished on every host, so there is nothing to resume: collect and judge it with "
            f"{PICK_UP}, or choose another run_id.".replace("{}", "r1"),
        ),
        ({"jw1": {"state": "failed"}}, {"begun": True, "resume": True, "earlier": plan_values()}, ""),
    ],
)  # fmt: skip
def test_why_a_benchmark_is_not_started(
    hosts: dict[str, dict[str, Any]], request_: dict[str, Any], sentence: str
) -> None:
    assert part("jw2", hosts=hosts, **request_).refusal() == sentence


@pytest.mark.parametrize(
    ("state", "request_", "starts", "still_runs", "finished"),
    [
        ("absent", {"earlier": {}}, True, False, False),
        ("absent", {}, True, False, False),
        ("running", {}, False, False, False),
        ("failed", {}, False, False, False),
        ("failed", {"resume": True}, True, False, False),
        ("finished", {}, False, False, True),
        ("running", {"ended": True}, False, True, False),
        ("absent", {"ended": True}, False, False, False),
    ],
)
def test_what_is_started_again_when_a_run_is_picked_up(
    state: str, request_: dict[str, Any], starts: bool, still_runs: bool, finished: bool
) -> None:
    hosts = {"jw1": {"state": state, "running": ["r1"] if state == "running" else []}}
    made = part("jw1", hosts=hosts, **{"begun": True, "earlier": plan_values(), **request_})
    assert (made.starts(), made.still_runs(), made.has_finished()) == (starts, still_runs, finished)


@pytest.mark.parametrize(
    ("lost", "more", "expected"),
    [
        ("jw1", {}, True),
        ("jw3", {}, False),
        ("", {}, False),
        ("jw2", {"topology": "per_node"}, False),
        ("jw1", {"stops": True}, False),
    ],
)
def test_engines_are_left_to_a_fleets_run_whose_host_is_lost(lost: str, more: dict[str, Any], expected: bool) -> None:
    """Fault: the host of LoadGen cannot be reached, or its run could not be stopped, and the run lives."""
    plan = plan_values(more.get("topology", "fleet"))
    left = part(
        "jw2" if lost != "jw2" else "jw3", hosts={lost: {"lost": True}}, plan=plan, **more
    ).engines_left_running()
    assert bool(left) is expected
    if expected:
        assert (left["host"], left["phase"], left["lost"], left["log"]) == ("jw2", "engines down", True, None)
        assert left["reason"].endswith(f"stop them with {STOP.format('r1')}")
        assert part("jw1", hosts={lost: {"lost": True}}, plan=plan).engines_left_running() == {}


@pytest.mark.parametrize(
    ("running", "ended", "overruled", "stops", "stopped"),
    [
        ([], False, [], False, True),
        ([], True, [], False, False),
        ([], True, [FAILURE], False, True),
        (["r1"], True, [], True, True),
        (["r2"], True, [], True, False),
    ],
)
def test_engines_of_a_run_that_has_ended_may_serve_another_one(
    running: list[str], ended: bool, overruled: list[Any], stops: bool, stopped: bool
) -> None:
    hosts = {"jw2": {"overruled": overruled}, "jw3": {"running": running}}
    made = part("jw2", hosts=hosts, ended=ended, stops=stops)
    assert made.stops_engines() is stopped
    assert made.directories()[2]["only"] == (["jw2"] if stopped else [])
    assert shared(made)["overruled"] == overruled
    assert ("jw2" in shared(made)["stopping"]) is stopped


def test_the_task_reads_what_the_role_has_recorded_of_all_hosts(tmp_path: Path) -> None:
    settings = {
        name: {
            "references": [engine(name)],
            "spec": {"node": name},
            "state": "absent",
            "running": [],
            "overruled": [],
            "lost": False,
            "failures": [],
            "runs_folder": "/runs",
            "engines_folder": "/engines",
        }
        for name in ("jw2", "jw3")
    }
    recorded = {
        "jw2": {"__harness_settings": settings["jw2"]},
        "jw3": {"__harness_settings": settings["jw3"], "__harness_failures": [FAILURE], "__harness_lost": True},
    }
    request = {
        "run_id": "r1", "asked": ASKED, "directory": str(tmp_path), "begun": False, "ended": False, "plan": {},
        "nodes": ["jw2", "jw3"], "topology": "fleet", "loadgen_hosts": ["jw2", "jw3"],
    }  # fmt: skip
    result = call(
        "mlperf_part",
        {"request": request},
        variables={"inventory_hostname": "jw2", "hostvars": recorded},
    )
    assert (result["changed"], result["ready"], result["failures"]) == (False, ["jw2"], [FAILURE])
    assert (names(result["hosts"]["jw2"]["calibration"]), result["collecting"]) == (["jw2"], ["jw2"])
    assert result["hosts"]["jw2"]["directories"][0] == {"source": "/runs/r1"}
    json.dumps(result)


@pytest.mark.parametrize(
    ("repeats", "failures", "more", "follow"),
    [
        (1, [], {}, False),
        (3, [], {}, True),
        (3, [FAILURE], {}, False),
        (3, [], {"ended": True}, False),
        (3, [], {"stops": True}, False),
    ],
)
def test_repeats_follow_a_first_run_that_went_well(
    repeats: int, failures: list[Any], more: dict[str, Any], follow: bool
) -> None:
    hosts = {"jw3": {"failures": failures}}
    assert part("jw2", hosts=hosts, asked={"repeats": repeats}, **more).repeats_follow() is follow


def test_a_busy_host_names_the_command_with_which_the_other_run_was_started() -> None:
    commands = {"pick_up": "ansible-playbook -i other benchmark.yml -e run_id=r0", "end": "x", "resume": "y"}
    refusal = part("jw2", hosts={"jw2": {"running": ["r0"]}}, others={"r0": commands}).refusal()
    assert "pick it up with `ansible-playbook -i other benchmark.yml -e run_id=r0`" in refusal


def test_plays_are_for_the_hosts_that_have_something_to_do() -> None:
    started = shared(part("jw1"))
    assert (started["starts"], started["calibrating"], started["running"]) == (True, ["jw1"], [])
    planned = shared(part("jw1", plan=plan_values()))
    assert (planned["running"], planned["taking_over"], planned["doubtful"]) == (["jw1"], [], ["jw2", "jw3"])
    lost = {"jw1": {"lost": True, "failures": [FAILURE]}}
    assert shared(part("jw1", plan=plan_values(), hosts=lost))["running"] == []
    nothing = shared(part("jw1", plan=plan_values()), check_mode=True)
    plays = ("calibrating", "running", "taking_over", "doubtful", "stopping", "collecting", "judging")
    assert [nothing[play] for play in plays] == [[]] * 7
    each = shared(part("jw2", "per_node", plan=plan_values("per_node")))
    assert (each["calibrating"], each["running"]) == (["jw2", "jw3"], ["jw2", "jw3"])


def test_only_engines_of_which_the_run_cannot_tell_are_asked_at_the_end() -> None:
    def doubtful(topology: str = "fleet", **loadgen: Any) -> list[str]:
        hosts = {"jw1": {"finished": True, **loadgen}, "jw2": {"answering": frozenset(["jw2"]), "finished": True}}
        made = part("jw1", topology, plan=plan_values(topology), hosts=hosts if topology == "fleet" else {})
        return list(shared(made)["doubtful"])

    assert doubtful(answering=frozenset(["jw2", "jw3"])) == []
    assert doubtful(answering=frozenset(["jw2"])) == ["jw3"]
    assert doubtful(answering=frozenset(["jw2", "jw3"]), finished=False) == ["jw3"]
    assert doubtful("per_node") == ["jw2", "jw3"]


def test_a_fleets_run_knows_where_the_state_of_each_engine_is() -> None:
    files = part("jw1", plan=plan_values()).engine_files()
    assert files["jw3"] == {"host": "jw3", "file": "/engines/jw3/engine.json"}
    assert part("jw2", plan=plan_values()).engine_files() == {}


def test_engines_in_pods_are_collected_from_the_runs_folder() -> None:
    hosts = {"jw2": {"engines_folder": "", "runs_folder": "/c/runs"}}
    assert part("jw2", hosts=hosts).directories()[2]["source"] == "/c/runs/r1.engines/engines"
