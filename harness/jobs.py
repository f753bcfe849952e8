"""What a benchmark is on a cluster: batch/v1 Jobs, one per engine and one per LoadGen, as plain objects.

Engine and run are commands that a host knows too (`harness engine serve`, `harness start --foreground`), started from
the node image. All pods keep to Pod Security's level `restricted`. A ConfigMap holds what was asked and owns the rest,
so that deleting it cleans everything but the claims.
"""

import hashlib
import json
import re
from pathlib import PurePosixPath
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.engine import EngineConfig
from harness.errors import BadInput
from harness.spec import Spec, explain

Object = dict[str, Any]

ROOT = PurePosixPath("/var/lib/mlperf")
MODEL, DATASET, RUNS = ROOT / "model", ROOT / "dataset", ROOT / "runs"
_ASKED = PurePosixPath("/etc/mlperf")
_PLACES = {
    **{path.name: str(path) for path in (RUNS, MODEL, DATASET)},
    "asked": str(_ASKED),
    "tmp": "/tmp",  # noqa: S108 (each pod has its own)
    "shm": "/dev/shm",  # noqa: S108
}
_READ_ONLY = ("model", "dataset", "asked")
_NAME = r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$"
_QUANTITY = r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$"


class Cluster(BaseModel):
    """Where Jobs go and what their pods are given.

    `image` is any reference; a digest makes figures comparable. `runs_claim`, `model_claim` and `dataset_claim` name
    PersistentVolumeClaims; {node} stands for the node's name. `model_path` and `dataset_path` are places in the last
    two. `gpus` is how many one engine is given; 0 makes a pod without `runtime_class`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    image: Annotated[str, Field(min_length=1, pattern=r"^\S+$")]
    namespace: Annotated[str, Field(pattern=_NAME)] = "mlperf"
    service_account: Annotated[str, Field(pattern=_NAME)] = "mlperf-runner"
    pull_policy: Annotated[str, Field(pattern="^(IfNotPresent|Always|Never)$")] = "IfNotPresent"
    runtime_class: str = "nvidia"
    gpus: Annotated[int, Field(ge=0)] = 1
    cpu: Annotated[str, Field(pattern=_QUANTITY)] = "4"
    memory: Annotated[str, Field(pattern=_QUANTITY)] = "32Gi"
    shared_memory: Annotated[str, Field(pattern=_QUANTITY)] = "8Gi"
    run_cpu: Annotated[str, Field(pattern=_QUANTITY)] = "2"
    run_memory: Annotated[str, Field(pattern=_QUANTITY)] = "8Gi"
    runs_claim: str = "runs-{node}"
    model_claim: str = "model-{node}"
    dataset_claim: str = "dataset-{node}"
    model_path: str = ""
    dataset_path: str = "cnn_eval.json"
    user: Annotated[int, Field(ge=1)] = 64040
    engine_port: Annotated[int, Field(ge=1024, le=65_535)] = 8000
    metrics_port: Annotated[int, Field(ge=1024, le=65_535)] = 9101

    @property
    def model(self) -> PurePosixPath:
        """The weights, as a pod sees them."""
        return MODEL / self.model_path

    @property
    def dataset(self) -> PurePosixPath:
        """The data set, as a pod sees it."""
        return DATASET / self.dataset_path


def parse_cluster(values: Any) -> Cluster:
    """Validate plain values.

    Raises:
        BadInput: every wrong key in one message.
    """
    try:
        return Cluster.model_validate(values)
    except ValidationError as error:
        raise BadInput(f"cluster: {explain(error)}") from None


def slug(*parts: str) -> str:
    """A name that Kubernetes takes (63 characters, a DNS label), different for different parts."""
    whole = "-".join(parts)
    plain = re.sub(r"[^a-z0-9]+", "-", whole.lower()).strip("-")
    if plain == whole and len(plain) <= 63:
        return plain
    return f"{plain[:54].rstrip('-')}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"


def engine_url(cluster: Cluster, run_id: str, engine: str) -> str:
    """Address of an engine inside the cluster: that of its Service."""
    return f"http://{slug('engine', run_id, engine)}.{cluster.namespace}.svc:{cluster.engine_port}"


def asked(cluster: Cluster, run_id: str, engines: dict[str, EngineConfig], specs: dict[str, Spec]) -> Object:
    """The ConfigMap of a run: each engine's settings by its name, each LoadGen's spec by its node. Owns all others."""
    data = {f"engine-{name}.json": config.model_dump_json(exclude_defaults=True) for name, config in engines.items()}
    data |= {f"spec-{node}.json": json.dumps(spec.model_dump(mode="json")) for node, spec in specs.items()}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _meta(cluster, slug("mlperf", run_id), run_id, "asked"),
        "immutable": True,
        "data": data,
    }


def engine_objects(cluster: Cluster, run_id: str, node: str, engine: str, owner: Object) -> list[Object]:
    """Service and Job of an engine on a node; `owner` is what `asked` gave, with its uid once the API has one."""
    name = slug("engine", run_id, engine)
    meta = _meta(cluster, name, run_id, "engine", node, owner)
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": meta,
        "spec": {
            "clusterIP": "None",
            # Asked for before it is ready: the run waits for the engine itself.
            "publishNotReadyAddresses": True,
            "selector": {"mlperf/name": name},
            "ports": [{"name": "http", "port": cluster.engine_port, "targetPort": "http"}],
        },
    }
    gpus = {"nvidia.com/gpu": cluster.gpus} if cluster.gpus else {}
    container = {
        "name": "engine",
        "args": [
            *("engine", "serve", "--json", "--root", str(RUNS / f"{run_id}.engines")),
            *("--config", str(_ASKED / f"engine-{engine}.json")),
        ],
        "ports": [{"name": "http", "containerPort": cluster.engine_port}],
        "resources": _resources(cluster.cpu, cluster.memory, gpus),
        "startupProbe": {
            "httpGet": {"path": "/health", "port": "http"},
            "periodSeconds": 5,
            "failureThreshold": 360,
        },
        "readinessProbe": {"httpGet": {"path": "/health", "port": "http"}, "periodSeconds": 5},
    }
    return [service, _job(cluster, meta, node, owner, container, gpu=bool(gpus))]


def run_job(cluster: Cluster, run_id: str, node: str, owner: Object, *, await_engines_s: int = 1800) -> Object:
    """Job of a LoadGen on a node."""
    container = {
        "name": "run",
        "args": [
            *("start", "--foreground", "--json", "--root", str(ROOT), "--await-engines", str(await_engines_s)),
            *("--spec", str(_ASKED / f"spec-{node}.json")),
        ],
        "ports": [{"name": "metrics", "containerPort": cluster.metrics_port}],
        "resources": _resources(cluster.run_cpu, cluster.run_memory, {}),
    }
    meta = _meta(cluster, slug("run", run_id, node), run_id, "run", node, owner)
    return _job(cluster, meta, node, owner, container, gpu=False)


def _meta(
    cluster: Cluster, name: str, run_id: str, component: str, node: str | None = None, owner: Object | None = None
) -> Object:
    labels = {
        "app.kubernetes.io/part-of": "mlperf",
        "app.kubernetes.io/component": component,
        "mlperf/run": slug(run_id),
        "mlperf/name": name,
    }
    found: Object = {"name": name, "namespace": cluster.namespace, "annotations": {"mlperf/run-id": run_id}}
    found["labels"] = {**labels, "mlperf/node": slug(node)} if node else labels
    if owner and "uid" in owner["metadata"]:
        reference = {"name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"]}
        found["ownerReferences"] = [{"apiVersion": owner["apiVersion"], "kind": owner["kind"], **reference}]
    return found


def _resources(cpu: str, memory: str, gpus: dict[str, int]) -> Object:
    return {"requests": {"cpu": cpu, "memory": memory, **gpus}, "limits": {"memory": memory, **gpus}}


def _job(cluster: Cluster, meta: Object, node: str, owner: Object, container: Object, *, gpu: bool) -> Object:
    claims = {"runs": cluster.runs_claim, "model": cluster.model_claim, "dataset": cluster.dataset_claim}
    volumes: dict[str, Object] = {
        name: {"persistentVolumeClaim": {"claimName": claim.replace("{node}", node)}} for name, claim in claims.items()
    }
    volumes["tmp"] = {"emptyDir": {}}
    volumes["shm"] = {"emptyDir": {"medium": "Memory", "sizeLimit": cluster.shared_memory}}
    volumes["asked"] = {"configMap": {"name": owner["metadata"]["name"]}}
    taints = ["nvidia.com/gpu", "node-role.kubernetes.io/control-plane"]
    pod: Object = {
        "restartPolicy": "Never",
        "serviceAccountName": cluster.service_account,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "affinity": {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [
                        {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}
                    ]
                }
            }
        },
        "tolerations": [{"key": key, "operator": "Exists", "effect": "NoSchedule"} for key in taints],
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": cluster.user,
            "runAsGroup": cluster.user,
            "fsGroup": cluster.user,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                **container,
                "image": cluster.image,
                "imagePullPolicy": cluster.pull_policy,
                "command": ["harness"],
                "env": [{"name": "HOME", "value": _PLACES["tmp"]}],
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
                "terminationMessagePolicy": "FallbackToLogsOnError",
                "volumeMounts": [
                    {"name": name, "mountPath": _PLACES[name], **({"readOnly": True} if name in _READ_ONLY else {})}
                    for name in volumes
                ],
            }
        ],
        "volumes": [{"name": name, **what} for name, what in volumes.items()],
        "terminationGracePeriodSeconds": 60,
    }
    if gpu and cluster.runtime_class:
        pod["runtimeClassName"] = cluster.runtime_class
    spec = {
        "backoffLimit": 0,
        "completions": 1,
        "parallelism": 1,
        # A run that was restarted is no result, whatever ended it.
        "podFailurePolicy": {
            "rules": [
                {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                {"action": "FailJob", "onExitCodes": {"operator": "NotIn", "values": [0]}},
            ]
        },
        "template": {"metadata": {"labels": meta["labels"], "annotations": meta["annotations"]}, "spec": pod},
    }
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": spec}
