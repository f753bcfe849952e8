"""A real cluster, chosen by --kubeconfig, used with care, and left as it was."""

import json
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

SAMPLES = 60
READY_S = 1800


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("live", "a real cluster")
    group.addoption("--kubeconfig", help="Its credentials; without them these tests are skipped.")
    group.addoption("--image", help="The node image, by a reference that its nodes can pull or have.")
    group.addoption("--node", action="append", default=[], help="A node for an engine; once for each.")
    group.addoption("--storage-class", help="Of the claims that are made.  [default: the cluster's own]")
    group.addoption(
        "--claim", help="Use this one of each node instead, such as runs-{node}; {node} stands for its name."
    )
    group.addoption(
        "--settings", default="{}", help="harness_cluster as JSON: namespace, gpu_resource, cpu and the like."
    )


@dataclass(frozen=True)
class Live:
    """Where the tests run: a claim for each node holds the sandbox, and later the runs."""

    kubeconfig: Path
    image: str
    nodes: tuple[str, ...]
    settings: dict[str, Any]
    claim: str
    folder: str
    core: client.CoreV1Api

    @property
    def namespace(self) -> str:
        return str(self.settings.get("namespace", "mlperf"))

    def variables(self) -> dict[str, Any]:
        """Settings of benchmark.yml."""
        return {
            "harness_launcher": "kubernetes",
            "harness_kubeconfig": str(self.kubeconfig),
            "harness_image": self.image,
            "harness_cluster": {
                **self.settings,
                **dict.fromkeys(("runs_claim", "model_claim", "dataset_claim"), self.claim),
            },
            "harness_model": f"/var/lib/mlperf/model/{self.folder}/model",
            "harness_dataset": f"/var/lib/mlperf/dataset/{self.folder}/cnn_eval.json",
            "harness_reference_ids": f"/var/lib/mlperf/dataset/{self.folder}/reference_ids.jsonl",
            "harness_engine_settings": {"dtype": "float32", "max_num_seqs": 16, "kv_cache_gib": None},
            "harness_collect": "api",
        }


@pytest.fixture(scope="session")
def live(request: pytest.FixtureRequest) -> Iterator[Live]:
    """The cluster with a sandbox in a claim of each node; everything created is removed."""
    option = request.config.getoption
    if not option("--kubeconfig"):
        pytest.skip("needs a cluster: pytest tests/live --kubeconfig FILE --image REFERENCE --node NAME [--node NAME]")
    if not (option("--image") and option("--node")):
        pytest.fail("--kubeconfig wants --image and at least one --node")
    kubeconfig = Path(option("--kubeconfig")).absolute()
    api = config.new_client_from_config(str(kubeconfig))
    folder = f"mlperf-live-{secrets.token_hex(3)}"
    claim = option("--claim")
    result = Live(
        kubeconfig, option("--image"), tuple(option("--node")), json.loads(option("--settings")),
        claim or f"{folder}-{{node}}", folder, client.CoreV1Api(api),
    )  # fmt: skip
    place = f"/var/lib/mlperf/runs/{folder}"
    try:
        for node in result.nodes:
            if not claim:
                _make_claim(result, node, option("--storage-class"))
            _work(result, node, ["harness", "sandbox", "--dir", place, "--samples", str(SAMPLES)])
        yield result
    finally:
        for node in result.nodes:
            _gone(result.core.delete_namespaced_pod, f"{folder}-{node}", result.namespace)
            if claim:
                # The sandbox, and runs, which are named after it.
                _work(result, node, ["sh", "-c", f"rm -rf {place}*"])
            else:
                claims = result.core.delete_namespaced_persistent_volume_claim
                _gone(claims, result.claim.replace("{node}", node), result.namespace)


def _gone(delete: Any, name: str, namespace: str) -> None:
    try:
        delete(name, namespace)
    except ApiException as error:
        if error.status != 404:
            raise


def _make_claim(live: Live, node: str, storage_class: str | None) -> None:
    spec: dict[str, Any] = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}}}
    spec |= {"storageClassName": storage_class} if storage_class else {}
    body = {"metadata": {"name": live.claim.replace("{node}", node)}, "spec": spec}
    live.core.create_namespaced_persistent_volume_claim(live.namespace, body)


def _work(live: Live, node: str, command: list[str]) -> None:
    """Run a pod on the node with the claim, such as to build the tiny model and its data set."""
    name, user = f"{live.folder}-{node}", live.settings.get("user", 64040)
    claim = live.claim.replace("{node}", node)
    terms = [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}]
    container = {
        "name": "work", "image": live.image, "command": command, "env": [{"name": "HOME", "value": "/tmp"}],
        "imagePullPolicy": live.settings.get("pull_policy", "IfNotPresent"),
        "resources": {"requests": {"cpu": "1", "memory": "4Gi"}, "limits": {"memory": "8Gi"}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": "runs", "mountPath": "/var/lib/mlperf/runs"}, {"name": "tmp", "mountPath": "/tmp"}],
    }  # fmt: skip
    spec = {
        "restartPolicy": "Never", "automountServiceAccountToken": False, "containers": [container],
        "securityContext": {
            "runAsNonRoot": True, "runAsUser": user, "runAsGroup": user, "fsGroup": user,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}},
        "tolerations": [{"operator": "Exists", "effect": "NoSchedule"}],
        "volumes": [{"name": "runs", "persistentVolumeClaim": {"claimName": claim}}, {"name": "tmp", "emptyDir": {}}],
    }  # fmt: skip
    live.core.create_namespaced_pod(live.namespace, {"metadata": {"name": name}, "spec": spec})
    end = time.monotonic() + READY_S
    while (phase := live.core.read_namespaced_pod(name, live.namespace).status.phase) not in ("Succeeded", "Failed"):
        assert time.monotonic() < end, f"pod {name} is {phase} after {READY_S} s: kubectl describe pod {name}"
        time.sleep(2)
    assert phase == "Succeeded", live.core.read_namespaced_pod_log(name, live.namespace, tail_lines=20)
    # A claim that one pod at a time may use is free for the next, and so is the name.
    live.core.delete_namespaced_pod(name, live.namespace)
    while any(pod.metadata.name == name for pod in live.core.list_namespaced_pod(live.namespace).items):
        assert time.monotonic() < end, f"pod {name} is not gone after {READY_S} s"
        time.sleep(1)
