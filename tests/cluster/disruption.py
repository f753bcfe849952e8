"""The condition of a pod that is ended from outside."""

from tests.cluster.kinds import POD, Object
from tests.cluster.state import State
from tests.cluster.store import key_of, stamp


def disrupt(state: State, pod: Object, reason: str, message: str) -> None:
    """Give a pod the condition DisruptionTarget."""
    condition: Object = {"type": "DisruptionTarget", "status": "True", "reason": reason, "message": message}
    condition |= {"lastProbeTime": None, "lastTransitionTime": stamp()}
    state.store.edit(POD, *key_of(pod), lambda new: new["status"].setdefault("conditions", []).append(condition))
