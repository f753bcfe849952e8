"""Engines of a cluster's hosts, started some hosts at a time, and how each host's came up."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from harness.errors import HarnessError
from harness.state_file import READY

Record = dict[str, Any]
Ends = dict[str, Record]
"""By host, whether its engines are ready (`good`), else a `reason`, the `state` and, where there is one, the `log`."""


def run(
    hosts: Sequence[str],
    at_once: int,
    start: Callable[[Sequence[str]], Mapping[str, Record]],
    watch: Callable[[Sequence[str]], Ends],
) -> Record:
    """The ends of all `hosts`, whether anything `changed`, and the `diff` of that by host.

    What keeps a whole wave from starting is a failure of each of its hosts.

    Args:
        hosts: those whose engines are started.
        at_once: how many hosts a wave has; 0 for all.
        start: starts the engines of a wave's hosts; by host whether that `changed` anything, and the `error` if not.
        watch: watches those of the hosts without an error until each is ready or has failed.
    """
    size, changed, ends = at_once or len(hosts) or 1, list[str](), Ends()
    for position in range(0, len(hosts), size):
        wave = hosts[position : position + size]
        try:
            started = start(wave)
            changed += [host for host, one in started.items() if one["changed"]]
            ends |= {host: failed(one["error"]) for host, one in started.items() if one["error"]}
            if coming := [host for host in wave if host not in ends]:
                ends |= watch(coming)
        except (HarnessError, OSError) as error:
            ends |= {host: failed(str(error)) for host in wave if host not in ends}
    diff = {"before": dict.fromkeys(changed, "down"), "after": dict.fromkeys(changed, "up")}
    return {"changed": bool(changed), "diff": diff, "hosts": ends}


def failed(reason: str, state: str = "failed") -> Record:
    """The end of a host's engines that are not ready."""
    return {"good": False, "state": state, "reason": reason}


def ends(records: Iterable[tuple[str, Record]]) -> Ends:
    """The ends of hosts from the last records of their engines, each with its host: the first failure counts."""
    result = Ends()
    for host, record in records:
        good = record["state"] == READY
        if host not in result or (result[host]["good"] and not good):
            reason = "" if good else record.get("reason") or f"it ended as {record['state']}"
            result[host] = {"good": good, "state": record["state"], "reason": reason, "log": record.get("log") or ""}
    return result
