"""Deleting: grace, propagation, finalizers, and garbage collection."""

import asyncio
import copy
from dataclasses import dataclass, field

from tests.cluster.api_errors import bad_request, conflict
from tests.cluster.kinds import CLAIM, JOB, NAMESPACE, POD, Kind, Object
from tests.cluster.store import Change, Store, key_of, stamp

ORPHAN, FOREGROUND = "orphan", "foregroundDeletion"
_HELD_CLAIM = "kubernetes.io/pvc-protection"
_POLICIES = ("Background", "Foreground", "Orphan")


@dataclass(frozen=True, slots=True)
class Options:
    """How something is deleted."""

    propagation: str = ""
    grace_s: int | None = None
    preconditions: Object = field(default_factory=dict)
    dry_run: bool = False


def options_of(body: Object, query: dict[str, str]) -> Options:
    """The options of a request: in its body, or in its query.

    Raises:
        ApiError: there is no such policy.
    """
    values = {**query, **{key: value for key, value in body.items() if value is not None}}
    policy = values.get("propagationPolicy") or ""
    if policy and policy not in _POLICIES:
        raise bad_request(f'DeleteOptions.meta.k8s.io "" is invalid: propagationPolicy: Unsupported value: "{policy}"')
    if values.get("orphanDependents") in (True, "true"):
        policy = "Orphan"
    grace = values.get("gracePeriodSeconds")
    dry = values.get("dryRun") in ("All", ["All"])
    return Options(policy, None if grace is None else int(grace), values.get("preconditions") or {}, dry)


def delete(store: Store, kind: Kind, obj: Object, options: Options) -> tuple[Object, bool]:
    """Delete an object; returns its last state, and whether it is removed already.

    Raises:
        ApiError: a precondition does not hold.
    """
    namespace, name = key_of(obj)
    for key, word in (("uid", "UID"), ("resourceVersion", "ResourceVersion")):
        expected = options.preconditions.get(key)
        if expected and expected != obj["metadata"][key]:
            there = obj["metadata"][key]
            why = f"Precondition failed: {word} in precondition: {expected}, {word} in object meta: {there}"
            raise conflict(kind, name, why)
    if options.dry_run:
        return obj, True
    new = copy.deepcopy(obj)
    meta = new["metadata"]
    grace = _grace(kind, obj, options)
    finalizers = list(meta.get("finalizers", []))
    policy = options.propagation or ("Orphan" if kind is JOB else "Background")
    if policy == "Orphan" and _dependents(store, meta["uid"]) and ORPHAN not in finalizers:
        finalizers.append(ORPHAN)
    if policy == "Foreground" and FOREGROUND not in finalizers:
        finalizers.append(FOREGROUND)
    if finalizers:
        meta["finalizers"] = finalizers
    if kind is NAMESPACE:
        new["status"]["phase"] = "Terminating"
        finalizers = finalizers or ["kubernetes"]
    if not finalizers and not grace:
        return store.remove(kind, new), True
    if "deletionTimestamp" not in meta or grace < meta.get("deletionGracePeriodSeconds", 0):
        meta["deletionTimestamp"] = stamp(grace)
        meta["deletionGracePeriodSeconds"] = grace
    stored = store.update(kind, {**new, "metadata": {**meta, "resourceVersion": obj["metadata"]["resourceVersion"]}})
    return stored, store.find(kind, namespace, name) is None


def _grace(kind: Kind, obj: Object, options: Options) -> int:
    """Seconds until the kubelet ends a pod; nothing else has any, nor has a pod that runs nowhere."""
    if kind is not POD:
        return 0
    if not obj["spec"].get("nodeName") or obj["status"].get("phase") in ("Succeeded", "Failed"):
        return 0
    if options.grace_s is not None:
        return options.grace_s
    return int(obj["spec"]["terminationGracePeriodSeconds"])


def _dependents(store: Store, uid: str) -> list[tuple[Kind, Object]]:
    return [
        (kind, one)
        for kind, one in store.everything()
        if any(owner.get("uid") == uid for owner in one["metadata"].get("ownerReferences", ()))
    ]


class Collector:
    """The garbage collector, and the end of namespaces and claims."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._wake = asyncio.Event()
        store.listeners.append(self._on_change)

    def _on_change(self, change: Change) -> None:
        if change.type == "DELETED" or {"deletionTimestamp", "ownerReferences"} & change.new["metadata"].keys():
            self._wake.set()

    async def run(self) -> None:
        """Collect whenever something is deleted or owned."""
        while True:
            await self._wake.wait()
            await asyncio.sleep(0.02)
            self._wake.clear()
            uids = {one["metadata"]["uid"] for _, one in self._store.everything()}
            for kind, obj in list(self._store.everything()):
                current = self._store.find(kind, *key_of(obj))
                if current is not None:
                    self._reconcile(kind, current, uids)

    def _reconcile(self, kind: Kind, obj: Object, uids: set[str]) -> None:
        meta = obj["metadata"]
        owners = meta.get("ownerReferences", ())
        if owners and "deletionTimestamp" not in meta and not any(owner["uid"] in uids for owner in owners):
            delete(self._store, kind, obj, Options("Background"))
        elif "deletionTimestamp" in meta:
            self._finish(kind, obj)

    def _finish(self, kind: Kind, obj: Object) -> None:
        """Remove an object that is being deleted, once it has no finalizer left."""
        meta = obj["metadata"]
        finalizers = meta.get("finalizers", [])
        dependents = _dependents(self._store, meta["uid"])
        if ORPHAN in finalizers:
            for other, one in dependents:
                self._store.edit(other, *key_of(one), lambda new: _disown(new, meta["uid"]))
            self._release(kind, obj, ORPHAN)
        elif FOREGROUND in finalizers:
            for other, one in dependents:
                if "deletionTimestamp" not in one["metadata"]:
                    delete(self._store, other, one, Options("Foreground"))
            if not _dependents(self._store, meta["uid"]):
                self._release(kind, obj, FOREGROUND)
        elif kind is CLAIM and _HELD_CLAIM in finalizers and not self._used(obj):
            self._release(kind, obj, _HELD_CLAIM)
        elif kind is NAMESPACE:
            inside = [
                (k, one) for k, one in self._store.everything() if one["metadata"].get("namespace") == meta["name"]
            ]
            for other, one in inside:
                if "deletionTimestamp" not in one["metadata"]:
                    delete(self._store, other, one, Options("Background"))
            if not inside:
                self._store.remove(kind, obj)

    def _used(self, claim: Object) -> bool:
        namespace, name = key_of(claim)
        return any(
            volume.get("persistentVolumeClaim", {}).get("claimName") == name
            for pod in self._store.all(POD, namespace)
            if pod["status"].get("phase") not in ("Succeeded", "Failed")
            for volume in pod["spec"].get("volumes", ())
        )

    def _release(self, kind: Kind, obj: Object, finalizer: str) -> None:
        self._store.edit(kind, *key_of(obj), lambda new: new["metadata"]["finalizers"].remove(finalizer))


def _disown(obj: Object, uid: str) -> None:
    meta = obj["metadata"]
    meta["ownerReferences"] = [owner for owner in meta["ownerReferences"] if owner["uid"] != uid]
    if not meta["ownerReferences"]:
        del meta["ownerReferences"]
