"""What a Job, its pod, their events and its node tell about an engine or a run: how it is, why, and what to do next."""

from collections.abc import Callable

from harness.cluster.beginnings import not_created, not_scheduled, not_started
from harness.cluster.case import Case, pod_name
from harness.cluster.causes import Cause, Diagnosis, Kind, Seen
from harness.cluster.endings import job_ended, node_of_pod, pod_ended

# Silent for so long is worth a word, for so much longer the end: a log may not be readable for a while.
STALE_S, SILENT_S = 60.0, 120.0
Look = Callable[[Case], Diagnosis | None]


def diagnose(kind: Kind, name: str, node: str, seen: Seen) -> Diagnosis:
    """What is the matter with engine or run `name` on `node`; the first look that knows decides."""
    case = Case(kind, name, node, seen)
    for look in _LOOKS:
        if found := look(case):
            return found
    return Diagnosis("going", Cause.STARTING, progress="waiting for its pod")


def _running(case: Case) -> Diagnosis | None:
    said = case.seen.said
    if said is None and case.pod is None:
        return None
    if said is None and case.seen.silent_s <= STALE_S:
        return Diagnosis("going", Cause.STARTING, progress="starting its container")
    if said is None:
        silent = f"{case.who} has been running for {case.seen.silent_s:.0f} s, and of its log nothing can be read"
        reason = f"{silent}; {case.show('logs --tail=1 ' + pod_name(case))}"
        return Diagnosis("waiting", Cause.SILENT, reason, SILENT_S, f"silent for {case.seen.silent_s:.0f} s")
    if case.kind == "engine" and said.get("state") == "ready":
        return Diagnosis("good", Cause.READY)
    silent_s = case.seen.silent_s
    if case.kind == "run" and said.get("state") == "running" and silent_s > STALE_S:
        why = "it hangs, or its log cannot be read"
        silent = f"{case.who} has written nothing for {silent_s:.0f} s, though its pod runs: {why}"
        reason = f"{silent}; {case.show('logs --tail=1 ' + pod_name(case))}"
        return Diagnosis("waiting", Cause.SILENT, reason, SILENT_S, f"silent for {silent_s:.0f} s")
    return Diagnosis("going", Cause.RUNNING, progress=str(said.get("progress") or ""))


_LOOKS: tuple[Look, ...] = (job_ended, pod_ended, node_of_pod, not_created, not_scheduled, not_started, _running)
