"""What is shown of a Job: the record that its state file would be on a host."""

from datetime import datetime
from typing import Any

from harness.cluster.causes import Diagnosis, Kind, Object, Seen


def record(kind: Kind, name: str, diagnosis: Diagnosis, seen: Seen) -> Object:
    """What is shown of it: the shape of status.json for a run, of engine.json's shown keys for an engine."""
    said = seen.said or {}
    created = seen.job["metadata"].get("creationTimestamp") if seen.job else None
    begun: Object = {"started_unix": _unix(created) or seen.now}
    if kind == "engine":
        keys = ("name", "kind", "state", "reason", "progress", "url", "log", "started_unix", "ready_unix", "telemetry")
        base: Object = {"name": name, "kind": "vllm", "state": "starting", "reason": None, "telemetry": {}, **begun}
        base |= {key: said[key] for key in keys if key in said}
    else:
        run_id = seen.job["metadata"].get("annotations", {}).get("mlperf/run-id") if seen.job else None
        base = {"run_id": run_id, "state": "running", "phase": "starting", "reason": None, "log": "", **begun, **said}
    if diagnosis.state in ("going", "waiting"):
        shown = "progress" if kind == "engine" else "phase"
        told = diagnosis.progress if diagnosis.state == "waiting" or not said else base.get(shown)
        if diagnosis.state == "waiting" and diagnosis.reason:
            told = ": ".join(filter(None, [told, diagnosis.reason]))
        return {**base, shown: told, **_elapsed(kind, base, seen)}
    if diagnosis.state == "good":
        return {**base, "state": "ready" if kind == "engine" else "finished", **_elapsed(kind, base, seen)}
    return {**base, "state": "failed", "reason": diagnosis.reason, **_elapsed(kind, base, seen)}


def _elapsed(kind: Kind, base: Object, seen: Seen) -> Object:
    return {} if kind == "engine" or "elapsed_s" in base else {"elapsed_s": max(0.0, seen.now - base["started_unix"])}


def _unix(timestamp: Any) -> float | None:
    try:
        return datetime.fromisoformat(str(timestamp)).timestamp()
    except ValueError:
        return None
