"""Requests to benchmark.yml, and which of them are refused before anything is changed."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible import constants, context

from harness.benchmark import earlier, failures, public_settings, request
from harness.benchmark.request import Request
from harness.errors import BadInput
from tests.conftest import REPOSITORY
from tests.unit.ansible_modules import Failed, call

ASKED = {
    "scenario": "server", "mode": "both", "samples": 600, "target_qps": "auto", "rate_attempts": 4,
    "peak_budget_minutes": None,
    "on_engine_loss": "continue", "allow_long": False,
    "repeats": 1, "restart_engines": False, "baseline": None, "regression_percent": None,
    "topology": "fleet", "launcher": "process",
}  # fmt: skip


def ask(results: Path, nodes: tuple[str, ...] = ("node1", "node2"), **more: Any) -> dict[str, Any]:
    controllers, forks = more.pop("controllers", []), more.pop("forks", 20)
    return call(
        "mlperf_request",
        {
            "given": more, "defaults": {"samples": 600}, "nodes": list(nodes), "controllers": controllers,
            "forks": forks, "results": str(results),
        },
    )  # fmt: skip


def begin(
    results: Path,
    run_id: str,
    request: dict[str, Any] | None = None,
    origin: dict[str, Any] | None = None,
    **files: Any,
) -> None:
    folder = results / run_id
    folder.mkdir(parents=True)
    content = {"schema": 1, "run_id": run_id, "asked": request or ASKED, "nodes": ["node1", "node2"]}
    content |= {"origin": origin} if origin else {}
    (folder / "request.json").write_text(json.dumps(content))
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))


def test_defaults_and_a_descriptive_name(tmp_path: Path) -> None:
    result = ask(tmp_path)
    assert result["asked"] == ASKED
    assert result["run_id"].endswith("-server-600")
    assert result["directory"] == str(tmp_path / result["run_id"])
    assert (result["begun"], result["ended"], result["plan"]) == (False, False, {})
    assert not list(tmp_path.iterdir())


def test_strings_of_the_command_line_become_values(tmp_path: Path) -> None:
    values = ask(tmp_path, samples="50", target_qps="7.5", scenario="offline", mode="accuracy")["asked"]
    assert (values["samples"], values["target_qps"], values["scenario"], values["mode"]) == (
        50,
        7.5,
        "offline",
        "accuracy",
    )


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("samples", "0", "samples = '0'"), ("samples", "-1", "samples = '-1'"), ("samples", "ten", "samples = 'ten'"),
        ("samples", "20000", "13368"), ("samples", "1.5", "whole number"), ("samples", "٣", "whole number"),
        ("scenario", "singlestream", "server or offline or interactive"), ("mode", "fast", "mode = 'fast'"),
        ("target_qps", "0", "target_qps = '0'"), ("target_qps", "nan", "0.001"), ("target_qps", "inf", "0.001"),
        ("target_qps", "much", "or auto, or peak"), ("peak_budget_minutes", "0", "minutes as a number above 0"),
        ("target_qps", "1e308", "from 0.001 to 13368, the whole data set in a second"),
        ("target_qps", "1e-6", "from 0.001 to 13368"),
        ("target_qps", "0.005", "may take 67 h, which is more than a day"),
        ("allow_long", "perhaps", "give true or false"),
        ("repeats", "0", "give a whole number from 1 to 20"),
        ("regression_percent", "-3", "give a number above 0"),
        ("baseline", "a b", "give a run_id of the results folder, or latest, or pinned"),
        ("on_engine_loss", "wait", "give continue or fail"),
        ("rate_attempts", "0", "= '0': give a whole number from 1 to 10"),
        ("rate_attempts", "11", "1 to 10"), ("rate_attempts", "2.5", "rate_attempts = '2.5'"),
        ("topology", "ring", "fleet or per_node"),
        ("launcher", "slurm", "launcher = 'slurm'"), ("run_id", "a/b", "run_id = 'a/b'"), ("run_id", "../x", "run_id"),
        ("run_id", ".x", "run_id = '.x'"), ("run_id", "x" * 89, "88 at most"),
    ],
)  # fmt: skip
def test_bad_values_are_refused_by_name(tmp_path: Path, setting: str, value: str, message: str) -> None:
    with pytest.raises(Failed, match=message.replace("(", r"\(")):
        ask(tmp_path, **{setting: value})


def test_a_node_alone_in_the_play_runs_everything_itself(tmp_path: Path) -> None:
    result = ask(tmp_path, nodes=("node2",))
    assert (result["topology"], result["loadgen_hosts"]) == ("per_node", ["node2"])
    assert ask(tmp_path, nodes=("node2",), topology="fleet")["topology"] == "per_node"


def test_loadgen_prefers_the_controller_in_a_fleet_only(tmp_path: Path) -> None:
    fleet = ask(tmp_path, controllers=["jw1"])
    assert (fleet["topology"], fleet["loadgen_hosts"]) == ("fleet", ["jw1", "node1", "node2"])
    assert ask(tmp_path, controllers=["jw1"], topology="per_node")["loadgen_hosts"] == ["node1", "node2"]


def test_too_few_forks_and_no_nodes_are_refused(tmp_path: Path) -> None:
    assert ask(tmp_path, forks=1)["run_id"]
    with pytest.raises(Failed, match="forks = 1 is less than the 2 runs"):
        ask(tmp_path, topology="per_node", forks=1)
    with pytest.raises(Failed, match="gpu_nodes"):
        ask(tmp_path, nodes=())


def test_an_unfinished_run_is_named_with_both_choices(tmp_path: Path) -> None:
    begin(tmp_path, "r1")
    with pytest.raises(Failed) as refused:
        ask(tmp_path)
    message = refused.value.result["msg"]
    assert "benchmark.yml -e run_id=r1" in message
    assert "stop.yml -e run_id=r1" in message


def test_printed_commands_carry_what_they_were_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkout = Path(request.__file__).parents[2]
    inventories = (str(checkout / "inventory/jw"), "/etc/more hosts")
    monkeypatch.setattr(context, "CLIARGS", {"inventory": inventories, "subset": "jw2:!jw3"})
    commands = ask(tmp_path, run_id="r1")["commands"]
    given = "ansible-playbook -i inventory/jw -i '/etc/more hosts' --limit 'jw2:!jw3'"
    assert commands == {
        "pick_up": f"{given} benchmark.yml -e run_id=r1",
        "end": f"{given} playbooks/stop.yml -e run_id=r1",
        "resume": f"{given} benchmark.yml -e run_id=r1 -e resume=true",
    }
    monkeypatch.setattr(context, "CLIARGS", {"inventory": constants.DEFAULT_HOST_LIST, "subset": None})
    assert ask(tmp_path, run_id="r1")["commands"]["end"] == "ansible-playbook playbooks/stop.yml -e run_id=r1"


ORIGIN = {"inventory": [], "limit": "", "results": ""}
OTHER = {**ORIGIN, "inventory": ["inventory/jw"]}


def test_an_unfinished_run_of_another_inventory_is_named_only_where_hosts_overlap(tmp_path: Path) -> None:
    begin(tmp_path, "theirs", origin=OTHER)
    warned = ask(tmp_path)
    (warning,) = warned["warnings"]
    assert warning.startswith("run theirs, of another inventory, on hosts of the same names (node1, node2), is not")
    assert "`ansible-playbook -i inventory/jw playbooks/stop.yml -e run_id=theirs`" in warning
    assert warned["others"]["theirs"]["pick_up"] == "ansible-playbook -i inventory/jw benchmark.yml -e run_id=theirs"
    assert ask(tmp_path, nodes=("node9",))["warnings"] == []


def test_a_recorded_request_says_how_its_run_is_picked_up(tmp_path: Path) -> None:
    arguments = {
        "given": {"run_id": "r1"}, "defaults": ASKED, "nodes": ["node1"], "forks": 20, "results": str(tmp_path),
        "record": True,
    }  # fmt: skip
    call("mlperf_request", arguments)
    recorded = json.loads((tmp_path / "r1" / "request.json").read_text())
    assert recorded["origin"] == ORIGIN
    (tmp_path / "r1" / "request.json").write_text(json.dumps({**recorded, "origin": OTHER}))
    (tmp_path / "r1" / "failures.json").write_text("[]")
    assert "`ansible-playbook -i inventory/jw benchmark.yml -e run_id=r1 -e resume=true`" in earlier.how_to_resume(
        tmp_path / "r1"
    )


def test_a_finished_run_does_not_prevent_a_new_one(tmp_path: Path) -> None:
    begin(tmp_path, "r1", failures=[])
    assert ask(tmp_path)["begun"] is False


def test_a_resumed_run_keeps_its_request(tmp_path: Path) -> None:
    begin(tmp_path, "r1", {**ASKED, "samples": 50, "scenario": "offline"}, plan={"loadgens": ["node1"]})
    result = ask(tmp_path, run_id="r1")
    assert (result["asked"]["samples"], result["asked"]["scenario"]) == (50, "offline")
    assert (result["begun"], result["ended"], result["plan"]) == (True, False, {"loadgens": ["node1"]})
    assert ask(tmp_path, run_id="r1", samples="50")["run_id"] == "r1"


def test_same_run_with_other_settings_is_refused_with_both_values(tmp_path: Path) -> None:
    begin(tmp_path, "r1")
    with pytest.raises(
        Failed, match=r"samples: existing 600, requested 50; target_qps: existing 'auto', requested 3\.0"
    ):
        ask(tmp_path, run_id="r1", samples="50", target_qps="3")
    with pytest.raises(Failed, match="it has node1, node2, this play has node1"):
        ask(tmp_path, nodes=("node1",), run_id="r1")


def test_a_directory_that_is_not_a_result_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    with pytest.raises(Failed, match="something else"):
        ask(tmp_path, run_id="mine")


def test_damaged_request_is_named(tmp_path: Path) -> None:
    begin(tmp_path, "r1")
    (tmp_path / "r1" / "request.json").write_text("{")
    with pytest.raises(Failed, match=r"request\.json is not JSON"):
        ask(tmp_path, run_id="r1")


def test_fewer_samples_than_nodes_are_refused_for_shares_only(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="samples = 1: give at least one for each of the 2 nodes") as refused:
        ask(tmp_path, samples="1", topology="per_node")
    assert refused.value.result["exit"] == 2
    assert ask(tmp_path, samples="1", topology="fleet")["asked"]["samples"] == 1


def test_attempts_need_an_automatic_rate(tmp_path: Path) -> None:
    assert ask(tmp_path, rate_attempts="2")["asked"]["rate_attempts"] == 2
    for other in ({"target_qps": "7"}, {"scenario": "offline"}, {"mode": "accuracy"}):
        with pytest.raises(Failed, match="rate_attempts = 2: a performance run is repeated only with target_qps=auto"):
            ask(tmp_path, rate_attempts="2", **other)
        assert ask(tmp_path, **other)["run_id"]


def test_peak_needs_a_scenario_with_latency_limits(tmp_path: Path) -> None:
    result = ask(tmp_path, target_qps="peak", peak_budget_minutes="90")
    assert (result["asked"]["target_qps"], result["asked"]["peak_budget_minutes"]) == ("peak", 90.0)
    assert result["attempts_most"] == 1
    for other, message in (
        ({"scenario": "offline"}, "target_qps = peak: scenario offline has no latency limit"),
        ({"mode": "accuracy"}, "target_qps = peak: mode accuracy has no performance run"),
        ({"samples": "458"}, "459 queries at least, and samples = 458"),
        ({"topology": "per_node"}, "target_qps = peak: 2 nodes would each search on their own"),
        ({"rate_attempts": "2"}, "rate_attempts = 2: a performance run is repeated only with target_qps=auto"),
        (
            {"target_qps": "auto", "peak_budget_minutes": "9"},
            "peak_budget_minutes = 9: only target_qps=peak has a budget",
        ),
    ):
        with pytest.raises(Failed, match=message) as refused:
            ask(tmp_path, **{"target_qps": "peak", **other})
        assert refused.value.result["exit"] == 2
    assert ask(tmp_path, ("node1",), target_qps="peak", topology="per_node")["topology"] == "per_node"


def test_a_run_of_an_older_version_is_resumed(tmp_path: Path) -> None:
    begin(tmp_path, "r1", {name: value for name, value in ASKED.items() if name != "rate_attempts"})
    assert ask(tmp_path, run_id="r1")["asked"] == ASKED


def test_settings_alone_can_be_checked(tmp_path: Path) -> None:
    assert call("mlperf_request", {"given": {"samples": ""}}) == {"changed": False}
    assert call("mlperf_request", {"given": {"samples": "838"}})["changed"] is False
    with pytest.raises(Failed, match="samples = '13369': give a whole number from 1 to 13368"):
        call("mlperf_request", {"given": {"samples": "13369"}})


def test_a_misspelt_setting_is_refused_where_settings_alone_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ansible.utils.vars.load_extra_vars", lambda loader: {"sampels": "50"})
    with pytest.raises(Failed, match="there is no setting sampels"):
        call("mlperf_request", {"given": {"samples": ""}})


def test_no_setting_of_a_role_passes_for_a_misspelt_one() -> None:
    files = [*(REPOSITORY / "roles").glob("*/defaults/main.yml")]
    names = {name for file in files for name in yaml.safe_load(file.read_text()) or {} if not name.startswith("__")}
    assert len(names) > 100
    names -= {"results_regression_percent"}  # follows from the setting that the refusal names
    public_settings.reject_misspelt({*names, "bundle", "doctor_file", "confirm", "from", "runs", "name"}, [])


def test_calibration_is_a_run_named_after_the_benchmark(tmp_path: Path) -> None:
    assert ask(tmp_path, run_id="r1")["calibration_id"] == "r1.calibration"


def test_request_is_recorded_once(tmp_path: Path) -> None:
    folder = tmp_path / "r1"
    arguments = {
        "given": {"run_id": "r1"}, "defaults": {**ASKED, "samples": 5}, "nodes": ["jw2"], "forks": 5,
        "results": str(tmp_path), "record": True,
    }  # fmt: skip
    assert call("mlperf_request", arguments, check=True)["changed"] is True
    assert not folder.exists()
    assert call("mlperf_request", arguments)["changed"] is True
    stored = {"schema": 1, "run_id": "r1", "asked": {**ASKED, "samples": 5}, "nodes": ["jw2"], "origin": ORIGIN}
    assert json.loads((folder / "request.json").read_text()) == stored
    assert call("mlperf_request", {**arguments, "defaults": {}})["changed"] is False
    assert json.loads((folder / "request.json").read_text()) == stored


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sampels", "there is no setting sampels (did you mean samples?)"),
        ("targetqps", "did you mean target_qps?"),
        ("harness_resluts", "did you mean harness_results?"),
        ("harness_something", "there is no setting harness_something; docs/settings.md"),
    ],
)
def test_a_misspelt_setting_is_refused(name: str, message: str) -> None:
    with pytest.raises(BadInput, match=re.escape(message)):
        public_settings.reject_misspelt(["samples", name], ["harness_results", "harness_root"])


def test_variables_of_others_are_no_settings_of_ours() -> None:
    given = [*public_settings.PUBLIC, "harness_root", "ansible_python_interpreter", "submitter", "site_owner"]
    public_settings.reject_misspelt(given, ["harness_results", "harness_root"])
    public_settings.reject_misspelt(given, [])


def test_a_folder_that_was_deleted_during_a_run_may_hold_what_was_written_since(tmp_path: Path) -> None:
    """Fault: the results folder is deleted during a run."""
    (tmp_path / "r1" / "nodes").mkdir(parents=True)
    (tmp_path / "r1" / "progress.jsonl").write_text("")
    assert ask(tmp_path, run_id="r1")["begun"] is False


@pytest.mark.parametrize(
    ("state", "overruled"),
    [
        ("finished", ["run", "engines down"]), ("running", ["run", "engines down"]), ("failed", []),
        ("absent", ["engines down"]), ("lost", []),
    ],
)  # fmt: skip
def test_a_finished_run_overrules_what_was_noted_of_its_host(tmp_path: Path, state: str, overruled: list[str]) -> None:
    """Fault: a node does not answer for minutes, and its run goes on."""
    begin(tmp_path, "r1")
    noted = [
        {"host": "node1", "phase": "run", "reason": "node1 has not answered for 2m", "lost": True},
        {"host": "node1", "phase": "engines down", "reason": "node1 became unreachable", "lost": True},
        {"host": "node1", "phase": "engine", "reason": "engine node1 was killed", "lost": False},
        {"host": "node2", "phase": "run", "reason": "node2 has not answered for 2m", "lost": True},
    ]
    if state == "absent":
        noted[0]["lost"] = False
    (tmp_path / "r1" / "failures.json").write_text(json.dumps(noted))
    request = Request.of(ask(tmp_path, run_id="r1"))
    assert [failure["phase"] for failure in failures.overruled(request.failures, "node1", state)] == overruled


def test_more_than_a_day_is_allowed_when_asked_for(tmp_path: Path) -> None:
    assert ask(tmp_path, target_qps="0.005", allow_long="true")["asked"]["allow_long"] is True
    with pytest.raises(Failed, match="may take 25 h, which is more than a day"):
        ask(tmp_path, target_qps="peak", peak_budget_minutes="1500")


def fail(results: Path, run_id: str = "r1", **states: str) -> Path:
    """A run that was brought to its end, with the states of its LoadGens."""
    failures = [{"host": "node1", "phase": "run", "reason": "harness died", "log": None}]
    begin(results, run_id, failures=failures, plan={"loadgens": list(states)}, progress=[])
    for host, state in states.items():
        folder = results / run_id / "nodes" / host
        folder.mkdir(parents=True)
        (folder / "status.json").write_text(json.dumps({"state": state}))
    return results / run_id


def test_a_run_without_a_result_is_resumed_only_when_asked_for(tmp_path: Path) -> None:
    fail(tmp_path, node1="finished", node2="failed")
    assert (ask(tmp_path, run_id="r1")["ended"], ask(tmp_path, run_id="r1")["resume"]) == (True, False)
    for value in ("true", True, "yes", "1"):
        request = ask(tmp_path, run_id="r1", resume=value)
        assert (request["begun"], request["ended"], request["resume"]) == (True, False, True)
        assert request["plan"] == {"loadgens": ["node1", "node2"]}


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"resume": "true"}, "resume = true: give the run_id of the run that is to be resumed"),
        ({"resume": "maybe", "run_id": "r1"}, "resume = 'maybe': give true or false"),
        ({"resume": "true", "run_id": "never"}, "run_id never was never begun, so there is nothing to resume"),
        ({"resume": "true", "run_id": "r1"}, r"run r1 has finished, so there is nothing to resume: see .*report\.md"),
        ({"resume": "true", "run_id": "r2", "samples": "50"}, "samples: existing 600, requested 50"),
    ],
)
def test_what_cannot_be_resumed_is_refused(tmp_path: Path, more: dict[str, str], says: str) -> None:
    fail(tmp_path, "r1", node1="finished")
    fail(tmp_path, "r2", node1="failed")
    with pytest.raises(Failed, match=says):
        ask(tmp_path, **more)


def test_recording_a_resumed_run_moves_aside_what_was_collected(tmp_path: Path) -> None:
    folder = fail(tmp_path, node1="failed")
    arguments = {
        "given": {"run_id": "r1", "resume": "True"}, "defaults": ASKED, "nodes": ["node1", "node2"], "forks": 20,
        "results": str(tmp_path), "record": True,
    }  # fmt: skip
    assert call("mlperf_request", arguments, check=True)["changed"] is True
    assert (folder / "failures.json").exists()
    assert call("mlperf_request", arguments)["changed"] is True
    assert sorted(path.name for path in folder.iterdir()) == ["interrupted", "plan.json", "request.json"]
    aside = folder / "interrupted" / "1"
    assert sorted(path.name for path in aside.iterdir()) == ["failures.json", "nodes", "progress.json"]
    assert ask(tmp_path, run_id="r1")["ended"] is False  # it can be picked up like any other
    assert list(earlier.unfinished(tmp_path)[0]) == ["r1"]


def test_a_run_without_a_result_is_offered_to_be_resumed(tmp_path: Path) -> None:
    assert "-e run_id=r1 -e resume=true" in earlier.how_to_resume(fail(tmp_path, "r1", node1="failed"))
    assert earlier.how_to_resume(fail(tmp_path, "r2", node1="finished")) == ""
    assert earlier.how_to_resume(fail(tmp_path, "r3")) != ""  # it failed before there was a plan


@pytest.mark.parametrize(("playbook", "tags", "given", "words"), [
    ("site.yml", "all", "sampels=5", "there is no setting sampels (did you mean samples?)"),
    ("site.yml", "nvidia", "harness_resluts=x", "there is no setting harness_resluts (did you mean harness_results?)"),
    ("site.yml", "all", "samples=13369", "samples = '13369': give a whole number from 1 to 13368"),
    ("playbooks/prepare.yml", "all", "harness_something=x", "there is no setting harness_something"),
])  # fmt: skip
def test_a_wrong_setting_ends_the_preparation_before_any_host_is_looked_at(
    tmp_path: Path, playbook: str, tags: str, given: str, words: str
) -> None:
    hosts = {"hosts": {"h1": {}, "h2": {}}, "vars": {"ansible_host": "host.invalid"}}
    inventory = dict.fromkeys(("cluster", "control_plane", "gpu_nodes", "controller"), hosts)
    (tmp_path / "hosts.json").write_text(json.dumps(inventory))
    command = [Path(sys.executable).with_name("ansible-playbook"), "-i", tmp_path / "hosts.json", playbook]
    result = subprocess.run(
        [*command, "--limit", "h1", "--tags", tags, "-e", given],
        cwd=REPOSITORY,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 2, result.stdout + result.stderr
    assert words in " ".join(result.stdout.split())
    assert result.stdout.count("TASK [") == 1
