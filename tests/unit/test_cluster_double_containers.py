"""The double's kubelet: a container's command as a process of this machine, with its mounts, and without remains."""

import gc
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from kubernetes.client.exceptions import ApiException
from kubernetes.stream import stream

from tests.cluster import Cluster
from tests.cluster.kinds import POD
from tests.engines import free_port
from tests.unit.cluster_clients import IMAGE, Clients, Object, condition, container, job, only_on, pod_spec, soon

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a container's namespaces")
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def commands(tmp_path: Path) -> Path:
    """The folder of an image's commands."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "harness").write_text('#!/bin/sh\necho "harness $*"\n')
    (folder / "harness").chmod(0o755)
    (folder / "python").symlink_to(sys.executable)
    return folder


@pytest.fixture
def cluster(commands: Path, tmp_path: Path) -> Iterator[Cluster]:
    with Cluster() as double:
        double.node("n1", gpus=1)
        double.image(IMAGE, [commands], {"FROM_IMAGE": "yes"})
        (tmp_path / "runs").mkdir()
        double.claim("runs", tmp_path / "runs", node="n1")
        yield double


def log_of_pod(k8s: Clients, seconds: float = 30.0) -> str:
    """The whole log of the only pod, once it has ended."""
    pod = soon(lambda: [one for one in k8s.pods() if one["status"]["phase"] in ("Succeeded", "Failed")], seconds)[0]
    name = pod["metadata"]["name"]
    return bytes(k8s.core.read_namespaced_pod_log(name, "mlperf", _preload_content=False).data).decode()


def running(k8s: Clients) -> Object:
    """The only pod, once it runs."""
    pod: Object = soon(lambda: [one for one in k8s.pods() if one["status"]["phase"] == "Running"])[0]
    return pod


def execute(k8s: Clients, name: str, *command: str) -> tuple[bytes, bytes, int]:
    """The output of a command in a container, and its exit code."""
    call = k8s.core.connect_get_namespaced_pod_exec
    streams = {"stdin": False, "stdout": True, "stderr": True, "tty": False}
    link = stream(call, name, "mlperf", command=list(command), binary=True, _preload_content=False, **streams)
    link.run_forever(timeout=10)
    return link.read_channel(1), link.read_channel(2), link.returncode


def unheard(k8s: Clients, command: str, **more: str) -> str:
    """The API server's error for a command that it does not execute; the client's own exception lacks it."""
    with pytest.raises(AttributeError) as caught:
        stream(k8s.core.connect_get_namespaced_pod_exec, "p", "mlperf", command=[command], **more)
    assert isinstance(caught.value.__context__, ApiException)
    return str(caught.value.__context__.reason)


def test_a_container_has_its_arguments_mounts_variables_and_user(
    cluster: Cluster, k8s: Clients, tmp_path: Path
) -> None:
    script = (
        "echo $0 $1; id -u; cat /etc/mlperf/spec.json; echo $FROM_IMAGE $NODE $RUN $HOSTNAME; cat /proc/1/comm; "
        "echo kept > /var/lib/mlperf/runs/kept; touch /tmp/t /var/cache/mlperf/c && ls /tmp | grep -x t; "
        "touch /root-is-read-only; touch /var/lib/mlperf/model/m; df --output=size -m /dev/shm | tail -1; exit 4"
    )
    (tmp_path / "model").mkdir()
    cluster.claim("model", tmp_path / "model")
    k8s.core.create_namespaced_config_map("mlperf", {"metadata": {"name": "j"}, "data": {"spec.json": '{"a": 1}\n'}})
    places = {
        "runs": ("/var/lib/mlperf/runs", {"persistentVolumeClaim": {"claimName": "runs"}}),
        "model": ("/var/lib/mlperf/model", {"persistentVolumeClaim": {"claimName": "model"}}),
        "asked": ("/etc/mlperf", {"configMap": {"name": "j"}}),
        "tmp": ("/tmp", {"emptyDir": {}}),
        "cache": ("/var/cache/mlperf", {"emptyDir": {}}),
        "shm": ("/dev/shm", {"emptyDir": {"medium": "Memory", "sizeLimit": "8Mi"}}),
    }
    spec = pod_spec(affinity=only_on("n1"))
    spec["securityContext"]["fsGroup"] = 64040
    spec["volumes"] = [{"name": name, **source} for name, (_, source) in places.items()]
    mounts = [{"name": name, "mountPath": where, "readOnly": name == "model"} for name, (where, _) in places.items()]
    fields = {"NODE": "spec.nodeName", "RUN": "metadata.labels['batch.kubernetes.io/job-name']"}
    env = [{"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in fields.items()]
    (inner,) = spec["containers"]
    inner["securityContext"]["readOnlyRootFilesystem"] = True
    inner |= {"command": ["sh", "-c"], "args": [script, "$(NODE)", "two"], "volumeMounts": mounts, "env": env}
    k8s.batch.create_namespaced_job("mlperf", job(spec))
    lines = log_of_pod(k8s).splitlines()
    name = k8s.pods()[0]["metadata"]["name"]
    assert lines[:6] == ["n1 two", "64040", '{"a": 1}', f"yes n1 j {name}", "sh", "t"]
    assert sum("Read-only file system" in line for line in lines) == 2 and lines[-1].strip() == "8"
    assert (tmp_path / "runs" / "kept").read_text() == "kept\n" and list((tmp_path / "model").iterdir()) == []
    assert not Path("/etc/mlperf").exists() and not Path("/var/cache/mlperf").exists()
    failed = soon(lambda: condition(k8s.job(), "Failed"))
    assert "failed with exit code 4 matching FailJob rule at index 1" in failed["message"]


def test_an_image_brings_its_commands(k8s: Clients) -> None:
    k8s.batch.create_namespaced_job("mlperf", job(pod_spec("harness", "start", "--json")))
    assert log_of_pod(k8s) == "harness start --json\n"
    soon(lambda: condition(k8s.job(), "Complete"))


def test_a_missing_command(k8s: Clients) -> None:
    k8s.batch.create_namespaced_job("mlperf", job(pod_spec("nonsense")))
    assert soon(lambda: condition(k8s.job(), "Failed"))["reason"] == "PodFailurePolicy"
    terminated = k8s.pods()[0]["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (terminated["exitCode"], terminated["reason"]) == (128, "StartError")
    assert any(
        'exec: "nonsense": executable file not found in $PATH' in message for message in k8s.event_messages("Failed")
    )


def test_commands_are_executed_in_a_container(k8s: Clients, cluster: Cluster) -> None:
    k8s.core.create_namespaced_pod("mlperf", {"metadata": {"name": "p"}, "spec": pod_spec("sleep", "60")})
    running(k8s)
    code = "head -c 300000 /dev/zero; id -u >&2; exit 7"
    out, err, returned = execute(k8s, "p", "sh", "-c", code)
    assert (out, err, returned) == (b"\0" * 300000, b"64040\n", 7)
    assert execute(k8s, "p", "harness", "pack") == (b"harness pack\n", b"", 0)
    assert "container other is not valid for pod p" in unheard(k8s, "true", container="other")
    reader = [{"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["get"]}]
    assert "cannot create resource" in unheard(Clients(cluster.user("reader", reader)), "true")
    used = {one for one in cluster.rights_used() if one[1] == "pods/exec"}
    assert used == {("", "pods/exec", "get"), ("", "pods/exec", "create")}


@pytest.mark.parametrize("deaf", [False, True])
def test_a_deleted_pod_gets_sigterm_then_sigkill(k8s: Clients, cluster: Cluster, deaf: bool) -> None:
    ends = "" if deaf else "trap 'echo asked; exit 0' TERM; "
    code = f"{ends}echo up; while :; do sleep 0.05; done"
    k8s.core.create_namespaced_pod("mlperf", {"metadata": {"name": "p"}, "spec": pod_spec("sh", "-c", code)})
    running(k8s)
    log = cluster._state.folder / "logs" / f"{k8s.pods()[0]['metadata']['uid']}.run.log"
    soon(lambda: log.exists() and log.read_text() == "up\n")
    start, grace_s = time.monotonic(), 1 if deaf else 20
    k8s.core.delete_namespaced_pod("p", "mlperf", grace_period_seconds=grace_s)
    soon(lambda: k8s.pods() == [])
    assert (time.monotonic() - start >= grace_s) == deaf
    assert log.read_text() == ("up\n" if deaf else "up\nasked\n")


def test_a_service_has_a_name_while_its_pod_runs(k8s: Clients, tmp_path: Path) -> None:
    ports = [{"port": 8000}]
    service = {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": {"a": "b"}, "ports": ports}
    k8s.core.create_namespaced_service("mlperf", {"metadata": {"name": "engine"}, "spec": service})
    script = "getent hosts engine.mlperf.svc; echo $?; until getent hosts engine.mlperf.svc; do sleep 0.05; done"
    k8s.batch.create_namespaced_job("mlperf", job(pod_spec("sh", "-c", script)))
    soon(lambda: k8s.pods() and k8s.pods()[0]["status"]["phase"] == "Running")
    time.sleep(0.3)
    spec = pod_spec("sleep", "60")
    k8s.core.create_namespaced_pod("mlperf", {"metadata": {"name": "p", "labels": {"a": "b"}}, "spec": spec})
    lines = log_of_pod(k8s).splitlines()
    assert lines[0] == "2" and lines[-1].split()[0] == "127.0.0.1"


def test_probes_decide_readiness(k8s: Clients) -> None:
    probe = {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 1}
    port = free_port()
    serve = f"import http.server as h; h.HTTPServer(('127.0.0.1', {port}), h.SimpleHTTPRequestHandler).serve_forever()"
    spec = pod_spec()
    ports = [{"name": "http", "containerPort": port}]
    more = {"startupProbe": {**probe, "failureThreshold": 20}, "readinessProbe": probe, "ports": ports}
    spec["containers"] = [container("python", "-c", f"import time; time.sleep(0.5); {serve}", **more)]
    k8s.core.create_namespaced_pod("mlperf", {"metadata": {"name": "p"}, "spec": spec})
    assert condition(running(k8s), "Ready")["status"] == "False"
    soon(lambda: condition(k8s.pods()[0], "Ready")["status"] == "True")
    assert any(
        "Startup probe failed" in message and "connection refused" in message
        for message in k8s.event_messages("Unhealthy")
    )


@pytest.mark.parametrize("how", ["memory", "eviction"])
def test_killing_and_evicting_a_running_pod(cluster: Cluster, k8s: Clients, how: str) -> None:
    k8s.batch.create_namespaced_job("mlperf", job(pod_spec("sleep", "60", terminationGracePeriodSeconds=0)))
    name = running(k8s)["metadata"]["name"]
    if how == "memory":
        cluster.kill(name)
        terminated = soon(lambda: k8s.pods()[0]["status"]["containerStatuses"][0]["state"].get("terminated"))
        assert (terminated["exitCode"], terminated["reason"]) == (137, "OOMKilled")
    else:
        cluster.evict(name)
        message = f"Pod mlperf/{name} has condition DisruptionTarget matching FailJob rule at index 0"
        assert soon(lambda: condition(k8s.job(), "Failed"))["message"] == message


_CRASH = """
import os, sys, time
from tests.cluster import Cluster, kinds
from tests.unit.cluster_clients import IMAGE, pod_spec
cluster = Cluster(); cluster.__enter__()
cluster.node("n1"); cluster.image(IMAGE)
words = ("sh", "-c", f"sleep {sys.argv[1]} & setsid sleep {sys.argv[1]} & wait")
cluster.create(kinds.POD, {"metadata": {"name": "p"}, "spec": pod_spec(*words)})
while cluster.find(kinds.POD, "p")["status"]["phase"] != "Running":
    time.sleep(0.05)
time.sleep(0.3)
print("up", cluster._state.folder, flush=True)
time.sleep(60)
"""


def test_nothing_outlives_a_test_that_crashes() -> None:
    mark = f"6{os.getpid()}"
    with subprocess.Popen(
        [sys.executable, "-c", _CRASH, mark], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    ) as crash:
        assert crash.stdout
        state, folder = crash.stdout.readline().split()
        assert state == "up"
        assert len(_sleeping(mark)) == 2
        crash.kill()
    try:
        soon(lambda: not _sleeping(mark))
    finally:
        for process in _sleeping(mark):
            os.kill(process, signal.SIGKILL)
        shutil.rmtree(folder)


def test_a_container_that_is_being_started_is_ended_with_the_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late: list[object] = []
    gc.collect()
    monkeypatch.setattr(sys, "unraisablehook", lambda raised: late.append(raised.exc_value))
    with Cluster() as double:
        double.node("n1")
        double.image(IMAGE, [tmp_path])
        double.create(POD, {"metadata": {"name": "p"}, "spec": pod_spec("sleep", "60")})
        soon(_helpers)
    assert not _helpers()
    gc.collect()
    assert not late


def _helpers() -> list[psutil.Process]:
    """The processes of this one that start and watch a container each."""
    return [child for child in psutil.Process().children() if any("container.py" in word for word in child.cmdline())]


def _sleeping(mark: str) -> list[int]:
    pids = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = file.read_bytes().split(b"\0")
        except OSError:
            continue
        if words[:2] == [b"sleep", mark.encode()]:
            pids.append(int(file.parent.name))
    return pids
