"""The official Kubernetes client for tests of the double, and objects as benchmarks send them."""

import time
from collections.abc import Callable
from typing import Any

import pytest
import urllib3
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

IMAGE = "registry.example/node@sha256:" + "a" * 64
Object = dict[str, Any]


class Clients:
    """The client's APIs with one set of credentials."""

    def __init__(self, kubeconfig: Any) -> None:
        settings = client.Configuration()
        config.load_config(config_file=str(kubeconfig), client_configuration=settings)
        settings.retries = urllib3.Retry(0)
        self.api = client.ApiClient(settings)
        self.core, self.batch = client.CoreV1Api(self.api), client.BatchV1Api(self.api)

    def job(self, name: str = "j") -> Object:
        """A Job as plain data."""
        return dict(self.api.sanitize_for_serialization(self.batch.read_namespaced_job(name, "mlperf")))

    def pods(self) -> list[Object]:
        """All pods as plain data."""
        return list(self.api.sanitize_for_serialization(self.core.list_namespaced_pod("mlperf"))["items"])

    def event_messages(self, reason: str) -> list[str]:
        """The messages of all events with a reason."""
        return [one.message for one in self.core.list_namespaced_event("mlperf").items if one.reason == reason]


def container(*command: str, **more: Any) -> Object:
    return {
        "name": "run",
        "image": IMAGE,
        "command": list(command) or ["true"],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        **more,
    }


def pod_spec(*command: str, **more: Any) -> Object:
    secure = {"runAsNonRoot": True, "runAsUser": 64040, "seccompProfile": {"type": "RuntimeDefault"}}
    return {"restartPolicy": "Never", "securityContext": secure, "containers": [container(*command)], **more}


def job(spec: Object | None = None, **more: Any) -> Object:
    rules = [
        {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "FailJob", "onExitCodes": {"operator": "NotIn", "values": [0]}},
    ]
    inside = {"template": {"spec": spec or pod_spec()}, "backoffLimit": 0, "podFailurePolicy": {"rules": rules}, **more}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j"}, "spec": inside}


def only_on(*nodes: str) -> Object:
    terms = [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": list(nodes)}]}]
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}


def soon(condition: Callable[[], Any], seconds: float = 120.0) -> Any:
    """The first true value of `condition`."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"nothing within {seconds:g} s"
        time.sleep(0.02)
    return value


def condition(thing: Object, kind: str) -> Object:
    return next((one for one in thing["status"].get("conditions", ()) if one["type"] == kind), {})


def refused(call: Callable[..., Any], *words: Any, **more: Any) -> Object:
    with pytest.raises(ApiException) as caught:
        call(*words, **more)
    body: Object = client.ApiClient().deserialize(_Body(caught.value.body), "object")
    assert (body["kind"], body["status"], body["code"]) == ("Status", "Failure", caught.value.status)
    return body


class _Body:
    def __init__(self, data: str) -> None:
        self.data = data
