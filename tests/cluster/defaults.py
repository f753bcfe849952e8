"""Defaults that the API server sets where an object has no value."""

from tests.cluster.kinds import CLAIM, CONFIG_MAP, JOB, NAMESPACE, NODE, POD, SERVICE, Kind, Object

_TOLERATED = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")


def fill(kind: Kind, obj: Object) -> None:
    """Set the defaults of an object in place; its metadata has a uid already."""
    if kind is POD:
        pod_spec(obj["spec"])
        _admitted(obj["spec"])
        obj["status"] = {"phase": "Pending", "qosClass": _quality(obj["spec"])}
    elif kind is JOB:
        _job(obj)
    elif kind is SERVICE:
        _service(obj)
    elif kind is CLAIM:
        obj["metadata"].setdefault("finalizers", ["kubernetes.io/pvc-protection"])
        obj["spec"].setdefault("volumeMode", "Filesystem")
        obj["status"] = {"phase": "Pending"}
    elif kind is NAMESPACE:
        obj["metadata"].setdefault("labels", {})["kubernetes.io/metadata.name"] = obj["metadata"]["name"]
        obj["spec"] = {"finalizers": ["kubernetes"]}
        obj["status"] = {"phase": "Active"}
    elif kind is NODE:
        obj.setdefault("spec", {})
        obj.setdefault("status", {"conditions": [], "capacity": {}, "allocatable": {}})
    elif kind is CONFIG_MAP and "data" in obj and obj["data"] is None:
        del obj["data"]


def pod_spec(spec: Object) -> None:
    """Set the defaults of a pod's spec, also within a Job's template."""
    spec.setdefault("restartPolicy", "Always")
    spec.setdefault("dnsPolicy", "ClusterFirst")
    spec.setdefault("schedulerName", "default-scheduler")
    spec.setdefault("terminationGracePeriodSeconds", 30)
    spec.setdefault("securityContext", {})
    if "serviceAccountName" in spec:
        spec.setdefault("serviceAccount", spec["serviceAccountName"])
    for container in (*spec.get("initContainers", ()), *spec["containers"]):
        container.setdefault("terminationMessagePath", "/dev/termination-log")
        container.setdefault("terminationMessagePolicy", "File")
        latest = ":" not in container.get("image", "").rsplit("/", 1)[-1] or container["image"].endswith(":latest")
        container.setdefault("imagePullPolicy", "Always" if latest else "IfNotPresent")
        resources = container.setdefault("resources", {})
        for name, value in resources.get("limits", {}).items():
            resources.setdefault("requests", {}).setdefault(name, value)
        for port in container.get("ports", ()):
            port.setdefault("protocol", "TCP")
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            if probe in container:
                times = {"timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3}
                container[probe] = times | container[probe]
                if "httpGet" in container[probe]:
                    container[probe]["httpGet"].setdefault("scheme", "HTTP")
        for variable in container.get("env", ()):
            source = variable.get("valueFrom", {}).get("fieldRef")
            if source:
                source.setdefault("apiVersion", "v1")
    for volume in spec.get("volumes", ()):
        for source in ("configMap", "secret", "projected", "downwardAPI"):
            if source in volume:
                volume[source].setdefault("defaultMode", 420)


def _admitted(spec: Object) -> None:
    """Set what admission adds to pods only."""
    spec.setdefault("serviceAccountName", "default")
    spec.setdefault("serviceAccount", spec["serviceAccountName"])
    spec.setdefault("enableServiceLinks", True)
    spec.setdefault("preemptionPolicy", "PreemptLowerPriority")
    spec.setdefault("priority", 0)
    tolerations = spec.setdefault("tolerations", [])
    for key in _TOLERATED:
        if not any(one.get("key") in (key, None) and one.get("effect") in (None, "NoExecute") for one in tolerations):
            tolerations.append({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300})


def _quality(spec: Object) -> str:
    resources = [container["resources"] for container in spec["containers"]]
    if not any(one.get("requests") or one.get("limits") for one in resources):
        return "BestEffort"
    sure = all(
        set(one.get("limits", {})) >= {"cpu", "memory"} and one.get("requests") == one.get("limits")
        for one in resources
    )
    return "Guaranteed" if sure else "Burstable"


def _job(job: Object) -> None:
    spec, meta = job["spec"], job["metadata"]
    meta["generation"] = 1
    spec.setdefault("parallelism", 1)
    spec.setdefault("completions", 1)
    spec.setdefault("backoffLimit", 6)
    spec.setdefault("completionMode", "NonIndexed")
    spec.setdefault("suspend", False)
    spec.setdefault("manualSelector", False)
    spec.setdefault("podReplacementPolicy", "Failed" if "podFailurePolicy" in spec else "TerminatingOrFailed")
    for rule in spec.get("podFailurePolicy", {}).get("rules", ()):
        for pattern in rule.get("onPodConditions", ()):
            pattern.setdefault("status", "True")
    spec["selector"] = {"matchLabels": {"batch.kubernetes.io/controller-uid": meta["uid"]}}
    labels = spec["template"].setdefault("metadata", {}).setdefault("labels", {})
    for prefix in ("", "batch.kubernetes.io/"):
        labels[f"{prefix}controller-uid"] = meta["uid"]
        labels[f"{prefix}job-name"] = meta["name"]
    meta.setdefault("labels", dict(labels))
    pod_spec(spec["template"]["spec"])
    job["status"] = {}


def _service(service: Object) -> None:
    spec = service["spec"]
    spec.setdefault("type", "ClusterIP")
    spec.setdefault("sessionAffinity", "None")
    spec.setdefault("internalTrafficPolicy", "Cluster")
    spec.setdefault("ipFamilies", ["IPv4"])
    spec.setdefault("ipFamilyPolicy", "SingleStack")
    spec.setdefault("clusterIP", "10.96.0.77")
    spec["clusterIPs"] = [spec["clusterIP"]]
    for port in spec.get("ports", ()):
        port.setdefault("protocol", "TCP")
        port.setdefault("targetPort", port["port"])
    service["status"] = {"loadBalancer": {}}
