"""The node image, built from a bare Debian, and engine and run started from it exactly as the Jobs start them."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

import harness
from harness import errors
from harness.cluster import objects, options
from harness.cluster.settings import parse_cluster
from harness.files import read_json
from tests import image, podman
from tests.integration.conftest import until

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("engines")]
SAMPLES = 64
USER = 64040
# The claims of model and data set are the sandbox, which holds both.
CLUSTER: dict[str, Any] = {
    "gpu_resource": "",
    "memory": "6Gi",
    "run_memory": "3Gi",
    "shared_memory": "1Gi",
    "model_path": "model",
    "await_engines_s": 300,
}
ENGINE = {"dtype": "float32", "kv_cache_gib": 1, "max_num_seqs": 16}
TRY = ["podman", "run", "--runtime=runc", "--network=host", "--cap-drop=ALL", *podman.LIMITS]


@pytest.fixture(scope="session")
def node_image() -> str:
    """The image of this checkout."""
    if reason := image.why_not():
        pytest.skip(reason)
    return image.build("cpu")


@dataclass
class Kubelet:
    """Jobs on this machine, and the directories that are their claims."""

    folder: Path
    claims: dict[str, Path]
    started: list[str] = field(default_factory=list)

    def start(self, objects: list[dict[str, Any]], *others: dict[str, Any]) -> str:
        """Start the pod of the one Job among these objects; returns its container's name."""
        (job,) = [one for one in objects if one["kind"] == "Job"]
        self.started.append(job["metadata"]["name"])
        image.call(*podman.run_words(job, [*objects, *others], self.claims, self.folder))
        return self.started[-1]

    @property
    def runs(self) -> Path:
        """The claim of runs."""
        return self.claims["runs-here"]


@pytest.fixture
def kubelet(tmp_path: Path, sandbox: Path) -> Iterator[Kubelet]:
    """A node called `here`; its claim of runs belongs to the owner that role `namespace` sets."""
    runs = tmp_path / "runs"
    runs.mkdir(mode=0o750)
    os.chown(runs, USER, USER)
    result = Kubelet(tmp_path, {"runs-here": runs, "model-here": sandbox, "dataset-here": sandbox})
    yield result
    for name in result.started:
        podman.remove(name)


def inside(name: str, *command: str) -> str:
    """The output of a command in a running container, both streams, whatever its exit code."""
    return _both(["podman", "exec", name, *command])


def logs(name: str) -> str:
    """The output of a container, both streams."""
    return _both(["podman", "logs", name])


def _both(command: list[str]) -> str:
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)
    return result.stdout


def last_line(name: str) -> dict[str, Any]:
    """The last state that a container has printed, as a launcher reads it from the pod's log."""
    lines = [line for line in logs(name).splitlines() if line.startswith("{")]
    assert lines, logs(name)[-3000:]
    record: dict[str, Any] = json.loads(lines[-1])
    return record


def await_ready(name: str) -> None:
    """Wait until the engine in a container is ready."""

    def ready() -> bool:
        text = logs(name)
        running = image.call("podman", "inspect", "--format={{.State.Running}}", name).strip() == "true"
        assert running, f"the engine ended:\n{text[-3000:]}"
        return '"state": "ready"' in text

    until(ready, "the engine is ready", 300)


def assert_restricted(name: str) -> None:
    """Assert that no process is or can become root, and that the image is read-only."""
    users = image.call("podman", "top", name, "huser").split()[1:]
    assert users and set(users) <= {str(USER), "mlperf"}, users
    status = dict(line.split(":\t", 1) for line in inside(name, "cat", "/proc/1/status").splitlines() if ":\t" in line)
    assert status["NoNewPrivs"] == "1" and status["Seccomp"] == "2"
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
    mounts = [line.split() for line in inside(name, "cat", "/proc/self/mounts").splitlines()]
    assert ["ro" in options.split(",") for _, place, _, options, *_ in mounts if place == "/"] == [True]
    assert "Read-only file system" in inside(name, "touch", "/var/lib/mlperf/x")


def assert_owned(folder: Path) -> None:
    """Assert that all written files belong to the pods' user."""
    paths = list(folder.rglob("*"))
    assert len(paths) > 10
    assert {path.lstat().st_uid for path in paths} == {USER}


def assert_report(run_dir: Path, into: Path) -> None:
    """Assert that a copy of the run's files makes a report: no failure, all answers correct, the sandbox recognised."""
    copy = into / run_dir.name
    shutil.copytree(run_dir, copy, ignore=shutil.ignore_patterns(".*"))
    process = subprocess.run([sys.executable, "-m", "harness", "report", str(copy)], capture_output=True, text=True)
    assert process.returncode in (0, errors.FINISHED_BUT_INVALID), process.stderr
    (file,) = into.rglob("result.json")
    result = read_json(file, "result")
    assert result["failures"] == []
    rouge = result["together"]["rouge"]
    assert rouge["gen_num"] == SAMPLES and rouge["rougeLsum"] > 99
    reasons = result["verdict"]["reasons"]
    assert "TINY_MODEL" in {reason["code"] for reason in reasons}
    # Whether latency limits hold depends on what else this machine does.
    assert {reason["code"] for reason in reasons if reason["level"] == "INVALID"} <= {"LATENCY_LIMITS"}, reasons


def test_engine_and_run_as_jobs(node_image: str, kubelet: Kubelet, free_ports: list[int], tmp_path: Path) -> None:
    cluster = parse_cluster({**CLUSTER, "image": node_image, "metrics_port": free_ports[1]})
    [(node, config)] = options.engines(cluster, ["here"], 1, {**ENGINE, "port": free_ports[0]})
    request = {"run_id": f"jobs-{os.getpid()}", "node": node, "samples": SAMPLES, "scenario": "server", "mode": "both"}
    spec = options.spec(cluster, [(node, config)], request)
    owner = objects.owner(cluster, spec.run_id)
    of_engine = objects.engine_objects(cluster, spec.run_id, node, config, owner)
    of_run = objects.run_objects(cluster, spec, node, owner)

    engine = kubelet.start(of_engine)
    run = kubelet.start(of_run, *(one for one in of_engine if one["kind"] in ("Service", "Secret")))
    assert_restricted(run)
    await_ready(engine)
    assert_restricted(engine)
    image.call("podman", "healthcheck", "run", engine)

    assert podman.wait(run, 400) == 0, logs(run)[-3000:]
    run_dir = kubelet.runs / spec.run_id
    assert last_line(run) == read_json(run_dir / "status.json", "status")
    assert last_line(run)["state"] == "finished"
    image.call("podman", "stop", engine, timeout_s=90)
    assert image.call("podman", "inspect", "--format={{.State.ExitCode}}", engine).strip() == "0"
    state = read_json(kubelet.runs / f"{spec.run_id}.engines" / "engines" / node / "engine.json", "engine")
    assert state["state"] == "stopped" and state["machine"]["image_digest"] == node_image
    assert_owned(kubelet.runs)
    assert_report(run_dir, tmp_path / "copied")


def test_manifests_of_the_command_start(
    node_image: str, kubelet: Kubelet, free_ports: list[int], tmp_path: Path
) -> None:
    run_id = f"alone-{os.getpid()}"
    files = {"cluster": CLUSTER, "engine": {**ENGINE, "port": free_ports[0]}}
    for name, values in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(values))
    command = [sys.executable, "-m", "harness", "manifests", "--node", "here", "--image", node_image]
    command += ["--run-id", run_id, "--samples", str(SAMPLES), "--scenario", "offline"]
    command += [word for name in files for word in (f"--{name}", str(tmp_path / f"{name}.json"))]

    run = kubelet.start(list(yaml.safe_load_all(image.call(*command))))
    assert podman.wait(run, 400) == 0, logs(run)[-3000:]
    (file,) = kubelet.runs.rglob("outcome.json")
    assert_owned(kubelet.runs)
    assert_report(file.parent, tmp_path / "copied")


def test_labels_and_content_of_the_image(node_image: str) -> None:
    (image_record,) = json.loads(image.call("podman", "image", "inspect", node_image))
    labels = {key.removeprefix("org.opencontainers.image."): value for key, value in image_record["Labels"].items()}
    assert labels["title"] and labels["source"] and labels["description"]
    assert (labels["version"], labels["licenses"]) == (harness.__version__, "Apache-2.0")
    assert (labels["mlperf.engine"], labels["mlperf.sshd"]) == ("cpu", "no")
    assert image_record["Config"]["User"] == f"{USER}:{USER}"
    assert image_record["Healthcheck"]["Test"][0] == "CMD"
    holds = """
import pathlib, deepspeed
from torchx.runner import get_runner
places = [pathlib.Path(folder, name) for folder in ("/usr/sbin", "/usr/bin") for name in ("sshd", "dropbear")]
assert not any(place.exists() for place in places)
with get_runner("tried") as runner:
    print(runner.dryrun_component("utils.echo", ["--msg=hello"], "kubernetes", {"queue": "default"}))
"""
    assert "hello" in image.call(*TRY, "--rm", "--entrypoint=python", node_image, "-c", holds)


def test_ssh_is_optional_and_by_key_only(node_image: str, free_ports: list[int], tmp_path: Path) -> None:
    with_ssh = image.build("sshd", SSHD="yes")
    folder, key, name = tmp_path / "config", tmp_path / "key", f"sshd-{os.getpid()}"
    folder.mkdir()
    image.call("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key))
    shutil.copy(key.with_suffix(".pub"), folder / "authorized_keys")
    mounted = ["--read-only", f"--volume={folder}:/etc/mlperf:ro", "--security-opt=no-new-privileges"]
    come_in = ["ssh", "-F", "none", "-p", str(free_ports[0]), "-o", "StrictHostKeyChecking=no"]
    come_in += ["-o", "UserKnownHostsFile=/dev/null", "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes"]
    try:
        words = ["--detach", f"--name={name}", *mounted, "--entrypoint=mlperf-sshd", with_ssh, "-p", str(free_ports[0])]
        image.call(*TRY, *words)
        until(lambda: "listening" in logs(name), "sshd listens", 20)
        assert image.call(*come_in, "-i", str(key), "mlperf@127.0.0.1", "id", "-u").strip() == str(USER)
        for refused in (["mlperf@127.0.0.1"], ["-i", str(key), "root@127.0.0.1"]):
            result = subprocess.run([*come_in, *refused, "id"], capture_output=True, text=True, timeout=30)
            assert result.returncode == 255 and "Permission denied (publickey)" in result.stderr, result.stderr
    finally:
        podman.remove(name)
