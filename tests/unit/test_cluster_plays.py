"""Modules with launcher kubernetes, called as plays call them: correct changed, check mode and diff."""

import contextlib
import io
import json
import os
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

from harness.__main__ import main
from harness.benchmark.engines import on_cluster, reference_on_cluster
from harness.cluster import settings
from harness.errors import BadInput
from tests.cluster import Cluster, Image, scripts
from tests.cluster.kinds import JOB, POD, SECRET
from tests.conftest import REPOSITORY
from tests.unit.ansible_modules import Failed, call, load
from tests.unit.cluster_fixtures import IMAGE, furnish, names, soon
from tests.unit.role_values import value

Result = dict[str, Any]
ROOT = "/var/lib/mlperf"
RUNNING = [scripts.Running(), scripts.Log('{"run_id": "r1", "state": "running", "phase": "performance"}')]
CONFIG = {"kind": "vllm", "model": f"{ROOT}/model", "host": "0.0.0.0", "port": 8000}
SPEC = {
    "model": f"{ROOT}/model",
    "dataset": f"{ROOT}/dataset/cnn_eval.json",
    "samples": 5,
    "node": "jw2",
    "engines": [{"name": "e1", "url": "http://e1:8000"}],
}


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster(as_user=False) as double:
        furnish(double, "n1")
        double.script("engine-*", [scripts.Running(), scripts.Log('{"name": "e1", "kind": "vllm", "state": "ready"}')])
        double.script("run-*", RUNNING)
        yield double


@pytest.fixture
def command(cluster: Cluster) -> list[str]:
    """The command that the role gives to modules, for host jw2, which the cluster knows as n1."""
    request = {"asked": {"launcher": "kubernetes"}, "run_id": "r1"}
    words = value(
        "harness",
        "__harness_command",
        __harness_request=request,
        harness_kubeconfig=str(cluster.kubeconfig()),
        harness_context="",
        harness_image=IMAGE,
        harness_collect="api",
        harness_node="n1",
        inventory_hostname="jw2",
        ansible_playbook_python=sys.executable,
    )
    assert words[:2] == ["env", f"PYTHONPATH={REPOSITORY}"]
    return [*words]


def harness(argv: list[str], data: str | None = None, **more: Any) -> tuple[int, str, str]:
    """Run a command of the harness in this process; one of its own takes a second to start."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    words = argv[argv.index("harness") :]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", words)
        patch.setattr(sys, "stdin", io.StringIO(data or ""))
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
    return code, out.getvalue(), err.getvalue()


def run_task(name: str, arguments: Result, *, check: bool = False) -> Result:
    """A task's result, where the node is this process."""

    def execute(command: str, in_data: bytes | None = None, chdir: str | None = None) -> Result:
        code, out, err = harness(shlex.split(command), (in_data or b"").decode())
        return {"rc": code, "stdout": out, "stderr": err}

    return call(name, arguments, check=check, execute=execute)


def test_engines(cluster: Cluster, command: list[str]) -> None:
    def ask(config: Result = CONFIG, *, state: str = "up", check: bool = False) -> Result:
        common = {"command": command, "root": ROOT, "launcher": "kubernetes", "name": "e1"}
        return run_task("mlperf_engine", {**common, "config": config, "state": state}, check=check)

    checked = ask(check=True)
    assert (checked["changed"], checked["diff"]["after"], names(cluster)) == (True, {"state": "up"}, [])
    first = ask()
    assert (first["changed"], first["diff"]["after"]) == (True, {"state": "up"})
    summary = {key: first["engine"][key] for key in ("name", "url", "max_in_flight")}
    reference = reference_on_cluster(
        {**CONFIG, "name": "e1"}, node="jw2", cluster=settings.Cluster(image=IMAGE), run_id="r1"
    )
    assert summary == {"name": "e1", "url": "http://engine-r1-e1.mlperf.svc:8000", "max_in_flight": 288}
    key = Path("/etc/mlperf-secrets/engine-r1-e1")
    assert reference.model_dump(exclude_none=True) == {**summary, "node": "jw2", "api_key_file": key}
    (secret,) = cluster.all(SECRET)
    for again in (ask(check=True), ask()):
        assert again["changed"] is False
        assert again["diff"]["before"] == again["diff"]["after"]
    for check in (True, False):
        with pytest.raises(Failed, match="max_num_seqs: existing None, requested 8"):
            ask({**CONFIG, "max_num_seqs": 8}, check=check)
    down = ask(state="down", check=True)
    assert (down["changed"], down["diff"]["after"], len(cluster.all(JOB))) == (True, {"state": "down"}, 1)
    assert [ask(state="down")["changed"] for _ in range(2)] == [True, False]
    assert ask(state="down", check=True)["changed"] is False
    assert cluster.all(POD) == []
    # Its key is gone with the engine, and none of these calls has read it.
    assert (secret["metadata"]["name"], cluster.all(SECRET)) == ("engine-r1-e1", [])


def test_runs(cluster: Cluster, command: list[str]) -> None:
    def ask(state: str = "started", *, check: bool = False, **more: Any) -> Result:
        common = {"command": command, "root": ROOT, "launcher": "kubernetes", "run_id": "r1"}
        return run_task("mlperf_run", {**common, "state": state, "spec": {**SPEC, **more}}, check=check)

    def summary(result: Result) -> tuple[bool, str, str, str]:
        diff = result["diff"]
        return result["changed"], result["state"], diff["before"]["state"], diff["after"]["state"]

    assert summary(ask(check=True)) == (True, "absent", "absent", "started")
    assert names(cluster) == []
    assert summary(ask()) == (True, "running", "absent", "started")
    assert summary(ask(check=True)) == summary(ask()) == (False, "running", "running", "running")
    with pytest.raises(Failed, match="samples: existing 5, requested 6") as refused:
        ask(check=True, samples=6)
    assert refused.value.result["diff"] == {"before": {"samples": 5}, "after": {"samples": 6}}
    with pytest.raises(Failed, match="samples: existing 5, requested 6"):
        ask(samples=6)

    assert summary(ask("stopped", check=True)) == (True, "running", "running", "stopped")
    assert summary(ask("stopped")) == (True, "stopped", "running", "stopped")
    assert summary(ask("stopped", check=True)) == summary(ask("stopped")) == (False, "absent", "absent", "absent")
    # Its Job is gone, but its spec is still known.
    assert summary(ask(check=True)) == (True, "absent", "absent", "started")

    cluster.script("run-*", scripts.exits(0, '{"run_id": "r1", "state": "finished"}'))
    ask()
    soon(lambda: "SuccessCriteriaMet" in str(cluster.all(JOB)))
    assert summary(ask(check=True)) == summary(ask()) == (False, "finished", "finished", "finished")
    assert summary(ask("stopped", check=True)) == (False, "finished", "finished", "finished")
    assert ask("released", check=True)["changed"] is True
    assert "ttlSecondsAfterFinished" not in str(cluster.all(JOB))
    assert [ask("released")["changed"] for _ in range(2)] == [True, False]
    assert ask("released", check=True)["changed"] is False


def test_what_runs_on_a_node(cluster: Cluster, command: list[str]) -> None:
    arguments = {"command": command, "root": ROOT, "launcher": "kubernetes", "run_id": "r1"}
    result = run_task("mlperf_run_info", arguments)
    unknown = {"index": 0, "name": None, "memory_mib": None, "compute_capability": None}
    assert (result["state"], result["running"], result["gpus"]) == ("absent", [], [unknown])
    run_task("mlperf_run", {**arguments, "spec": SPEC})
    for check in (True, False):
        result = run_task("mlperf_run_info", arguments, check=check)
        assert (result["changed"], result["state"], result["running"]) == (False, "running", ["r1"])


def test_an_unusable_cluster_is_reported_in_one_sentence(cluster: Cluster, command: list[str]) -> None:
    arguments = {"command": command, "root": ROOT, "launcher": "kubernetes", "engines": [{**CONFIG, "name": "e1"}]}
    assert {
        one["level"] for one in run_task("mlperf_doctor", {**arguments, "spec": {**SPEC, "run_id": "r1"}})["findings"]
    } == {"ok"}
    at = command.index("--node") + 1
    elsewhere = [*command[:at], "n9", *command[at + 1 :]]
    with pytest.raises(Failed) as refused:
        run_task("mlperf_doctor", {**arguments, "command": elsewhere})
    assert refused.value.result["msg"].startswith("node: the cluster has no node n9; set harness_node")
    with pytest.raises(Failed, match=r"kubeconfig /nowhere"):
        run_task("mlperf_doctor", {**arguments, "command": [*command, "--kubeconfig", "/nowhere"]})


def test_watching_survives_an_unavailable_server(
    cluster: Cluster, command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    action = load("mlperf_watch", "action")
    lines: list[str] = []
    monkeypatch.setattr(action.display, "display", lines.append)
    run_task("mlperf_run", {"command": command, "root": ROOT, "launcher": "kubernetes", "run_id": "r1", "spec": SPEC})
    args = {
        "kind": "run", "command": command, "launcher": "kubernetes", "run_id": "r1", "interval_s": 0.5,
        "lost_after_s": 20.0,
    }  # fmt: skip
    task = MagicMock(action="mlperf_watch", check_mode=False, args=args, async_val=0)
    plugin = action.ActionModule(task, *(MagicMock() for _ in range(5)))

    def others() -> None:
        soon(lambda: any("performance" in line for line in lines), 60)
        cluster.down()
        soon(lambda: any("no answer, trying again: the API server" in line for line in lines), 60)
        cluster.up()
        count = len(lines)
        soon(lambda: any("performance" in line for line in lines[count:]), 60)
        cluster.delete_job("run-r1-jw2")

    thread = threading.Thread(target=others)
    thread.start()
    start = time.monotonic()
    result = plugin.run(task_vars={"inventory_hostname": "jw2"})
    thread.join()
    assert result["reason"] == "the Job of run jw2 was deleted by someone; start with another run_id"
    assert (result["state"], result["good"], result["changed"]) == ("failed", False, False)
    assert time.monotonic() - start < 150


@pytest.mark.skipif(os.geteuid() != 0, reason="a pod needs a mount namespace of its own: run as root")
def test_collecting_through_the_api(cluster: Cluster, command: list[str], tmp_path: Path) -> None:
    run, into = tmp_path / "runs" / "r1", tmp_path / "into"
    run.mkdir(parents=True)
    (run / "status.json").write_text('{"state": "finished"}')
    cluster.claim("given", tmp_path / "runs")
    settings = command.index("--settings") + 1
    options = [*command]
    options[settings] = options[settings].replace("{", '{"runs_claim": "given", ', 1)
    arguments = {"command": options, "path": str(into), "directories": [{"source": f"{ROOT}/runs/r1", "target": "run"}]}

    def collect(*, check: bool = False) -> Result:
        return run_task("mlperf_collect", arguments, check=check)

    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        harness = Path(folder, "harness")
        harness.write_text(f'#!/bin/sh\nexec env PYTHONPATH={REPOSITORY} {sys.executable} -m harness "$@"\n')
        harness.chmod(0o755)
        cluster.image(IMAGE, Image((Path(folder),)).path)
        assert collect(check=True)["changed"] is True
        assert not into.exists()
        first, again = collect(), collect()
    assert (first["changed"], first["fetched"]) == (True, ["run/status.json"]), first
    assert first["diff"] == {"before": "", "after": "run/status.json\n"}
    assert (again["changed"], again["fetched"], again["diff"]["after"]) == (False, [], "")
    assert [file["target"] for file in again["files"]] == ["run/status.json"]
    assert subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=into).returncode == 0


@pytest.mark.parametrize(
    ("gpus", "common", "own", "names_of"),
    [
        (2, {}, {}, ["n1-0", "n1-1"]),
        (2, {"tensor_parallel": 2}, {}, ["n1"]),
        (2, {}, {"tensor_parallel": 2}, ["n1"]),
        (5, {"tensor_parallel": 2}, {}, ["n1-0", "n1-1"]),
        (1, {}, {}, ["n1"]),
        (0, {}, {}, ["n1"]),
    ],
)
def test_all_gpus_of_a_node_are_used(gpus: int, common: Result, own: Result, names_of: list[str]) -> None:
    described = [{"name": "n1", "port": 8101, **own}]
    configs = on_cluster(described, common, model="/m", gpus=[{"index": index} for index in range(gpus)])
    assert [one["name"] for one in configs] == names_of
    assert {one.get("tensor_parallel") for one in configs} == {{**common, **own}.get("tensor_parallel")}


@pytest.mark.parametrize(("common", "own"), [({"kind": "endpoint"}, {}), ({}, {"kind": "endpoint"})])
def test_an_endpoint_is_no_engine_of_a_cluster(common: Result, own: Result) -> None:
    described = [{"name": "theirs", "url": "https://llm.example.org", **own}]
    with pytest.raises(BadInput, match="engine theirs: kind endpoint needs launcher=process"):
        on_cluster(described, common, model="/m", gpus=[])


def test_engines_of_many_hosts_come_up_in_waves_and_each_failure_is_its_hosts(
    cluster: Cluster, command: list[str], tmp_path: Path
) -> None:
    furnish_more = [f"n{number}" for number in range(2, 6)]
    for node in furnish_more:
        cluster.node(node, gpus=1)
        for claim in ("runs", "model", "dataset"):
            cluster.claim(f"{claim}-{node}", None, node=node)
    hosts = ["jw2", *furnish_more]

    def note(name: str) -> list[Any]:
        state = {"name": name, "kind": "vllm", "started_unix": 1.0}
        ended = {"state": "failed", "reason": "CUDA out of memory"} if name == "n4" else {"state": "ready"}
        ready = [] if name == "n4" else [scripts.Running()]
        steps = [scripts.Running(ready=False), scripts.Log(json.dumps({**state, "state": "starting"}))]
        return [*steps, scripts.Pause(0.5), scripts.Log(json.dumps({**state, **ended})), *ready]

    for host in hosts:
        cluster.script(f"engine-r1-{host}-*", note(host))
    recorded = {
        host: {
            "__harness_settings": {"engines": [{**CONFIG, "name": host}]},
            "harness_node": "n1" if host == "jw2" else host,
        }
        for host in hosts
    }
    progress = tmp_path / "progress.jsonl"
    result = call(
        "mlperf_cluster_engines",
        {"command": command, "hosts": hosts, "at_once": 2, "interval_s": 0.5, "progress": str(progress)},
        variables={"inventory_hostname": "jw2", "hostvars": recorded},
    )
    good = {host: ended["good"] for host, ended in result["hosts"].items()}
    assert good == dict.fromkeys(hosts, True) | {"n4": False}
    assert "CUDA out of memory" in result["hosts"]["n4"]["reason"]
    assert result["changed"] is True
    looks = [json.loads(line)["status"] for line in progress.read_text().splitlines()]
    first = {name: next(at for at, look in enumerate(looks) if look["name"] == name) for name in hosts}
    ready = {
        name: next(at for at, look in enumerate(looks) if look["name"] == name and look["state"] == "ready")
        for name in hosts[:2]
    }
    assert max(ready.values()) < first["n3"] < first["n5"]


def start_all(hosts: list[str], command: list[str]) -> Result:
    recorded = {host: {"__harness_settings": {"engines": [{**CONFIG, "name": host}]}} for host in hosts}
    return call("mlperf_cluster_engines", {"command": command, "hosts": hosts}, variables={"hostvars": recorded})


def test_no_engines_are_started_where_no_host_is_left() -> None:
    assert start_all([], ["false"])["hosts"] == {}


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (["sh", "-c", "echo no rights to create Jobs >&2; exit 2"], "no rights to create Jobs"),
        (["/absent/harness"], "No such file or directory: '/absent/harness'"),
    ],
)
def test_what_keeps_all_engines_from_starting_is_a_failure_of_each_host(command: list[str], reason: str) -> None:
    hosts = start_all(["n1", "n2"], command)["hosts"]
    assert list(hosts) == ["n1", "n2"]
    assert all(not one["good"] and one["state"] == "failed" and reason in one["reason"] for one in hosts.values())
