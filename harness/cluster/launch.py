"""Create, stop and release engines and runs; creation is idempotent."""

import dataclasses
import io
import json
import time
from collections.abc import Sequence
from typing import Any

from harness.cluster import objects
from harness.cluster.api import Api, Object
from harness.cluster.pod_exec import execute
from harness.cluster.settings import ROOT, Cluster, engine_name, engine_url, engines_root, run_name, slug
from harness.engine import EngineConfig, EngineState
from harness.engine.state import initial_state
from harness.errors import BadInput, NotReady
from harness.files import describe_differences, differences
from harness.spec import Spec

TERMINATION_S = 120.0
COLLECTED = "mlperf/collected-unix"
_POLL_S = 0.5
_MOST_ANSWER_BYTES = 1 << 20
_END_STATES = {
    "Complete": "finished",
    "SuccessCriteriaMet": "finished",
    "Failed": "failed",
    "FailureTarget": "failed",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Launcher:
    """Starts and stops the engines and LoadGens of runs on one cluster."""

    api: Api
    cluster: Cluster

    def engine_up(self, run_id: str, node: str, config: EngineConfig, *, dry_run: bool = False) -> EngineState:
        """Create an engine's Job on a node; `changed` is false when it exists. With `dry_run` nothing is stored.

        Raises:
            BadInput: an engine of this name has other settings, or the API server rejects it.
            NotReady: the API server is unavailable, or the rights are missing.
        """
        name = engine_name(run_id, config.name)
        job = self.api.read("Job", name)
        restart = job is not None and bool(end_state(job))
        if restart and not dry_run:
            self.engine_down(run_id, config.name)
        bodies = objects.engine_objects(self.cluster, run_id, node, config, self.owner(run_id, dry_run=dry_run))
        title = f"engine {config.name} of run {run_id}"
        # A Job that has ended would be deleted first; while it exists, a dry run of another one is impossible.
        changed = (restart and dry_run) or self._create(bodies, title, "take it down first", dry_run)
        log = engines_root(run_id) / "engines" / config.name / "engine.log"
        state = initial_state(config, log=str(log), progress="creating its Job")
        return dataclasses.replace(state, url=engine_url(self.cluster, run_id, config), changed=changed)

    def engine_down(self, run_id: str, engine: str, *, dry_run: bool = False) -> bool:
        """Delete an engine's Job and wait until its pod has ended: its files are then complete and its GPU is free.

        Returns whether there was one; with `dry_run` nothing is deleted.
        """
        name = engine_name(run_id, engine)
        if dry_run:
            return self.api.read("Job", name) is not None
        deleted, *_ = [self.api.delete(kind, name) for kind in ("Job", "Service", "ConfigMap", "Secret")]
        self._await_termination(name)
        return deleted

    def start(self, spec: Spec, node: str, *, resumed: bool = False, dry_run: bool = False) -> bool:
        """Create a run's Job on a node; whether it is new.

        A run whose directory exists does not run again, unless it is to be `resumed` and has not finished: it then gets
        a new Job of the same name.

        Raises:
            BadInput: the id is taken by a run with another spec.
        """
        owner = self.owner(spec.run_id, dry_run=dry_run)
        failed = resumed and self.state(spec.run_id, spec.node) == "failed"
        if failed and not dry_run:
            name = run_name(spec.run_id, spec.node)
            self.api.delete("Job", name)
            self._await_termination(name)
        if resumed and not dry_run and COLLECTED in _annotations(owner):
            # Else another run's release would delete the owner, and with it this run's new Job.
            self.api.patch("ConfigMap", owner["metadata"]["name"], {"metadata": {"annotations": {COLLECTED: None}}})
        bodies = objects.run_objects(self.cluster, spec, node, owner, resumed=resumed)
        # A dry run of a Job that exists says nothing about the one that would take its place.
        return (failed and dry_run) or self._create(bodies, f"run_id {spec.run_id}", "choose another run_id", dry_run)

    def remove(self, name: str) -> None:
        """Delete a Job that nobody else needs, and its ConfigMap, and wait for the end of its pod."""
        for kind in ("Job", "ConfigMap"):
            self.api.delete(kind, name)
        self._await_termination(name)

    def compare(self, spec: Spec) -> dict[str, tuple[Any, Any]] | None:
        """How a spec differs from that of the run's Job, as (existing, new) by key; None when there is no Job."""
        config_map = self.api.read("ConfigMap", run_name(spec.run_id, spec.node))
        if config_map is None:
            return None
        return differences(json.loads(config_map["data"]["spec.json"]), spec.model_dump(mode="json"))

    def state(self, run_id: str, host: str) -> str:
        """The state of a run's Job on a host: running, finished, failed, or absent."""
        job = self.api.read("Job", run_name(run_id, host))
        return (end_state(job) or "running") if job else "absent"

    def decide(self, run_id: str, host: str, attempt: int, *, repeat: bool) -> None:
        """Tell a run that waits for the others after `attempt` whether all repeat it, by a command in its pod.

        Raises:
            NotReady: the run has no running pod, or the right to run a command in it is missing.
            RunFailed: the command failed.
        """
        pods = self.api.list_objects("Pod", f"{objects.NAME}={run_name(run_id, host)}")
        running = [pod["metadata"]["name"] for pod in pods if pod.get("status", {}).get("phase") == "Running"]
        if not running:
            raise NotReady(f"run {run_id} has no running pod on {host} that could repeat attempt {attempt}")
        words = ["decide", run_id, str(attempt), "--repeat" if repeat else "--accept", "--root", str(ROOT)]
        execute(self.api, running[0], ["harness", *words], io.BytesIO(), most_bytes=_MOST_ANSWER_BYTES)

    def stop(self, run_id: str, host: str, *, dry_run: bool = False) -> bool:
        """Stop a run by deleting its Job, and wait for the end of its pod: its files on the claim are then complete.

        Returns whether there was a Job that had not ended.
        """
        state, name = self.state(run_id, host), run_name(run_id, host)
        if not dry_run and state == "running":
            self.api.delete("Job", name)
        if not dry_run and state in ("running", "absent"):
            # Also when someone else has deleted the Job: its pod may still be terminating.
            self._await_termination(name)
        return state == "running"

    def runs(self, node: str | None = None) -> list[Object]:
        """The run_id, state and phase of every run's Job, on one node or all, oldest first."""
        selector = f"{objects.COMPONENT}=run" + (f",{objects.NODE}={slug(node)}" if node else "")
        jobs = self.api.list_objects("Job", selector)
        return [_run_state(job) for job in sorted(jobs, key=lambda job: str(job["metadata"]["creationTimestamp"]))]

    def release(self, run_ids: Sequence[str], *, dry_run: bool = False) -> bool:
        """Set a TTL of `keep_s` on the finished Jobs of collected runs; whether that changes anything.

        Objects of runs that were collected more than `keep_s` ago are deleted now, which is the only way where a
        Job's TTL cannot be set after its creation.
        """
        jobs = self.api.list_objects("Job", f"{objects.RUN} in ({','.join(map(slug, run_ids))})")
        without_ttl = [job for job in jobs if end_state(job) and "ttlSecondsAfterFinished" not in job["spec"]]
        owners = self.api.list_objects("ConfigMap", f"{objects.COMPONENT}={objects.OWNER}")
        collected = [
            owner
            for owner in owners
            if _annotations(owner).get(objects.RUN_ID) in run_ids and COLLECTED not in _annotations(owner)
        ]
        changed = bool(without_ttl if self.api.ttl_can_be_set else collected)
        if not dry_run:
            change = {"spec": {"ttlSecondsAfterFinished": self.cluster.keep_s}}
            for job in without_ttl if self.api.ttl_can_be_set else ():
                self.api.patch("Job", job["metadata"]["name"], change)
            self._mark_collected(collected)
            self._delete_expired(owners)
        return changed

    def _mark_collected(self, owners: Sequence[Object]) -> None:
        change = {"metadata": {"annotations": {COLLECTED: f"{time.time():.0f}"}}}
        for owner in owners:
            self.api.patch("ConfigMap", owner["metadata"]["name"], change)

    def _delete_expired(self, owners: Sequence[Object]) -> None:
        now = time.time()
        for owner in owners:
            if now - float(_annotations(owner).get(COLLECTED, now)) > self.cluster.keep_s:
                self.api.delete("ConfigMap", owner["metadata"]["name"])

    def owner(self, run_id: str, *, dry_run: bool = False) -> Object:
        """The ConfigMap that owns a run's objects, created where it is missing."""
        return self.api.create(objects.owner(self.cluster, run_id), dry_run=dry_run)[1]

    def _create(self, bodies: list[Object], title: str, advice: str, dry_run: bool) -> bool:
        """Create objects; whether the Job among them is new.

        Raises:
            BadInput: a ConfigMap exists with other content.
        """
        job_is_new = False
        for body in bodies:
            new, stored = self.api.create(body, dry_run=dry_run)
            job_is_new |= new and body["kind"] == "Job"
            if body["kind"] == "ConfigMap" and stored.get("data") != body.get("data"):
                (file,) = body["data"]
                settings = differences(json.loads(stored["data"][file]), json.loads(body["data"][file]))
                raise BadInput(f"{title} exists with other settings ({describe_differences(settings)}); {advice}")
        return job_is_new

    def _await_termination(self, name: str) -> None:
        end = time.monotonic() + TERMINATION_S
        while self.api.list_objects("Pod", f"{objects.NAME}={name}"):
            if time.monotonic() > end:
                raise NotReady(
                    f"the pod of {name} is still terminating {TERMINATION_S:.0f} s after its Job was deleted; its node "
                    f"may be lost: kubectl -n {self.api.namespace} get pods -l {objects.NAME}={name} -o wide"
                )
            time.sleep(_POLL_S)


def end_state(job: Object) -> str:
    """`finished` or `failed` for a Job that has ended, or will end once its pod has terminated; else empty."""
    for condition in job.get("status", {}).get("conditions") or ():
        if condition["status"] == "True" and condition["type"] in _END_STATES:
            return _END_STATES[condition["type"]]
    return ""


def _annotations(body: Object) -> dict[str, str]:
    return body["metadata"].get("annotations") or {}


def _run_state(job: Object) -> Object:
    state = end_state(job) or "running"
    return {"run_id": job["metadata"]["annotations"][objects.RUN_ID], "state": state, "phase": state}
