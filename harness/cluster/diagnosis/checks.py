"""From an observation to a diagnosis: a pure function, a list of checks in order."""

import dataclasses
from collections.abc import Callable
from math import inf

from harness.cluster.diagnosis.causes import Cause, Diagnosis, Kind, Observation
from harness.cluster.diagnosis.evidence import Evidence, printed
from harness.cluster.diagnosis.startup import not_created, not_scheduled, not_started
from harness.cluster.diagnosis.termination import job_ended, node_lost, pod_ended
from harness.state_file import RUNNING

# A status that has not changed for STALE_S is mentioned. An engine whose log was never readable has failed SILENT_S
# later; how long a run may be silent is up to its watcher, who then stops it.
STALE_S, SILENT_S = 60.0, 120.0
_REASON_CHARS = 2500
Check = Callable[[Evidence], Diagnosis | None]


def diagnose(kind: Kind, name: str, node: str, observation: Observation) -> Diagnosis:
    """The state of engine or run `name` on `node`; the first check that applies decides."""
    evidence = Evidence(kind, name, node, observation)
    for check in _CHECKS:
        if diagnosis := check(evidence):
            reason, progress = (printed(text, _REASON_CHARS) for text in (diagnosis.reason, diagnosis.progress))
            return dataclasses.replace(diagnosis, reason=reason, progress=progress)
    return Diagnosis("progressing", Cause.STARTING, progress="waiting for its pod")


def _running(evidence: Evidence) -> Diagnosis | None:
    """A container that runs, judged by the status in its log."""
    status, silent_s = evidence.observation.last_status, evidence.observation.silent_s
    if status is None and evidence.pod is None:
        return None
    if status is None and silent_s <= STALE_S:
        return Diagnosis("progressing", Cause.STARTING, progress="starting its container")
    if status is None:
        return _silent(evidence, f"has been running for {silent_s:.0f} s, and its log cannot be read or is empty")
    if evidence.kind == "engine" and status.get("state") == "ready":
        return Diagnosis("ok", Cause.READY)
    if evidence.kind != "engine" and status.get("state") in RUNNING and silent_s > STALE_S:
        why = "it hangs, or its log cannot be read"
        return _silent(evidence, f"has written nothing for {silent_s:.0f} s, though its pod runs: {why}")
    return Diagnosis("progressing", Cause.RUNNING, progress=str(status.get("progress") or ""))


def _silent(evidence: Evidence, what: str) -> Diagnosis:
    reason = f"{evidence.subject} {what}; {evidence.kubectl('logs --tail=1 ' + evidence.pod_name)}"
    progress = f"silent for {evidence.observation.silent_s:.0f} s"
    return Diagnosis("blocked", Cause.SILENT, reason, SILENT_S if evidence.kind == "engine" else inf, progress)


_CHECKS: tuple[Check, ...] = (job_ended, pod_ended, node_lost, not_created, not_scheduled, not_started, _running)
