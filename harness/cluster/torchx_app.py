"""A benchmark as an application of TorchX, whose scheduler `kubernetes` creates a job of Volcano.

TorchX gives pods an empty security context and cannot pin them to a node. So the request of its dry run is completed
before it is submitted: each task gets the pod template of the batch/v1 Job of that engine or LoadGen.

    torchx run --dryrun --workspace "" --scheduler kubernetes -cfg queue=default,namespace=mlperf \
      harness/cluster/torchx_app.py:benchmark --nodes jw2,jw3 --image registry.example.org/mlperf-node@sha256:…
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from kubernetes.utils.quantity import parse_quantity
from torchx import specs
from torchx.schedulers.kubernetes_scheduler import LABEL_UNIQUE_NAME, sanitize_for_serialization

from harness.cluster import objects, options
from harness.cluster.objects import Object
from harness.cluster.settings import parse_cluster, slug
from harness.errors import BadInput
from harness.spec import FULL_SAMPLES

SCHEDULER = "kubernetes"
# Volcano names a pod JOB-TASK-0, and TorchX names a task ROLE-0; the pod's name may have 63 characters.
_MAX_JOB_NAME, _MAX_ROLE_NAME = 38, 20
_MIB = 1 << 20


def benchmark(
    nodes: str,
    image: str,
    samples: int = FULL_SAMPLES,
    scenario: str = "server",
    mode: str = "both",
    run_id: str = "",
    engines_per_node: int = 1,
    gpus_per_node: int = 1,
    cluster: str = "{}",
    engine: str = "{}",
) -> specs.AppDef:
    """MLPerf Inference, Llama-3.1-8B: a role for each engine, and one for the LoadGen that drives them.

    Args:
        nodes: names of the nodes with GPUs, separated by commas; LoadGen runs on the first
        image: the node image; only with a digest are figures comparable
        samples: how many samples of the data set
        scenario: server, offline or interactive
        mode: performance, accuracy, compliance, both or all
        run_id: name of the run; from date, time, scenario and samples when empty
        engines_per_node: usually one for each GPU
        gpus_per_node: GPUs of each node; engines that request more are an error
        cluster: namespace, claims, resources and the like, as JSON (docs/operations.md)
        engine: settings of every engine, as JSON (docs/engine-settings.md)
    """
    settings = parse_cluster({**_parse_object("cluster", cluster), "image": image})
    names = [name for name in nodes.split(",") if name]
    engines = options.engines(settings, names, engines_per_node, _parse_object("engine", engine))
    run_id = run_id or options.default_run_id(scenario, samples)
    driver = names[0] if names else ""
    values = {"run_id": run_id, "node": driver, "samples": samples, "scenario": scenario, "mode": mode}
    spec = options.spec(settings, engines, values)
    jobs = jobs_of(options.benchmark_objects(settings, engines, spec, objects.owner(settings, run_id)))
    check_gpus(jobs, {name: {settings.gpu_resource: gpus_per_node} for name in names})
    return application(slug("mlperf", run_id), jobs)


def jobs_of(bodies: Sequence[Object]) -> list[Object]:
    """The Jobs among objects."""
    return [body for body in bodies if body["kind"] == "Job"]


def job_name(name: str) -> str:
    """The name of a batch/v1 Job as a job of Volcano."""
    return _shorten(name, _MAX_JOB_NAME)


def application(name: str, jobs: Sequence[Object]) -> specs.AppDef:
    """TorchX's description of batch/v1 Jobs: a role each, with command, resources, claims and ports."""
    counts: dict[str, int] = {}
    roles = []
    for job in jobs:
        labels = job["metadata"]["labels"]
        role_name = _shorten(f"{labels[objects.COMPONENT]}-{labels[objects.NODE]}", _MAX_ROLE_NAME - 3)
        counts[role_name] = number = counts.get(role_name, -1) + 1
        roles.append(_role(f"{role_name}-{number}" if number else role_name, job))
    return specs.AppDef(name=name, roles=roles)


def complete(resource: Object, jobs: Sequence[Object], name: str) -> Object:
    """The request of a dry run, with all settings that TorchX has no field for.

    Args:
        resource: `request.resource` of the dry run of `application(…, jobs)`.
        jobs: the batch/v1 Jobs of its tasks, in their order.
        name: name of the job, the same for the same run, so that creation is idempotent.
    """
    request: Any = sanitize_for_serialization(resource)
    spec, metadata = request["spec"], jobs[0]["metadata"]
    tasks = [_complete_task(task, job, job_name(name)) for task, job in zip(spec["tasks"], jobs, strict=True)]
    copied = {key: metadata[key] for key in ("namespace", "annotations", "ownerReferences") if key in metadata}
    labels = {key: value for key, value in metadata["labels"].items() if len(jobs) == 1 or key in _SHARED_LABELS}
    return {
        **request,
        "metadata": {**copied, "name": job_name(name), "labels": labels},
        "spec": {
            **spec,
            "tasks": tasks,
            # Gang scheduling: all of them start, or none does.
            "minAvailable": len(tasks),
            # A restarted run has no result; Volcano replaces 0 by its default of 3.
            "maxRetry": 1,
            "policies": [{"events": ["PodFailed", "PodEvicted"], "action": "TerminateJob"}],
            # Volcano's plugins would add volumes and environment variables to the pods.
            "plugins": {},
        },
    }


_SHARED_LABELS = (*objects.PART_OF, objects.RUN)


def _complete_task(task: Object, job: Object, name: str) -> Object:
    template, metadata = job["spec"]["template"], task["template"]["metadata"]
    metadata = {
        key: {**metadata.get(key, {}), **template["metadata"].get(key, {})} for key in ("labels", "annotations")
    }
    metadata["labels"][LABEL_UNIQUE_NAME] = name
    completed = {**task, "minAvailable": 1, "template": {"metadata": metadata, "spec": template["spec"]}}
    if job["metadata"]["labels"][objects.COMPONENT] == "run":
        # Engines run until they are stopped: the job is complete when its run is.
        completed["policies"] = [{"event": "TaskCompleted", "action": "CompleteJob"}]
    return completed


def check_gpus(jobs: Sequence[Object], available: Mapping[str, Mapping[str, int]]) -> None:
    """Compare the GPUs that Jobs request with those of their nodes, by node and resource; unknown nodes may have any.

    Raises:
        BadInput: the Jobs together request more than a node has.
    """
    requested: dict[tuple[str, str], int] = {}
    for job in jobs:
        for resource, count in _gpus(job).items():
            key = node_of(job), resource
            requested[key] = requested.get(key, 0) + count
    for (node, resource), count in requested.items():
        if node in available and count > available[node].get(resource, 0):
            raise BadInput(
                f"the engines of node {node} request {count} {resource}, it has {available[node].get(resource, 0)}; "
                "lower engines_per_node or tensor_parallel"
            )


def _gpus(job: Object) -> dict[str, int]:
    (container,) = job["spec"]["template"]["spec"]["containers"]
    limits = container["resources"]["limits"].items()
    return {resource: int(count) for resource, count in limits if resource not in ("cpu", "memory")}


def node_of(job: Object) -> str:
    """The node that a Job's pod is pinned to."""
    affinity = job["spec"]["template"]["spec"]["affinity"]["nodeAffinity"]
    (term,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    return str(term["matchFields"][0]["values"][0])


def _role(name: str, job: Object) -> specs.Role:
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    claims = {
        volume["name"]: volume["persistentVolumeClaim"]["claimName"]
        for volume in pod["volumes"]
        if "persistentVolumeClaim" in volume
    }
    requests = container["resources"]["requests"]
    return specs.Role(
        name=name,
        image=container["image"],
        entrypoint=container["command"][0],
        args=[*container["command"][1:], *container.get("args", ())],
        env={entry["name"]: entry["value"] for entry in container["env"]},
        num_replicas=1,
        max_retries=0,
        resource=specs.Resource(
            cpu=max(1, round(parse_quantity(requests["cpu"]))),
            gpu=sum(_gpus(job).values()),
            memMB=int(parse_quantity(requests["memory"])) // _MIB,
        ),
        port_map={port["name"]: port["containerPort"] for port in container.get("ports", ())},
        mounts=[
            specs.VolumeMount(claims[mount["name"]], mount["mountPath"], read_only=bool(mount.get("readOnly")))
            for mount in container["volumeMounts"]
            if mount["name"] in claims
        ],
    )


def _shorten(name: str, length: int) -> str:
    if len(name) <= length:
        return name
    return f"{name[: length - 9].rstrip('-')}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _parse_object(name: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise BadInput(f"{name} = {text!r} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise BadInput(f"{name} = {text!r} must be a JSON object")
    return value
