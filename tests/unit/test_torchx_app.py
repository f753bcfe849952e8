"""The TorchX application of a benchmark: its component, and the completed request for a job of Volcano."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from torchx.runner import get_runner

from harness.cli import cli
from harness.cluster import objects, options, torchx_app
from harness.cluster.settings import Cluster, parse_cluster
from harness.cluster.torchx_api import dryrun
from harness.errors import BadInput
from tests.cluster.security import breaches
from tests.conftest import REPOSITORY

IMAGE = "registry.example.org/mlperf-node@sha256:" + "a" * 64
Object = dict[str, Any]


def cluster(**values: Any) -> Cluster:
    return parse_cluster({"image": IMAGE, **values})


def jobs(
    run_id: str = "June.1", per_node: int = 1, nodes: tuple[str, ...] = ("jw2", "jw3"), **more: Any
) -> list[Object]:
    """The batch/v1 Jobs of a benchmark, with an owner that the cluster knows."""
    where = cluster(**more)
    configs = options.engines(where, nodes, per_node, {})
    request = {"run_id": run_id, "node": nodes[0], "samples": 600, "scenario": "server", "mode": "both"}
    owner = objects.owner(where, run_id)
    owner["metadata"]["uid"] = "0-1"
    return torchx_app.jobs_of(options.benchmark_objects(where, configs, options.spec(where, configs, request), owner))


def completed(name: str, of: list[Object]) -> Object:
    """The completed request of a dry run without a cluster."""
    with get_runner() as runner:
        return dict(dryrun(runner, "mlperf", "benchmarks", name, of).request.resource)


def names_of(job: Object) -> list[str]:
    """What Volcano calls the pods of a job."""
    return [f"{job['metadata']['name']}-{task['name']}-0" for task in job["spec"]["tasks"]]


@pytest.mark.parametrize("per_node", [1, 2])
def test_each_task_has_the_pod_template_of_its_batch_job(per_node: int) -> None:
    batch_jobs = jobs(per_node=per_node)
    request = completed("mlperf-june", batch_jobs)
    assert len(request["spec"]["tasks"]) == len(batch_jobs) == 2 * per_node + 1
    for task, job in zip(request["spec"]["tasks"], batch_jobs, strict=True):
        template = job["spec"]["template"]
        assert task["template"]["spec"] == template["spec"]
        assert task["replicas"] == 1
        assert breaches(task["template"]["spec"], "restricted") == ""
        assert template["metadata"]["labels"].items() <= task["template"]["metadata"]["labels"].items()
        assert task["template"]["metadata"]["labels"]["torchx.pytorch.org/version"]
        assert "serviceAccountToken" not in json.dumps(task)
    assert [torchx_app.node_of(job) for job in batch_jobs] == ["jw2"] * per_node + ["jw3"] * per_node + ["jw2"]
    validated(request)


def validated(request: Object) -> None:
    """Check a job by Volcano's definitions and admission."""
    spec = request["spec"]
    assert set(spec) <= {"schedulerName", "queue", "tasks", "maxRetry", "plugins", "minAvailable", "policies"}
    for name in [*(task["name"] for task in spec["tasks"]), *names_of(request), request["metadata"]["name"]]:
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", name), name
    assert len({task["name"] for task in spec["tasks"]}) == len(spec["tasks"])
    assert spec["minAvailable"] <= sum(task["replicas"] for task in spec["tasks"])
    for task in spec["tasks"]:
        for label in task["template"]["metadata"]["labels"].values():
            assert re.fullmatch(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?", label), label


def test_a_job_is_gang_scheduled_never_retried_and_completes_with_its_run() -> None:
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


def test_job_names_are_stable_and_short_enough() -> None:
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


def test_the_application_has_the_jobs_resources_and_claims() -> None:
    app = torchx_app.application("mlperf-june", jobs(cpu="6500m", memory="24Gi"))
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
    """`torchx run --dryrun` of the component, in an unrelated folder, without a cluster."""
    command = [Path(sys.executable).with_name("torchx"), "run", "--dryrun", "--workspace", "", "--scheduler"]
    command += ["kubernetes", "-cfg", "queue=default,namespace=mlperf"]
    where = f"{REPOSITORY}/harness/cluster/torchx_app.py:benchmark"
    return subprocess.run([*command, where, *words], cwd="/", capture_output=True, text=True, timeout=60)


def test_the_component_runs_under_torchxs_own_command() -> None:
    arguments = ("--nodes", "jw2,jw3", "--image", IMAGE, "--samples", "600", "--run_id", "june")
    result = component(*arguments, "--cluster", '{"memory": "24Gi"}', "--engine", '{"max_num_seqs": 48}')
    assert result.returncode == 0, result.stderr
    request = yaml.safe_load(result.stdout.partition("=== SCHEDULER REQUEST ===")[2])
    tasks = request["spec"]["tasks"]
    assert [task["name"] for task in tasks] == ["engine-jw2-0", "engine-jw3-0", "run-jw2-0"]
    assert tasks[0]["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert request["spec"]["queue"] == "default"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("--engines_per_node", "2"),
            "the engines of node jw2 request 2 nvidia.com/gpu, it has 1; lower engines_per_node",
        ),
        (("--engine", '{"tensor_parallel": 4}'), "the engines of node jw2 request 4 nvidia.com/gpu, it has 1"),
        (("--cluster", "[]"), "cluster = '[]' must be a JSON object"),
        (("--engine", "x"), "engine = 'x' is not JSON"),
        (("--nodes", "jw2,jw2"), "name each node once"),
    ],
)
def test_the_component_reports_wrong_options(words: tuple[str, str], message: str) -> None:
    arguments = {"nodes": "jw2", "image": IMAGE, words[0].removeprefix("--"): words[1]}
    arguments = {key: int(value) if key == "engines_per_node" else value for key, value in arguments.items()}
    with pytest.raises(BadInput) as refused:
        torchx_app.benchmark(**arguments)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_manifests_print_one_job_of_volcano_with_its_config_maps() -> None:
    words = ["--node", "jw2", "--node", "jw3", "--image", IMAGE, "--run-id", "june", "--launcher", "torchx"]
    result = CliRunner().invoke(cli, ["manifests", *words])
    assert result.exit_code == 0, result.output
    documents = list(yaml.safe_load_all(result.stdout))
    assert [one["kind"] for one in documents] == [
        "ConfigMap",
        *["ConfigMap", "Secret", "Service"] * 2,
        "ConfigMap",
        "Job",
    ]
    validated(documents[-1])
    assert documents[-1]["apiVersion"] == "batch.volcano.sh/v1alpha1"
    rendered = {
        volume["configMap"]["name"]
        for task in documents[-1]["spec"]["tasks"]
        for volume in task["template"]["spec"]["volumes"]
        if "configMap" in volume
    }
    assert rendered == {one["metadata"]["name"] for one in documents[1:] if one["kind"] == "ConfigMap"}
