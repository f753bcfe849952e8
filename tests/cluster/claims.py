"""Claims and the volumes that they are bound to."""

from pathlib import Path

from tests.cluster.controller import Controller
from tests.cluster.kinds import CLAIM, VOLUME, Key, Object
from tests.cluster.state import State
from tests.cluster.store import Change, key_of

_SIZE = {"storage": "100Gi"}


def make(state: State, namespace: str, name: str, node: str, bound: bool) -> None:
    """A claim, and its volume when it is bound."""
    spec: Object = {"accessModes": ["ReadWriteMany"], "resources": {"requests": _SIZE}, "storageClassName": ""}
    state.create(CLAIM, {"metadata": {"name": name}, "spec": spec}, namespace)
    if bound:
        bind(state, namespace, name, node)


def bind(state: State, namespace: str, name: str, node: str) -> None:
    """Bind a claim to a volume made for it, of one node where one is given."""
    volume = f"{namespace}-{name}"
    claim = state.store.get(CLAIM, namespace, name)
    spec: Object = {
        "capacity": _SIZE,
        "accessModes": ["ReadWriteMany"],
        "persistentVolumeReclaimPolicy": "Retain",
        "storageClassName": "",
        "volumeMode": "Filesystem",
        "claimRef": {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "namespace": namespace,
            "name": name,
            "uid": claim["metadata"]["uid"],
        },
    }
    if node:
        only = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}
        spec |= {"local": {"path": f"/claims/{name}"}}
        spec |= {"nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [only]}]}}}
    else:
        spec |= {"nfs": {"server": "127.0.0.1", "path": f"/claims/{name}"}}
    state.create(VOLUME, {"metadata": {"name": volume}, "spec": spec, "status": {"phase": "Bound"}}, "")

    def change(new: Object) -> None:
        new["spec"]["volumeName"] = volume
        new["status"] = {"phase": "Bound", "accessModes": ["ReadWriteMany"], "capacity": _SIZE}

    state.store.edit(CLAIM, namespace, name, change)


class Provisioner:
    """Binds each new claim of a storage class to a new folder, at once."""

    def __init__(self, state: State, folder: Path, storage_class: str) -> None:
        self._state, self._folder, self._class = state, folder, storage_class
        self.controller = Controller(state, "provisioner", self._reconcile)
        state.store.listeners.append(self._on_change)

    def _on_change(self, change: Change) -> None:
        if (
            change.kind is CLAIM
            and change.type == "ADDED"
            and change.new["spec"].get("storageClassName") == self._class
        ):
            self.controller.add(key_of(change.new))

    def _reconcile(self, key: Key) -> None:
        namespace, name = key
        folder = self._folder / name
        folder.mkdir(parents=True, exist_ok=True)
        self._state.claims[namespace, name] = folder
        bind(self._state, namespace, name, "")
