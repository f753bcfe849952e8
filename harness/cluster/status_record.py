"""The status of a Job as a record of the same shape as the state file on a host."""

from datetime import datetime
from typing import Any

from harness.cluster.diagnosis import Cause, Diagnosis, Kind, Object, Observation
from harness.cluster.diagnosis.evidence import STATUS_CHARS, printed
from harness.printable import printable
from harness.state_file import ENGINE_KEYS, SILENT


def record(kind: Kind, name: str, diagnosis: Diagnosis, observation: Observation) -> Object:
    """A run's record has the shape of status.json, an engine's that of ENGINE_KEYS of engine.json."""
    status: Object = printable(observation.last_status or {})
    status |= {"reason": printed(str(status["reason"]), STATUS_CHARS)} if status.get("reason") else {}
    job = observation.job
    created = _unix(job["metadata"].get("creationTimestamp")) if job else None
    started = {"started_unix": created or observation.now}
    if kind == "engine":
        base: Object = {"name": name, "kind": "vllm", "state": "starting", "reason": None, "telemetry": {}, **started}
        base |= {key: status[key] for key in ENGINE_KEYS if key in status}
    else:
        run_id = job["metadata"].get("annotations", {}).get("mlperf/run-id") if job else None
        empty = {"run_id": run_id, "state": "running", "phase": "starting", "reason": None, "log": ""}
        base = {**empty, **started, **status}
        base.setdefault("elapsed_s", max(0.0, observation.now - base["started_unix"]))
    if diagnosis.cause is Cause.SILENT and kind != "engine":
        silent_s = observation.silent_s
        return {**base, "state": SILENT, "reason": diagnosis.reason, "silent_s": silent_s}
    if diagnosis.state in ("progressing", "blocked"):
        shown = "progress" if kind == "engine" else "phase"
        progress = diagnosis.progress if diagnosis.state == "blocked" or not status else base.get(shown)
        if diagnosis.state == "blocked" and diagnosis.reason:
            progress = ": ".join(filter(None, [progress, diagnosis.reason]))
        return {**base, shown: progress}
    if diagnosis.state == "ok":
        return {**base, "state": "ready" if kind == "engine" else "finished"}
    return {**base, "state": "failed", "reason": diagnosis.reason}


def _unix(timestamp: Any) -> float | None:
    try:
        return datetime.fromisoformat(str(timestamp)).timestamp()
    except ValueError:
        return None
