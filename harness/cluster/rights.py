"""What a benchmark may have to do on a cluster: the rights of the role, and what each is for."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Right:
    """Verbs on a resource of an API group; `everywhere` for what is in no namespace.

    `needed` is always, collecting (only where results come through the API), or never (it goes on without).
    """

    group: str
    resource: str
    verbs: tuple[str, ...]
    why: str
    everywhere: bool = False
    needed: Literal["always", "collecting", "never"] = "always"


RIGHTS = (
    Right("batch", "jobs", ("get", "list", "create", "patch", "delete"), "engines and runs"),
    Right("", "configmaps", ("get", "list", "create", "patch", "delete"), "what was asked of each, and their owner"),
    Right("", "services", ("get", "create", "delete"), "the engines' addresses"),
    Right("", "pods", ("list", "watch"), "how they are"),
    Right("", "pods/log", ("get",), "how far they are"),
    Right("", "events", ("list",), "why one does not start"),
    Right("", "persistentvolumeclaims", ("get",), "whether the volumes are there"),
    Right("", "pods", ("get", "create", "delete"), "a pod that reads results", needed="collecting"),
    Right("", "pods/exec", ("get", "create"), "reading them", needed="collecting"),
    Right("", "nodes", ("get",), "GPUs there are, and nodes that are lost", everywhere=True, needed="never"),
)
VOLCANO = (
    Right("batch.volcano.sh", "jobs", ("get", "list", "create", "delete"), "engines and runs"),
    Right("batch.volcano.sh", "jobs/status", ("get",), "what TorchX says of them"),
)
ON_VOLCANO = (*VOLCANO, *(right for right in RIGHTS if right.group != "batch"))
"""With launcher torchx."""
