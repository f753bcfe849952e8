"""Volcano's scheduler: it admits PodGroups as their queue and the cluster have room, and binds all pods or none."""

import copy
from collections import defaultdict
from decimal import Decimal

from tests.cluster.controller import Controller
from tests.cluster.kinds import CLAIM, NODE, POD, VOLCANO_GROUP, VOLCANO_QUEUE, VOLUME, Key, Object
from tests.cluster.quantities import amount, requests
from tests.cluster.scheduler import Scheduler
from tests.cluster.state import State
from tests.cluster.store import Change, key_of, stamp, suffix
from tests.cluster.volcano_job import ENDED, GROUP, QUEUE

_BY = "volcano"
_OVERCOMMIT = Decimal("1.2")


class VolcanoScheduler(Scheduler):
    """Schedules PodGroups whenever something relevant changes."""

    by = _BY
    elsewhere = "node(s) didn't match Pod's node affinity/selector"

    def __init__(self, state: State) -> None:
        super().__init__(state)
        self.groups = Controller(state, _BY, self._look_at_group)

    def _on_change(self, change: Change) -> None:
        if change.kind in (POD, NODE, CLAIM, VOLUME, VOLCANO_GROUP, VOLCANO_QUEUE):
            for group in self._store.all(VOLCANO_GROUP):
                self.groups.add(key_of(group))

    def _look_at_group(self, key: Key) -> float | None:
        group = self._store.find(VOLCANO_GROUP, *key)
        if group is None or "deletionTimestamp" in group["metadata"]:
            return None
        pods = [pod for pod in self._store.all(POD, key[0]) if _of(pod, key[1])]
        if group["status"]["phase"] == "Pending":
            self._let_in(group)
        elif any(not pod["spec"].get("nodeName") for pod in pods):
            self._place(group, pods)
        return None

    def _let_in(self, group: Object) -> None:
        requested = {name: amount(value) for name, value in group["spec"]["minResources"].items()}
        queue = self._store.find(VOLCANO_QUEUE, "", group["spec"]["queue"]) or {"spec": {}}
        limit = {name: amount(value) for name, value in queue["spec"].get("capability", {}).items()}
        bound = [pod for pod in self._store.all(POD) if pod["spec"].get("nodeName")]
        bound = [pod for pod in bound if pod["status"].get("phase") not in ENDED]
        queued = [pod for pod in bound if pod["metadata"].get("labels", {}).get(QUEUE) == group["spec"]["queue"]]
        used = _together([{name: str(value) for name, value in requests(pod["spec"]).items()} for pod in queued])
        allocated = _together([{name: str(value) for name, value in requests(pod["spec"]).items()} for pod in bound])
        allocatable = _together([node["status"]["allocatable"] for node in self._store.all(NODE)])
        over = sorted(name for name in requested if name in limit and used[name] + requested[name] > limit[name])
        short = sorted(
            name for name in requested if allocated[name] + requested[name] > allocatable[name] * _OVERCOMMIT
        )
        if not over and not short:
            self._edit(group, "Inqueue")
            return
        why = f"queue resource quota insufficient: insufficient {', '.join(over)}"
        why = why if over else f"resource in cluster is overused: overused {', '.join(short)}"
        self._state.event(group, "Unschedulable", why, by=_BY)
        self._unschedulable(group, f"1/0 tasks in gang unschedulable: {_not_ready(group, 0)}")

    def _place(self, group: Object, pods: list[Object]) -> None:
        """Bind all pods that fit if the gang is then complete; else record for each why not."""
        waiting = [pod for pod in pods if not pod["spec"].get("nodeName")]
        result, why = dict[str, Object](), dict[str, str]()
        self._assumed = []
        for pod in waiting:
            name = pod["metadata"]["name"]
            node, why[name] = self._find(pod)
            if node is not None:
                result[name] = node
                self._assumed.append(copy.deepcopy(pod))
                self._assumed[-1]["spec"]["nodeName"] = node["metadata"]["name"]
        self._assumed = []
        whole = len(pods) - len(waiting) + len(result) >= group["spec"]["minMember"]
        for pod in waiting:
            name = pod["metadata"]["name"]
            if whole and name in result:
                self._bind(pod, result[name])
            elif name in result:
                place = f"Pod {'/'.join(key_of(pod))} can possibly be assigned to {result[name]['metadata']['name']}"
                self._refuse(pod, f"{place}, once minAvailable is satisfied")
            else:
                self._refuse(pod, why[name].split(" no new claims")[0].replace("are available", "are unavailable"))
        if whole:
            self._edit(group, "Running", {"type": "Scheduled", "reason": "tasks in gang are ready to be scheduled"})
        else:
            message = f"{len(waiting)}/{len(pods)} tasks in gang unschedulable: {_not_ready(group, len(waiting))}"
            kinds = {"Schedulable": len(result), "Unschedulable": len(waiting) - len(result)}
            counts = ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count)
            self._unschedulable(group, f"{message}; Pending: {counts}")

    def _find(self, pod: Object) -> tuple[Object | None, str]:
        scripted = next((one.unschedulable for one in self._state.scripts if one.unschedulable and one.fits(pod)), "")
        return (None, scripted) if scripted else self._choose(pod, self._store.all(NODE))

    def _unschedulable(self, group: Object, why: str) -> None:
        details = {"type": "Unschedulable", "reason": "NotEnoughResources", "message": why}
        if self._edit(group, group["status"]["phase"], details):
            self._state.event(group, "Unschedulable", why, by=_BY, warning=True)

    def _edit(self, group: Object, phase: str, condition: Object | None = None) -> bool:
        """Set a PodGroup's phase and newest condition; returns whether anything changed."""

        def change(new: Object) -> None:
            status = new["status"]
            status["phase"], old = phase, status.get("conditions", [])
            if condition and (not old or condition.items() - old[-1].items()):
                rest = [one for one in old if one["type"] != condition["type"]]
                times = {"status": "True", "transitionID": suffix(), "lastTransitionTime": stamp()}
                status["conditions"] = [*rest, {**condition, **times}]

        return self._store.edit(VOLCANO_GROUP, *key_of(group), change) is not group

    def _misfits(self, pod: Object, node: Object, *, apart: bool) -> list[str]:
        # Resources come before any other rule, on every node, and only the first that is short is named.
        return self._short(pod, node)[:1] or super()._misfits(pod, node, apart=apart)


def _together(lists: list[dict[str, str]]) -> defaultdict[str, Decimal]:
    """Sums of quantities, by resource."""
    result: defaultdict[str, Decimal] = defaultdict(Decimal)
    for name, value in ((name, value) for one in lists for name, value in one.items()):
        result[name] += amount(value)
    return result


def _of(pod: Object, group: str) -> bool:
    notes = pod["metadata"].get("annotations", {})
    has_ended = "deletionTimestamp" in pod["metadata"] or pod["status"].get("phase") in ENDED
    return notes.get(GROUP) == group and pod["spec"].get("schedulerName") == _BY and not has_ended


def _not_ready(group: Object, pending: int) -> str:
    pending_text = f"{pending} Pending, " if pending else ""
    return f"pod group is not ready, {pending_text}{group['spec']['minMember']} minAvailable"
