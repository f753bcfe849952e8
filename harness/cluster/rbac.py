"""The RBAC rights that a benchmark needs on a cluster, what each is for, and the objects that grant them."""

from dataclasses import dataclass
from typing import Any, Literal

from harness.cluster.objects import PART_OF

_GROUP = "rbac.authorization.k8s.io"


@dataclass(frozen=True, slots=True)
class Right:
    """Verbs on a resource of an API group; `cluster_wide` for a resource without namespace.

    `needed` is always, collecting (only where results come through the API), or optional (a benchmark runs without).
    """

    group: str
    resource: str
    verbs: tuple[str, ...]
    why: str
    cluster_wide: bool = False
    needed: Literal["always", "collecting", "optional"] = "always"


RIGHTS = (
    Right("batch", "jobs", ("get", "list", "create", "patch", "delete"), "engines and runs"),
    Right("", "configmaps", ("get", "list", "create", "patch", "delete"), "settings of each Job, and its owner"),
    Right("", "secrets", ("create", "delete"), "the engines' API keys, which pods read and the operator cannot"),
    Right("", "services", ("get", "list", "create", "delete"), "the engines' addresses"),
    Right("", "pods", ("list", "watch"), "their state"),
    Right("", "pods/log", ("get",), "their progress"),
    Right("", "events", ("list",), "why a pod does not start"),
    Right("", "persistentvolumeclaims", ("get",), "whether the volumes exist"),
    Right("", "pods", ("get", "create", "delete"), "a pod that reads results", needed="collecting"),
    Right("", "pods/exec", ("get", "create"), "reading results, and repeating attempts together", needed="collecting"),
    Right("", "nodes", ("get",), "counting GPUs and noticing lost nodes", cluster_wide=True, needed="optional"),
)
VOLCANO = (
    Right("batch.volcano.sh", "jobs", ("get", "list", "create", "delete"), "engines and runs"),
    Right("batch.volcano.sh", "jobs/status", ("get",), "their status in TorchX"),
)
VOLCANO_RIGHTS = (*VOLCANO, *(right for right in RIGHTS if right.group != "batch"))
"""The rights with launcher torchx."""


def access_objects(namespace: str, runner: str, operator: str, *, collecting: bool) -> list[dict[str, Any]]:
    """The restricted namespace, its service accounts, and roles with exactly the rights that a benchmark needs.

    Args:
        namespace: its name.
        runner: service account of engines and runs, without any right and without a token; none is made for `default`,
            which every namespace has.
        operator: service account that starts benchmarks, and name of its Role.
        collecting: whether results are read through the API.
    """
    levels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn", "audit")}
    wanted = [right for right in RIGHTS if right.needed != "collecting" or collecting]
    meta = {"namespace": namespace, "labels": PART_OF}
    nodes: dict[str, Any] = {"name": f"{namespace}-read-nodes", "labels": PART_OF}
    bodies: list[dict[str, Any]] = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": PART_OF | levels}}
    ]
    bodies += [
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": name, **meta},
            "automountServiceAccountToken": False,
        }
        for name in (runner, operator)
        if name != "default"
    ]
    for scope, its_meta, cluster_wide in (("", {"name": operator, **meta}, False), ("Cluster", nodes, True)):
        rules = [
            {"apiGroups": [right.group], "resources": [right.resource], "verbs": list(right.verbs)}
            for right in wanted
            if right.cluster_wide is cluster_wide
        ]
        role = {"apiGroup": _GROUP, "kind": f"{scope}Role", "name": its_meta["name"]}
        subject = {"kind": "ServiceAccount", "name": operator, "namespace": namespace}
        version = {"apiVersion": f"{_GROUP}/v1"}
        bodies += [
            {**version, "kind": f"{scope}Role", "metadata": its_meta, "rules": rules},
            {**version, "kind": f"{scope}RoleBinding", "metadata": its_meta, "roleRef": role, "subjects": [subject]},
        ]
    return bodies
