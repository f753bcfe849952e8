"""The API of a cluster whose Jobs are jobs of Volcano, created by TorchX; callers see them as batch/v1 Jobs."""

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

from harness.cluster import objects, torchx_app
from harness.cluster.api import RETRY_S, Api, Object
from harness.cluster.api_errors import Forbidden
from harness.cluster.rbac import VOLCANO_RIGHTS
from harness.cluster.settings import Cluster, slug
from harness.errors import BadInput, NotReady

_KIND = ("batch.volcano.sh", "v1alpha1")
_SESSION = "mlperf"
_UID_LENGTH = 36
_GO_MESSAGE = re.compile(r'StatusError\{.*?\bMessage:"((?:[^"\\]|\\.)*)"', re.S)
_CONDITIONS = {AppState.SUCCEEDED: "Complete", AppState.FAILED: "Failed", AppState.CANCELLED: "Failed"}


class TorchxApi(Api):
    """As `Api`, with Jobs in a queue of Volcano.

    Args:
        queue: the queue; the others as in `Api`.
    """

    rights = VOLCANO_RIGHTS
    # Volcano's admission webhook rejects changes of a job's spec.
    ttl_can_be_set = False

    def __init__(
        self,
        namespace: str,
        kubeconfig: Path | None = None,
        context: str | None = None,
        *,
        retry_s: float = RETRY_S,
        queue: str = "default",
    ) -> None:
        super().__init__(namespace, kubeconfig, context, retry_s=retry_s)
        self._queue = queue
        self._jobs = client.CustomObjectsApi(self.client)
        self._runner = Runner(
            _SESSION,
            {torchx_app.SCHEDULER: lambda session_name, **_: create_scheduler(session_name, client=self.client)},
        )

    def dryrun(self, name: str, jobs: Sequence[Object]) -> "AppDryRunInfo[KubernetesJob]":
        """TorchX's dry run of one application of these batch/v1 Jobs, completed; sends no request."""
        return dryrun(self._runner, self.namespace, self._queue, name, jobs)

    def schedule(self, info: "AppDryRunInfo[KubernetesJob]") -> str:
        """Submit a completed dry run; returns TorchX's handle of the application.

        Raises:
            BadInput, NotReady: the API server rejects it, or is unavailable.
        """
        action = "create a job of Volcano"
        return str(self._request(action, lambda **_: {"handle": self._runner.schedule(info)})["handle"])

    def handle(self, name: str) -> str:
        """TorchX's handle of a Job, the argument of `torchx status` and `torchx log`."""
        return str(make_app_handle(torchx_app.SCHEDULER, _SESSION, f"{self.namespace}:{torchx_app.job_name(name)}"))

    def state(self, name: str) -> AppState:
        """TorchX's state of an existing Job."""

        def read_state(**_: object) -> dict[str, str]:
            try:
                status = self._runner.status(self.handle(name))
            except KeyError:  # a phase that TorchX does not know
                status = None
            return {"state": status.state.name if status else "UNKNOWN"}

        return AppState[self._request(f"get the status of job {name}", read_state)["state"]]

    def log_lines(self, name: str, role: str) -> list[str]:
        """The log of a role of a Job through TorchX, each line with its time before it."""
        method = self._runner.log_lines
        text: str = self._request("read a log", lambda **_: {"text": "".join(method(self.handle(name), role))})["text"]
        # TorchX prints a log's bytes as a Python literal.
        decoded = ast.literal_eval(text).decode(errors="replace") if text.startswith(("b'", 'b"')) else text
        return str(decoded).splitlines()

    def create(self, body: Object, *, dry_run: bool = False) -> tuple[bool, Object]:
        """As `Api.create`; TorchX creates Jobs.

        Raises:
            BadInput: it requests more GPUs than its node has.
        """
        if body["kind"] != "Job":
            return super().create(body, dry_run=dry_run)
        name = body["metadata"]["name"]
        existing = self.read("Job", name)
        if existing is not None and "deletionTimestamp" in existing["metadata"]:
            raise NotReady(f"Job {name} is still being deleted; try again in a minute")
        if existing is not None:
            return False, existing
        self._check_gpus(body)
        info = self.dryrun(name, [body])
        if dry_run:
            resource, method = info.request.resource, self._jobs.create_namespaced_custom_object
            self._request(f"create Job {name}", method, *_KIND, self.namespace, "jobs", resource, dry_run="All")
            return True, body
        try:
            self.schedule(info)
        except ValueError:  # TorchX's error when somebody else has created it meanwhile
            return False, self.read("Job", name) or body
        return True, self.read("Job", name) or body

    def read(self, kind: str, name: str) -> Object | None:
        """As `Api.read`."""
        if kind != "Job":
            return super().read(kind, name)
        job = self._request_job(name, "get", self._jobs.get_namespaced_custom_object)
        if job is None:
            return None
        state = self.state(name)
        return _as_batch_job(job, job_state(job) if state is AppState.UNKNOWN else state)

    def list_objects(self, kind: str, selector: str = "", **options: Any) -> list[Object]:
        """As `Api.list_objects`; events of a job's PodGroup become events of the job."""
        if kind == "Event":
            return [_job_event(event) for event in super().list_objects(kind, selector, **options)]
        if kind != "Job":
            return super().list_objects(kind, selector, **options)
        method, args = self._jobs.list_namespaced_custom_object, (*_KIND, self.namespace, "jobs")
        response = self._request("list jobs of Volcano", method, *args, label_selector=selector, **options)
        return [_as_batch_job(job, job_state(job)) for job in response["items"]]

    def delete(self, kind: str, name: str) -> bool:
        """As `Api.delete`."""
        if kind != "Job":
            return super().delete(kind, name)
        method = self._jobs.delete_namespaced_custom_object
        return self._request_job(name, "delete", method, propagation_policy="Background") is not None

    def patch(self, kind: str, name: str, change: Object) -> Object | None:
        """As `Api.patch`; never a Job."""
        if kind == "Job":
            raise BadInput(f"job {name} of Volcano cannot be changed after its creation; delete it and create another")
        return super().patch(kind, name, change)

    def _check_gpus(self, job: Object) -> None:
        name = torchx_app.node_of(job)
        try:
            node = self.node(name)
        except Forbidden:
            return
        if node is not None:
            allocatable = node["status"].get("allocatable", {}).items()
            counts = {resource: int(count) for resource, count in allocatable if str(count).isdigit()}
            torchx_app.check_gpus([job], {name: counts})

    def _request_job(self, name: str, verb: str, method: Callable[..., Any], **options: Any) -> Object | None:
        args = (*_KIND, self.namespace, "jobs", torchx_app.job_name(name))
        return self._optional(f"{verb} job.batch.volcano.sh {name}", method, *args, **options)


def merge_jobs(cluster: Cluster, run_id: str, bodies: Sequence[Object]) -> list[Object]:
    """The same objects with one job of Volcano in place of all Jobs, gang-scheduled; sends no request."""
    jobs = torchx_app.jobs_of(bodies)
    with Runner(_SESSION, {torchx_app.SCHEDULER: create_scheduler}) as runner:
        merged = dryrun(runner, cluster.namespace, cluster.queue, slug("mlperf", run_id), jobs).request.resource
    return [*(body for body in bodies if body not in jobs), merged]


def dryrun(
    runner: Runner, namespace: str, queue: str, name: str, jobs: Sequence[Object]
) -> "AppDryRunInfo[KubernetesJob]":
    """TorchX's dry run of batch/v1 Jobs on its scheduler `kubernetes`, completed."""
    settings = {"namespace": namespace, "queue": queue}
    # TorchX would build a workspace into an image with Docker.
    app = torchx_app.application(torchx_app.job_name(name), jobs)
    info = runner.dryrun(app, torchx_app.SCHEDULER, settings, workspace=None)
    info.request.resource = torchx_app.complete(info.request.resource, jobs, name)
    return info


def _job_event(event: Object) -> Object:
    """An event with a readable message, about the job where it is about its PodGroup."""
    involved = event["involvedObject"]
    if involved.get("kind") == "PodGroup":
        # A PodGroup is named JOB-UID, with the uid of its job.
        involved = {**involved, "uid": involved["name"][-_UID_LENGTH:]}
    message = str(event.get("message", ""))
    # Volcano prints the API server's error as a Go struct.
    if match := _GO_MESSAGE.search(message):
        message = ast.literal_eval(f'"{match[1]}"')
    return {**event, "involvedObject": involved, "message": message}


def job_state(job: Object) -> AppState:
    """TorchX's state of a job of Volcano, from its phase."""
    phase = str(job.get("status", {}).get("state", {}).get("phase", ""))
    return JOB_STATE.get(phase, AppState.PENDING)


def _as_batch_job(job: Object, state: AppState) -> Object:
    """A job of Volcano with the name and the conditions of a batch/v1 Job."""
    status: Object = {"conditions": []}
    if condition := _CONDITIONS.get(state):
        details = job["status"]["state"]
        status["conditions"] = [
            {
                "type": condition,
                "status": "True",
                "reason": f"Volcano{details['phase']}",
                "message": details.get("message", ""),
                "lastTransitionTime": details.get("lastTransitionTime"),
            }
        ]
    name = job["metadata"].get("labels", {}).get(objects.NAME, job["metadata"]["name"])
    return {**job, "kind": "Job", "metadata": {**job["metadata"], "name": name}, "status": status}
