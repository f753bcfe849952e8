"""Checks whether a cluster is ready for a run on a node; leaves nothing, and says what to do about each problem."""

from collections.abc import Callable, Iterator, Sequence

from kubernetes.utils.quantity import parse_quantity

from harness import gpu_checks
from harness.cluster import storage
from harness.cluster.api import Api, Object
from harness.cluster.api_errors import Forbidden
from harness.cluster.launch import Launcher
from harness.cluster.rbac import Right
from harness.cluster.settings import Cluster
from harness.engine import EngineConfig
from harness.errors import HarnessError
from harness.spec import Spec

OTHER_GPUS = {"amd.com/gpu": "AMD", "gpu.intel.com/": "Intel"}
"""Beginnings of the resources that the device plugins of other vendors offer, and the vendors."""
Finding = dict[str, str]
Check = Callable[[], Iterator[Finding]]


def check(
    launcher: Launcher, run_id: str, node: str, configs: Sequence[EngineConfig], spec: Spec | None
) -> list[Finding]:
    """Findings about the API server, the rights, the node, the objects to be created, the claims and what is in them.

    Each is {check, level: ok, warn or fail, seen, advice}. Without the rights or the namespace nothing else is checked,
    and the claims are not looked into where anything else has failed. The objects are validated by the API server in a
    dry run.
    """
    api, cluster = launcher.api, launcher.cluster
    findings: list[Finding] = []
    stages: tuple[tuple[Check, ...], ...] = (
        (lambda: _rights(api, cluster),),
        (lambda: _namespace(api),),
        (
            lambda: _node(api, cluster, node, configs, with_run=spec is not None),
            lambda: _claims(api, cluster, node),
            lambda: _objects(launcher, run_id, node, configs, spec),
        ),
        (lambda: _contents(launcher, run_id, node, configs, spec),),
    )
    for checks in stages:
        for one in checks:
            findings += _findings(one)
        # Later checks would only fail for the same reason.
        if any(finding["level"] == "fail" for finding in findings):
            break
    return findings


def _findings(check: Check) -> list[Finding]:
    try:
        return list(check())
    except HarnessError as error:
        seen, _, advice = str(error).rpartition("; ")
        return [_finding("api", "fail", seen or str(error), advice if seen else "")]


def gpus(api: Api, cluster: Cluster, node: str) -> list[Object]:
    """The allocatable GPUs of a node; none when reading nodes is forbidden or engines use no GPU.

    Each has its index and, where the node's labels say it, name, memory and compute capability.
    """
    if not cluster.gpu_resource:
        return []
    try:
        body = api.node(node)
    except Forbidden:
        return []
    if not body:
        return []
    kind = _kind(body["metadata"].get("labels", {}))
    count = int(body["status"].get("allocatable", {}).get(cluster.gpu_resource, 0))
    return [{"index": index, **kind} for index in range(count)]


def _kind(labels: dict[str, str]) -> Object:
    """What a node's labels tell of its GPUs."""
    memory, major, minor = (_label(labels, key) for key in ("memory", "compute.major", "compute.minor"))
    return {
        "name": _label(labels, "product"),
        "memory_mib": int(memory) if memory and memory.isdigit() else None,
        "compute_capability": f"{major}.{minor}" if major and minor else None,
    }


def _label(labels: dict[str, str], key: str) -> str | None:
    """A GPU's property as NVIDIA's GPU feature discovery labels a node with it, or site.yml."""
    return labels.get(f"nvidia.com/gpu.{key}") or labels.get(f"mlperf.io/gpu.{key}")


def _finding(name: str, level: str, seen: str, advice: str = "") -> Finding:
    return {"check": name, "level": level, "seen": seen, "advice": advice}


def _rights(api: Api, cluster: Cluster) -> Iterator[Finding]:
    wanted = [right for right in api.rights if right.needed != "collecting" or cluster.collect_over_api]
    missing_verbs = {right: _missing(api, right) for right in wanted}
    # Rights are granted in namespaces, so that there are none in one that does not exist.
    if all(missing_verbs[right] == list(right.verbs) for right in wanted if not right.cluster_wide):
        seen = f"no permission to do anything in namespace {api.namespace}"
        advice = "check that it exists and how it is written (namespace in harness_cluster), then grant the rights"
        yield _finding("rights", "fail", seen, f"{advice} (docs/operations.md, RBAC denied)")
        return
    for right, missing in missing_verbs.items():
        if missing:
            scope = "" if right.cluster_wide else f" in namespace {api.namespace}"
            seen = f"no permission to {', '.join(missing)} {right.resource}{scope} ({right.why})"
            if right.needed == "optional":
                yield _finding("rights", "warn", seen, "the benchmark runs without it")
            else:
                yield _finding("rights", "fail", seen, "grant it (docs/operations.md, RBAC denied)")
    if not any(missing_verbs.values()):
        yield _finding("rights", "ok", f"all required rights are granted, at {api.address}")


def _missing(api: Api, right: Right) -> list[str]:
    return [
        verb
        for verb in right.verbs
        if not api.is_allowed(verb, right.group, right.resource, cluster_wide=right.cluster_wide)
    ]


def _namespace(api: Api) -> Iterator[Finding]:
    """Nothing where the namespace exists; an administrator may do everything in one that does not."""
    api.create({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "mlperf-doctor"}}, dry_run=True)
    yield from ()


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
    if cluster.gpu_resource and configs and (lack := gpu_checks.foreign(_other_gpus(allocatable))):
        yield _finding("gpus", "fail", f"node {node}: {lack.seen}", f"{lack.advice} and launcher: process")
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
        kind = _kind(body["metadata"].get("labels", {}))
        unknown = "" if kind["memory_mib"] else " of a kind that its labels do not tell, so with vLLM's own settings"
        gpu_count = f", {available} {cluster.gpu_resource}{unknown}" if requested else ""
        yield _finding("node", "ok", f"node {node} is Ready{gpu_count}")


def _other_gpus(allocatable: dict[str, str]) -> list[dict[str, str]]:
    """Vendor and resource of the GPUs that a node offers of other vendors; none beside NVIDIA's."""
    if any(resource.startswith("nvidia.com/") and offered != "0" for resource, offered in allocatable.items()):
        return []
    return [
        {"vendor": vendor, "id": resource}
        for resource, offered in allocatable.items()
        for prefix, vendor in OTHER_GPUS.items()
        if resource.startswith(prefix) and offered != "0"
    ]


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


def _contents(
    launcher: Launcher, run_id: str, node: str, configs: Sequence[EngineConfig], spec: Spec | None
) -> Iterator[Finding]:
    """Whether model and data set in the claims are whole and fit together, as a Job sees it that is deleted again."""
    models = [config.model for config in configs if config.model] + ([spec.model] if spec else [])
    if not models:
        return
    record = storage.look(launcher, run_id, node, models[0], spec.dataset if spec else None)
    if "findings" in record:
        yield from record["findings"]
    elif record["state"] != "finished":
        seen, _, advice = storage.said(record).rpartition("; ")
        yield _finding("claims", "fail", seen or advice, advice if seen else "")


def table(findings: Sequence[Object]) -> str:
    """The findings as lines for a person."""
    return "\n".join(
        f"{finding['level']:<4}  {finding['check']:<7}  {finding['seen']}"
        + (f"\n      → {finding['advice']}" if finding["advice"] else "")
        for finding in findings
    )
