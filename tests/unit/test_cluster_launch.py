"""Launching on the double: creation is idempotent, stopping waits, release sets a TTL, API faults are retried."""

import http.server
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes.client.exceptions import ApiException

from harness.cluster import api as apis
from harness.cluster import launch, watch
from harness.cluster.api import Api
from harness.cluster.api_errors import Forbidden, Unavailable
from harness.errors import BadInput, NotReady
from tests.cluster import Cluster, scripts
from tests.cluster.kinds import CONFIG_MAP, JOB, POD, SERVICE
from tests.unit.cluster_fixtures import engine, failure, furnish, launcher, names, pod, see, soon, spec

RUNNING = [scripts.Running(), scripts.Log('{"run_id": "r1", "state": "running", "phase": "performance"}')]
READY = [scripts.Running(), scripts.Log('{"name": "e1", "kind": "vllm", "state": "ready"}')]
GONE_BY_KEEPING = 8 * 86_400


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    monkeypatch.setattr(watch, "MIN_INTERVAL_S", 0.1)
    with Cluster() as double:
        furnish(double, "n1", "n2")
        double.script("engine-*", READY)
        double.script("run-*", RUNNING)
        yield double


def test_starting_and_stopping_an_engine_is_idempotent(cluster: Cluster) -> None:
    starter = launcher(cluster)
    assert starter.engine_up("r1", "n1", engine(), dry_run=True).changed is True
    assert names(cluster) == []
    first = starter.engine_up("r1", "n1", engine())
    assert (first.changed, first.url) == (True, "http://engine-r1-e1.mlperf.svc:8000")
    for dry_run in (True, False):
        assert starter.engine_up("r1", "n1", engine(), dry_run=dry_run).changed is False
    with pytest.raises(
        BadInput, match=r"engine e1 of run r1 .*\(max_num_seqs: existing None, requested 8\); take it down"
    ):
        starter.engine_up("r1", "n1", engine(max_num_seqs=8))
    name = soon(lambda: cluster.all(POD))[0]["metadata"]["name"]
    assert starter.engine_down("r1", "e1", dry_run=True) is True
    assert cluster.find(POD, name)
    assert [starter.engine_down("r1", "e1") for _ in range(2)] == [True, False]
    assert cluster.all(POD) == []
    assert names(cluster) == ["mlperf-r1"]


def test_stopping_an_engine_waits_for_its_pod_for_a_limited_time(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "TERMINATION_S", 1.0)
    starter = launcher(cluster)
    starter.engine_up("r1", "n1", engine())
    soon(lambda: [one for one in cluster.all(POD) if one["status"].get("phase") == "Running"])
    cluster.lose_node("n1", silent_s=0.1)
    with pytest.raises(
        NotReady, match=r"engine-r1-e1 is still terminating 1 s after .*; its node may be lost: kubectl"
    ):
        starter.engine_down("r1", "e1")


def test_an_engine_that_has_failed_can_be_started_again(cluster: Cluster) -> None:
    cluster.script("engine-*", scripts.exits(4), times=1)
    starter = launcher(cluster)
    starter.engine_up("r1", "n1", engine())
    assert "exit code 4" in failure(starter, "engine")
    before = cluster.find(JOB, "engine-r1-e1")
    # Also with other settings: what has failed holds nobody up.
    assert starter.engine_up("r1", "n1", engine(max_num_seqs=8), dry_run=True).changed is True
    assert cluster.find(JOB, "engine-r1-e1") == before
    assert starter.engine_up("r1", "n1", engine(max_num_seqs=8)).changed is True
    see(starter, "engine", lambda look: look["records"][0]["state"] == "ready")


def test_starting_comparing_and_stopping_a_run(cluster: Cluster) -> None:
    starter = launcher(cluster)
    assert starter.compare(spec()) is None
    assert starter.start(spec(), "n1", dry_run=True) is True
    assert names(cluster) == []
    assert [starter.start(spec(), "n1") for _ in range(2)] == [True, False]
    assert starter.compare(spec()) == {}
    assert starter.compare(spec(samples=6)) == {"samples": (5, 6)}
    with pytest.raises(BadInput, match=r"run_id r1 .*\(samples: existing 5, requested 6\); choose another run_id"):
        starter.start(spec(samples=6), "n1")
    assert starter.start(spec(node="n2"), "n2") is True
    assert [one["state"] for one in starter.runs("n1")] == ["running"]
    assert len(starter.runs()) == 2
    assert starter.stop("r1", "n1", dry_run=True) is True
    assert [starter.stop("r1", "n1") for _ in range(2)] == [True, False]
    assert [one["metadata"]["name"] for one in cluster.all(JOB)] == ["run-r1-n2"]
    assert (starter.state("r1", "n1"), starter.state("r1", "n2")) == ("absent", "running")
    # One delete cleans the rest.
    cluster.delete(CONFIG_MAP, "mlperf-r1")
    soon(lambda: names(cluster) == [])


def test_stopping_a_run_waits_for_its_pod_even_without_a_job(cluster: Cluster) -> None:
    starter = launcher(cluster)
    starter.start(spec(), "n1")
    name = pod(cluster)
    cluster.edit(POD, name, lambda new: new["metadata"].update(finalizers=["example.org/held"]))
    cluster.delete_job("run-r1-n1")
    ends = threading.Timer(0.6, cluster.edit, [POD, name, lambda new: new["metadata"].pop("finalizers", None)])
    ends.start()
    start = time.monotonic()
    assert starter.stop("r1", "n1") is False
    assert time.monotonic() - start > 0.4
    assert cluster.find(POD, name) is None
    ends.join()


def test_releasing_sets_a_ttl_and_deletes_expired_runs(cluster: Cluster) -> None:
    cluster.script("run-*", scripts.exits(0, '{"run_id": "r1", "state": "finished"}'))
    starter = launcher(cluster)
    for run_id in ("r1", "old", "mine"):
        starter.start(spec(run_id), "n1")
    soon(lambda: [one["state"] for one in starter.runs()] == 3 * ["finished"])
    assert starter.release(["r1"], dry_run=True) is True
    assert "ttlSecondsAfterFinished" not in (cluster.find(JOB, "run-r1-n1") or {})["spec"]

    def age(owner: dict[str, Any]) -> None:
        owner["metadata"]["annotations"][launch.COLLECTED] = f"{time.time() - GONE_BY_KEEPING:.0f}"

    cluster.edit(CONFIG_MAP, "mlperf-old", age)
    assert [starter.release(["r1"]) for _ in range(2)] == [True, False]
    assert starter.release(["r1"], dry_run=True) is False
    job, owner = cluster.find(JOB, "run-r1-n1"), cluster.find(CONFIG_MAP, "mlperf-r1")
    assert job and owner
    assert job["spec"]["ttlSecondsAfterFinished"] >= 86_400
    assert float(owner["metadata"]["annotations"][launch.COLLECTED]) == pytest.approx(time.time(), abs=60)
    assert "ttlSecondsAfterFinished" not in (cluster.find(JOB, "run-mine-n1") or {})["spec"]
    soon(lambda: not cluster.find(CONFIG_MAP, "mlperf-old") and not cluster.find(JOB, "run-old-n1"))
    assert cluster.find(CONFIG_MAP, "mlperf-mine")


def test_a_running_job_is_not_released(cluster: Cluster) -> None:
    starter = launcher(cluster)
    starter.start(spec(), "n1")
    assert starter.release(["r1"]) is False
    assert "ttlSecondsAfterFinished" not in (cluster.find(JOB, "run-r1-n1") or {})["spec"]


def test_creation_waits_for_an_object_that_is_being_deleted(cluster: Cluster) -> None:
    starter = launcher(cluster)
    starter.owner("r1")
    cluster.edit(CONFIG_MAP, "mlperf-r1", lambda new: new["metadata"].update(finalizers=["example.org/held"]))
    cluster.delete(CONFIG_MAP, "mlperf-r1")
    with pytest.raises(NotReady, match=r"ConfigMap mlperf-r1 is still being deleted; try again"):
        starter.owner("r1")
    free = threading.Timer(
        0.3, cluster.edit, [CONFIG_MAP, "mlperf-r1", lambda new: new["metadata"].pop("finalizers", None)]
    )
    free.start()
    assert "deletionTimestamp" not in starter.owner("r1")["metadata"]
    free.join()


def test_a_conflict_over_a_quota_is_retried(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    starter = launcher(cluster)
    conflicts, core = [ApiException(status=409, reason="Conflict")], starter.api.core
    create = core.create_namespaced_config_map

    def contended(*words: Any, **more: Any) -> Any:
        if conflicts:
            raise conflicts.pop()
        return create(*words, **more)

    monkeypatch.setattr(core, "create_namespaced_config_map", contended)
    assert starter.owner("r1")["metadata"]["uid"]
    assert conflicts == []


@pytest.mark.parametrize("trouble", ["none", "dropped", "expired in the stream", "expired", "refused"])
def test_a_pod_change_ends_the_wait_and_a_broken_watch_only_delays_it(cluster: Cluster, trouble: str) -> None:
    has_ended = threading.Event()
    cluster.script("run-*", [*RUNNING, scripts.Until(has_ended.is_set), scripts.Exit(4)])
    starter = launcher(cluster)
    starter.start(spec(), "n1")
    see(starter, until=lambda look: look["records"][0]["phase"] == "performance")
    if trouble == "dropped":
        cluster.drop_watches(times=100)
    if trouble == "refused":
        cluster.fail(429, "watch", times=None)
    later = threading.Timer(0.5, has_ended.set)
    if trouble.startswith("expired"):
        later = threading.Timer(0.5, lambda: (cluster.expire(in_stream="stream" in trouble), has_ended.set()))
    later.start()
    start, interval_s = time.monotonic(), 30.0 if trouble == "none" else 2.5
    assert "exit code 4" in failure(starter, interval_s=interval_s)
    assert time.monotonic() - start < 20
    later.join()


def test_a_change_between_snapshot_and_watch_is_not_missed(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    has_ended = threading.Event()
    cluster.script("run-*", [*RUNNING, scripts.Until(has_ended.is_set), scripts.Exit(4)])
    starter = launcher(cluster)
    starter.start(spec(), "n1")
    soon(lambda: "terminated" in str(cluster.all(POD)) or "running" in str(cluster.all(POD)))

    def end_first(self: Api, *words: Any) -> None:
        has_ended.set()
        soon(lambda: "terminated" in str(cluster.all(POD)))
        wait(self, *words)

    wait = Api.wait
    monkeypatch.setattr(Api, "wait", end_first)
    start = time.monotonic()
    assert "exit code 4" in failure(starter, interval_s=30.0)
    assert time.monotonic() - start < 20


def test_an_unavailable_server_is_reported_and_watching_continues(cluster: Cluster) -> None:
    starter = launcher(cluster)
    starter.start(spec(), "n1")
    see(starter, until=lambda look: look["records"][0]["phase"] == "performance")
    cluster.down()
    start = time.monotonic()
    away = see(starter, until=lambda look: look["away"])
    assert time.monotonic() - start < 20
    assert away["records"] is None
    assert f"the API server {cluster.url} does not answer" in away["away"]
    with pytest.raises(Unavailable, match="does not answer"):
        starter.engine_up("r1", "n1", engine())
    back = see(
        starter, until=lambda look: look["records"] and look["records"][0]["state"] == "running", then=cluster.up
    )
    assert back["records"][0]["phase"] == "performance"


def test_a_server_that_knows_no_rights_after_its_start_does_not_end_watching(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    starter = launcher(cluster)
    starter.start(spec(), "n1")
    looks = watch.snapshots(starter.api, "run", "r1", ["n1"], "n1", 0.2)
    while (next(looks)["records"] or [{}])[0].get("phase") != "performance":
        pass
    cluster.fail(403, times=3)
    assert "no permission" in next(look for look in looks if look["away"])["away"]
    assert next(look for look in looks if look["records"])["records"][0]["state"] == "running"
    # The node is read again as well, whose loss would not be noticed otherwise.
    cluster.fail(403, "get", "nodes", times=1)
    next(looks)
    cluster.lose_node("n1")
    assert "not Ready" in next(str(look) for look in looks if "not Ready" in str(look))
    monkeypatch.setattr(watch, "REFUSED_S", 0.5)
    cluster.fail(403, times=None)
    with pytest.raises(Forbidden):
        list(looks)


@pytest.mark.parametrize("code", [429, 500, 503])
def test_requests_to_an_overloaded_server_are_retried(cluster: Cluster, code: int) -> None:
    starter = launcher(cluster, retry_s=3.0)
    cluster.fail(code, times=1)
    cluster.fail(code, "create", "jobs", times=1)
    assert starter.engine_up("r1", "n1", engine()).changed is True
    cluster.fail(code, times=None)
    busy = launcher(cluster)
    with pytest.raises(Unavailable, match="is unavailable: "):
        busy.start(spec(), "n1")


class _Proxy(http.server.BaseHTTPRequestHandler):
    """A proxy that refuses every tunnel and every request."""

    def refuse(self) -> None:
        self.send_response(502)
        self.end_headers()
        self.wfile.write(b"<html>Bad Gateway</html>")

    do_CONNECT = do_GET = do_POST = refuse  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


def test_a_proxy_that_answers_instead_of_the_server_is_called_that(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Proxy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:secret@127.0.0.1:{server.server_port}")
        through = launcher(cluster, retry_s=0.1)
        assert through.api.client.configuration.proxy
        with pytest.raises(NotReady) as failure:
            through.api.read("Job", "x")
        server.shutdown()
    text = str(failure.value)
    assert f"the proxy http://127.0.0.1:{server.server_port} answers 502" in text and "to NO_PROXY" in text, text
    assert "secret" not in text


@pytest.mark.parametrize(("status", "kind"), [(502, Unavailable), (407, NotReady)])
def test_a_page_of_a_load_balancer_is_not_the_servers_word(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, status: int, kind: type[Exception]
) -> None:
    api = launcher(cluster, retry_s=0.1).api

    def refuse(*_: object, **__: object) -> None:
        error = ApiException(status=status, reason="Bad Gateway")
        error.body = b"<html>nginx</html>"
        raise error

    monkeypatch.setattr(api.core, "read_namespaced_pod", refuse)
    with pytest.raises(kind, match=f"a proxy or load balancer in front of it answers {status} Bad Gateway"):
        api.read("Pod", "x")


def test_a_lost_response_does_not_create_a_second_object(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apis, "ANSWER_S", 0.5)
    starter = launcher(cluster, retry_s=4.0)
    cluster.slow(1.0, "create", "jobs", times=1)
    starter.engine_up("r1", "n1", engine())
    assert len(cluster.all(JOB)) == len(cluster.all(SERVICE)) == 1


def test_a_slow_server_is_no_error(cluster: Cluster) -> None:
    starter = launcher(cluster)
    cluster.slow(0.2)
    assert starter.start(spec(), "n1") is True
    see(starter, until=lambda look: look["records"][0]["phase"] == "performance")


def test_unknown_credentials(cluster: Cluster) -> None:
    stranger = launcher(cluster, "stranger")
    with pytest.raises(NotReady, match=r"rejects these credentials \(Unauthorized\); renew them"):
        stranger.start(spec(), "n1")


def test_missing_credentials(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="absent does not exist"):
        Api("mlperf", tmp_path / "absent")


def test_a_hanging_log_request_does_not_delay_a_snapshot(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apis, "LOG_S", 0.5)
    cluster.slow(20.0, resource="pods/log")
    starter = launcher(cluster)
    starter.start(spec(), "n1")
    start = time.monotonic()
    see(starter, until=lambda look: look["records"][0]["phase"] == "starting its container")
    assert time.monotonic() - start < 15


def test_a_failed_run_is_resumed_by_a_new_job(cluster: Cluster) -> None:
    cluster.script("run-*", scripts.exits(4), times=1)
    starter = launcher(cluster)
    starter.start(spec(), "n1")
    soon(lambda: starter.state("r1", "n1") == "failed")
    starter.release(["r1"])
    before = cluster.find(JOB, "run-r1-n1") or {}
    assert starter.start(spec(), "n1", resumed=True, dry_run=True) is True
    assert (cluster.find(JOB, "run-r1-n1") or {})["metadata"]["uid"] == before["metadata"]["uid"]
    with pytest.raises(BadInput, match="samples: existing 5, requested 6"):
        starter.start(spec(samples=6), "n1")
    assert [starter.start(spec(), "n1", resumed=True) for _ in range(2)] == [True, False]
    job, owner = cluster.find(JOB, "run-r1-n1") or {}, cluster.find(CONFIG_MAP, "mlperf-r1") or {}
    assert job["metadata"]["uid"] != before["metadata"]["uid"]
    assert "--resume" in job["spec"]["template"]["spec"]["containers"][0]["args"]
    assert launch.COLLECTED not in (owner["metadata"].get("annotations") or {})


def test_a_finished_run_is_not_resumed(cluster: Cluster) -> None:
    cluster.script("run-*", scripts.exits(0, '{"state": "finished"}'))
    starter = launcher(cluster)
    starter.start(spec(), "n1")
    soon(lambda: starter.state("r1", "n1") == "finished")
    assert starter.start(spec(), "n1", resumed=True) is False
