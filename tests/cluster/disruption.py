"""The mark on a pod that something else than itself ends it."""

from tests.cluster.kinds import POD, Object
from tests.cluster.store import key_of, stamp
from tests.cluster.world import World


def disrupt(world: World, pod: Object, reason: str, message: str) -> None:
    """Give a pod the condition DisruptionTarget."""
    condition: Object = {"type": "DisruptionTarget", "status": "True", "reason": reason, "message": message}
    condition |= {"lastProbeTime": None, "lastTransitionTime": stamp()}
    world.store.edit(POD, *key_of(pod), lambda new: new["status"].setdefault("conditions", []).append(condition))
