"""Cluster settings and object names."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from harness.engine import EngineConfig
from harness.errors import BadInput
from harness.spec import validated

ROOT = PurePosixPath("/var/lib/mlperf")
MODEL, DATASET, RUNS, SOURCE = ROOT / "model", ROOT / "dataset", ROOT / "runs", ROOT / "source"
SECRETS = PurePosixPath("/etc/mlperf-secrets")
"""Where pods find the Secrets of engines."""
MODEL_FOLDER = "Llama-3.1-8B-Instruct"
"""Where site.yml puts the model in the volume for it."""
ENGINE_PORT = 8000
ANY_ADDRESS = "0.0.0.0"  # noqa: S104 (each pod has its own; the namespace's network policies limit who may connect)
_NAME = r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$"
_QUANTITY = r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$"

Name = Annotated[str, Field(pattern=_NAME)]
Quantity = Annotated[str, Field(pattern=_QUANTITY)]


def _default_pull_policy(values: dict[str, Any]) -> str:
    return "Never" if values.get("image", "").startswith("localhost/") else "IfNotPresent"


class Cluster(BaseModel):
    """The namespace of a benchmark's Jobs, and the settings of their pods.

    Attributes:
        image: any reference; only with a digest are figures comparable.
        pull_policy: by default Never for localhost/…, an image that was carried to the nodes and is in no registry.
        gpu_resource: extended resource of an engine, one for each of its tensor-parallel ranks; empty creates pods
            without GPU and `runtime_class`.
        runs_claim, model_claim, dataset_claim: names of PersistentVolumeClaims; {node} stands for the node's name.
        model_path, dataset_path: paths inside the last two.
        pod_annotations: for the pods of engines and runs; {port} stands for the port of the pod's metrics.
        queue: queue of Volcano, for launcher torchx.
        await_engines_s: for how many seconds a run waits for its engines to be ready.
        collect_over_api: whether results are collected through the API.
        keep_s: for how many seconds a finished run's Job stays after its files were collected.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    image: Annotated[str, Field(min_length=1, pattern=r"^\S+$")]
    namespace: Name = "mlperf"
    service_account: Name = "mlperf-runner"
    pull_policy: Annotated[str, Field(pattern="^(IfNotPresent|Always|Never)$", default_factory=_default_pull_policy)]
    pull_secrets: tuple[Name, ...] = ()
    runtime_class: str = "nvidia"
    gpu_resource: str = "nvidia.com/gpu"
    cpu: Quantity = "4"
    memory: Quantity = "32Gi"
    shared_memory: Quantity = "8Gi"
    run_cpu: Quantity = "2"
    run_memory: Quantity = "8Gi"
    runs_claim: str = "runs-{node}"
    model_claim: str = "model-{node}"
    dataset_claim: str = "dataset-{node}"
    model_path: str = MODEL_FOLDER
    dataset_path: str = "cnn_eval.json"
    user: Annotated[int, Field(ge=1)] = 64040
    metrics_port: Annotated[int, Field(ge=1024, le=65_535)] = 9101
    tolerated_taints: tuple[str, ...] = ("nvidia.com/gpu", "node-role.kubernetes.io/control-plane")
    pod_annotations: dict[str, str] = {}
    queue: Name = "default"
    await_engines_s: Annotated[float, Field(ge=0)] = 1800
    collect_over_api: bool = False
    keep_s: Annotated[int, Field(ge=86_400)] = 7 * 86_400

    @model_validator(mode="after")
    def _refuse_placeholder(self) -> Self:
        _, at, digest = self.image.partition("@")
        if at and not re.fullmatch("sha256:[0-9a-f]{64}", digest):
            raise ValueError(
                f"image = {self.image!r} is a placeholder: build and push the node image with one command "
                "(docs/getting-started/your-cluster.md), then set harness_image to its name and digest"
            )
        return self

    @property
    def model(self) -> PurePosixPath:
        """Path of the weights inside a pod."""
        return MODEL / self.model_path

    @property
    def dataset(self) -> PurePosixPath:
        """Path of the data set inside a pod."""
        return DATASET / self.dataset_path

    def claims(self, node: str) -> dict[str, str]:
        """Names of a node's claims by their content: runs, model and dataset."""
        claims = {"runs": self.runs_claim, "model": self.model_claim, "dataset": self.dataset_claim}
        return {content: claim.replace("{node}", node) for content, claim in claims.items()}


def parse_cluster(values: Any) -> Cluster:
    """Validate plain values.

    Raises:
        BadInput: every wrong key in one message.
    """
    return validated(Cluster, values, "cluster")


def slug(*parts: str) -> str:
    """A DNS label of at most 63 characters, as Kubernetes requires; different parts give different names."""
    name = "-".join(parts)
    label = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if label == name and len(label) <= 63:
        return label
    return f"{label[:54].rstrip('-')}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def job_name(kind: str, run_id: str, name: str) -> str:
    """Name of a run's Job of a kind, and of its ConfigMap."""
    return slug(kind, run_id, name)


def engine_name(run_id: str, engine: str) -> str:
    """Name of an engine's Job, Service, ConfigMap and Secret."""
    return job_name("engine", run_id, engine)


def refuse_endpoint(settings: Mapping[str, Any]) -> None:
    """Raise BadInput where an engine's settings are those of a server that somebody else runs."""
    if settings.get("kind") == "endpoint":
        raise BadInput(
            f"engine {settings.get('name', '')}: kind endpoint needs launcher=process (or `harness run --endpoint`); "
            "on a cluster engines are pods that the benchmark starts"
        )


def with_key(config: EngineConfig, run_id: str) -> EngineConfig:
    """An engine of a run, with its API key where its pod and that of LoadGen have it: in the engine's Secret."""
    return config.model_copy(update={"api_key_file": Path(SECRETS / engine_name(run_id, config.name))})


def run_name(run_id: str, host: str) -> str:
    """Name of a run's Job and ConfigMap on a host."""
    return job_name("run", run_id, host)


def engines_root(run_id: str) -> PurePosixPath:
    """The engines' root folder inside a pod: a folder in the claim of the runs."""
    return RUNS / f"{run_id}.engines"


def engine_url(cluster: Cluster, run_id: str, config: EngineConfig) -> str:
    """URL of an engine inside the cluster, through its Service."""
    return f"http://{engine_name(run_id, config.name)}.{cluster.namespace}.svc:{config.port}"
