"""What the parts of the double share: objects, users, faults, nodes' machines, images, claims, scripts."""

import copy
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.cluster import admission
from tests.cluster.faults import Faults
from tests.cluster.kinds import EVENT, Kind, Object
from tests.cluster.rbac import Request, User
from tests.cluster.scripts import Script
from tests.cluster.store import Store, key_of, micro_stamp, stamp, suffix


@dataclass(frozen=True)
class Image:
    """Stand-in of a container image: folders first in its PATH, and variables. Its files are this machine's.

    Everyone in the container can come to these folders, and to the Python that they link to.
    """

    path: Sequence[Path] = ()
    env: dict[str, str] = field(default_factory=dict)


@dataclass
class State:
    """The whole state. Only the server's loop may touch it."""

    folder: Path
    store: Store = field(default_factory=Store)
    users: dict[str, User] = field(default_factory=dict)
    faults: Faults = field(default_factory=Faults)
    images: dict[str, Image] = field(default_factory=dict)
    claims: dict[tuple[str, str], Path] = field(default_factory=dict)
    scripts: list[Script] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    as_user: bool = True
    problems: list[str] = field(default_factory=list)

    def create(self, kind: Kind, obj: Object, namespace: str, *, dry_run: bool = False) -> tuple[Object, list[str]]:
        """Admit and store an object; returns it and the warnings.

        Raises:
            ApiError: it is not let in.
        """
        new = copy.deepcopy(obj)
        admission.identify(kind, new, namespace)
        new["metadata"]["uid"] = _uid()
        warnings = admission.admit(self.store, kind, new)
        return self.store.create(kind, new, dry_run=dry_run), warnings

    def event(
        self, about: Object, reason: str, message: str, *, by: str, warning: bool = False, part: str = ""
    ) -> None:
        """Record an event, or count a repeated one."""
        namespace, name = key_of(about)
        involved = {
            "kind": about["kind"],
            **({"namespace": namespace} if namespace else {}),
            "name": name,
            "uid": about["metadata"]["uid"],
            "apiVersion": about["apiVersion"],
            "resourceVersion": about["metadata"]["resourceVersion"],
            **({"fieldPath": f"spec.containers{{{part}}}"} if part else {}),
        }
        namespace = namespace or "default"
        for old in self.store.all(EVENT, namespace):
            same = old["involvedObject"]["uid"] == involved["uid"]
            if same and (old["reason"], old["message"]) == (reason, message):
                self.store.edit(EVENT, *key_of(old), _again)
                return
        scheduler = by == "default-scheduler"
        event: Object = {
            "kind": "Event",
            "apiVersion": "v1",
            "metadata": {"name": f"{name}.{suffix()}{suffix()}", "namespace": namespace, "uid": _uid()},
            "involvedObject": involved,
            "reason": reason,
            "message": message,
            "source": {} if scheduler else {"component": by},
            "firstTimestamp": None if scheduler else stamp(),
            "lastTimestamp": None if scheduler else stamp(),
            **({} if scheduler else {"count": 1}),
            "type": "Warning" if warning else "Normal",
            "eventTime": micro_stamp() if scheduler else None,
            **({"action": "Scheduling"} if scheduler else {}),
            "reportingComponent": by,
            "reportingInstance": f"{by}-0" if scheduler else "",
        }
        self.store.create(EVENT, event)


def _uid() -> str:
    return str(uuid.uuid4())


def _again(event: Object) -> None:
    if event.get("eventTime"):
        count = event.get("series", {}).get("count", 1) + 1
        event["series"] = {"count": count, "lastObservedTime": micro_stamp()}
    else:
        event["count"] += 1
        event["lastTimestamp"] = stamp()
