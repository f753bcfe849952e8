"""Nodes as objects: ready, lost and back, and the effect of their taints on pods."""

import asyncio

from tests.cluster.controller import Controller
from tests.cluster.deletion import Options, delete
from tests.cluster.disruption import disrupt
from tests.cluster.kinds import NODE, POD, Key, Object
from tests.cluster.scheduler import tolerates
from tests.cluster.state import State
from tests.cluster.store import Change, key_of, seconds_since, stamp

_BY = "node-controller"
UNREACHABLE = "node.kubernetes.io/unreachable"
_INFO = {
    **dict.fromkeys(("bootID", "machineID", "systemUUID"), "0" * 32),
    **dict.fromkeys(("kubeletVersion", "kubeProxyVersion"), "v1.36.0"),
    "architecture": "amd64",
    "operatingSystem": "linux",
    "osImage": "Debian GNU/Linux 12 (bookworm)",
    "kernelVersion": "6.1.0",
    "containerRuntimeVersion": "containerd://2.2.0",
}
_PRESSURES = (
    ("MemoryPressure", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
    ("DiskPressure", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
    ("PIDPressure", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
)


def node(name: str, gpus: int, taints: list[Object], labels: dict[str, str]) -> Object:
    """A node that is ready."""
    size = {"cpu": "64", "memory": "256Gi", "ephemeral-storage": "500Gi", "pods": "110"}
    size |= {"nvidia.com/gpu": str(gpus)} if gpus else {}
    standard_labels = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {**standard_labels, **labels}},
        "spec": {"taints": taints} if taints else {},
        "status": {
            "capacity": size,
            "allocatable": dict(size),
            "conditions": conditions("True"),
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}, {"type": "Hostname", "address": name}],
            "nodeInfo": _INFO,
        },
    }


def conditions(ready: str) -> list[Object]:
    """A node's conditions when it is ready (True), not ready (False) or silent (Unknown)."""
    silent = {"reason": "NodeStatusUnknown", "message": "Kubelet stopped posting node status."}
    result = []
    for kind, reason, message in (*_PRESSURES, ("Ready", "KubeletReady", "kubelet is posting ready status")):
        good = {"reason": reason, "message": message}
        value = ready if kind == "Ready" or ready == "Unknown" else "False"
        if kind == "Ready" and ready == "False":
            good = {"reason": "KubeletNotReady", "message": "container runtime is down"}
        times = {"lastHeartbeatTime": stamp(), "lastTransitionTime": stamp()}
        result.append({"type": kind, "status": value, **times, **(silent if ready == "Unknown" else good)})
    return result


class Nodes:
    """Evicts pods from nodes whose taints they do not tolerate, or no longer."""

    def __init__(self, state: State) -> None:
        self._state, self._store = state, state.store
        self.controller = Controller(state, _BY, self._reconcile)
        self._store.listeners.append(self._on_change)

    def _on_change(self, change: Change) -> None:
        if change.kind is NODE:
            for pod in self._store.all(POD):
                if pod["spec"].get("nodeName") == change.new["metadata"]["name"]:
                    self.controller.add(key_of(pod))
        elif change.kind is POD and change.new["spec"].get("nodeName"):
            self.controller.add(key_of(change.new))

    def _reconcile(self, key: Key) -> float | None:
        pod = self._store.find(POD, *key)
        if (
            pod is None
            or "deletionTimestamp" in pod["metadata"]
            or pod["status"].get("phase") in ("Succeeded", "Failed")
        ):
            return None
        node = self._store.find(NODE, "", pod["spec"].get("nodeName", ""))
        if node is None:
            return None
        waits: list[float] = []
        for taint in node["spec"].get("taints", ()):
            if taint["effect"] != "NoExecute":
                continue
            fitting = [one for one in pod["spec"].get("tolerations", ()) if tolerates(one, taint)]
            times = [one["tolerationSeconds"] for one in fitting if "tolerationSeconds" in one]
            if not fitting:
                waits.append(0.0)
            elif times:
                waits.append(max(0.0, min(times) - seconds_since(taint.get("timeAdded", stamp()))))
        if waits and min(waits) <= 0:
            self._evict(pod)
        return min(waits) if waits and min(waits) > 0 else None

    def _evict(self, pod: Object) -> None:
        self._state.event(
            pod,
            "TaintManagerEviction",
            f"Marking for deletion Pod {'/'.join(key_of(pod))}",
            by="taint-eviction-controller",
        )
        disrupt(self._state, pod, "DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint")
        fresh = self._store.find(POD, *key_of(pod))
        if fresh is not None:
            delete(self._store, POD, fresh, Options("Background"))

    def lose(self, name: str, evict_after_s: float | None) -> None:
        """A node's kubelet falls silent; its pods are evicted when their tolerations end, or after so long."""
        taint = {"key": UNREACHABLE, "timeAdded": stamp()}

        def change(new: Object) -> None:
            new["status"]["conditions"] = conditions("Unknown")
            taints = [one for one in new["spec"].get("taints", ()) if one["key"] != UNREACHABLE]
            new["spec"]["taints"] = [*taints, {**taint, "effect": "NoSchedule"}, {**taint, "effect": "NoExecute"}]

        lost = self._store.edit(NODE, "", name, change)
        assert lost is not None, f"there is no node {name}"
        self._state.event(lost, "NodeNotReady", f"Node {name} status is now: NodeNotReady", by=_BY)
        for pod in self._store.all(POD):
            if pod["spec"].get("nodeName") == name:
                self._store.edit(POD, *key_of(pod), _unready)
                self._state.event(pod, "NodeNotReady", "Node is not ready", by=_BY, warning=True)
        if evict_after_s is not None:
            asyncio.get_running_loop().call_later(evict_after_s, self._evict_all, name)

    def _evict_all(self, name: str) -> None:
        for pod in self._store.all(POD):
            if pod["spec"].get("nodeName") == name and "deletionTimestamp" not in pod["metadata"]:
                self._evict(pod)

    def find(self, name: str) -> None:
        """A lost node's kubelet is back."""

        self._store.edit(NODE, "", name, lambda new: new["status"].update(conditions=conditions("True")))
        self.untaint(name)

    def untaint(self, name: str) -> None:
        """A node that speaks again is no longer unreachable."""

        def change(new: Object) -> None:
            taints = [one for one in new["spec"].get("taints", ()) if one["key"] != UNREACHABLE]
            new["spec"].pop("taints", None)
            new["spec"] |= {"taints": taints} if taints else {}

        self._store.edit(NODE, "", name, change)


def _unready(pod: Object) -> None:
    for one in pod["status"].get("conditions", ()):
        if one["type"] == "Ready" and one["status"] == "True":
            one |= {"status": "False", "reason": "NodeNotReady", "lastTransitionTime": stamp()}
