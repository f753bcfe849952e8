"""The RBAC rights that a benchmark needs on a cluster, and what each is for."""

from dataclasses import dataclass
from typing import Literal


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
    Right("", "services", ("get", "create", "delete"), "the engines' addresses"),
    Right("", "pods", ("list", "watch"), "their state"),
    Right("", "pods/log", ("get",), "their progress"),
    Right("", "events", ("list",), "why a pod does not start"),
    Right("", "persistentvolumeclaims", ("get",), "whether the volumes exist"),
    Right("", "pods", ("get", "create", "delete"), "a pod that reads results", needed="collecting"),
    Right("", "pods/exec", ("get", "create"), "reading results", needed="collecting"),
    Right("", "nodes", ("get",), "counting GPUs and noticing lost nodes", cluster_wide=True, needed="optional"),
)
VOLCANO = (
    Right("batch.volcano.sh", "jobs", ("get", "list", "create", "delete"), "engines and runs"),
    Right("batch.volcano.sh", "jobs/status", ("get",), "their status in TorchX"),
)
VOLCANO_RIGHTS = (*VOLCANO, *(right for right in RIGHTS if right.group != "batch"))
"""The rights with launcher torchx."""
