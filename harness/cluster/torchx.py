"""The same Jobs as one application of TorchX, which its scheduler `kubernetes` makes a job of Volcano.

TorchX itself gives pods an empty security context and cannot pin one to a node. So the request of its dry run is
completed before it is scheduled: each task gets the pod that the batch/v1 Job of that engine or LoadGen would have.

    torchx run --dryrun --workspace "" --scheduler kubernetes -cfg queue=default,namespace=mlperf \
      harness/cluster/torchx.py:benchmark --nodes jw2,jw3 --image registry.example.org/mlperf-node@sha256:…
"""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from kubernetes.utils.quantity import parse_quantity
from torchx import specs
from torchx.schedulers.kubernetes_scheduler import LABEL_UNIQUE_NAME, sanitize_for_serialization

from harness.cluster import objects, plain
from harness.cluster.objects import Object
from harness.cluster.settings import parse_cluster, slug
from harness.errors import BadInput

SCHEDULER = "kubernetes"
# Volcano names a pod JOB-TASK-0, a task of TorchX is ROLE-0, and all of that must fit into 63 characters.
_JOB_ROOM, _ROLE_ROOM = 38, 20
_MIB = 1 << 20


def benchmark(
    nodes: str,
    image: str,
    samples: int = 13368,
    scenario: str = "server",
    mode: str = "both",
    run_id: str = "",
    engines_per_node: int = 1,
    gpus_per_node: int = 1,
    cluster: str = "{}",
    engine: str = "{}",
) -> specs.AppDef:
    """MLPerf Inference, Llama-3.1-8B: a role for each engine of each node, and one for the LoadGen that drives them.

    Args:
        nodes: names of the nodes with GPUs, separated by commas; LoadGen runs on the first
        image: the node image; with its digest, figures can be compared
        samples: how many samples of the data set
        scenario: server, offline or interactive
        mode: performance, accuracy or both
        run_id: name of the run; from date, time, scenario and samples when empty
        engines_per_node: one for each GPU
        gpus_per_node: GPUs that each node has; engines never ask for more
        cluster: namespace, claims, resources and the like, as JSON (docs/operations.md)
        engine: settings of every engine, as JSON (docs/engine-settings.md)
    """
    where = parse_cluster({**_json("cluster", cluster), "image": image})
    names = [name for name in nodes.split(",") if name]
    configs = plain.engines(where, names, engines_per_node, _json("engine", engine))
    run_id = run_id or f"{time.strftime('%Y%m%d-%H%M%S')}-{scenario}-{samples}"
    given = {
        "run_id": run_id,
        "node": names[0] if names else "",
        "samples": samples,
        "scenario": scenario,
        "mode": mode,
    }
    asked = plain.spec(where, configs, given)
    found = plain.things(where, configs, asked, objects.owner(where, run_id))
    refuse_more_than(jobs_of(found), {name: {where.gpu_resource: gpus_per_node} for name in names})
    return application(slug("mlperf", run_id), jobs_of(found))


def jobs_of(found: Sequence[Object]) -> list[Object]:
    """The Jobs among objects."""
    return [one for one in found if one["kind"] == "Job"]


def job_name(name: str) -> str:
    """What a Job of this name is called as a job of Volcano."""
    return _within(name, _JOB_ROOM)


def application(name: str, jobs: Sequence[Object]) -> specs.AppDef:
    """TorchX's description of batch/v1 Jobs: a role each, with command, resources, claims and ports."""
    taken: dict[str, int] = {}
    roles = []
    for job in jobs:
        labels = job["metadata"]["labels"]
        plain_name = _within(f"{labels[objects.COMPONENT]}-{labels[objects.NODE]}", _ROLE_ROOM - 3)
        taken[plain_name] = number = taken.get(plain_name, -1) + 1
        roles.append(_role(f"{plain_name}-{number}" if number else plain_name, job))
    return specs.AppDef(name=name, roles=roles)


def complete(resource: Object, jobs: Sequence[Object], name: str) -> Object:
    """The request of a dry run with what TorchX cannot say.

    Args:
        resource: `request.resource` of the dry run of `application(…, jobs)`.
        jobs: the batch/v1 Jobs behind its tasks, in their order.
        name: name of the job, the same for the same run, so that it is not made twice.
    """
    plain_resource: Any = sanitize_for_serialization(resource)
    spec, first = plain_resource["spec"], jobs[0]["metadata"]
    tasks = [_completed(task, job, job_name(name)) for task, job in zip(spec["tasks"], jobs, strict=True)]
    kept = {key: first[key] for key in ("namespace", "annotations", "ownerReferences") if key in first}
    labels = {key: value for key, value in first["labels"].items() if len(jobs) == 1 or key in _SHARED}
    return {
        **plain_resource,
        "metadata": {**kept, "name": job_name(name), "labels": labels},
        "spec": {
            **spec,
            "tasks": tasks,
            # All of them start, or none does.
            "minAvailable": len(tasks),
            # A run that was restarted is no result; 0 would be taken for the default of 3.
            "maxRetry": 1,
            "policies": [{"events": ["PodFailed", "PodEvicted"], "action": "TerminateJob"}],
            # Volcano's plugins would put volumes and names into the pods that nothing here asks for.
            "plugins": {},
        },
    }


_SHARED = (*objects.PART_OF, objects.RUN)


def _completed(task: Object, job: Object, name: str) -> Object:
    template, given = job["spec"]["template"], task["template"]["metadata"]
    metadata = {
        part: {**given.get(part, {}), **template["metadata"].get(part, {})} for part in ("labels", "annotations")
    }
    metadata["labels"][LABEL_UNIQUE_NAME] = name
    found = {**task, "minAvailable": 1, "template": {"metadata": metadata, "spec": template["spec"]}}
    if job["metadata"]["labels"][objects.COMPONENT] == "run":
        # Engines serve for ever: with the run the whole job is done.
        found["policies"] = [{"event": "TaskCompleted", "action": "CompleteJob"}]
    return found


def refuse_more_than(jobs: Sequence[Object], there: Mapping[str, Mapping[str, int]]) -> None:
    """Refuse Jobs that together want more GPUs of a node than it has; a node that `there` does not know may have any.

    Raises:
        BadInput: they do.
    """
    wanted: dict[tuple[str, str], int] = {}
    for job in jobs:
        for resource, count in _gpus(job).items():
            place = node_of(job), resource
            wanted[place] = wanted.get(place, 0) + count
    for (node, resource), count in wanted.items():
        if node in there and count > there[node].get(resource, 0):
            raise BadInput(
                f"the engines of node {node} ask for {count} {resource}, it has {there[node].get(resource, 0)}; lower "
                "engines_per_node or tensor_parallel"
            )


def _gpus(job: Object) -> dict[str, int]:
    (container,) = job["spec"]["template"]["spec"]["containers"]
    asked = container["resources"]["limits"].items()
    return {resource: int(count) for resource, count in asked if resource not in ("cpu", "memory")}


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


def _within(name: str, most: int) -> str:
    if len(name) <= most:
        return name
    return f"{name[: most - 9].rstrip('-')}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _json(name: str, text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise BadInput(f"{name} = {text!r} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise BadInput(f"{name} = {text!r} must be a JSON object")
    return found
