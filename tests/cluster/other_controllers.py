"""The controllers whose work takes no time here: what they look after is as it should be at once."""

from collections.abc import Callable
from functools import partial

from tests.cluster.controller import Controller
from tests.cluster.kinds import (
    CLAIM,
    DAEMON_SET,
    DEFINITION,
    DEPLOYMENT,
    NAMESPACE,
    NODE,
    SERVICE_ACCOUNT,
    VOLUME,
    Key,
    Kind,
    Object,
    defined,
)
from tests.cluster.state import State
from tests.cluster.store import Change, key_of, stamp


class OtherControllers:
    """Deployments and DaemonSets are available without pods, definitions are served, claims find the volume they name.

    A namespace gets its default service account.
    """

    def __init__(self, state: State) -> None:
        self._state, self._store = state, state.store
        work = {
            DEPLOYMENT: self._deployment,
            DAEMON_SET: self._daemon_set,
            DEFINITION: self._definition,
            CLAIM: self._claim,
            NAMESPACE: self._namespace,
        }
        self._controllers = {
            kind: Controller(state, f"{kind.plural}-controller", partial(self._reconcile, kind, one))
            for kind, one in work.items()
        }
        self.parts = tuple(self._controllers.values())
        self._store.listeners.append(self._on_change)

    def _on_change(self, change: Change) -> None:
        if change.type != "DELETED" and change.kind in self._controllers:
            self._controllers[change.kind].add(key_of(change.new))
        if change.kind is NODE and change.type != "MODIFIED":
            for obj in self._store.all(DAEMON_SET):
                self._controllers[DAEMON_SET].add(key_of(obj))

    def _reconcile(self, kind: Kind, work: Callable[[Object], Object | None], key: Key) -> None:
        obj = self._store.find(kind, *key)
        if obj is not None and "deletionTimestamp" not in obj["metadata"] and (status := work(obj)):
            self._store.edit(kind, *key, lambda new: new.update(status=status))

    def _deployment(self, obj: Object) -> Object:
        count = obj["spec"].get("replicas", 1)
        numbers = dict.fromkeys(("replicas", "readyReplicas", "availableReplicas", "updatedReplicas"), count)
        return {**numbers, "conditions": _conditions(obj, "Available")}

    def _daemon_set(self, obj: Object) -> Object:
        count = len(self._store.all(NODE))
        names = ("desiredNumberScheduled", "currentNumberScheduled", "numberReady", "updatedNumberScheduled")
        return {**dict.fromkeys(names, count), "numberMisscheduled": 0}

    def _definition(self, obj: Object) -> Object:
        for kind in defined(obj):
            self._store.serve(kind)
        names = {"kind": obj["spec"]["names"]["kind"], "plural": obj["spec"]["names"]["plural"]}
        return {"conditions": _conditions(obj, "Established"), "acceptedNames": names, "storedVersions": []}

    def _claim(self, obj: Object) -> Object | None:
        volume = self._store.find(VOLUME, "", obj["spec"].get("volumeName", ""))
        if volume is None or obj["status"].get("phase") == "Bound":
            return None
        shared = {"accessModes": obj["spec"]["accessModes"], "capacity": volume["spec"]["capacity"]}
        return {"phase": "Bound", **shared}

    def _namespace(self, obj: Object) -> None:
        name = obj["metadata"]["name"]
        if self._store.find(SERVICE_ACCOUNT, name, "default") is None:
            self._state.create(SERVICE_ACCOUNT, {"metadata": {"name": "default"}}, name)


def _conditions(obj: Object, kind: str) -> list[Object]:
    old = (obj.get("status") or {}).get("conditions")
    return old or [{"type": kind, "status": "True", "reason": kind, "message": "", "lastTransitionTime": stamp()}]
