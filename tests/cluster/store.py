"""What the cluster holds: objects by kind, namespace and name, and the history that watches read.

An object that is stored is never changed: a change is a new one. Everything happens in one thread, the server's loop.
"""

import asyncio
import bisect
import contextlib
import copy
import random
import uuid
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from tests.cluster.api_errors import conflict, exists, not_found
from tests.cluster.kinds import KINDS, NAMESPACE, Key, Kind, Object

_LETTERS = "bcdfghjklmnpqrstvwxz2456789"


def stamp(seconds: float = 0.0) -> str:
    """Now, or so many seconds later, as the API writes a time."""
    return (datetime.now(UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def micro_stamp() -> str:
    """Now, with microseconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def seconds_since(stamped: str) -> float:
    """Seconds since a time that the API wrote."""
    return (datetime.now(UTC) - datetime.fromisoformat(stamped)).total_seconds()


def suffix() -> str:
    """The end of a generated name."""
    return "".join(random.choices(_LETTERS, k=5))


def key_of(obj: Object) -> Key:
    """Namespace and name of an object."""
    return obj["metadata"].get("namespace", ""), obj["metadata"]["name"]


@dataclass(frozen=True, slots=True)
class Change:
    """One step of the history: ADDED, MODIFIED or DELETED; `new` is the last state of a deleted object."""

    version: int
    type: str
    kind: Kind
    new: Object
    old: Object | None


class Store:
    """The objects and their history."""

    def __init__(self) -> None:
        self.version = 1000
        self.expired = 1000
        self.history: list[Change] = []
        self.listeners: list[Callable[[Change], None]] = []
        self.kinds: dict[tuple[str, str, str], Kind] = {}
        self._objects: dict[Kind, dict[Key, Object]] = {}
        for kind in KINDS:
            self.serve(kind)
        self._tick = asyncio.Event()

    def serve(self, kind: Kind) -> None:
        """Serve a kind from now on."""
        self.kinds[kind.group, kind.version, kind.plural] = kind
        self._objects.setdefault(kind, {})

    def restore(self, kind: Kind, obj: Object) -> None:
        """Take an object back that was stored before, as it was."""
        self._objects[kind][key_of(obj)] = obj
        self.version = self.expired = max(self.version, int(obj["metadata"]["resourceVersion"]))

    def get(self, kind: Kind, namespace: str, name: str) -> Object:
        """An object; do not change it.

        Raises:
            ApiError: there is none.
        """
        result = self.find(kind, namespace, name)
        if result is None:
            raise not_found(kind, name)
        return result

    def find(self, kind: Kind, namespace: str, name: str) -> Object | None:
        """The object or None; do not change it."""
        return self._objects[kind].get((namespace if kind.namespaced else "", name))

    def all(self, kind: Kind, namespace: str = "") -> list[Object]:
        """All objects of a kind, of one namespace or all, by name."""
        return [one for key, one in sorted(self._objects[kind].items()) if not namespace or key[0] == namespace]

    def everything(self) -> Iterator[tuple[Kind, Object]]:
        """Every object of every kind."""
        for kind, objects in list(self._objects.items()):
            for one in list(objects.values()):
                yield kind, one

    def create(self, kind: Kind, template: Object, *, dry_run: bool = False) -> Object:
        """Store a new object, with the system's metadata.

        Raises:
            ApiError: the name is taken, or its namespace is not there.
        """
        obj = copy.deepcopy(template)
        meta = obj["metadata"]
        if kind.namespaced and self.find(NAMESPACE, "", meta["namespace"]) is None:
            raise not_found(NAMESPACE, meta["namespace"])
        if self.find(kind, meta.get("namespace", ""), meta["name"]) is not None:
            raise exists(kind, meta["name"])
        meta.setdefault("uid", str(uuid.uuid4()))
        meta["creationTimestamp"] = stamp()
        if dry_run:
            return obj
        self._put(kind, obj, None)
        return obj

    def update(self, kind: Kind, obj: Object, *, dry_run: bool = False) -> Object:
        """Store a change of an object; an unchanged one keeps its resource version.

        Raises:
            ApiError: it is gone, or another one than the caller saw.
        """
        key = key_of(obj)
        old = self.get(kind, *key)
        meta, before = obj["metadata"], old["metadata"]
        if meta.get("uid", before["uid"]) != before["uid"]:
            raise conflict(
                kind,
                key[1],
                f"Precondition failed: UID in precondition: {meta['uid']}, UID in object meta: {before['uid']}",
            )
        if meta.get("resourceVersion", before["resourceVersion"]) != before["resourceVersion"]:
            raise conflict(kind, key[1])
        new = copy.deepcopy(obj)
        new["metadata"] |= {one: before[one] for one in ("uid", "creationTimestamp", "resourceVersion")}
        if new == old:
            return old
        if "generation" in before and new.get("spec") != old.get("spec"):
            new["metadata"]["generation"] = before["generation"] + 1
        if dry_run:
            return new
        ending = "deletionTimestamp" in new["metadata"] and not new["metadata"].get("deletionGracePeriodSeconds")
        if ending and not new["metadata"].get("finalizers"):
            return self.remove(kind, new)
        self._put(kind, new, old)
        return new

    def edit(self, kind: Kind, namespace: str, name: str, change: Callable[[Object], None]) -> Object | None:
        """Change an object in place, as a controller does; None when it was deleted."""
        old = self.find(kind, namespace, name)
        if old is None:
            return None
        new = copy.deepcopy(old)
        change(new)
        return self.update(kind, new)

    def remove(self, kind: Kind, obj: Object) -> Object:
        """Remove an object; returns its last state."""
        old = self._objects[kind].pop(key_of(obj))
        removed = copy.deepcopy(obj)
        self._record("DELETED", kind, removed, old)
        return removed

    def since(self, version: int) -> list[Change]:
        """Changes after a version."""
        return self.history[bisect.bisect(self.history, version, key=lambda change: change.version) :]

    def expire(self) -> None:
        """Forget the history: a watch from any version until now is too old."""
        self.history.clear()
        self.expired = self.version + 1
        self.version += 1

    @property
    def tick(self) -> Callable[[float], Awaitable[None]]:
        """Wait for the next change, for so many seconds at most."""
        tick = self._tick

        async def wait(seconds: float) -> None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(tick.wait(), seconds)

        return wait

    def _put(self, kind: Kind, new: Object, old: Object | None) -> None:
        self._objects[kind][key_of(new)] = new
        self._record("MODIFIED" if old else "ADDED", kind, new, old)

    def _record(self, type_: str, kind: Kind, new: Object, old: Object | None) -> None:
        self.version += 1
        new["metadata"]["resourceVersion"] = str(self.version)
        change = Change(self.version, type_, kind, new, old)
        self.history.append(change)
        tick, self._tick = self._tick, asyncio.Event()
        tick.set()
        for listener in self.listeners:
            listener(change)
