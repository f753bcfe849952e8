"""Results collected through the API from a pod that mounts the claim: complete or not at all, with retries."""

import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from websocket import WebSocketConnectionClosedException

from harness import run_store
from harness.cluster import collect as collecting
from harness.cluster import objects, pod_exec
from harness.cluster.api_errors import Forbidden
from harness.cluster.collect import collect
from harness.cluster.launch import Launcher
from harness.cluster.rbac import RIGHTS
from harness.cluster.settings import run_name
from harness.collected import Refused
from harness.errors import NotReady, RunFailed
from tests.cluster import Cluster, Image, scripts
from tests.cluster.kinds import POD
from tests.conftest import REPOSITORY
from tests.unit.cluster_clients import soon
from tests.unit.cluster_fixtures import IMAGE, OPERATOR, Object, launcher, operator

RUN = "/var/lib/mlperf/runs/r1"
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="a pod needs a mount namespace of its own: run as root")


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A node whose claim holds a run's files, and an image that holds the harness."""
    monkeypatch.setattr(collecting, "_PAUSE_S", 0.05)
    monkeypatch.setattr(collecting, "_POLL_S", 0.05)
    run = tmp_path / "runs" / "r1"
    (run / "accuracy").mkdir(parents=True)
    (run / "status.json").write_text('{"state": "finished"}')
    (run / "accuracy" / "log").write_bytes(os.urandom(1 << 20))
    (run / ".reserve").write_text("stays")
    # A pod has a /tmp of its own, so an image cannot lie there.
    with (
        tempfile.TemporaryDirectory(dir="/var/tmp") as commands,
        Cluster(images={IMAGE: Image((Path(commands),))}, as_user=False) as double,
    ):
        harness = Path(commands, "harness")
        harness.write_text(f'#!/bin/sh\nexec env PYTHONPATH={REPOSITORY} {sys.executable} -m harness "$@"\n')
        harness.chmod(0o755)
        double.service_account("mlperf-runner")
        double.node("n1")
        double.claim("runs-n1", tmp_path / "runs", node="n1")
        yield double


def fetch(starter: Launcher, into: Path, **sources: str) -> tuple[list[str], list[str]]:
    """Collect run r1."""
    folders = sources or {RUN: ""}
    return collect(starter.api, starter.cluster, starter.owner("r1"), "r1", "n1", folders, into)


class Breaking:
    """A connection that breaks after so many reads."""

    def __init__(self, link: Any, looks: int) -> None:
        self._link, self._left = link, looks

    def update(self, timeout: float) -> None:
        if self._left == 0:
            raise WebSocketConnectionClosedException("Connection to remote host was lost.")
        self._left -= 1
        self._link.update(timeout=timeout)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._link, name)


def breaks(monkeypatch: pytest.MonkeyPatch, times: int, how: Callable[[Any], Any]) -> list[str]:
    """Break the first connections; returns the pods of all connections, as they are opened."""
    connect_to, pods = pod_exec._connect, []

    def connect(api: Any, pod: str, command: list[str], **options: Any) -> Any:
        pods.append(pod)
        link = connect_to(api, pod, command, **options)
        return how(link) if len(pods) <= times else link

    monkeypatch.setattr(pod_exec, "_connect", connect)
    return pods


@root_only
def test_collecting_verifies_hashes_and_reports_only_changed_files_again(cluster: Cluster, tmp_path: Path) -> None:
    starter, into = launcher(cluster), tmp_path / "into"
    names, fetched = fetch(starter, into)
    assert names == sorted(fetched) == ["accuracy/log", "status.json"]
    for name in names:
        assert (into / name).read_bytes() == (tmp_path / "runs" / "r1" / name).read_bytes()
    sums = dict(reversed(line.split("  ")) for line in (into / "SHA256SUMS").read_text().splitlines())
    assert sums == {name: hashlib.sha256((into / name).read_bytes()).hexdigest() for name in names}
    (tmp_path / "runs" / "r1" / "status.json").write_text('{"state": "stopped"}')
    assert fetch(starter, into) == (names, ["status.json"])
    assert [pod for pod in cluster.all(POD) if "deletionTimestamp" not in pod["metadata"]] == []


@root_only
def test_collecting_is_repeated_after_a_broken_connection(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs" / "r1" / "large").write_bytes(os.urandom(1 << 20) * 4)
    pods = breaks(monkeypatch, 2, lambda link: Breaking(link, 8))
    names, _ = fetch(launcher(cluster), tmp_path / "into")
    assert len(pods) == 3
    assert names == ["accuracy/log", "large", "status.json"]
    assert list((tmp_path / "into").rglob("*.part")) == []


@root_only
def test_collecting_fails_after_repeated_broken_connections(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pods = breaks(monkeypatch, 9, lambda link: Breaking(link, 1))
    with pytest.raises(RunFailed, match=r"the connection to pod collect-r1-n1-\w+ broke: Connection to remote host"):
        fetch(launcher(cluster), tmp_path / "into")
    assert len(pods) == collecting.ATTEMPTS
    assert [pod for pod in cluster.all(POD) if "deletionTimestamp" not in pod["metadata"]] == []


@root_only
def test_a_stream_that_ends_without_a_status_is_an_error(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(link: Any) -> Any:
        link.sock.close()
        return link

    pods = breaks(monkeypatch, 9, cut)
    with pytest.raises(RunFailed, match="connection"):
        fetch(launcher(cluster), tmp_path / "into")
    assert len(pods) == collecting.ATTEMPTS


@root_only
def test_a_pod_that_sends_without_end_is_stopped(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collecting, "MOST_BYTES", 1 << 20)
    sent = lambda api, pod, command, **more: connect_to(api, pod, ["cat", "/dev/zero"], **more)  # noqa: E731
    connect_to = pod_exec._connect
    pods: list[str] = []
    monkeypatch.setattr(pod_exec, "_connect", lambda *words, **more: pods.append(words[1]) or sent(*words, **more))
    with pytest.raises(Refused, match=r"pod collect-\S+ sends more than 1048576 bytes, and was stopped"):
        fetch(launcher(cluster), tmp_path / "into")
    assert len(pods) == 1


@root_only
def test_a_failed_command_is_reported_with_its_stderr(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RunFailed, match=r"`harness pack` in pod \S+ failed: harness: ''?.*give FOLDER=TARGET"):
        collect(*_words(launcher(cluster)), {"": ""}, tmp_path / "into")
    monkeypatch.setattr(pod_exec, "_connect", _other_command(pod_exec._connect))
    with pytest.raises(RunFailed, match="executable file not found"):
        fetch(launcher(cluster), tmp_path / "into")


@root_only
@pytest.mark.parametrize("repeat", [True, False])
def test_a_run_in_a_pod_is_told_whether_all_repeat_their_attempts(
    cluster: Cluster, tmp_path: Path, repeat: bool
) -> None:
    starter = launcher(cluster)
    with pytest.raises(NotReady, match="run r1 has no running pod on n1 that could repeat attempt 1"):
        starter.decide("r1", "n1", 1, repeat=repeat)
    attempt = tmp_path / "runs" / "r1" / "attempts" / "1"
    attempt.mkdir(parents=True)
    body = objects.collector(starter.cluster, "r1", "n1", starter.owner("r1"), lifetime_s=60)
    body["metadata"]["labels"][objects.NAME] = run_name("r1", "n1")
    starter.api.create(body)
    soon(lambda: cluster.all(POD)[0]["status"].get("phase") == "Running")
    with pytest.raises(RunFailed, match="run r1 has not finished attempt 1"):
        starter.decide("r1", "n1", 1, repeat=repeat)
    (attempt / "attempt.json").write_text("{}")
    starter.decide("r1", "n1", 1, repeat=repeat)
    assert run_store.decision(tmp_path / "runs" / "r1", 1, timeout_s=1.0) is repeat
    starter.api.delete("Pod", body["metadata"]["name"])


def _words(starter: Launcher) -> tuple[Any, Any, Object, str, str]:
    return starter.api, starter.cluster, starter.owner("r1"), "r1", "n1"


def _other_command(connected: Any) -> Any:
    return lambda api, pod, command, **options: connected(api, pod, ["no-such-command"], **options)


def test_a_forbidden_command_is_reported_without_retries(cluster: Cluster, tmp_path: Path) -> None:
    operator(cluster, [right for right in RIGHTS if right.resource != "pods/exec"])
    cluster.script("*", [scripts.Running()])
    start = time.monotonic()
    with pytest.raises(
        Forbidden, match=r'no permission to execute a command in pod \S+ .* cannot get resource "pods/exec"'
    ):
        fetch(launcher(cluster, OPERATOR), tmp_path / "into")
    assert time.monotonic() - start < 20


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        (scripts.pull_fails(IMAGE), "is Pending: .*failed to resolve reference .*: not found"),
        ([scripts.Exit(1)], "is Failed: "),
        ([scripts.Reject("OutOfpods", "Node didn't have enough resource: pods")], "is Failed: .*enough resource: pods"),
    ],
)
def test_a_collector_that_cannot_start_is_reported_and_deleted(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: list[scripts.Step], words: str
) -> None:
    monkeypatch.setattr(collecting, "_START_S", 0.8)
    cluster.script("*", steps)
    with pytest.raises(NotReady, match=rf"which reads the results on its node, {words}"):
        fetch(launcher(cluster), tmp_path / "into")
    assert [pod for pod in cluster.all(POD) if "deletionTimestamp" not in pod["metadata"]] == []


def test_an_unschedulable_collector_is_reported_in_the_schedulers_words(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collecting, "_START_S", 0.5)
    with pytest.raises(NotReady, match=r'is Pending: .*persistentvolumeclaim "nowhere" not found'):
        fetch(launcher(cluster, runs_claim="nowhere"), tmp_path / "into")


@root_only
def test_leftovers_of_an_earlier_collection_do_not_interfere(cluster: Cluster, tmp_path: Path) -> None:
    cluster.script("collect-*", [scripts.Exit(0)], times=1)
    starter = launcher(cluster)
    with pytest.raises(NotReady, match="is Succeeded"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(starter.api.__class__, "delete", lambda *words: True)
            fetch(starter, tmp_path / "into")
    (pod_name,) = [pod["metadata"]["name"] for pod in cluster.all(POD)]
    assert fetch(starter, tmp_path / "into")[0] == ["accuracy/log", "status.json"]
    assert cluster.find(POD, pod_name) is None
