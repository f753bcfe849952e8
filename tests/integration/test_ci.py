"""The interface for CI with small playbooks, run by the real ansible-runner."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from harness import ci
from harness.errors import BadInput, NotReady, RunFailed
from harness.files import write_json
from harness.report.build import build
from tests.unit import results_tree
from tests.unit.results_tree import benchmark

REPOSITORY = Path(__file__).resolve().parents[2]
LOOK = {"unix": 1.0, "host": "localhost", "kind": "run", "status": {"phase": "performance"}, "lost": None}
HEAD = "- hosts: localhost\n  connection: local\n  gather_facts: false\n  tasks:\n"


def project(folder: Path, tasks: Sequence[str], stop: Sequence[str] = ()) -> Path:
    """A project whose playbooks run the given tasks."""
    (folder / "playbooks").mkdir(parents=True)
    for name, steps in (("benchmark.yml", tasks), ("playbooks/stop.yml", stop)):
        (folder / name).write_text(HEAD + "".join(f"    - {step}\n" for step in [*steps, "ansible.builtin.meta: noop"]))
    (folder / "ansible.cfg").write_text("[defaults]\ninterpreter_python = auto_silent\nlocalhost_warning = False\n")
    return folder


def shell(command: str) -> str:
    return "ansible.builtin.shell: " + json.dumps(command)


def writes(folder: Path, source: Path) -> list[str]:
    """Tasks that leave two looks and a finished report, as benchmark.yml does."""
    results = f"{folder}/results/{{{{ run_id }}}}"

    return [
        shell(f"mkdir -p {results}; touch {results}/request.json"),
        shell(f"echo '{json.dumps(LOOK)}' >> {results}/progress.jsonl"),
        shell(f"sleep 1; echo '{json.dumps(LOOK)}' >> {results}/progress.jsonl; cp {source}/result.json {results}/"),
    ]


def keep(home: Path) -> None:
    """Write result.json without pages and charts."""
    write_json(home / "result.json", build(home)[0].model_dump(mode="json"))


def finished(folder: Path, **request: object) -> Path:
    """A directory with result.json of a benchmark."""
    home = benchmark(folder, **request)  # type: ignore[arg-type]
    keep(home)
    return home


def test_looks_are_yielded_and_the_result_is_returned(tmp_path: Path) -> None:
    source = finished(tmp_path / "source")
    root = project(tmp_path / "project", writes(tmp_path / "project", source))
    printed: list[str] = []
    run = ci.benchmark(samples=50, project=root, run_id="mine", on_output=printed.append)
    with pytest.raises(RunFailed, match="no result yet"):
        _ = run.result
    assert list(run) == [LOOK, LOOK]
    assert (run.result.verdict.level, run.exit_code) == ("UNOFFICIAL", 0)
    assert run.directory == root / "results" / "mine"
    assert any("PLAY [localhost]" in text for text in printed)


def test_results_that_the_inventory_keeps_elsewhere_are_found(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    steps = [step.replace(f"{root}/results", str(elsewhere)) for step in writes(root, finished(tmp_path / "source"))]
    project(root, [f'mlperf_request: {{directory: "{elsewhere}/mine"}}', *steps])
    (root / "library").mkdir()
    (root / "library" / "mlperf_request.py").write_text(
        "from ansible.module_utils.basic import AnsibleModule\n"
        "module = AnsibleModule(argument_spec={'directory': {'type': 'str'}})\n"
        "module.exit_json(directory=module.params['directory'])\n"
    )
    run = ci.benchmark(samples=50, project=root, run_id="mine")
    assert list(run) == [LOOK, LOOK]
    assert (run.directory, run.exit_code) == (elsewhere / "mine", 0)


def test_looks_arrive_while_it_runs(tmp_path: Path) -> None:
    source = finished(tmp_path / "source")
    root = project(tmp_path / "project", [*writes(tmp_path / "project", source), shell("sleep 6")])
    run = ci.benchmark(project=root)
    arrived = [time.monotonic() for _ in run]
    assert time.monotonic() - arrived[-1] > 2


def test_settings_reach_the_playbook_with_their_types(tmp_path: Path) -> None:
    source = finished(tmp_path / "source")
    root = tmp_path / "project"
    template = "{{ [samples, target_qps, scenario, run_id] | to_json }}"
    write = f"ansible.builtin.copy: {json.dumps({'content': template, 'dest': f'{tmp_path}/settings.json'})}"
    project(root, [write, *writes(root, source)])
    for _ in ci.benchmark(samples=50, target_qps=2.5, scenario="offline", run_id="r1", project=root):
        pass
    assert json.loads((tmp_path / "settings.json").read_text()) == [50, 2.5, "offline", "r1"]


def test_invalid_and_failed_have_exit_codes_of_their_own(tmp_path: Path) -> None:
    invalid = finished(tmp_path / "invalid", pace=results_tree.Pace(tpot_ms=190))
    broken = benchmark(tmp_path / "broken")
    results_tree.write(broken / "failures.json", [{"host": "beta", "phase": "run", "reason": "lost", "log": None}])
    keep(broken)
    slow = finished(tmp_path / "slow")
    results_tree.write(slow / "compare.json", {"gate": {"failed": True}})
    for source, code in ((invalid, 5), (broken, 4), (slow, 6)):
        root = tmp_path / f"project-{code}"
        compared = shell(f"cp {source}/compare.json {root}/results/{{{{ run_id }}}}/ || true")
        project(root, [*writes(root, source), compared, 'ansible.builtin.fail: {msg: "as concluded"}'])
        run = ci.benchmark(project=root)
        for _ in run:
            pass
        assert run.exit_code == code


def test_failure_before_any_result_names_its_cause(tmp_path: Path) -> None:
    root = project(tmp_path / "project", ['ansible.builtin.fail: {msg: "port 8101 is taken"}'])
    with pytest.raises(RunFailed, match="has no result: localhost: port 8101 is taken"):
        list(ci.benchmark(project=root))


@pytest.mark.parametrize(("code", "kind"), [(2, BadInput), (3, NotReady), (4, RunFailed)])
def test_a_refusing_modules_exit_code_says_who_must_act(tmp_path: Path, code: int, kind: type[Exception]) -> None:
    root = tmp_path / "project"
    project(root, ["refuse: {}"])
    (root / "library").mkdir()
    (root / "ansible.cfg").write_text("[defaults]\nlibrary = library\ninterpreter_python = auto_silent\n")
    (root / "library" / "refuse.py").write_text(
        "from ansible.module_utils.basic import AnsibleModule\n"
        f"AnsibleModule(argument_spec={{}}).fail_json(msg='samples 51: there are 50', exit={code})\n"
    )
    with pytest.raises(kind, match="samples 51"):
        list(ci.benchmark(project=root))


def test_an_old_result_is_not_returned_for_a_refused_start(tmp_path: Path) -> None:
    root = project(tmp_path / "project", ['ansible.builtin.fail: {msg: "another spec"}'])
    finished(root / "results" / "taken")
    with pytest.raises(RunFailed, match="another spec"):
        list(ci.benchmark(project=root, run_id="taken"))


def test_leaving_early_ends_the_playbook_and_stops_the_run(tmp_path: Path) -> None:
    source = finished(tmp_path / "source")
    root = tmp_path / "project"
    project(
        root,
        [*writes(root, source), shell(f"sleep 60; touch {tmp_path}/went-on")],
        stop=[shell(f"echo {{{{ run_id }}}} > {tmp_path}/stopped")],
    )
    start = time.monotonic()
    for _ in ci.benchmark(project=root, run_id="mine"):
        break
    assert time.monotonic() - start < 30
    assert (tmp_path / "stopped").read_text().strip() == "mine"
    assert not (tmp_path / "went-on").exists()


def run_command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": f"{REPOSITORY}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    return subprocess.run(
        [sys.executable, "-m", "harness.ci", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
        check=False,
        timeout=120,
    )


def test_command_ends_with_the_verdicts_code(tmp_path: Path) -> None:
    source = finished(tmp_path / "source", pace=results_tree.Pace(tpot_ms=190))
    root = project(tmp_path / "project", writes(tmp_path / "project", source))
    result = run_command("--samples", "50", "--run-id", "mine", cwd=root)
    assert result.returncode == 5, result.stderr
    assert result.stdout.splitlines()[-1] == (
        f"INVALID: {root}/results/mine/report.html, {root}/results/mine/junit.xml")  # fmt: skip
