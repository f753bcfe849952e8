"""The plan: shares by measured speed, every sample once, durations by LoadGen's rules, reasons in words."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from harness.benchmark import speeds
from harness.benchmark.public_settings import Asked
from harness.spec import EngineRef, Limits
from tests.unit.ansible_modules import Failed, call


def test_shares_follow_the_largest_remainder() -> None:
    # 10 samples by 3:3:1 are 4.29, 4.29, 1.43: the one left over goes to the third.
    assert speeds.shares(10, [3.0, 3.0, 1.0]) == [4, 4, 2]
    assert speeds.shares(7, [1.0, 1.0]) == [4, 3]


def test_shares_always_add_up_and_stay_within_one_of_proportion() -> None:
    rng = random.Random(1)
    for _ in range(300):
        weights = [rng.uniform(0.1, 50) for _ in range(rng.randint(1, 9))]
        samples = rng.randint(1, 13_368)
        sizes = speeds.shares(samples, weights)
        assert sum(sizes) == samples
        for size, weight in zip(sizes, weights, strict=True):
            assert abs(size - samples * weight / sum(weights)) < 1


def request_values(**more: Any) -> dict[str, Any]:
    default = {"scenario": "server", "mode": "both", "samples": 600, "target_qps": "auto", "launcher": "process"}
    return {**default, **more}


@pytest.mark.parametrize(
    ("changes", "samples", "share", "rate", "target", "seconds"),
    [
        # Server is paced: one pass for performance, one for accuracy.
        ({}, 600, 600, 50.0, 20.0, 60.0),
        ({"mode": "performance"}, 600, 600, 50.0, 20.0, 30.0),
        # A full run at 40/s takes 334.2 s a pass: two passes for 600 s, a third for accuracy.
        ({}, 13_368, 13_368, 50.0, 40.0, 3 * 334.2),
        ({"mode": "accuracy"}, 13_368, 13_368, 50.0, 40.0, 334.2),
        # At 20/s one pass is longer than 600 s.
        ({}, 13_368, 13_368, 50.0, 20.0, 2 * 668.4),
        # Offline goes at its own speed, whatever rate it was told.
        ({"scenario": "offline"}, 600, 600, 50.0, 99.0, 24.0),
        ({"scenario": "offline"}, 600, 600, None, 99.0, None),
        # A full one has the passes that 1.1 x 600 s at the target rate need; a target not known is 1.05 x the rate.
        ({"scenario": "offline", "mode": "performance"}, 13_368, 13_368, 20.0, 21.0, 2 * 668.4),
        ({"scenario": "offline", "mode": "performance"}, 13_368, 13_368, 20.0, None, 2 * 668.4),
        ({"scenario": "offline", "mode": "performance"}, 13_368, 13_368, 20.0, 20.0, 668.4),
        ({"scenario": "offline"}, 13_368, 13_368, 40.0, 42.0, 4 * 334.2),
        ({}, 600, 600, 50.0, None, None),
        # Half of a full run repeats its share until 600 s.
        ({}, 13_368, 6_684, 50.0, 20.0, 3 * 334.2),
    ],
)
def test_duration_by_loadgens_rules(
    changes: dict[str, Any], samples: int, share: int, rate: float | None, target: float | None, seconds: float | None
) -> None:
    durations = speeds.durations(Asked(**request_values(**changes, samples=samples)), share, rate, target)
    assert (durations and sum(durations)) == (seconds if seconds is None else pytest.approx(seconds))


def engines(*hosts: str) -> dict[str, Any]:
    return {host: [{"name": host, "url": f"http://{host}:8101", "node": host, "max_in_flight": 72}] for host in hosts}


def make_plan(
    tmp_path: Path, topology: str, nodes: dict[str, Any], calibration: dict[str, Any], **more: Any
) -> dict[str, Any]:
    loadgen_host, check = more.pop("loadgen_host", next(iter(nodes), "")), more.pop("check", False)
    settings = dict.fromkeys(nodes, "settings") | more.pop("settings", {})
    request = {
        "run_id": more.pop("run_id", "r1"), "directory": str(tmp_path / more.pop("folder", "r1")),
        "topology": topology, "asked": {**request_values(**more), "topology": topology},
        "begun": True, "ended": False, "plan": {}, "nodes": list(nodes), "loadgen_hosts": [],
    }  # fmt: skip
    return call(
        "mlperf_plan",
        {
            "request": request, "loadgen_host": loadgen_host,
            "nodes": [
                {"host": host, "references": nodes[host], "speed_depends_on": settings[host]} for host in nodes
            ],
            "calibrations": [
                {"skipped": True},
                *({"host": host, "status": {"calibration": calibration[host]}} for host in calibration),
            ],
        },
        check=check,
    )  # fmt: skip


def rates(rate: float, target: float, **by_engine: float) -> dict[str, Any]:
    return {
        "samples_per_s": rate,
        "target_qps": target,
        "by_engine": by_engine,
        "tried": [],
        "seconds": 8,
        "samples": 99,
    }


def test_per_node_gives_the_faster_node_more_and_every_sample_once(tmp_path: Path) -> None:
    calibration = {"jw2": rates(10, 8.0, jw2=10.0), "jw3": rates(6, 5.0, jw3=6.0)}
    plan = make_plan(tmp_path, "per_node", engines("jw2", "jw3"), calibration)["plan"]
    shares = [plan["nodes"][host]["share"] for host in ("jw2", "jw3")]
    # 2 samples go one to each; of 598 by 10:6, 373.75 and 224.25 round to 374 and 224.
    assert shares == [{"start": 0, "stop": 375}, {"start": 375, "stop": 600}]
    assert [plan["nodes"][host]["target_qps"] for host in ("jw2", "jw3")] == [8.0, 5.0]
    assert plan["loadgens"] == ["jw2", "jw3"]
    assert "375 of 600 samples" in plan["nodes"]["jw2"]["why"]
    assert plan["nodes"]["jw2"]["hours_samples"] == pytest.approx(2 * 375 / 8 / 3600)


def test_per_node_splits_a_given_rate_by_speed(tmp_path: Path) -> None:
    calibration = {"jw2": rates(30, 20, jw2=30.0), "jw3": rates(10, 7, jw3=10.0)}
    plan = make_plan(tmp_path, "per_node", engines("jw2", "jw3"), calibration, target_qps=12.0)["plan"]
    assert [plan["nodes"][host]["target_qps"] for host in ("jw2", "jw3")] == [9.0, 3.0]


def test_slowest_node_still_gets_a_sample(tmp_path: Path) -> None:
    calibration = {"jw2": rates(1000, 900, jw2=1000.0), "jw3": rates(0.01, 0.01, jw3=0.01)}
    plan = make_plan(tmp_path, "per_node", engines("jw2", "jw3"), calibration, samples=5)["plan"]
    assert [row["share"] for row in plan["nodes"].values()] == [{"start": 0, "stop": 4}, {"start": 4, "stop": 5}]
    with pytest.raises(Failed, match="samples = 1"):
        make_plan(tmp_path, "per_node", engines("jw2", "jw3"), calibration, samples=1, folder="other")


def test_fleet_has_one_loadgen_over_all_engines(tmp_path: Path) -> None:
    calibration = {"jw1": rates(16, 12.5, jw2=10.0, jw3=6.0)}
    result = make_plan(tmp_path, "fleet", engines("jw2", "jw3"), calibration, loadgen_host="jw1")
    plan = result["plan"]
    assert plan["loadgens"] == ["jw1"]
    assert (plan["nodes"]["jw1"]["engines"], plan["nodes"]["jw1"]["target_qps"]) == ([], 12.5)
    assert [plan["nodes"][host]["samples_per_s"] for host in ("jw2", "jw3")] == [10.0, 6.0]
    assert all(row["share"] is None for row in plan["nodes"].values())
    assert "62%" in plan["nodes"]["jw2"]["why"]
    assert plan["nodes"]["jw1"]["hours_13368"] == pytest.approx(2 * 13_368 / 12.5 / 3600)
    assert "0.03 h for these 600 samples, 0.59 h for 13368" in result["text"]


def test_plan_states_the_number_and_duration_of_attempts(tmp_path: Path) -> None:
    calibration = {"jw2": rates(16, 12.5, jw2=10.0, jw3=6.0)}
    made = make_plan(tmp_path, "fleet", engines("jw2", "jw3"), calibration)
    text, nodes = made["text"], made["plan"]["nodes"]
    assert [nodes[host]["attempts_qps"] for host in ("jw2", "jw3")] == [[12.5, 10.62, 7.438, 2.975], []]
    assert "LoadGen at 12.5/s, then at most 10.6, 7.44, 2.98/s as attempts fail; " in text
    # At 12.5/s a pass of 600 is 48 s, one of 13,368 is 1,069 s: later attempts at 0.85, 0.595 and 0.238
    # of the rate take longer, and so does accuracy, at the last one's.
    assert "attempts: up to 4 performance runs" in text
    passes = 1 + 1 / 0.85 + 1 / 0.595 + 2 / 0.238
    hours = [passes * samples / 12.5 / 3600 for samples in (600, 13_368)]
    assert f"at most {hours[0]:.2f} h for these 600 samples, {hours[1]:.2f} h for 13368, unless" in text
    once = make_plan(tmp_path, "fleet", engines("jw2", "jw3"), calibration, target_qps=12.5, folder="once")
    node = once["plan"]["nodes"]["jw2"]
    assert "attempts" not in once["text"] and node["attempts_qps"] == []
    assert node["hours_13368_longest"] == node["hours_13368"]
    assert (
        "attempts: up to 2"
        in make_plan(tmp_path, "fleet", engines("jw2"), {}, rate_attempts=2, folder="new", check=True)["text"]
    )


def test_plan_states_the_uncertainty_of_the_calibration(tmp_path: Path) -> None:
    calibration = {"jw2": {**rates(16.04, 12.5, jw2=10.0, jw3=6.0), "uncertainty_percent": 4.26}}
    lines = make_plan(tmp_path, "fleet", engines("jw2", "jw3"), calibration)["text"].splitlines()
    assert "calibration by jw2: 16.0 samples/s ± 4.3%" in lines


def test_the_minimum_duration_is_the_one_that_was_set(tmp_path: Path) -> None:
    long = speeds.durations(Asked(**request_values()), 600, 50.0, 20.0, Limits(min_duration_s=90.0))
    assert long == (3 * 30.0, 30.0)


@pytest.mark.parametrize(("budget", "hours"), [(None, 3.5 * 600 / 12 / 3600), (90.0, 1.5)], ids=["default", "given"])
def test_a_search_may_take_its_budget(tmp_path: Path, budget: float | None, hours: float) -> None:
    calibration = {"jw2": rates(16, 12.0, jw2=10.0, jw3=6.0)}
    more = {"target_qps": "peak", "peak_budget_minutes": budget}
    result = make_plan(tmp_path, "fleet", engines("jw2", "jw3"), calibration, **more)
    assert result["plan"]["nodes"]["jw2"]["target_qps"] == 12.0
    assert result["plan"]["nodes"]["jw2"]["hours_samples_longest"] == pytest.approx(hours)
    assert f"until one is VALID; at most {hours:.2f} h for these 600 samples" in result["text"]


def test_a_search_whose_budget_holds_no_whole_run_is_refused(tmp_path: Path) -> None:
    calibration = {"jw2": rates(16, 12.0, jw2=10.0, jw3=6.0)}
    asked = {"target_qps": "peak", "peak_budget_minutes": 1.6}  # 600 samples twice at 12/s take 1.67 minutes
    with pytest.raises(Failed, match=r"peak_budget_minutes = 1.6: .* take 1.7 minutes; give at least as many"):
        make_plan(tmp_path, "fleet", engines("jw2", "jw3"), calibration, **asked)
    assert make_plan(tmp_path, "fleet", engines("jw2", "jw3"), calibration, **asked | {"peak_budget_minutes": 1.7})


def test_several_engines_of_a_node_add_up(tmp_path: Path) -> None:
    nodes = {"jw2": [{"name": f"gpu{n}", "url": f"http://jw2:810{n}"} for n in (1, 2)]}
    plan = make_plan(tmp_path, "per_node", nodes, {"jw2": rates(7, 5, gpu1=3.0, gpu2=4.0)})["plan"]
    assert plan["nodes"]["jw2"]["samples_per_s"] == 7.0


def test_each_engine_is_known_by_its_calibrated_speed(tmp_path: Path) -> None:
    plan = make_plan(
        tmp_path, "fleet", engines("node1", "node2"), {"node1": rates(40.0, 30.0, node1=30.0, node2=10.0)}
    )["plan"]
    speeds = [engine["samples_per_s"] for node in plan["nodes"].values() for engine in node["engines"]]
    assert speeds == [30.0, 10.0]


def test_plan_is_written_once_and_kept(tmp_path: Path) -> None:
    first = make_plan(tmp_path, "per_node", engines("jw2"), {"jw2": rates(10, 8, jw2=10.0)})
    assert (first["changed"], first["diff"]["before"]) == (True, "")
    stored = json.loads((tmp_path / "r1" / "plan.json").read_text())
    assert stored == first["plan"]
    assert stored["calibration"]["jw2"]["target_qps"] == 8
    again = make_plan(tmp_path, "per_node", engines("jw2"), {"jw2": rates(1, 1, jw2=1.0)})
    assert (again["changed"], again["plan"]) == (False, stored)


def test_check_mode_takes_speeds_of_the_last_comparable_run_and_names_it(tmp_path: Path) -> None:
    nodes = engines("jw2", "jw3")
    make_plan(tmp_path, "fleet", nodes, {"jw2": rates(9, 7.0, jw2=5.0, jw3=4.0)}, run_id="old", folder="old")
    make_plan(tmp_path, "fleet", nodes, {"jw2": rates(16, 12.0, jw2=10.0, jw3=6.0)}, run_id="new", folder="new")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "plan.json").write_text('{"calibration": {"jw2": {}}}')
    result = make_plan(tmp_path, "fleet", nodes, {}, check=True, mode="performance", target_qps=3.0)
    assert "speeds taken from run new" in result["text"]
    (warning,) = result["warnings"]
    assert "plan.json is damaged" in warning and f"it is skipped: look into {tmp_path / 'damaged'}" in warning
    assert result["plan"]["nodes"]["jw2"]["samples_per_s"] == 10.0
    assert not (tmp_path / "r1").exists()


@pytest.mark.parametrize(
    "differs",
    [
        {"scenario": "offline"}, {"samples": 601}, {"topology": "per_node"}, {"settings": {"jw3": "other"}},
        {"nodes": engines("jw2", "x")}, {"nodes": engines("jw2")},
        {"nodes": {**engines("jw2"), "jw3": [{"name": "jw3", "url": "http://jw3:8102"}]}},
    ],
    ids=lambda differs: "-".join(differs),
)  # fmt: skip
def test_speeds_measured_under_other_conditions_are_not_taken(tmp_path: Path, differs: dict[str, Any]) -> None:
    same = {"topology": "fleet", "nodes": engines("jw2", "jw3")}
    calibration = {"jw2": rates(16, 12.0, jw2=10.0, jw3=6.0, x=6.0)}
    make_plan(tmp_path, calibration=calibration, run_id="old", folder="old", **{**same, **differs})
    result = make_plan(tmp_path, calibration={}, check=True, **same)
    assert "no comparable earlier run" in result["text"]
    assert all(row["samples_per_s"] is None for row in result["plan"]["nodes"].values())


def test_check_mode_reports_missing_speeds(tmp_path: Path) -> None:
    for topology in ("fleet", "per_node"):
        result = make_plan(tmp_path, topology, engines("jw2", "jw3"), {}, check=True)
        assert "no comparable earlier run" in result["text"]
        assert all(row["hours_samples"] is None for row in result["plan"]["nodes"].values())


def test_a_node_without_answers_in_calibration_is_an_error(tmp_path: Path) -> None:
    calibration = {"jw2": rates(10, 8.0, jw2=10.0), "jw3": rates(0, 0.0, jw3=0.0)}
    for topology in ("per_node", "fleet"):
        with pytest.raises(Failed, match="no sample finished on jw3"):
            make_plan(tmp_path, topology, engines("jw2", "jw3"), calibration)
    assert not (tmp_path / "r1" / "plan.json").exists()


def test_nothing_is_planned_where_no_host_has_calibrated(tmp_path: Path) -> None:
    result = make_plan(tmp_path, "fleet", engines("jw2"), {})
    assert (result["changed"], result["skipped"]) == (False, True)
    assert not (tmp_path / "r1").exists()


def test_no_ready_node_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="no node has an engine that is ready"):
        make_plan(tmp_path, "fleet", {}, {}, check=True)


def test_a_plan_of_more_than_a_day_must_be_allowed(tmp_path: Path) -> None:
    calibration = {"jw2": rates(0.02, 0.01, jw2=0.02)}
    with pytest.raises(Failed, match=r"may take 204 h, which is more than a day.*allow_long=true"):
        make_plan(tmp_path, "fleet", engines("jw2"), calibration)
    assert make_plan(tmp_path, "fleet", engines("jw2"), calibration, allow_long=True)["plan"]["loadgens"] == ["jw2"]


def test_a_plan_has_the_longest_request_of_each_engine(tmp_path: Path) -> None:
    calibration = {"jw2": {**rates(10, 8.0, jw2=10.0), "slowest_s": {"jw2": 7.5}}}
    (engine,) = make_plan(tmp_path, "fleet", engines("jw2"), calibration)["plan"]["nodes"]["jw2"]["engines"]
    assert engine["slowest_s"] == 7.5


@pytest.mark.parametrize(
    ("slowest_s", "most_s", "timeout_s"),
    [(None, 600, 600), (1.0, 600, 60), (20.0, 600, 200), (90.0, 600, 600), (9, 5, 5)],
)
def test_a_request_may_take_ten_times_the_longest_of_the_calibration(
    slowest_s: float | None, most_s: float, timeout_s: float
) -> None:
    """Fault: an engine that takes a request and never answers it."""
    engine = EngineRef(name="e", url="http://e:1", slowest_s=slowest_s)
    assert engine.request_timeout_s(most_s) == timeout_s
