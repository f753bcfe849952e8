"""The Kubernetes objects of a benchmark: batch/v1 Jobs, one per engine and one per LoadGen, as plain data.

Engines and runs are the same commands as on a host (`harness engine serve`, `harness start --foreground`), run from
the node image. All pods comply with Pod Security level `restricted`. Each Job reads its settings from a ConfigMap of
its own name. An engine's Secret has its API key and the values of its `env`; LoadGen's pods mount the keys of theirs.
A small ConfigMap per run owns all objects, so that deleting it deletes everything except the claims.
"""

import base64
import json
import secrets
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import Any, Literal

from harness.assets import Order
from harness.cluster.settings import (
    DATASET,
    MODEL,
    ROOT,
    RUNS,
    SECRETS,
    SOURCE,
    Cluster,
    engine_name,
    engines_root,
    job_name,
    run_name,
    slug,
    with_key,
)
from harness.engine import EngineConfig
from harness.spec import IMAGE_VARIABLE, WEIGHTS_CACHE, WEIGHTS_CACHE_VARIABLE, Spec

Object = dict[str, Any]

PART_OF = {"app.kubernetes.io/part-of": "mlperf"}
COMPONENT = "app.kubernetes.io/component"
RUN, NODE, NAME, RUN_ID = "mlperf/run", "mlperf/node", "mlperf/name", "mlperf/run-id"
OWNER = "owner"
"""Value of the label COMPONENT of the ConfigMap that owns a run's objects."""
_SETTINGS = PurePosixPath("/etc/mlperf")
_CACHE = "/var/cache/mlperf"
_MOUNT_PATHS = {
    **{path.name: str(path) for path in (RUNS, MODEL, DATASET, SOURCE)},
    "settings": str(_SETTINGS),
    "secrets": str(SECRETS),
    "tmp": "/tmp",  # noqa: S108 (each pod has its own)
    "cache": _CACHE,
    "shm": "/dev/shm",  # noqa: S108
}
_READ_ONLY = ("settings", "secrets", "source")
_KEY, _ENV = "api-key", "env"
"""What an engine's Secret has: its API key, where another pod has LoadGen; the values of its `env` as JSON."""


def owner(cluster: Cluster, run_id: str) -> Object:
    """The ConfigMap that owns all objects of a run."""
    meta = _meta(cluster, slug("mlperf", run_id), run_id, OWNER)
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta}


def engine_objects(cluster: Cluster, run_id: str, node: str, config: EngineConfig, owner: Object) -> list[Object]:
    """ConfigMap, Secret, Service and Job of an engine on a node; `owner` has a uid only once it is stored.

    The Secret has a new key at every call.
    """
    config = with_key(config, run_id)
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
            *("--config", str(_SETTINGS / "engine.json"), "--env", _env_file(name)),
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
    job = _job(cluster, meta, node, container, [_projected(name, _KEY), _projected(name, _ENV)])
    key = {_KEY: secrets.token_urlsafe(32)}
    return [_engine_settings(meta, config), _secret(meta, config, **key), service, job]


def run_objects(cluster: Cluster, spec: Spec, node: str, owner: Object, *, resumed: bool = False) -> list[Object]:
    """ConfigMap and Job of a LoadGen on a node, which goes on with an earlier Job's run if that is `resumed`."""
    container: Object = {
        "name": "run",
        "args": [
            *("start", "--foreground", "--json", "--root", str(ROOT)),
            *("--await-engines", f"{cluster.await_engines_s:g}", "--spec", str(_SETTINGS / "spec.json")),
            *(["--resume"] if resumed else []),
        ],
        "resources": _resources(cluster.run_cpu, cluster.run_memory, {}),
    }
    if spec.metrics_port:
        container["ports"] = [{"name": "metrics", "containerPort": spec.metrics_port}]
    meta = _meta(cluster, run_name(spec.run_id, spec.node), spec.run_id, "run", node, owner)
    keys = [engine.api_key_file.name for engine in spec.engines if engine.api_key_file]
    job = _job(cluster, meta, node, container, [_projected(name, _KEY) for name in keys])
    return [_config_map(meta, "spec.json", spec.model_dump(mode="json")), job]


def single_objects(cluster: Cluster, spec: Spec, config: EngineConfig, node: str, owner: Object) -> list[Object]:
    """ConfigMap, Secret and Job of a benchmark on one node, engine and LoadGen in one pod (`harness run`)."""
    values = {"model": spec.model, "dataset": spec.dataset, "samples": spec.samples, "scenario": spec.scenario.value}
    values |= {"mode": spec.mode.value, "target-qps": spec.target_qps, "run-id": spec.run_id}
    values["rate-attempts"] = spec.rate_attempts
    if spec.peak_budget_minutes:
        values["peak-budget-minutes"] = spec.peak_budget_minutes
    name = run_name(spec.run_id, spec.node)
    container = {
        "name": "run",
        "args": [
            *("run", "--json", "--root", str(RUNS / f"{spec.run_id}.root")),
            *("--engine-config", str(_SETTINGS / "engine.json"), "--engine-env", _env_file(name)),
            *(argument for key, value in values.items() for argument in (f"--{key}", str(value))),
        ],
        "ports": [{"name": "http", "containerPort": config.port}],
        "resources": _resources(cluster.cpu, cluster.memory, _gpus(cluster, config)),
    }
    meta = _meta(cluster, name, spec.run_id, "run", node, owner)
    job = _job(cluster, meta, node, container, [_projected(name, _ENV)])
    return [_engine_settings(meta, config), _secret(meta, config), job]


def fetch_objects(
    cluster: Cluster,
    node: str,
    order: Order,
    component: Literal["loader", "look"],
    *,
    token: str = "",
    source_claim: str = "",
) -> list[Object]:
    """ConfigMap and Job that call `harness fetch` on a node.

    Args:
        cluster: namespace, claims and so on.
        node: its name in the cluster.
        order: what is brought into the claims and looked at.
        component: a loader may write to the claims.
        token: name of a Secret, with the token of addresses as its key `token`; empty for none.
        source_claim: a claim to copy from; empty for none.
    """
    name = job_name(component, order.run_id, node)
    meta = _meta(cluster, name, order.run_id, component, node)
    container: Object = {
        "name": component,
        "args": ["fetch", "--json", "--config", str(_SETTINGS / "fetch.json")],
        "resources": _resources("500m", "4Gi", {}),
    }
    if token:
        container["args"] += ["--token", str(SECRETS / "token")]
    mounted = [{"secret": {"name": token, "items": [{"key": "token", "path": "token"}]}}] if token else []
    job = _job(cluster, meta, node, container, mounted, source_claim)
    return [_config_map(meta, "fetch.json", order.model_dump(mode="json")), job]


def token_secret(cluster: Cluster, name: str, token: str) -> Object:
    """The Secret with the token of addresses."""
    meta = {"name": name, "namespace": cluster.namespace, "labels": PART_OF}
    data = {"token": base64.b64encode(token.encode()).decode()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "type": "Opaque", "data": data}


def collector(cluster: Cluster, run_id: str, node: str, owner: Object, *, lifetime_s: int) -> Object:
    """An idle pod that mounts the claim of a node's runs, so that files can be read in it."""
    container = {
        "name": "collector",
        "command": ["sleep", str(lifetime_s)],
        "resources": _resources("100m", "256Mi", {}),
    }
    meta = _meta(cluster, slug("collect", run_id, node), run_id, "collector", node, owner)
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": pod_spec(cluster, meta, node, container)}


def pod_spec(
    cluster: Cluster,
    meta: Object,
    node: str,
    container: Object,
    mounted: Iterable[Object] = (),
    source_claim: str = "",
) -> Object:
    """The spec of a pod on a node with one container, complying with level `restricted`.

    `container` has its name, resources, and command or arguments of `harness`, `mounted` are parts of Secrets that its
    volume `secrets` is made of; everything else is added here.
    """
    claims = cluster.claims(node) | ({"source": source_claim} if source_claim else {})
    component = meta["labels"][COMPONENT]
    volumes: dict[str, Object] = {"tmp": {"emptyDir": {}}}
    if component == "collector":
        claims = {"runs": claims["runs"]}
    else:
        volumes |= {"cache": {"emptyDir": {}}, "settings": {"configMap": {"name": meta["name"]}}}
        volumes["shm"] = {"emptyDir": {"medium": "Memory", "sizeLimit": cluster.shared_memory}}
    if sources := list(mounted):
        volumes["secrets"] = {"projected": {"sources": sources, "defaultMode": 0o440}}
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
        "containers": [_container(cluster, container, mounts, () if component == "loader" else ("model", "dataset"))],
        "volumes": [{"name": name, **source} for name, source in volumes.items()],
        # Engines and runs write their last files; others have nothing to end.
        "terminationGracePeriodSeconds": 60 if component in ("engine", "run") else 1,
    }
    if cluster.pull_secrets:
        pod["imagePullSecrets"] = [{"name": name} for name in cluster.pull_secrets]
    if cluster.runtime_class and container["resources"]["limits"].keys() - {"memory"}:
        pod["runtimeClassName"] = cluster.runtime_class
    return pod


def _container(cluster: Cluster, container: Object, mounts: dict[str, str], read_only: Sequence[str]) -> Object:
    """The complete container; `mounts` has the name of a volume for each key of _MOUNT_PATHS."""
    home = _CACHE if "cache" in mounts else _MOUNT_PATHS["tmp"]
    variables = {"HOME": home, "XDG_CACHE_HOME": f"{home}/.cache", IMAGE_VARIABLE: cluster.image}
    # On the claim, where the node's next runs find it; an engine's own root is new in each run.
    variables |= {WEIGHTS_CACHE_VARIABLE: str(ROOT / WEIGHTS_CACHE)}
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
            {
                "name": volume,
                "mountPath": _MOUNT_PATHS[name],
                **({"readOnly": True} if name in (*_READ_ONLY, *read_only) else {}),
            }
            for name, volume in mounts.items()
        ],
    }


def _node_affinity(node: str) -> Object:
    terms = [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}]
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}


def _engine_settings(meta: Object, config: EngineConfig) -> Object:
    settings = config.model_dump(mode="json", exclude_defaults=True)
    return _config_map(meta, "engine.json", settings | ({"env": config.public()["env"]} if config.env else {}))


def _secret(meta: Object, config: EngineConfig, **values: str) -> Object:
    values |= {_ENV: json.dumps(config.env)}
    data = {name: base64.b64encode(value.encode()).decode() for name, value in values.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "immutable": True, "type": "Opaque", "data": data}


def _projected(name: str, key: str) -> Object:
    """A part of an engine's Secret, as a file of the volume `secrets`."""
    path = name if key == _KEY else PurePosixPath(_env_file(name)).name
    return {"secret": {"name": name, "items": [{"key": key, "path": path}]}}


def _env_file(name: str) -> str:
    return str(SECRETS / f"{name}.env")


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


def _job(
    cluster: Cluster, meta: Object, node: str, container: Object, mounted: Iterable[Object], source_claim: str = ""
) -> Object:
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
        "template": {"metadata": pod_meta, "spec": pod_spec(cluster, meta, node, container, mounted, source_claim)},
    }
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": spec}
