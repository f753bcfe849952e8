"""Accuracy shares of nodes that were lost, in topology `per_node`: the other nodes take them over after their own."""

from collections.abc import Iterable

from harness.benchmark.plan import Plan
from harness.benchmark.public_settings import Topology
from harness.benchmark.speeds import shares
from harness.spec import OnEngineLoss, Record, Share
from harness.state_file import SHARE_SUFFIX


class TakenShare(Record):
    """A further accuracy run of a living node: its name, the lost node, and the samples of that node's share."""

    run_id: str
    lost: str
    share: Share


def taken_shares(plan: Plan, finished: Iterable[str]) -> dict[str, list[TakenShare]]:
    """What each node whose own run has finished takes over: of each lost node's share a part by its speed.

    Empty where nothing is to be taken over: nothing was lost, nobody is left, or the benchmark does not go on after a
    loss, has one LoadGen, or measures no accuracy.
    """
    living = [host for host in plan.loadgens if host in set(finished)]
    goes_on = plan.asked.on_engine_loss is OnEngineLoss.CONTINUE and "accuracy" in plan.asked.mode.runs
    if plan.topology is Topology.FLEET or not goes_on or not living:
        return {}
    taken: dict[str, list[TakenShare]] = {host: [] for host in living}
    speeds = [plan.nodes[host].samples_per_s or 1.0 for host in living]
    for number, lost in enumerate(plan.loadgens, 1):
        share = plan.nodes[lost].share
        if lost in living or share is None:
            continue
        start = share.start
        for host, size in zip(living, shares(share.stop - share.start, speeds), strict=True):
            if size:
                part = Share(start=start, stop=start + size)
                taken[host].append(TakenShare(run_id=f"{plan.run_id}{SHARE_SUFFIX}{number}", lost=lost, share=part))
            start += size
    return {host: parts for host, parts in taken.items() if parts}


def describe(host: str, taken: TakenShare) -> str:
    """A share that was taken over, for people."""
    share = taken.share
    return f"{host} takes over samples {share.start} to {share.stop - 1} of {taken.lost} for accuracy"
