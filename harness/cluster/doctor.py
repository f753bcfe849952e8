"""Is this cluster fit for a run on a node? Looks, changes nothing, and says what to do about whatever is wrong."""

from collections.abc import Callable, Iterator, Sequence

from kubernetes.utils.quantity import parse_quantity

from harness.cluster.api import Api, Object
from harness.cluster.launch import Launcher
from harness.cluster.refusals import Forbidden
from harness.cluster.settings import Cluster
from harness.engine import EngineConfig
from harness.errors import HarnessError
from harness.spec import Spec

Finding = dict[str, str]
Look = Callable[[], Iterator[Finding]]


def check(
    launcher: Launcher, run_id: str, node: str, configs: Sequence[EngineConfig], spec: Spec | None
) -> list[Finding]:
    """What was seen of the API, the rights, the node, its claims, and of the objects that are to be made.

    Each finding is {check, level: ok, warn or fail, seen, advice}, in the order of looking. The objects are judged by
    the API server itself, which stores none of them.
    """
    api, cluster = launcher.api, launcher.cluster
    found: list[Finding] = []
    looks: tuple[Look, ...] = (
        lambda: _rights(api, cluster),
        lambda: _node(api, cluster, node, configs, drives=spec is not None),
        lambda: _claims(api, cluster, node),
        lambda: _objects(launcher, run_id, node, configs, spec),
    )
    for look in looks:
        try:
            found += look()
        except HarnessError as error:
            seen, _, advice = str(error).rpartition("; ")
            found.append(_finding("api", "fail", seen or str(error), advice if seen else ""))
        # What cannot be asked now would only be refused again.
        if any(finding["level"] == "fail" for finding in found):
            break
    return found


def gpus(api: Api, cluster: Cluster, node: str) -> int | None:
    """How many GPUs a node offers to pods; None when nodes may not be read or engines get none."""
    if not cluster.gpu_resource:
        return None
    try:
        there = api.node(node)
    except Forbidden:
        return None
    return int(there["status"].get("allocatable", {}).get(cluster.gpu_resource, 0)) if there else 0


def _finding(name: str, level: str, seen: str, advice: str = "") -> Finding:
    return {"check": name, "level": level, "seen": seen, "advice": advice}


def _rights(api: Api, cluster: Cluster) -> Iterator[Finding]:
    refused = [
        (
            right,
            [
                verb
                for verb in right.verbs
                if not api.may(verb, right.group, right.resource, everywhere=right.everywhere)
            ],
        )
        for right in api.rights
        if right.needed != "collecting" or cluster.collect_over_api
    ]
    for right, verbs in refused:
        if verbs:
            where = "" if right.everywhere else f" in namespace {api.namespace}"
            yield _finding(
                "rights",
                "warn" if right.needed == "never" else "fail",
                f"these credentials may not {', '.join(verbs)} {right.resource}{where} ({right.why})",
                "it goes on without" if right.needed == "never" else "grant it (docs/operations.md, RBAC denied)",
            )
    if not any(verbs for _, verbs in refused):
        yield _finding("rights", "ok", f"all that is needed, at {api.address}")


def _node(api: Api, cluster: Cluster, node: str, configs: Sequence[EngineConfig], *, drives: bool) -> Iterator[Finding]:
    try:
        there = api.node(node)
    except Forbidden:
        seen = "nodes may not be read, so GPUs are not counted and a lost node is noticed late"
        yield _finding("node", "warn", seen, "grant get on nodes")
        return
    if there is None:
        advice = "set harness_node to its name in `kubectl get nodes`"
        yield _finding("node", "fail", f"the cluster has no node {node}", advice)
        return
    ready = next((one for one in there["status"].get("conditions", ()) if one["type"] == "Ready"), None)
    if ready is None or ready["status"] != "True":
        said = ready.get("message", "") if ready else "its kubelet has not reported yet"
        yield _finding("node", "fail", f"node {node} is not Ready: {said}", f"kubectl describe node {node}")
        return
    if there["spec"].get("unschedulable"):
        yield _finding("node", "fail", f"node {node} is closed for new pods", f"kubectl uncordon {node}")
        return
    short = list(_too_little(cluster, node, there["status"].get("allocatable", {}), len(configs), drives=drives))
    yield from short
    if short:
        return
    wanted = sum(config.tensor_parallel for config in configs) if cluster.gpu_resource else 0
    has = int(there["status"].get("allocatable", {}).get(cluster.gpu_resource, 0)) if cluster.gpu_resource else 0
    if wanted > has:
        yield _finding(
            "gpus",
            "fail",
            f"{len(configs)} engines ask for {wanted} {cluster.gpu_resource} on node {node}, which offers {has}",
            f"kubectl describe node {node} | grep -A9 Allocatable; without GPUs set gpu_resource to nothing",
        )
    else:
        yield _finding("node", "ok", f"node {node} is Ready" + (f", {has} {cluster.gpu_resource}" if wanted else ""))


def _too_little(
    cluster: Cluster, node: str, offers: dict[str, str], engines: int, *, drives: bool
) -> Iterator[Finding]:
    """What the node could not give even if nothing else ran there."""
    asked = {"cpu": (cluster.cpu, cluster.run_cpu), "memory": (cluster.memory, cluster.run_memory)}
    for resource, (of_engine, of_run) in asked.items():
        wanted = engines * parse_quantity(of_engine) + (parse_quantity(of_run) if drives else 0)
        if resource in offers and wanted > parse_quantity(offers[resource]):
            parts = [f"{engines} engines of {of_engine}"] * bool(engines) + [f"a LoadGen of {of_run}"] * drives
            keys = [resource] * bool(engines) + [f"run_{resource}"] * drives
            seen = f"{' and '.join(parts)} ask for more {resource} than the {offers[resource]} of node {node}"
            yield _finding("resources", "fail", seen, f"lower {' or '.join(keys)} in harness_cluster")


def _claims(api: Api, cluster: Cluster, node: str) -> Iterator[Finding]:
    for purpose, name in cluster.claims(node).items():
        claim = api.read("PersistentVolumeClaim", name)
        if claim is None:
            seen = f"namespace {api.namespace} has no claim {name} for {purpose}"
            yield _finding("claims", "fail", seen, f"make it, or name another one ({purpose}_claim)")
        elif claim["status"].get("phase") == "Lost":
            seen = f"claim {name} has lost its volume {claim['spec'].get('volumeName')}"
            yield _finding("claims", "fail", seen, f"kubectl -n {api.namespace} describe pvc {name}")
        else:
            yield _finding("claims", "ok", f"{name} is {claim['status'].get('phase', 'there')}")


def _objects(
    launcher: Launcher, run_id: str, node: str, configs: Sequence[EngineConfig], spec: Spec | None
) -> Iterator[Finding]:
    for config in configs:
        launcher.engine_up(run_id, node, config, dry_run=True)
    if spec is not None:
        launcher.start(spec, node, dry_run=True)
    yield _finding("objects", "ok", "the API server would take them")


def table(findings: Sequence[Object]) -> str:
    """The findings as lines for a person."""
    rows = [f"{one['level']:<4}  {one['check']:<7}  {one['seen']}" for one in findings]
    return "\n".join(
        row + (f"\n      → {one['advice']}" if one["advice"] else "") for row, one in zip(rows, findings, strict=True)
    )
