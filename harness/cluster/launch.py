"""Engines and runs of a cluster: made, ended, and let go of. What is asked twice is there once."""

import dataclasses
import json
import time
from collections.abc import Sequence
from typing import Any

from harness.cluster import objects
from harness.cluster.api import Api, Object
from harness.cluster.settings import Cluster, engine_name, engine_url, engines_root, run_name, slug
from harness.engine import EngineConfig, EngineState
from harness.engine.state import first_state
from harness.errors import BadInput, NotReady
from harness.files import differences
from harness.spec import Spec

GONE_S = 120.0
COLLECTED = "mlperf/collected-unix"
_POLL_S = 0.5
_ENDS = {"Complete": "finished", "SuccessCriteriaMet": "finished", "Failed": "failed", "FailureTarget": "failed"}


@dataclasses.dataclass(frozen=True, slots=True)
class Launcher:
    """What starts and ends a run's engines and LoadGens on one cluster."""

    api: Api
    cluster: Cluster

    def engine_up(self, run_id: str, node: str, config: EngineConfig, *, dry_run: bool = False) -> EngineState:
        """Have an engine's Job on a node; `changed` is false when it was there. With `dry_run` only the API judges it.

        Raises:
            BadInput: an engine of this name has other settings, or the API server refuses it.
            NotReady: the API server is away, or the rights are missing.
        """
        name = engine_name(run_id, config.name)
        there = self.api.read("Job", name)
        again = there is not None and bool(ended(there))
        if again and not dry_run:
            self.engine_down(run_id, config.name)
        made = objects.engine_objects(self.cluster, run_id, node, config, self.owner(run_id, dry_run=dry_run))
        what = f"engine {config.name} of run {run_id}"
        # What has ended would be taken away first; while it is there, nothing else can be judged.
        changed = (again and dry_run) or self._make(made, what, "take it down first", dry_run)
        log = engines_root(run_id) / "engines" / config.name / "engine.log"
        state = first_state(config, log=str(log), progress="asking the cluster")
        return dataclasses.replace(state, url=engine_url(self.cluster, run_id, config), changed=changed)

    def engine_down(self, run_id: str, engine: str, *, dry_run: bool = False) -> bool:
        """Delete an engine's Job and wait until its pod has ended, so that its files are whole and its GPU is free.

        Whether there was one; with `dry_run` it is left.
        """
        name = engine_name(run_id, engine)
        if dry_run:
            return self.api.read("Job", name) is not None
        gone = [self.api.delete(kind, name) for kind in ("Job", "Service", "ConfigMap")]
        self._await_end(name)
        return gone[0]

    def start(self, spec: Spec, node: str, *, dry_run: bool = False) -> bool:
        """Have a run's Job on a node; whether it is new. A run whose directory is there already does not run again.

        Raises:
            BadInput: the id is taken by a run that was asked differently.
        """
        made = objects.run_objects(self.cluster, spec, node, self.owner(spec.run_id, dry_run=dry_run))
        return self._make(made, f"run_id {spec.run_id}", "choose another run_id", dry_run)

    def compare(self, spec: Spec) -> dict[str, tuple[Any, Any]] | None:
        """How the run's Job was asked differently; None when there is none."""
        there = self.api.read("ConfigMap", run_name(spec.run_id, spec.node))
        if there is None:
            return None
        return differences(json.loads(there["data"]["spec.json"]), spec.model_dump(mode="json"))

    def state(self, run_id: str, host: str) -> str:
        """A run's Job on a host: running, finished, failed, or absent."""
        there = self.api.read("Job", run_name(run_id, host))
        return (ended(there) or "running") if there else "absent"

    def stop(self, run_id: str, host: str, *, dry_run: bool = False) -> bool:
        """End a run by deleting its Job, and wait for the end of its pod, when its files on the claim are whole.

        Whether there was a Job that had not ended.
        """
        state, name = self.state(run_id, host), run_name(run_id, host)
        if not dry_run and state == "running":
            self.api.delete("Job", name)
        if not dry_run and state in ("running", "absent"):
            # Also where someone else has deleted it: the pod may be on its way out still.
            self._await_end(name)
        return state == "running"

    def runs(self, node: str | None = None) -> list[Object]:
        """Every run's Job, of one node or all, oldest first, as run_id, state and phase."""
        selector = f"{objects.COMPONENT}=run" + (f",{objects.NODE}={slug(node)}" if node else "")
        found = sorted(self.api.all("Job", selector), key=lambda job: str(job["metadata"]["creationTimestamp"]))
        return [_told(job) for job in found]

    def release(self, run_ids: Sequence[str], *, dry_run: bool = False) -> bool:
        """Let the cluster remove collected runs' finished Jobs after `keep_s`; whether that is new.

        What is left of runs that were collected longer ago is removed now, which is the only way where a Job's time to
        live cannot be set later.
        """
        jobs = self.api.all("Job", f"{objects.RUN} in ({','.join(map(slug, run_ids))})")
        held = [job for job in jobs if ended(job) and "ttlSecondsAfterFinished" not in job["spec"]]
        owners = self.api.all("ConfigMap", f"{objects.COMPONENT}=asked")
        new = [one for one in owners if _notes(one).get(objects.RUN_ID) in run_ids and COLLECTED not in _notes(one)]
        changed = bool(held if self.api.jobs_change else new)
        if not dry_run:
            change = {"spec": {"ttlSecondsAfterFinished": self.cluster.keep_s}}
            for job in held if self.api.jobs_change else ():
                self.api.patch("Job", job["metadata"]["name"], change)
            self._sweep(owners, new)
        return changed

    def _sweep(self, owners: Sequence[Object], new: Sequence[Object]) -> None:
        """Note that the `new` runs were collected, and delete what is left of those that were so for long."""
        now = time.time()
        for owner in new:
            noted = {"metadata": {"annotations": {COLLECTED: f"{now:.0f}"}}}
            self.api.patch("ConfigMap", owner["metadata"]["name"], noted)
        for owner in owners:
            if now - float(_notes(owner).get(COLLECTED, now)) > self.cluster.keep_s:
                self.api.delete("ConfigMap", owner["metadata"]["name"])

    def owner(self, run_id: str, *, dry_run: bool = False) -> Object:
        """The ConfigMap that owns a run's objects, made where it is missing."""
        return self.api.create(objects.owner(self.cluster, run_id), dry_run=dry_run)[1]

    def _make(self, wanted: list[Object], what: str, advice: str, dry_run: bool) -> bool:
        new = False
        for one in wanted:
            made, stored = self.api.create(one, dry_run=dry_run)
            new |= made and one["kind"] == "Job"
            if one["kind"] == "ConfigMap" and stored.get("data") != one.get("data"):
                (file,) = one["data"]
                other = differences(json.loads(stored["data"][file]), json.loads(one["data"][file]))
                # What is in `env` may be a secret.
                values = "; ".join(
                    f"{key} differs" if key.startswith("env.") else f"{key}: it has {old!r}, you ask {asked!r}"
                    for key, (old, asked) in other.items()
                )
                raise BadInput(f"{what} exists with other settings ({values}); {advice}")
        return new

    def _await_end(self, name: str) -> None:
        end = time.monotonic() + GONE_S
        while self.api.all("Pod", f"{objects.NAME}={name}"):
            if time.monotonic() > end:
                raise NotReady(
                    f"the pod of {name} has not ended {GONE_S:.0f} s after its Job was deleted; its node may be lost: "
                    f"kubectl -n {self.api.namespace} get pods -l {objects.NAME}={name} -o wide"
                )
            time.sleep(_POLL_S)


def ended(job: Object) -> str:
    """`finished` or `failed` for a Job that has ended, or is sure to as soon as its pod is gone; else empty."""
    for condition in job.get("status", {}).get("conditions") or ():
        if condition["status"] == "True" and condition["type"] in _ENDS:
            return _ENDS[condition["type"]]
    return ""


def _notes(thing: Object) -> dict[str, str]:
    return thing["metadata"].get("annotations") or {}


def _told(job: Object) -> Object:
    state = ended(job) or "running"
    return {"run_id": job["metadata"]["annotations"][objects.RUN_ID], "state": state, "phase": state}
