"""The Kubernetes objects of a benchmark: batch/v1 Jobs, one per engine and one per LoadGen, as plain data.

Engines and runs are the same commands as on a host (`harness engine serve`, `harness start --foreground`), run from
the node image. All pods comply with Pod Security level `restricted`. Each Job reads its settings from a ConfigMap of
its own name. A small ConfigMap per run owns all objects, so that deleting it deletes everything except the claims.
"""

import json
from pathlib import PurePosixPath
from typing import Any

from harness.cluster.settings import DATASET, MODEL, ROOT, RUNS, Cluster, engine_name, engines_root, run_name, slug
from harness.engine import EngineConfig
from harness.spec import IMAGE_VARIABLE, Spec

Object = dict[str, Any]

PART_OF = {"app.kubernetes.io/part-of": "mlperf"}
COMPONENT = "app.kubernetes.io/component"
RUN, NODE, NAME, RUN_ID = "mlperf/run", "mlperf/node", "mlperf/name", "mlperf/run-id"
OWNER = "owner"
"""Value of the label COMPONENT of the ConfigMap that owns a run's objects."""
_SETTINGS = PurePosixPath("/etc/mlperf")
_CACHE = "/var/cache/mlperf"
_MOUNT_PATHS = {
    **{path.name: str(path) for path in (RUNS, MODEL, DATASET)},
    "settings": str(_SETTINGS),
    "tmp": "/tmp",  # noqa: S108 (each pod has its own)
    "cache": _CACHE,
    "shm": "/dev/shm",  # noqa: S108
}
_READ_ONLY = ("model", "dataset", "settings")


def owner(cluster: Cluster, run_id: str) -> Object:
    """The ConfigMap that owns all objects of a run."""
    meta = _meta(cluster, slug("mlperf", run_id), run_id, OWNER)
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta}


def engine_objects(cluster: Cluster, run_id: str, node: str, config: EngineConfig, owner: Object) -> list[Object]:
    """ConfigMap, Service and Job of an engine on a node; `owner` has a uid only once it is stored."""
    name = engine_name(run_id, config.name)
    meta = _meta(cluster, name, run_id, "engine", node, owner)
    service: Object = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": meta,
        "spec": {
            "clusterIP": "None",
            # The run polls the engine before it is ready.
            "publishNotReadyAddresses": True,
            "selector": {NAME: name},
            "ports": [{"name": "http", "port": config.port, "targetPort": "http"}],
        },
    }
    container = {
        "name": "engine",
        "args": [
            *("engine", "serve", "--json", "--root", str(engines_root(run_id))),
            *("--config", str(_SETTINGS / "engine.json")),
        ],
        "ports": [{"name": "http", "containerPort": config.port}],
        "resources": _resources(cluster.cpu, cluster.memory, _gpus(cluster, config)),
        "startupProbe": {
            "httpGet": {"path": "/health", "port": "http"},
            "periodSeconds": 5,
            "failureThreshold": max(1, round(config.start_timeout_s / 5) + 12),
        },
        "readinessProbe": {"httpGet": {"path": "/health", "port": "http"}, "periodSeconds": 5},
    }
    return [_engine_settings(meta, config), service, _job(cluster, meta, node, container)]


def run_objects(cluster: Cluster, spec: Spec, node: str, owner: Object) -> list[Object]:
    """ConfigMap and Job of a LoadGen on a node."""
    container: Object = {
        "name": "run",
        "args": [
            *("start", "--foreground", "--json", "--root", str(ROOT)),
            *("--await-engines", f"{cluster.await_engines_s:g}", "--spec", str(_SETTINGS / "spec.json")),
        ],
        "resources": _resources(cluster.run_cpu, cluster.run_memory, {}),
    }
    if spec.metrics_port:
        container["ports"] = [{"name": "metrics", "containerPort": spec.metrics_port}]
    meta = _meta(cluster, run_name(spec.run_id, spec.node), spec.run_id, "run", node, owner)
    return [_config_map(meta, "spec.json", spec.model_dump(mode="json")), _job(cluster, meta, node, container)]


def single_objects(cluster: Cluster, spec: Spec, config: EngineConfig, node: str, owner: Object) -> list[Object]:
    """ConfigMap and Job of a benchmark on one node, engine and LoadGen in one pod (`harness run`)."""
    values = {"model": spec.model, "dataset": spec.dataset, "samples": spec.samples, "scenario": spec.scenario.value}
    values |= {"mode": spec.mode.value, "target-qps": spec.target_qps, "run-id": spec.run_id}
    if spec.peak_budget_minutes:
        values["peak-budget-minutes"] = spec.peak_budget_minutes
    container = {
        "name": "run",
        "args": [
            *("run", "--json", "--root", str(RUNS / f"{spec.run_id}.root")),
            *("--engine-config", str(_SETTINGS / "engine.json")),
            *(argument for key, value in values.items() for argument in (f"--{key}", str(value))),
        ],
        "ports": [{"name": "http", "containerPort": config.port}],
        "resources": _resources(cluster.cpu, cluster.memory, _gpus(cluster, config)),
    }
    meta = _meta(cluster, run_name(spec.run_id, spec.node), spec.run_id, "run", node, owner)
    return [_engine_settings(meta, config), _job(cluster, meta, node, container)]


def collector(cluster: Cluster, run_id: str, node: str, owner: Object, *, lifetime_s: int) -> Object:
    """An idle pod that mounts the claim of a node's runs, so that files can be read in it."""
    container = {
        "name": "collector",
        "command": ["sleep", str(lifetime_s)],
        "resources": _resources("100m", "256Mi", {}),
    }
    meta = _meta(cluster, slug("collect", run_id, node), run_id, "collector", node, owner)
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": pod_spec(cluster, meta, node, container)}


def pod_spec(cluster: Cluster, meta: Object, node: str, container: Object) -> Object:
    """The spec of a pod on a node with one container, complying with level `restricted`.

    `container` has its name, resources, and command or arguments of `harness`; everything else is added here.
    """
    claims = cluster.claims(node)
    volumes: dict[str, Object] = {"tmp": {"emptyDir": {}}}
    if meta["labels"][COMPONENT] == "collector":
        claims = {"runs": claims["runs"]}
    else:
        volumes |= {"cache": {"emptyDir": {}}, "settings": {"configMap": {"name": meta["name"]}}}
        volumes["shm"] = {"emptyDir": {"medium": "Memory", "sizeLimit": cluster.shared_memory}}
    # One volume for each claim: kubelets before 1.35 hang when two volumes use the same one.
    volume_of = {claim: content for content, claim in reversed(claims.items())}
    volumes |= {volume_of[claim]: {"persistentVolumeClaim": {"claimName": claim}} for claim in claims.values()}
    mounts = {name: name for name in volumes} | {content: volume_of[claim] for content, claim in claims.items()}
    pod: Object = {
        "restartPolicy": "Never",
        "serviceAccountName": cluster.service_account,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "affinity": _node_affinity(node),
        "tolerations": [{"key": key, "operator": "Exists"} for key in cluster.tolerated_taints],
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": cluster.user,
            "runAsGroup": cluster.user,
            "fsGroup": cluster.user,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(cluster, container, mounts)],
        "volumes": [{"name": name, **source} for name, source in volumes.items()],
        # Engines and runs write their last files; the collector only sleeps.
        "terminationGracePeriodSeconds": 1 if meta["labels"][COMPONENT] == "collector" else 60,
    }
    if cluster.pull_secrets:
        pod["imagePullSecrets"] = [{"name": name} for name in cluster.pull_secrets]
    if cluster.runtime_class and container["resources"]["limits"].keys() - {"memory"}:
        pod["runtimeClassName"] = cluster.runtime_class
    return pod


def _container(cluster: Cluster, container: Object, mounts: dict[str, str]) -> Object:
    """The complete container; `mounts` has the name of a volume for each key of _MOUNT_PATHS."""
    variables = {"HOME": _CACHE if "cache" in mounts else _MOUNT_PATHS["tmp"], IMAGE_VARIABLE: cluster.image}
    # Other images may lack an entry for this user in /etc/passwd, and some libraries look up its name.
    variables |= {"USER": "mlperf", "LOGNAME": "mlperf"}
    return {
        "command": ["harness"],
        **container,
        "image": cluster.image,
        "imagePullPolicy": cluster.pull_policy,
        "env": [{"name": name, "value": value} for name, value in variables.items()],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": volume, "mountPath": _MOUNT_PATHS[name], **({"readOnly": True} if name in _READ_ONLY else {})}
            for name, volume in mounts.items()
        ],
    }


def _node_affinity(node: str) -> Object:
    terms = [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}]
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}


def _engine_settings(meta: Object, config: EngineConfig) -> Object:
    return _config_map(meta, "engine.json", config.model_dump(mode="json", exclude_defaults=True))


def _config_map(meta: Object, file: str, values: Object) -> Object:
    data = {file: json.dumps(values, sort_keys=True)}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "immutable": True, "data": data}


def _meta(
    cluster: Cluster, name: str, run_id: str, component: str, node: str | None = None, owner: Object | None = None
) -> Object:
    meta: Object = {"name": name, "namespace": cluster.namespace, "annotations": {RUN_ID: run_id}}
    meta["labels"] = {**PART_OF, COMPONENT: component, RUN: slug(run_id), NAME: name}
    if node:
        meta["labels"][NODE] = slug(node)
    if owner and "uid" in owner["metadata"]:
        reference = {"name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"]}
        meta["ownerReferences"] = [{"apiVersion": owner["apiVersion"], "kind": owner["kind"], **reference}]
    return meta


def _gpus(cluster: Cluster, config: EngineConfig) -> dict[str, int]:
    return {cluster.gpu_resource: config.tensor_parallel} if cluster.gpu_resource else {}


def _resources(cpu: str, memory: str, gpus: dict[str, int]) -> Object:
    return {"requests": {"cpu": cpu, "memory": memory, **gpus}, "limits": {"memory": memory, **gpus}}


def _job(cluster: Cluster, meta: Object, node: str, container: Object) -> Object:
    port = container["ports"][0]["containerPort"] if container.get("ports") else ""
    annotations = {key: value.replace("{port}", str(port)) for key, value in cluster.pod_annotations.items()}
    pod_meta = {"labels": meta["labels"], "annotations": {**meta["annotations"], **annotations}}
    spec = {
        "backoffLimit": 0,
        "completions": 1,
        "parallelism": 1,
        # A restarted run has no result, so a Job never retries.
        "podFailurePolicy": {
            "rules": [
                {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                {"action": "FailJob", "onExitCodes": {"operator": "NotIn", "values": [0]}},
            ]
        },
        "template": {"metadata": pod_meta, "spec": pod_spec(cluster, meta, node, container)},
    }
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": spec}
