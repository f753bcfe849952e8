"""The resources that the double serves, and what discovery says of them."""

from dataclasses import dataclass
from typing import Any

Object = dict[str, Any]
Key = tuple[str, str]

_VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


@dataclass(frozen=True, slots=True)
class Kind:
    """A resource of an API group. `returned`: a delete answers with the object, not with a Status."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    subresources: tuple[str, ...] = ()
    returned: bool = False

    @property
    def api_version(self) -> str:
        """As an object names it."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def resource(self) -> str:
        """As messages name it: `pods`, `jobs.batch`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def qualified(self) -> str:
        """As messages about bad objects name it: `Pod`, `Job.batch`."""
        return f"{self.kind}.{self.group}" if self.group else self.kind


NAMESPACE = Kind("", "v1", "namespaces", "Namespace", False, ("status", "finalize"))
CONFIG_MAP = Kind("", "v1", "configmaps", "ConfigMap")
SECRET = Kind("", "v1", "secrets", "Secret")
SERVICE = Kind("", "v1", "services", "Service", subresources=("status",), returned=True)
POD = Kind("", "v1", "pods", "Pod", subresources=("status", "log", "exec", "eviction"), returned=True)
EVENT = Kind("", "v1", "events", "Event")
CLAIM = Kind("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim", True, ("status",), True)
VOLUME = Kind("", "v1", "persistentvolumes", "PersistentVolume", False, ("status",), True)
NODE = Kind("", "v1", "nodes", "Node", False, ("status",))
SERVICE_ACCOUNT = Kind("", "v1", "serviceaccounts", "ServiceAccount", returned=True)
QUOTA = Kind("", "v1", "resourcequotas", "ResourceQuota", True, ("status",), True)
JOB = Kind("batch", "v1", "jobs", "Job", subresources=("status",))
RUNTIME_CLASS = Kind("node.k8s.io", "v1", "runtimeclasses", "RuntimeClass", False)
STORAGE_CLASS = Kind("storage.k8s.io", "v1", "storageclasses", "StorageClass", False, returned=True)
REVIEW = Kind("authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", False)
VOLCANO_JOB = Kind("batch.volcano.sh", "v1alpha1", "jobs", "Job", subresources=("status",))
VOLCANO_QUEUE = Kind("scheduling.volcano.sh", "v1beta1", "queues", "Queue", False, ("status",))
VOLCANO_GROUP = Kind("scheduling.volcano.sh", "v1beta1", "podgroups", "PodGroup", subresources=("status",))

KINDS = (
    *(NAMESPACE, CONFIG_MAP, SECRET, SERVICE, POD, EVENT, CLAIM, VOLUME, NODE, SERVICE_ACCOUNT, QUOTA, JOB),
    *(RUNTIME_CLASS, STORAGE_CLASS, REVIEW, VOLCANO_JOB, VOLCANO_QUEUE, VOLCANO_GROUP),
)
CUSTOM = frozenset({VOLCANO_JOB, VOLCANO_QUEUE, VOLCANO_GROUP})
BY_PATH = {(kind.group, kind.version, kind.plural): kind for kind in KINDS}

VERSION = {
    "major": "1",
    "minor": "36",
    "gitVersion": "v1.36.0",
    "gitCommit": "0" * 40,
    "gitTreeState": "clean",
    "buildDate": "2026-04-22T00:00:00Z",
    "goVersion": "go1.26.0",
    "compiler": "gc",
    "platform": "linux/amd64",
    "emulationMajor": "1",
    "emulationMinor": "36",
    "minCompatibilityMajor": "1",
    "minCompatibilityMinor": "35",
}


def discovery(path: str) -> Object | None:
    """What a path of discovery answers; None for any other."""
    groups = sorted({(kind.group, kind.version) for kind in KINDS if kind.group})
    if path == "/version":
        return VERSION
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}
    if path == "/apis":
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(*one) for one in groups]}
    for group, version in [("", "v1"), *groups]:
        if path == (f"/apis/{group}/{version}" if group else f"/api/{version}"):
            return _resources(group, version)
        if group and path == f"/apis/{group}":
            return {"kind": "APIGroup", "apiVersion": "v1", **_group(group, version)}
    return None


def _group(group: str, version: str) -> Object:
    details = {"groupVersion": f"{group}/{version}", "version": version}
    return {"name": group, "versions": [details], "preferredVersion": details}


def _resources(group: str, version: str) -> Object:
    result = []
    for kind in KINDS:
        if (kind.group, kind.version) != (group, version):
            continue
        verbs = ["create"] if kind is REVIEW else list(_VERBS)
        shared = {"singularName": "", "namespaced": kind.namespaced, "kind": kind.kind}
        result.append({"name": kind.plural, **shared, "singularName": kind.kind.lower(), "verbs": verbs})
        result += [{"name": f"{kind.plural}/{one}", **shared, "verbs": ["get"]} for one in kind.subresources]
    called = f"{group}/{version}" if group else version
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": called, "resources": result}
