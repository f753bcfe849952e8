"""Launcher torchx: its component, the completed request, and Jobs of Volcano that look like batch/v1 Jobs."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml
from click.testing import CliRunner
from torchx.runner import get_runner
from torchx.specs import AppState

from harness.cli import cli
from harness.cluster import objects, plain, torchx
from harness.cluster.causes import Cause, Seen
from harness.cluster.diagnosis import diagnose
from harness.cluster.launch import Launcher
from harness.cluster.rights import RIGHTS, VOLCANO
from harness.cluster.settings import Cluster, parse_cluster
from harness.cluster.volcano import TorchxApi, dryrun
from harness.engine import parse_config
from harness.errors import BadInput
from tests.cluster.security import breaches
from tests.unit.role_vars import REPOSITORY

IMAGE = "registry.example.org/mlperf-node@sha256:" + "a" * 64
Object = dict[str, Any]


def cluster(**values: Any) -> Cluster:
    return parse_cluster({"image": IMAGE, **values})


def jobs(
    run_id: str = "June.1", per_node: int = 1, nodes: tuple[str, ...] = ("jw2", "jw3"), **more: Any
) -> list[Object]:
    """The batch/v1 Jobs of a benchmark, with an owner that the cluster knows."""
    where = cluster(**more)
    configs = plain.engines(where, nodes, per_node, {})
    given = {"run_id": run_id, "node": nodes[0], "samples": 600, "scenario": "server", "mode": "both"}
    owner = objects.owner(where, run_id)
    owner["metadata"]["uid"] = "0-1"
    return torchx.jobs_of(plain.things(where, configs, plain.spec(where, configs, given), owner))


def completed(name: str, of: list[Object]) -> Object:
    """The completed request, as a dry run without a cluster gives it."""
    with get_runner() as runner:
        return dict(dryrun(runner, "mlperf", "benchmarks", name, of).request.resource)


def names_of(job: Object) -> list[str]:
    """What Volcano calls the pods of a job."""
    return [f"{job['metadata']['name']}-{task['name']}-0" for task in job["spec"]["tasks"]]


@pytest.mark.parametrize("per_node", [1, 2])
def test_each_task_gets_the_pod_that_the_batch_job_would_have(per_node: int) -> None:
    wanted = jobs(per_node=per_node)
    request = completed("mlperf-june", wanted)
    assert len(request["spec"]["tasks"]) == len(wanted) == 2 * per_node + 1
    for task, job in zip(request["spec"]["tasks"], wanted, strict=True):
        template = job["spec"]["template"]
        assert task["template"]["spec"] == template["spec"]
        assert task["replicas"] == 1
        assert breaches(task["template"]["spec"], "restricted") == ""
        assert template["metadata"]["labels"].items() <= task["template"]["metadata"]["labels"].items()
        assert task["template"]["metadata"]["labels"]["torchx.pytorch.org/version"]
        assert "serviceAccountToken" not in json.dumps(task)
    assert [torchx.node_of(job) for job in wanted] == ["jw2"] * per_node + ["jw3"] * per_node + ["jw2"]
    validated(request)


def validated(request: Object) -> None:
    """What Volcano's definitions and its admission ask of a job."""
    spec = request["spec"]
    assert set(spec) <= {"schedulerName", "queue", "tasks", "maxRetry", "plugins", "minAvailable", "policies"}
    for name in [*(task["name"] for task in spec["tasks"]), *names_of(request), request["metadata"]["name"]]:
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", name), name
    assert len({task["name"] for task in spec["tasks"]}) == len(spec["tasks"])
    assert spec["minAvailable"] <= sum(task["replicas"] for task in spec["tasks"])
    for task in spec["tasks"]:
        for label in task["template"]["metadata"]["labels"].values():
            assert re.fullmatch(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?", label), label


def test_a_job_starts_whole_never_again_and_ends_with_its_run() -> None:
    request = completed("mlperf-june", jobs())
    spec = request["spec"]
    assert (spec["queue"], spec["schedulerName"], spec["minAvailable"]) == ("benchmarks", "volcano", 3)
    # Volcano takes 0 for its default of 3; no policy restarts anything.
    assert spec["maxRetry"] == 1
    assert spec["policies"] == [{"events": ["PodFailed", "PodEvicted"], "action": "TerminateJob"}]
    assert "Restart" not in json.dumps(spec["policies"])
    assert all("maxRetry" not in task for task in spec["tasks"])
    assert [task.get("policies") for task in spec["tasks"]] == [
        None, None, [{"event": "TaskCompleted", "action": "CompleteJob"}],
    ]  # fmt: skip
    assert spec["plugins"] == {}
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "mlperf-june-1-4d8dd7fa", "uid": "0-1"}
    (reference,) = request["metadata"]["ownerReferences"]
    assert reference | {"name": ""} == owner | {"name": ""}
    assert request["metadata"]["namespace"] == "mlperf"
    assert request["metadata"]["annotations"] == {"mlperf/run-id": "June.1"}
    assert "mlperf/node" not in request["metadata"]["labels"]


def test_a_job_is_named_alike_every_time_and_never_too_long() -> None:
    long = jobs(
        "a-very-long-name-of-a-run-that-somebody-has-chosen-0123456789",
        per_node=2,
        nodes=("gpu-node-with-a-long-name-17",),
    )
    first, again = (completed(long[0]["metadata"]["name"], long) for _ in range(2))
    assert first["metadata"]["name"] == again["metadata"]["name"]
    validated(first)
    single = jobs("June.1")[:1]
    request = completed(single[0]["metadata"]["name"], single)
    assert request["metadata"]["labels"]["mlperf/name"] == single[0]["metadata"]["name"]
    assert request["metadata"]["name"].startswith("engine-june-1")


def test_what_torchx_is_told_are_the_jobs_resources_and_claims() -> None:
    app = torchx.application("mlperf-june", jobs(cpu="6500m", memory="24Gi"))
    assert [role.name for role in app.roles] == ["engine-jw2", "engine-jw3", "run-jw2"]
    engine, _, run = app.roles
    assert (engine.resource.cpu, engine.resource.memMB, engine.resource.gpu) == (6, 24 * 1024, 1)
    assert (run.resource.gpu, run.num_replicas, run.max_retries) == (0, 1, 0)
    assert [(mount.src, mount.dst_path, mount.read_only) for mount in engine.mounts] == [
        ("runs-jw2", "/var/lib/mlperf/runs", False),
        ("model-jw2", "/var/lib/mlperf/model", True),
        ("dataset-jw2", "/var/lib/mlperf/dataset", True),
    ]
    assert (engine.image, engine.entrypoint, engine.args[:2]) == (IMAGE, "harness", ["engine", "serve"])


def component(*words: str) -> subprocess.CompletedProcess[str]:
    """`torchx run --dryrun` of the component, in a folder that has nothing to do with it, without a cluster."""
    command = [Path(sys.executable).with_name("torchx"), "run", "--dryrun", "--workspace", "", "--scheduler"]
    command += ["kubernetes", "-cfg", "queue=default,namespace=mlperf"]
    where = f"{REPOSITORY}/harness/cluster/torchx.py:benchmark"
    return subprocess.run([*command, where, *words], cwd="/", capture_output=True, text=True, timeout=60)


def test_the_component_runs_under_torchxs_own_command() -> None:
    given = ("--nodes", "jw2,jw3", "--image", IMAGE, "--samples", "600", "--run_id", "june")
    done = component(*given, "--cluster", '{"memory": "24Gi"}', "--engine", '{"max_num_seqs": 48}')
    assert done.returncode == 0, done.stderr
    request = yaml.safe_load(done.stdout.partition("=== SCHEDULER REQUEST ===")[2])
    tasks = request["spec"]["tasks"]
    assert [task["name"] for task in tasks] == ["engine-jw2-0", "engine-jw3-0", "run-jw2-0"]
    assert tasks[0]["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert request["spec"]["queue"] == "default"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("--engines_per_node", "2"),
            "the engines of node jw2 ask for 2 nvidia.com/gpu, it has 1; lower engines_per_node",
        ),
        (("--engine", '{"tensor_parallel": 4}'), "the engines of node jw2 ask for 4 nvidia.com/gpu, it has 1"),
        (("--cluster", "[]"), "cluster = '[]' must be a JSON object"),
        (("--engine", "x"), "engine = 'x' is not JSON"),
        (("--nodes", "jw2,jw2"), "name each node once"),
    ],
)
def test_the_component_refuses_in_one_sentence(words: tuple[str, str], said: str) -> None:
    given = {"nodes": "jw2", "image": IMAGE, words[0].removeprefix("--"): words[1]}
    given = {key: int(value) if key == "engines_per_node" else value for key, value in given.items()}
    with pytest.raises(BadInput) as refused:
        torchx.benchmark(**given)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_benchmark_is_printed_as_one_job_of_volcano_with_what_its_pods_read() -> None:
    words = ["--node", "jw2", "--node", "jw3", "--image", IMAGE, "--run-id", "june", "--launcher", "torchx"]
    done = CliRunner().invoke(cli, ["manifests", *words])
    assert done.exit_code == 0, done.output
    found = list(yaml.safe_load_all(done.stdout))
    assert [one["kind"] for one in found] == ["ConfigMap", *["ConfigMap", "Service"] * 2, "ConfigMap", "Job"]
    validated(found[-1])
    assert found[-1]["apiVersion"] == "batch.volcano.sh/v1alpha1"
    read = {
        volume["configMap"]["name"]
        for task in found[-1]["spec"]["tasks"]
        for volume in task["template"]["spec"]["volumes"]
        if "configMap" in volume
    }
    assert read == {one["metadata"]["name"] for one in found[1:] if one["kind"] == "ConfigMap"}


class Volcano(ThreadingHTTPServer):
    """An API server with ConfigMaps, Services and jobs of Volcano in one namespace; nothing ever runs on it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Requests)
        self.stored: dict[str, Object] = {}
        self.dry: list[str] = []
        self.logs: dict[str, str] = {}
        self.forbidden: set[str] = set()

    def phase(self, name: str, phase: str) -> None:
        """Have Volcano's controller write a phase."""
        path = f"/apis/batch.volcano.sh/v1alpha1/namespaces/mlperf/jobs/{name}"
        pods = {"Completed": "Succeeded", "Running": "Running", "Pending": "Pending"}.get(phase, "Failed")
        status: Object = {"state": {"phase": phase, "message": "told so"}}
        status["taskStatusCount"] = {"engine-jw2-0": {"phase": {pods: 1}}}
        self.stored[path]["status"] = status


class _Requests(BaseHTTPRequestHandler):
    server: Volcano

    def answer(self, status: int, body: Any) -> None:
        text = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "text/plain" if isinstance(body, str) else "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def body(self) -> Any:
        return json.loads(self.rfile.read(int(self.headers["content-length"])))

    def do_POST(self) -> None:
        url, body = urlsplit(self.path), self.body()
        path = f"{url.path}/{body['metadata']['name']}"
        if path in self.server.stored:
            self.answer(
                409, {"kind": "Status", "message": "exists", "reason": "AlreadyExists", "details": {"name": "x"}}
            )
        elif parse_qs(url.query).get("dryRun") == ["All"]:
            self.server.dry.append(path.rpartition("/")[2])
            self.answer(201, body)
        else:
            body["metadata"]["uid"] = f"uid-{len(self.server.stored)}"
            self.server.stored[path] = body
            self.answer(201, body)

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path in self.server.forbidden:
            self.answer(403, {"kind": "Status", "message": "forbidden", "reason": "Forbidden"})
        elif path.endswith("/log"):
            self.answer(200, self.server.logs[path.split("/")[-2]])
        elif path.endswith("/jobs"):
            self.answer(200, {"items": [one for name, one in self.server.stored.items() if f"{path}/" in name]})
        elif path.endswith("/pods"):
            self.answer(200, {"items": []})
        elif (found := self.server.stored.get(path.removesuffix("/status"))) is not None:
            self.answer(200, found)
        else:
            self.answer(404, {"kind": "Status", "message": "not found", "reason": "NotFound"})

    def do_DELETE(self) -> None:
        path = urlsplit(self.path).path
        found = self.server.stored.pop(path, None)
        self.answer(404 if found is None else 200, found or {"message": "not found"})

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def volcano() -> Iterator[Volcano]:
    with Volcano() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def launcher(volcano: Volcano, tmp_path: Path) -> Launcher:
    address = f"http://127.0.0.1:{volcano.server_port}"
    kubeconfig = {
        "clusters": [{"name": "one", "cluster": {"server": address}}],
        "users": [{"name": "me", "user": {}}],
        "contexts": [{"name": "one", "context": {"cluster": "one", "user": "me"}}],
        "current-context": "one",
    }
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(kubeconfig))
    return Launcher(TorchxApi("mlperf", tmp_path / "kubeconfig", queue="benchmarks", patience_s=1.0), cluster())


CONFIG = parse_config({"name": "jw2", "model": "/var/lib/mlperf/model", "host": "0.0.0.0", "port": 8000})


def kinds(volcano: Volcano) -> list[str]:
    return sorted(path.split("/")[-2] for path in volcano.stored)


def test_an_engine_is_made_once_watched_and_deleted_by_the_launcher_of_batch_jobs(
    volcano: Volcano, launcher: Launcher
) -> None:
    assert launcher.engine_up("june", "jw2", CONFIG).changed is True
    assert kinds(volcano) == ["configmaps", "configmaps", "jobs", "services"]
    (made,) = (one for path, one in volcano.stored.items() if "/jobs/" in path)
    assert made["spec"]["queue"] == "benchmarks"
    assert made["metadata"]["ownerReferences"][0]["uid"].startswith("uid-")
    assert launcher.engine_up("june", "jw2", CONFIG).changed is False
    assert launcher.engine_up("june", "jw2", CONFIG, dry_run=True).changed is False
    other = CONFIG.model_copy(update={"max_num_seqs": 8})
    with pytest.raises(BadInput, match="exists with other settings"):
        launcher.engine_up("june", "jw2", other)
    assert launcher.engine_down("june", "jw2", dry_run=True) is True
    assert launcher.engine_down("june", "jw2") is True
    assert kinds(volcano) == ["configmaps"]
    assert launcher.engine_down("june", "jw2") is False


def test_more_gpus_than_the_node_has_are_refused_and_a_node_that_may_not_be_read_is_not(
    volcano: Volcano, launcher: Launcher
) -> None:
    node = {
        "kind": "Node",
        "metadata": {"name": "jw2"},
        "status": {"allocatable": {"nvidia.com/gpu": "1", "cpu": "15500m"}},
    }
    volcano.stored["/api/v1/nodes/jw2"] = node
    both = CONFIG.model_copy(update={"tensor_parallel": 2})
    with pytest.raises(BadInput, match=r"of node jw2 ask for 2 nvidia\.com/gpu, it has 1; lower engines_per_node"):
        launcher.engine_up("june", "jw2", both)
    assert not [path for path in volcano.stored if "/jobs/" in path]
    volcano.forbidden.add("/api/v1/nodes/jw2")
    launcher.engine_down("june", "jw2")
    assert launcher.engine_up("june", "jw2", CONFIG).changed is True


def test_a_dry_run_is_judged_by_the_api_server_and_stores_nothing(volcano: Volcano, launcher: Launcher) -> None:
    assert launcher.engine_up("june", "jw2", CONFIG, dry_run=True).changed is True
    assert volcano.stored == {}
    assert "engine-june-jw2" in volcano.dry


@pytest.mark.parametrize(
    ("phase", "state", "condition"),
    [
        ("", AppState.PENDING, None),
        ("Pending", AppState.PENDING, None),
        ("Running", AppState.RUNNING, None),
        ("Completed", AppState.SUCCEEDED, "Complete"),
        ("Terminated", AppState.FAILED, "Failed"),
        ("Failed", AppState.FAILED, "Failed"),
        ("Aborted", AppState.CANCELLED, "Failed"),
    ],
)
def test_phases_become_a_batch_jobs_conditions(
    volcano: Volcano, launcher: Launcher, phase: str, state: AppState, condition: str | None
) -> None:
    launcher.engine_up("june", "jw2", CONFIG)
    api = launcher.api
    assert isinstance(api, TorchxApi)
    if phase:
        volcano.phase("engine-june-jw2", phase)
        assert api.state("engine-june-jw2") == state
    for found in (api.read("Job", "engine-june-jw2"), *api.all("Job")):
        assert found is not None
        assert [one["type"] for one in found["status"]["conditions"]] == ([condition] if condition else [])
        assert (found["metadata"]["name"], found["kind"]) == ("engine-june-jw2", "Job")
        if condition:
            assert found["status"]["conditions"][0]["message"] == "told so"


def test_what_a_role_printed_comes_through_torchx(volcano: Volcano, launcher: Launcher) -> None:
    launcher.engine_up("june", "jw2", CONFIG)
    volcano.logs["engine-june-jw2-engine-jw2-0-0"] = "2026-01-01T00:00:00Z {}\n… done\n"
    api = launcher.api
    assert isinstance(api, TorchxApi)
    assert api.handle("engine-june-jw2") == "kubernetes://mlperf/mlperf:engine-june-jw2"
    assert api.lines("engine-june-jw2", "engine-jw2") == ["2026-01-01T00:00:00Z {}", "… done"]


def test_torchxs_own_command_sees_such_jobs(volcano: Volcano, launcher: Launcher, tmp_path: Path) -> None:
    launcher.engine_up("june", "jw2", CONFIG)
    volcano.phase("engine-june-jw2", "Running")
    volcano.logs["engine-june-jw2-engine-jw2-0-0"] = "2026-01-01T00:00:00Z {}\n"
    handle = "kubernetes://mlperf/mlperf:engine-june-jw2"
    told = {}
    for words in (["status", handle], ["log", "--tail", f"{handle}/engine-jw2/0"]):
        done = subprocess.run(
            [Path(sys.executable).with_name("torchx"), *words],
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "KUBECONFIG": str(tmp_path / "kubeconfig")},
        )
        assert done.returncode == 0, done.stderr
        told[words[0]] = done.stdout
    assert "RUNNING" in told["status"]
    assert "2026-01-01T00:00:00Z {}" in told["log"]
    assert "b'" not in told["log"]


def test_a_job_that_is_there_is_never_changed(volcano: Volcano, launcher: Launcher) -> None:
    launcher.engine_up("june", "jw2", CONFIG)
    with pytest.raises(BadInput, match="cannot be changed once it is there"):
        launcher.api.patch("Job", "engine-june-jw2", {"spec": {"ttlSecondsAfterFinished": 86400}})


def test_a_job_that_waits_in_its_queue_says_what_for() -> None:
    event = {"reason": "PodGroupPending", "message": "1/1 tasks in gang unschedulable: 1 Insufficient nvidia.com/gpu"}
    job = {"metadata": {"name": "engine-june-jw2", "namespace": "mlperf", "uid": "1"}, "spec": {}, "status": {}}
    seen = Seen(job=job, pods=[], events=[event], node=None, now=0.0)
    found = diagnose("engine", "jw2", "jw2", seen)
    assert (found.state, found.cause) == ("waiting", Cause.GPU)
    assert "engine jw2 finds no place on node jw2: 1/1 tasks in gang unschedulable" in found.reason


def test_role_volcano_grants_just_what_is_needed() -> None:
    rules = yaml.safe_load((REPOSITORY / "roles/volcano/defaults/main.yml").read_text())["volcano_rules"]
    granted = {(rule["apiGroups"][0], rule["resources"][0], tuple(rule["verbs"])) for rule in rules}
    assert granted == {(right.group, right.resource, right.verbs) for right in VOLCANO}
    assert {right.resource for right in TorchxApi.rights} >= {right.resource for right in RIGHTS}
    assert "batch" not in {right.group for right in TorchxApi.rights}
