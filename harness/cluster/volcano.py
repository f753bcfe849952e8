"""A cluster whose Jobs are jobs of Volcano, made through TorchX: to its callers they look like batch/v1 Jobs."""

import ast
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kubernetes import client
from torchx.runner import Runner
from torchx.schedulers.api import AppDryRunInfo
from torchx.schedulers.kubernetes_scheduler import JOB_STATE, KubernetesJob, create_scheduler
from torchx.specs import AppState, make_app_handle

from harness.cluster import objects, torchx
from harness.cluster.api import PATIENCE_S, Api, Object
from harness.cluster.refusals import Forbidden
from harness.cluster.rights import ON_VOLCANO
from harness.cluster.settings import Cluster, slug
from harness.errors import BadInput, NotReady

_KIND = ("batch.volcano.sh", "v1alpha1")
_SESSION = "mlperf"
_UID = 36
_GO_MESSAGE = re.compile(r'StatusError\{.*?\bMessage:"((?:[^"\\]|\\.)*)"', re.S)
_CONDITIONS = {AppState.SUCCEEDED: "Complete", AppState.FAILED: "Failed", AppState.CANCELLED: "Failed"}


class TorchxApi(Api):
    """The API of a namespace, as `Api`, where Jobs wait in a queue of Volcano.

    Args:
        queue: the queue; the others as `Api`.
    """

    rights = ON_VOLCANO
    # Volcano's admission refuses changes of what was asked.
    jobs_change = False

    def __init__(
        self,
        namespace: str,
        kubeconfig: Path | None = None,
        context: str | None = None,
        *,
        patience_s: float = PATIENCE_S,
        queue: str = "default",
    ) -> None:
        super().__init__(namespace, kubeconfig, context, patience_s=patience_s)
        self._queue = queue
        self._jobs = client.CustomObjectsApi(self.client)
        self._runner = Runner(
            _SESSION, {torchx.SCHEDULER: lambda session_name, **_: create_scheduler(session_name, client=self.client)}
        )

    def dryrun(self, name: str, jobs: Sequence[Object]) -> "AppDryRunInfo[KubernetesJob]":
        """TorchX's dry run of one application of these batch/v1 Jobs, completed; asks no cluster."""
        return dryrun(self._runner, self.namespace, self._queue, name, jobs)

    def schedule(self, info: "AppDryRunInfo[KubernetesJob]") -> str:
        """Submit a completed dry run; returns TorchX's handle of the application.

        Raises:
            BadInput, NotReady: the API server refuses it, or is away.
        """
        return str(
            self._asked("create a job of Volcano", lambda **_: {"handle": self._runner.schedule(info)})["handle"]
        )

    def handle(self, name: str) -> str:
        """TorchX's handle of a Job, as `torchx status` and `torchx log` take it."""
        return str(make_app_handle(torchx.SCHEDULER, _SESSION, f"{self.namespace}:{torchx.job_name(name)}"))

    def state(self, name: str) -> AppState:
        """What TorchX says of a Job that is there."""

        def ask(**_: object) -> dict[str, str]:
            try:
                status = self._runner.status(self.handle(name))
            except KeyError:  # a phase that TorchX does not know
                status = None
            return {"state": status.state.name if status else "UNKNOWN"}

        return AppState[self._asked(f"get the status of job {name}", ask)["state"]]

    def lines(self, name: str, role: str) -> list[str]:
        """What a role of a Job has printed so far, through TorchX; each line with its time before it."""
        call = self._runner.log_lines
        text: str = self._asked("read a log", lambda **_: {"text": "".join(call(self.handle(name), role))})["text"]
        # The client gives TorchX a log's bytes as Python would write them down.
        plain = ast.literal_eval(text).decode(errors="replace") if text.startswith(("b'", 'b"')) else text
        return str(plain).splitlines()

    def create(self, wanted: Object, *, dry_run: bool = False) -> tuple[bool, Object]:
        """As `Api.create`; a Job goes through TorchX.

        Raises:
            BadInput: it wants more GPUs than its node has.
        """
        if wanted["kind"] != "Job":
            return super().create(wanted, dry_run=dry_run)
        name = wanted["metadata"]["name"]
        there = self.read("Job", name)
        if there is not None and "deletionTimestamp" in there["metadata"]:
            raise NotReady(f"Job {name} is still being deleted; try again in a minute")
        if there is not None:
            return False, there
        self._refuse_more_gpus(wanted)
        info = self.dryrun(name, [wanted])
        if dry_run:
            body, call = info.request.resource, self._jobs.create_namespaced_custom_object
            self._asked(f"create Job {name}", call, *_KIND, self.namespace, "jobs", body, dry_run="All")
            return True, wanted
        try:
            self.schedule(info)
        except ValueError:  # TorchX's word for: somebody else was faster
            return False, self.read("Job", name) or wanted
        return True, self.read("Job", name) or wanted

    def read(self, kind: str, name: str) -> Object | None:
        """As `Api.read`."""
        if kind != "Job":
            return super().read(kind, name)
        found = self._of_job(name, "get", self._jobs.get_namespaced_custom_object)
        if found is None:
            return None
        known = JOB_STATE.get(_phase(found), AppState.PENDING)
        said = self.state(name)
        return _as_batch(found, known if said is AppState.UNKNOWN else said)

    def all(self, kind: str, selector: str = "", **more: Any) -> list[Object]:
        """As `Api.all`; an event of a job's PodGroup is the job's."""
        if kind == "Event":
            return [_plain_event(event) for event in super().all(kind, selector, **more)]
        if kind != "Job":
            return super().all(kind, selector, **more)
        call, words = self._jobs.list_namespaced_custom_object, (*_KIND, self.namespace, "jobs")
        found = self._asked("list jobs of Volcano", call, *words, label_selector=selector, **more)
        return [_as_batch(item, JOB_STATE.get(_phase(item), AppState.PENDING)) for item in found["items"]]

    def delete(self, kind: str, name: str) -> bool:
        """As `Api.delete`."""
        if kind != "Job":
            return super().delete(kind, name)
        call = self._jobs.delete_namespaced_custom_object
        return self._of_job(name, "delete", call, propagation_policy="Background") is not None

    def patch(self, kind: str, name: str, change: Object) -> Object | None:
        """As `Api.patch`; never a Job."""
        if kind == "Job":
            raise BadInput(f"job {name} of Volcano cannot be changed once it is there; delete it and make another")
        return super().patch(kind, name, change)

    def _refuse_more_gpus(self, job: Object) -> None:
        node = torchx.node_of(job)
        try:
            there = self.node(node)
        except Forbidden:
            return
        if there is not None:
            offers = there["status"].get("allocatable", {}).items()
            counts = {resource: int(count) for resource, count in offers if str(count).isdigit()}
            torchx.refuse_more_than([job], {node: counts})

    def _of_job(self, name: str, verb: str, call: Callable[..., Any], *words: Any, **more: Any) -> Object | None:
        place = (*_KIND, self.namespace, "jobs", torchx.job_name(name))
        return self._optional(f"{verb} job.batch.volcano.sh {name}", call, *place, *words, **more)


def as_one(cluster: Cluster, run_id: str, found: Sequence[Object]) -> list[Object]:
    """The same objects with one job of Volcano for all their Jobs, which starts whole; asks no cluster."""
    jobs = torchx.jobs_of(found)
    with Runner(_SESSION, {torchx.SCHEDULER: create_scheduler}) as runner:
        job = dryrun(runner, cluster.namespace, cluster.queue, slug("mlperf", run_id), jobs).request.resource
    return [*(one for one in found if one not in jobs), job]


def dryrun(
    runner: Runner, namespace: str, queue: str, name: str, jobs: Sequence[Object]
) -> "AppDryRunInfo[KubernetesJob]":
    """TorchX's dry run of batch/v1 Jobs on its scheduler `kubernetes`, completed."""
    settings = {"namespace": namespace, "queue": queue}
    # A workspace would be built into an image with Docker.
    info = runner.dryrun(torchx.application(torchx.job_name(name), jobs), torchx.SCHEDULER, settings, workspace=None)
    info.request.resource = torchx.complete(info.request.resource, jobs, name)
    return info


def _plain_event(event: Object) -> Object:
    """An event in plain words, about the job where it is about its PodGroup."""
    about = event["involvedObject"]
    if about.get("kind") == "PodGroup":
        # It is named JOB-UID, by the job's uid.
        about = {**about, "uid": about["name"][-_UID:]}
    message = str(event.get("message", ""))
    # A refusal is told as Go writes its struct down.
    if said := _GO_MESSAGE.search(message):
        message = ast.literal_eval(f'"{said[1]}"')
    return {**event, "involvedObject": about, "message": message}


def _phase(found: Object) -> str:
    return str(found.get("status", {}).get("state", {}).get("phase", ""))


def _as_batch(found: Object, state: AppState) -> Object:
    """A job of Volcano with the conditions that a batch/v1 Job would have, under the name that it was asked by."""
    status: Object = {"conditions": []}
    if kind := _CONDITIONS.get(state):
        told = found["status"]["state"]
        status["conditions"] = [
            {
                "type": kind,
                "status": "True",
                "reason": f"Volcano{told['phase']}",
                "message": told.get("message", ""),
                "lastTransitionTime": told.get("lastTransitionTime"),
            }
        ]
    name = found["metadata"].get("labels", {}).get(objects.NAME, found["metadata"]["name"])
    return {**found, "kind": "Job", "metadata": {**found["metadata"], "name": name}, "status": status}
