"""Helpers of the tests of harness.cluster: nodes with claims, a launcher for any credentials, bounded watching."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from harness.cluster.api import Api
from harness.cluster.diagnosis import Kind
from harness.cluster.launch import Launcher
from harness.cluster.rbac import RIGHTS, Right
from harness.cluster.settings import ROOT, parse_cluster
from harness.cluster.watch import snapshots
from harness.engine import EngineConfig, parse_config
from harness.spec import Spec, parse_spec
from tests.cluster import ADMIN, Cluster
from tests.cluster.kinds import CONFIG_MAP, JOB, POD, SERVICE
from tests.cluster.scripts import exits
from tests.unit.cluster_clients import soon

IMAGE = "registry.example.org/node@sha256:" + "a" * 64
OPERATOR = "operator"
WELL = exits(0, '{"run_id": "r1", "state": "finished", "findings": []}')
"""The life of a Job that looks into claims in which all is well."""
Object = dict[str, Any]


def furnish(cluster: Cluster, *nodes: str, gpus: int = 1) -> None:
    """Create nodes with their claims, in which all is well, and the objects that a benchmark refers to."""
    cluster.script("look-*", WELL)
    cluster.service_account("mlperf-runner")
    cluster.runtime_class()
    for node in nodes:
        cluster.node(node, gpus=gpus)
        for claim in ("runs", "model", "dataset"):
            cluster.claim(f"{claim}-{node}", None, node=node)


def launcher(cluster: Cluster, token: str = ADMIN, retry_s: float = 1.0, **settings: Any) -> Launcher:
    """A launcher with the credentials of a token."""
    api = Api(cluster.namespace, cluster.kubeconfig(token), retry_s=retry_s)
    return Launcher(api, parse_cluster({"image": IMAGE, **settings}))


def operator(cluster: Cluster, rights: Sequence[Right] = RIGHTS) -> None:
    """Create a user with exactly these rights."""
    rules = [
        (right.cluster_wide, {"apiGroups": [right.group], "resources": [right.resource], "verbs": list(right.verbs)})
        for right in rights
    ]
    cluster.user(OPERATOR, [rule for wide, rule in rules if not wide], [rule for wide, rule in rules if wide])


def engine(name: str = "e1", **more: Any) -> EngineConfig:
    """Settings of an engine."""
    return parse_config({"name": name, "model": str(ROOT / "model"), "host": "0.0.0.0", "port": 8000, **more})


def spec(run_id: str = "r1", node: str = "n1", **more: Any) -> Spec:
    """The spec of a LoadGen."""
    engines = [{"name": "e1", "url": "http://e1:8000", "node": node}]
    paths = {"model": str(ROOT / "model"), "dataset": str(ROOT / "dataset" / "cnn_eval.json")}
    return parse_spec({"run_id": run_id, "node": node, "samples": 5, "engines": engines, **paths, **more})


def names(cluster: Cluster) -> list[str]:
    """The names of all objects of benchmarks."""
    metadata = [one["metadata"] for kind in (CONFIG_MAP, SERVICE, JOB, POD) for one in cluster.all(kind)]
    return sorted(one["name"] for one in metadata if "mlperf/run" in one.get("labels", {}))


def pod(cluster: Cluster) -> str:
    """The name of the only pod, once there is one."""
    return str(soon(lambda: cluster.all(POD))[0]["metadata"]["name"])


def see(
    starter: Launcher,
    kind: Kind = "run",
    until: Callable[[Object], Any] = lambda look: look["records"] and look["records"][0]["state"] == "failed",
    *,
    node: str = "n1",
    interval_s: float = 0.2,
    seconds: float = 120.0,
    then: Callable[[], None] | None = None,
) -> Object:
    """The first snapshot of engine e1 or the run for which `until` holds; `then` is called after the first one."""
    start = time.monotonic()
    look: Object = {}
    for look in snapshots(starter.api, kind, "r1", ["e1" if kind == "engine" else node], node, interval_s):
        if then is not None:
            then()
            then = None
        if until(look):
            return look
        assert time.monotonic() - start < seconds, look
    raise AssertionError(f"watching has ended with {look}")


def failure(starter: Launcher, kind: Kind = "run", **more: Any) -> str:
    """The reason of its failure, once it has failed."""
    return str(see(starter, kind, **more)["records"][0]["reason"])
