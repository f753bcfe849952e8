"""Modules: documentation equals arguments; check mode, diff and changed are correct; errors have both values."""

import ast
import json
import os
import re
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import yaml
from ansible import constants, context
from ansible.plugins.loader import action_loader

from harness import state_file
from harness.benchmark.public_settings import Asked
from harness.engine.config import parse_config
from tests.unit.ansible_modules import (
    PLUGINS,
    Failed,
    argument_spec,
    call,
    call_module,
    documentation,
    load,
    step_options,
)
from tests.unit.results_tree import benchmark

CONFIG = {"port": 8101, "model": "/no/such/model"}
NAMES = sorted(path.stem for path in (PLUGINS / "modules").glob("*.py"))
WITH_MAIN = [name for name in NAMES if hasattr(load(name), "main")]
STEPS = sorted(
    stem for path in (PLUGINS / "action").glob("*.py") if (stem := path.stem) not in NAMES and "_base" not in stem
)


def documented(options: dict[str, Any]) -> dict[str, Any]:
    """Documentation of options in the form of an argument spec."""
    spec = {}
    for name, option in options.items():
        fields = {key: option[key] for key in ("type", "elements", "choices", "default", "required") if key in option}
        if "suboptions" in option:
            fields["options"] = documented(option["suboptions"])
        spec[name] = fields
    return spec


@pytest.mark.parametrize("name", WITH_MAIN)
def test_documentation_equals_argument_spec(name: str) -> None:
    described = documentation(name)
    spec, supports_check_mode = argument_spec(name)
    for option in spec.values():
        option.pop("no_log", None)
    assert documented(described["options"]) == spec
    assert described["module"] == name
    assert (described["attributes"]["check_mode"]["support"] == "full") is supports_check_mode


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(WITH_MAIN)))
def test_modules_without_code_for_nodes_are_action_plugins(name: str) -> None:
    options = documentation(name)["options"]
    assert load("mlperf_base", "action").documented_options(name) == documented(options)
    assert issubclass(load(name, "action").ActionModule, action_loader.get("mlperf_base", class_only=True))


@pytest.mark.parametrize("name", STEPS)
def test_steps_without_a_module_document_their_options_themselves(name: str) -> None:
    plugin = load(name, "action").ActionModule
    assert issubclass(plugin, action_loader.get("mlperf_base", class_only=True))
    assert plugin.__doc__ and plugin.work.__doc__
    assert all(option["description"] and option["type"] for option in step_options(name).values())


@pytest.mark.parametrize("name", NAMES)
def test_examples_use_the_module_with_options_it_has(name: str) -> None:
    module = load(name)
    options = documentation(name)["options"]
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
        yield from ((name, options) for name, options in content.items() if name in NAMES + STEPS)
        for value in content.values():
            yield from module_calls(value)


def test_tasks_use_options_that_modules_have() -> None:
    files = [file for folder in ("roles", "playbooks") for file in (PLUGINS.parent / folder).rglob("*.yml")]
    uses = [(file, *use) for file in files for use in module_calls(yaml.safe_load(file.read_text()))]
    assert uses
    for file, name, task_arguments in uses:
        options = documentation(name).get("options", {}) if name in NAMES else step_options(name)
        required = {key for key, option in options.items() if option.get("required")}
        assert required <= set(task_arguments or ()) <= set(options), f"{name} in {file}"


@pytest.mark.parametrize("path", sorted(PLUGINS.glob("module*/*.py")), ids=lambda path: path.stem)
def test_imports_the_standard_library_and_ansible_alone(path: Path) -> None:
    tree = ast.parse(path.read_text())
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    foreign = {name.split(".")[0] for name in names} - set(sys.stdlib_module_names)
    assert foreign <= {"ansible", "mlperf_pip_failure", "mlperf_state_file"}


def ruff_for_3_9(*files: Path) -> subprocess.CompletedProcess[str]:
    """What ruff says of files as Python 3.9: syntax that it lacks, and annotations that it cannot evaluate."""
    command = [Path(sys.executable).with_name("ruff"), "check", "--isolated", "--no-cache", "--target-version=py39"]
    return subprocess.run([*command, "--select=E9,F,FA102", *files], capture_output=True, text=True)


def test_what_nodes_get_parses_as_python_3_9() -> None:
    result = ruff_for_3_9(*(path.resolve() for path in PLUGINS.glob("module*/*.py")))
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("text", ["match 1:\n    case 1:\n        pass\n", "def f(x: int | None): ...\n"])
def test_newer_python_is_noticed(tmp_path: Path, text: str) -> None:
    (tmp_path / "new.py").write_text(text)
    assert ruff_for_3_9(tmp_path / "new.py").returncode == 1


@pytest.fixture
def harness(tmp_path: Path) -> Path:
    """A stand-in for the command: records its calls, and prints answer.json."""
    command = tmp_path / "harness"
    command.write_text(
        textwrap.dedent(f"""\
            #!{sys.executable}
            import json, pathlib, sys
            here = pathlib.Path(__file__).parent
            stdin = sys.stdin.read() if "-" in sys.argv or "up" in sys.argv else ""
            with (here / "calls.jsonl").open("a") as stream:
                stream.write(json.dumps([sys.argv[1:], stdin and json.loads(stdin)]) + "\\n")
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
    ("state", "desired", "changed"),
    [(None, "up", True), ("ready", "up", False), ("failed", "up", True), ("stopped", "up", True),
     (None, "down", False), ("ready", "down", True), ("starting", "down", True), ("stopped", "down", False)],
)  # fmt: skip
def test_engine_check_mode_calls_nothing_and_tells_the_truth(
    harness: Path, state: str | None, desired: str, changed: bool
) -> None:
    if state:
        write_engine(harness.parent / "root", state)
    result = call("mlperf_engine", engine(harness, state=desired), check=True)
    assert result["changed"] is changed
    assert (result["diff"]["before"] != result["diff"]["after"]) is changed
    assert calls(harness) == []


def test_engine_check_mode_reports_what_would_prevent_a_start(harness: Path) -> None:
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


def test_a_missing_command_is_reported_with_how_to_install_it(harness: Path) -> None:
    with pytest.raises(Failed, match=r"run site\.yml"):
        call("mlperf_engine", engine(harness, command=["/nowhere/python", "-m", "harness"]))


def write_run(root: Path, run_id: str, state: str, **more: Any) -> None:
    folder = root / "runs" / run_id
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "run_id": run_id, "state": state, "pid": os.getpid(), "boot_id": boot_id(), "started_unix": time.time(),
        "updated_uptime_s": state_file.uptime_s(), **more,
    }  # fmt: skip
    (folder / "status.json").write_text(json.dumps(record))


def run(harness: Path, **more: Any) -> dict[str, Any]:
    return {
        "command": [str(harness)], "root": str(harness.parent / "root"), "run_id": "r1", "spec": {"samples": 5}, **more
    }  # fmt: skip


def test_run_starts_and_reports_a_change(harness: Path) -> None:
    answer(harness, {"changed": True, "state": "running"})
    result = call("mlperf_run", run(harness))
    assert (result["changed"], result["state"]) == (True, "running")
    assert result["diff"] == {"before": {"state": "absent"}, "after": {"state": "started"}}
    ((argv, stdin),) = calls(harness)
    assert argv[:3] == ["start", "--spec", "-"]
    assert "--check" not in argv
    assert stdin == {"samples": 5, "run_id": "r1"}


def test_run_that_exists_changes_nothing(harness: Path) -> None:
    write_run(harness.parent / "root", "r1", "finished")
    answer(harness, {"changed": False, "state": "finished"})
    result = call("mlperf_run", run(harness))
    assert result["changed"] is False
    assert result["diff"]["before"] == result["diff"]["after"] == {"state": "finished"}


@pytest.mark.parametrize(
    ("state", "resumed"), [("failed", True), ("stopped", True), ("finished", False), ("running", False), (None, False)]
)
def test_only_a_run_without_a_result_is_resumed(harness: Path, state: str | None, resumed: bool) -> None:
    if state:
        write_run(harness.parent / "root", "r1", state)
    answer(harness, {"changed": True, "state": "running"})
    call("mlperf_run", run(harness, resume=True))
    call("mlperf_run", run(harness))
    (first, _), (second, _) = calls(harness)
    assert ("--resume" in first, "--resume" in second) == (resumed, False)


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
def test_run_stop_calls_the_command_only_while_something_runs(harness: Path, state: str | None, changed: bool) -> None:
    if state:
        write_run(harness.parent / "root", "r1", state)
    answer(harness, {"changed": True, "state": "stopped"})
    assert call("mlperf_run", run(harness, state="stopped"), check=True)["changed"] is changed
    assert calls(harness) == []
    assert call("mlperf_run", run(harness, state="stopped"))["changed"] is changed
    assert len(calls(harness)) == changed


def test_run_info_recognises_dead_and_silent_processes(tmp_path: Path) -> None:
    write_run(tmp_path, "well", "running", started_unix=1)
    write_run(tmp_path, "dead", "running", pid=4_194_305, started_unix=2)
    write_run(tmp_path, "silent", "running", updated_uptime_s=state_file.uptime_s() - 31, started_unix=3)
    write_run(tmp_path, "rebooted", "running", boot_id="other", started_unix=4)
    # Its process id is another process's by now.
    write_run(tmp_path, "recycled", "running", pid_born=state_file.start_tick(os.getpid()) - 1, started_unix=5)
    write_run(tmp_path, "waiting", "waiting", pid_born=state_file.start_tick(os.getpid()), started_unix=6)
    states = {
        name: call("mlperf_run_info", {"root": str(tmp_path), "run_id": name}) for name in ("dead", "silent", "no")
    }
    assert states["dead"]["running"] == ["well", "silent", "waiting"]
    # A calibration counts as the run that it is for.
    for run_id in ("waiting.calibration", "other.calibration"):
        write_run(tmp_path, run_id, "running", started_unix=7)
    assert call("mlperf_run_info", {"root": str(tmp_path)})["running"] == ["well", "silent", "waiting", "other"]
    assert states["dead"]["state"] == "failed"
    assert "died" in states["dead"]["run"]["reason"]
    assert states["silent"]["state"] == "silent"
    assert "no heartbeat for 31 s" in states["silent"]["run"]["reason"]
    assert (states["no"]["state"], states["no"]["run"]) == ("absent", {})


def test_engine_info_lists_engines_and_names_a_damaged_file(tmp_path: Path) -> None:
    write_engine(tmp_path, "ready")
    assert [engine["state"] for engine in call("mlperf_engine_info", {"root": str(tmp_path)})["engines"]] == ["ready"]
    (tmp_path / "engines" / "two").mkdir()
    (tmp_path / "engines" / "two" / "engine.json").write_text("{")
    result = call("mlperf_engine_info", {"root": str(tmp_path)})
    assert [engine["name"] for engine in result["engines"]] == ["one"]
    assert re.search(r"engine\.json is not JSON.*look into \S*engines/two", result["warnings"][0])


@pytest.mark.parametrize(
    ("given", "typed"),
    [
        ({}, "ansible-playbook playbooks"),
        ({"inventory": ["/a b"], "subset": "!jw3"}, "ansible-playbook -i '/a b' --limit '!jw3' playbooks"),
    ],
)  # fmt: skip
def test_a_folder_in_use_is_refused_with_the_command_that_ends_its_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], typed: str
) -> None:
    inventory = {"inventory": constants.DEFAULT_HOST_LIST, "subset": None}
    monkeypatch.setattr(context, "CLIARGS", {**inventory, **given})
    # The engines and runs are another node's, on the same machine.
    arguments = {"path": "/env", "root": str(tmp_path / "own"), "command": ["/env/harness"]}
    hosts = {"n1": {}, "n2": {"harness_root": str(tmp_path)}}
    variables = {"groups": {"gpu_nodes": list(hosts)}, "hostvars": hosts}
    write_engine(tmp_path, "ready", kind="endpoint")
    write_run(tmp_path, "r1", "finished")
    assert call("mlperf_in_use", arguments, variables=variables)["changed"] is False
    write_engine(tmp_path, "ready", log="")
    down = rf"/env is in use by engine one: take it down with `/env/harness engine down one --root {tmp_path}`"
    with pytest.raises(Failed, match=f"{down}, then try again"):
        call("mlperf_in_use", arguments, variables=variables)
    write_run(tmp_path, "r2", "running")
    with pytest.raises(Failed) as refused:
        call("mlperf_in_use", arguments, check=True, variables=variables)
    assert f"in use by run r2: wait for its end, or end it with `{typed}/stop.yml -e run_id=r2`" in str(refused.value)
    assert refused.value.result["exit"] == 3


def test_doctor_fails_with_advice_and_returns_warnings(harness: Path) -> None:
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


def test_the_package_depends_on_content_only(tmp_path: Path) -> None:
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


def test_collect_lists_files_as_they_were_when_listed(tmp_path: Path) -> None:
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


def test_report_returns_whether_files_changed(tmp_path: Path) -> None:
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


def test_report_drops_what_was_overruled_and_restores_what_was_deleted(tmp_path: Path) -> None:
    """Faults: a run that was given up has finished; the results folder was deleted during the run."""
    results = benchmark(tmp_path / "results")
    lost = {"host": "jw2", "phase": "run", "reason": "jw2 has not answered", "log": None, "lost": True}
    died = {"host": "jw3", "phase": "engine", "reason": "it died", "log": None, "lost": False}
    (results / "failures.json").write_text(json.dumps([lost, died]))
    plan = json.loads((results / "plan.json").read_text())
    (results / "plan.json").unlink()
    asked = Asked().model_dump(mode="json")
    request = {
        "run_id": "r1", "asked": asked, "directory": str(results), "begun": True, "ended": True, "plan": plan,
        "nodes": ["jw2", "jw3"], "topology": "fleet", "loadgen_hosts": ["jw2"],
    }  # fmt: skip
    arguments = {"path": str(results), "failures": [], "ended": True, "overruled": [lost]}
    report = call("mlperf_report", {**arguments, "request": request, "plan": plan})
    assert report["failures"] == ["jw3 | engine | it died"]
    assert json.loads((results / "failures.json").read_text()) == [died]
    assert json.loads((results / "plan.json").read_text()) == plan
    assert json.loads((results / "request.json").read_text())["asked"] == asked


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
