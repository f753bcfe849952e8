"""Checks whether a cluster is ready for a run on a node; changes nothing, and says what to do about each problem."""

from collections.abc import Callable, Iterator, Sequence

from kubernetes.utils.quantity import parse_quantity

from harness.cluster.api import Api, Object
from harness.cluster.api_errors import Forbidden
from harness.cluster.launch import Launcher
from harness.cluster.settings import Cluster
from harness.engine import EngineConfig
from harness.errors import HarnessError
from harness.spec import Spec

Finding = dict[str, str]
Check = Callable[[], Iterator[Finding]]


def check(
    launcher: Launcher, run_id: str, node: str, configs: Sequence[EngineConfig], spec: Spec | None
) -> list[Finding]:
    """Findings about the API server, the rights, the node, its claims, and the objects to be created.

    Each is {check, level: ok, warn or fail, seen, advice}, in the order of the checks, which end at the first failure.
    The objects are validated by the API server in a dry run.
    """
    api, cluster = launcher.api, launcher.cluster
    findings: list[Finding] = []
    checks: tuple[Check, ...] = (
        lambda: _rights(api, cluster),
        lambda: _node(api, cluster, node, configs, with_run=spec is not None),
        lambda: _claims(api, cluster, node),
        lambda: _objects(launcher, run_id, node, configs, spec),
    )
    for one in checks:
        try:
            findings += one()
        except HarnessError as error:
            seen, _, advice = str(error).rpartition("; ")
            findings.append(_finding("api", "fail", seen or str(error), advice if seen else ""))
        # Later checks would only fail for the same reason.
        if any(finding["level"] == "fail" for finding in findings):
            break
    return findings


def gpus(api: Api, cluster: Cluster, node: str) -> int | None:
    """The allocatable GPUs of a node; None when reading nodes is forbidden or engines use no GPU."""
    if not cluster.gpu_resource:
        return None
    try:
        body = api.node(node)
    except Forbidden:
        return None
    return int(body["status"].get("allocatable", {}).get(cluster.gpu_resource, 0)) if body else 0


def _finding(name: str, level: str, seen: str, advice: str = "") -> Finding:
    return {"check": name, "level": level, "seen": seen, "advice": advice}


def _rights(api: Api, cluster: Cluster) -> Iterator[Finding]:
    all_granted = True
    for right in api.rights:
        if right.needed == "collecting" and not cluster.collect_over_api:
            continue
        resource = right.group, right.resource
        missing = [verb for verb in right.verbs if not api.is_allowed(verb, *resource, cluster_wide=right.cluster_wide)]
        if missing:
            all_granted = False
            scope = "" if right.cluster_wide else f" in namespace {api.namespace}"
            seen = f"no permission to {', '.join(missing)} {right.resource}{scope} ({right.why})"
            if right.needed == "optional":
                yield _finding("rights", "warn", seen, "the benchmark runs without it")
            else:
                yield _finding("rights", "fail", seen, "grant it (docs/operations.md, RBAC denied)")
    if all_granted:
        yield _finding("rights", "ok", f"all required rights are granted, at {api.address}")


def _node(
    api: Api, cluster: Cluster, node: str, configs: Sequence[EngineConfig], *, with_run: bool
) -> Iterator[Finding]:
    try:
        body = api.node(node)
    except Forbidden:
        seen = "no permission to read nodes, so GPUs are not counted and a lost node is noticed late"
        yield _finding("node", "warn", seen, "grant get on nodes")
        return
    if body is None:
        advice = "set harness_node to its name in `kubectl get nodes`"
        yield _finding("node", "fail", f"the cluster has no node {node}", advice)
        return
    ready = next((one for one in body["status"].get("conditions", ()) if one["type"] == "Ready"), None)
    if ready is None or ready["status"] != "True":
        message = ready.get("message", "") if ready else "its kubelet has not reported yet"
        yield _finding("node", "fail", f"node {node} is not Ready: {message}", f"kubectl describe node {node}")
        return
    if body["spec"].get("unschedulable"):
        yield _finding("node", "fail", f"node {node} is cordoned", f"kubectl uncordon {node}")
        return
    allocatable = body["status"].get("allocatable", {})
    shortages = list(_shortages(cluster, node, allocatable, len(configs), with_run=with_run))
    yield from shortages
    if shortages:
        return
    requested = sum(config.tensor_parallel for config in configs) if cluster.gpu_resource else 0
    available = int(allocatable.get(cluster.gpu_resource, 0)) if cluster.gpu_resource else 0
    if requested > available:
        yield _finding(
            "gpus",
            "fail",
            f"node {node} offers {available} {cluster.gpu_resource}, {requested} needed by {_engines(len(configs))}",
            f"kubectl describe node {node} | grep -A9 Allocatable; without GPUs set gpu_resource to an empty value",
        )
    else:
        gpu_count = f", {available} {cluster.gpu_resource}" if requested else ""
        yield _finding("node", "ok", f"node {node} is Ready{gpu_count}")


def _shortages(
    cluster: Cluster, node: str, allocatable: dict[str, str], engines: int, *, with_run: bool
) -> Iterator[Finding]:
    """CPU or memory that the node lacks even if nothing else runs on it."""
    requests = {"cpu": (cluster.cpu, cluster.run_cpu), "memory": (cluster.memory, cluster.run_memory)}
    for resource, (per_engine, per_run) in requests.items():
        requested = engines * parse_quantity(per_engine) + (parse_quantity(per_run) if with_run else 0)
        if resource in allocatable and requested > parse_quantity(allocatable[resource]):
            parts = [f"{_engines(engines)} of {per_engine}"] * bool(engines) + [f"a LoadGen of {per_run}"] * with_run
            keys = [resource] * bool(engines) + [f"run_{resource}"] * with_run
            seen = f"node {node} offers {allocatable[resource]} {resource}, less than {' and '.join(parts)}"
            yield _finding("resources", "fail", seen, f"lower {' or '.join(keys)} in harness_cluster")


def _engines(count: int) -> str:
    return "1 engine" if count == 1 else f"{count} engines"


def _claims(api: Api, cluster: Cluster, node: str) -> Iterator[Finding]:
    for content, name in cluster.claims(node).items():
        claim = api.read("PersistentVolumeClaim", name)
        if claim is None:
            seen = f"namespace {api.namespace} has no PersistentVolumeClaim {name} (for {content})"
            yield _finding("claims", "fail", seen, f"create it, or name another one ({content}_claim)")
        elif claim["status"].get("phase") == "Lost":
            seen = f"PersistentVolumeClaim {name} has lost its volume {claim['spec'].get('volumeName')}"
            yield _finding("claims", "fail", seen, f"kubectl -n {api.namespace} describe pvc {name}")
        else:
            yield _finding("claims", "ok", f"{name} is {claim['status'].get('phase', 'present')}")


def _objects(
    launcher: Launcher, run_id: str, node: str, configs: Sequence[EngineConfig], spec: Spec | None
) -> Iterator[Finding]:
    for config in configs:
        launcher.engine_up(run_id, node, config, dry_run=True)
    if spec is not None:
        launcher.start(spec, node, dry_run=True)
    yield _finding("objects", "ok", "accepted by the API server in a dry run")


def table(findings: Sequence[Object]) -> str:
    """The findings as lines for a person."""
    return "\n".join(
        f"{finding['level']:<4}  {finding['check']:<7}  {finding['seen']}"
        + (f"\n      → {finding['advice']}" if finding["advice"] else "")
        for finding in findings
    )
