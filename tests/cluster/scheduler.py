"""The scheduler: a node for each pod, or the reason for none, in the words of default-scheduler."""

from collections import Counter
from decimal import Decimal

from tests.cluster.controller import Controller
from tests.cluster.kinds import CLAIM, NODE, POD, VOLUME, Key, Object
from tests.cluster.quantities import amount, requests
from tests.cluster.state import State
from tests.cluster.store import Change, key_of, stamp

_AFFINITY = "node(s) didn't match Pod's node affinity/selector"
_INSUFFICIENT = "Insufficient "


class Scheduler:
    """Schedules pods without a node whenever something relevant changes."""

    by = "default-scheduler"
    # The reason for nodes that a pod's affinity does not name.
    elsewhere = "node(s) didn't satisfy plugin(s) [NodeAffinity]"

    def __init__(self, state: State) -> None:
        self._state, self._store = state, state.store
        self.controller = Controller(state, self.by, self._reconcile)
        # Pods that count as bound while others of their gang are looked at.
        self._assumed: list[Object] = []
        self._store.listeners.append(self._on_change)

    def _on_change(self, change: Change) -> None:
        if change.kind is POD and change.type != "DELETED":
            self.controller.add(key_of(change.new))
        if change.kind in (POD, NODE, CLAIM, VOLUME):
            for pod in self._store.all(POD):
                if not pod["spec"].get("nodeName"):
                    self.controller.add(key_of(pod))

    def _reconcile(self, key: Key) -> float | None:
        pod = self._store.find(POD, *key)
        if pod is None or pod["spec"].get("nodeName") or "deletionTimestamp" in pod["metadata"]:
            return None
        if pod["status"].get("phase") != "Pending" or pod["spec"]["schedulerName"] != self.by:
            return None
        scripted = next((one.unschedulable for one in self._state.scripts if one.unschedulable and one.fits(pod)), "")
        nodes = self._store.all(NODE)
        result = (None, scripted) if scripted else self._choose(pod, nodes)
        node, why = result
        if node is None:
            self._refuse(pod, why)
        else:
            self._bind(pod, node)
        return None

    def _choose(self, pod: Object, nodes: list[Object]) -> tuple[Object | None, str]:
        """A node that fits, or the message that says why none does."""
        if not nodes:
            return None, "no nodes available to schedule pods"
        start = f"0/{len(nodes)} nodes are available: "
        waiting = self._unbound(pod)
        if waiting:
            # Its step after filtering repeats the last words of some of these.
            return None, f"{start}{waiting}. not found"
        node_names = _named(pod["spec"])
        reasons: Counter[str] = Counter()
        helpful = 0
        for node in nodes:
            bad = self._misfits(pod, node, apart=node_names is not None and node["metadata"]["name"] not in node_names)
            if not bad:
                return node, ""
            helpful += all(reason.startswith(_INSUFFICIENT) for reason in bad) and _would_fit_alone(pod, node)
            reasons.update(bad)
        texts = sorted(f"{count} {reason}" for reason, count in reasons.items())
        later = [f"{helpful} No preemption victims found for incoming pod"] if helpful else []
        later += [f"{len(nodes) - helpful} Preemption is not helpful for scheduling"] if helpful < len(nodes) else []
        preemption = f"preemption: 0/{len(nodes)} nodes are available: {', '.join(later)}."
        return None, f"{start}{', '.join(texts)}. no new claims to deallocate, {preemption}"

    def _unbound(self, pod: Object) -> str:
        """The problem of a pod's claims that excludes every node."""
        for volume in pod["spec"].get("volumes", ()):
            if "persistentVolumeClaim" not in volume:
                continue
            name = volume["persistentVolumeClaim"]["claimName"]
            claim = self._store.find(CLAIM, pod["metadata"]["namespace"], name)
            if claim is None:
                return f'persistentvolumeclaim "{name}" not found'
            if "deletionTimestamp" in claim["metadata"]:
                return f'persistentvolumeclaim "{name}" is being deleted'
            if claim["status"].get("phase") != "Bound":
                return "pod has unbound immediate PersistentVolumeClaims"
        return ""

    def _misfits(self, pod: Object, node: Object, *, apart: bool) -> list[str]:
        """Why a node does not fit a pod: the reason of the first failing filter, or all short resources."""
        spec = pod["spec"]
        # A pod that names its nodes is filtered before any other rule is looked at.
        if apart:
            return [self.elsewhere]
        if node["spec"].get("unschedulable"):
            return ["node(s) were unschedulable"]
        if any(not _tolerated(taint, spec) for taint in node["spec"].get("taints", ())):
            return ["node(s) had untolerated taint(s)"]
        labels = node["metadata"].get("labels", {})
        if any(labels.get(key) != value for key, value in spec.get("nodeSelector", {}).items()):
            return [_AFFINITY]
        if short := self._short(pod, node):
            return short
        return [] if self._reachable(pod, node) else ["node(s) didn't match PersistentVolume's node affinity"]

    def _short(self, pod: Object, node: Object) -> list[str]:
        """The resources of which a node has too little left."""
        free = {name: amount(value) for name, value in node["status"]["allocatable"].items()}
        pods = [*self._store.all(POD), *self._assumed]
        here = [one for one in pods if one["spec"].get("nodeName") == node["metadata"]["name"]]
        for other in here:
            if other["status"].get("phase") not in ("Succeeded", "Failed"):
                for name, value in requests(other["spec"]).items():
                    free[name] = free.get(name, Decimal(0)) - value
        attributes = requests(pod["spec"]).items()
        return sorted(f"{_INSUFFICIENT}{name}" for name, value in attributes if value > free.get(name, Decimal(0)))

    def _reachable(self, pod: Object, node: Object) -> bool:
        for volume in pod["spec"].get("volumes", ()):
            name = volume.get("persistentVolumeClaim", {}).get("claimName")
            claim = self._store.find(CLAIM, pod["metadata"]["namespace"], name) if name else None
            bound = self._store.find(VOLUME, "", claim["spec"].get("volumeName", "")) if claim else None
            terms = (
                bound["spec"].get("nodeAffinity", {}).get("required", {}).get("nodeSelectorTerms", ()) if bound else ()
            )
            hosts = {
                value for term in terms for one in term.get("matchExpressions", ()) for value in one.get("values", ())
            }
            if hosts and node["metadata"]["name"] not in hosts:
                return False
        return True

    def _refuse(self, pod: Object, why: str) -> None:
        condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": why}

        def change(new: Object) -> None:
            old = [one for one in new["status"].get("conditions", []) if one["type"] == "PodScheduled"]
            since = old[0]["lastTransitionTime"] if old else stamp()
            rest = [one for one in new["status"].get("conditions", []) if one["type"] != "PodScheduled"]
            new["status"]["conditions"] = [*rest, {**condition, "lastProbeTime": None, "lastTransitionTime": since}]

        before = self._store.find(POD, *key_of(pod))
        after = self._store.edit(POD, *key_of(pod), change)
        if before != after:
            self._state.event(pod, "FailedScheduling", why, by=self.by, warning=True)

    def _bind(self, pod: Object, node: Object) -> None:
        name = node["metadata"]["name"]

        def change(new: Object) -> None:
            new["spec"]["nodeName"] = name
            rest = [one for one in new["status"].get("conditions", []) if one["type"] != "PodScheduled"]
            times = {"lastProbeTime": None, "lastTransitionTime": stamp()}
            new["status"]["conditions"] = [*rest, {"type": "PodScheduled", "status": "True", **times}]

        self._store.edit(POD, *key_of(pod), change)
        where = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
        self._state.event(pod, "Scheduled", f"Successfully assigned {where} to {name}", by=self.by)


def _would_fit_alone(pod: Object, node: Object) -> bool:
    offered = node["status"]["allocatable"]
    return all(value <= amount(offered.get(name, "0")) for name, value in requests(pod["spec"]).items())


def _named(spec: Object) -> set[str] | None:
    """The nodes that a pod's affinity names by their metadata.name; None when it names none."""
    affinity = spec.get("affinity", {}).get("nodeAffinity", {}).get("requiredDuringSchedulingIgnoredDuringExecution")
    if not affinity:
        return None
    result: set[str] = set()
    for term in affinity["nodeSelectorTerms"]:
        fields = [
            one for one in term.get("matchFields", ()) if one["key"] == "metadata.name" and one["operator"] == "In"
        ]
        if not fields:
            return None
        result.update(value for one in fields for value in one["values"])
    return result


def _tolerated(taint: Object, spec: Object) -> bool:
    if taint["effect"] == "PreferNoSchedule":
        return True
    return any(tolerates(one, taint) for one in spec.get("tolerations", ()))


def tolerates(toleration: Object, taint: Object) -> bool:
    """Whether a toleration is for a taint."""
    if toleration.get("effect") not in (None, "", taint["effect"]):
        return False
    if toleration.get("key") not in (None, "", taint["key"]):
        return False
    return toleration.get("operator") == "Exists" or toleration.get("value", "") == taint.get("value", "")
