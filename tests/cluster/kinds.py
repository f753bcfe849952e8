"""The resources that the double serves, and their discovery documents."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

Object = dict[str, Any]
Key = tuple[str, str]

_VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


@dataclass(frozen=True, slots=True)
class Kind:
    """A resource of an API group.

    `returned`: a delete answers with the object, not with a Status. `custom`: it has no schema and no defaults here.
    """

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    subresources: tuple[str, ...] = ()
    returned: bool = False
    custom: bool = False
    short: str = ""

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


NAMESPACE = Kind("", "v1", "namespaces", "Namespace", False, ("status", "finalize"), short="ns")
CONFIG_MAP = Kind("", "v1", "configmaps", "ConfigMap", short="cm")
SECRET = Kind("", "v1", "secrets", "Secret")
SERVICE = Kind("", "v1", "services", "Service", subresources=("status",), returned=True, short="svc")
POD = Kind("", "v1", "pods", "Pod", subresources=("status", "log", "exec", "eviction"), returned=True, short="po")
EVENT = Kind("", "v1", "events", "Event")
CLAIM = Kind("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim", True, ("status",), True, short="pvc")
VOLUME = Kind("", "v1", "persistentvolumes", "PersistentVolume", False, ("status",), True, short="pv")
NODE = Kind("", "v1", "nodes", "Node", False, ("status",), short="no")
SERVICE_ACCOUNT = Kind("", "v1", "serviceaccounts", "ServiceAccount", returned=True)
QUOTA = Kind("", "v1", "resourcequotas", "ResourceQuota", True, ("status",), True)
JOB = Kind("batch", "v1", "jobs", "Job", subresources=("status",))
RUNTIME_CLASS = Kind("node.k8s.io", "v1", "runtimeclasses", "RuntimeClass", False)
STORAGE_CLASS = Kind("storage.k8s.io", "v1", "storageclasses", "StorageClass", False, returned=True)
LIMIT_RANGE = Kind("", "v1", "limitranges", "LimitRange")
DEPLOYMENT = Kind("apps", "v1", "deployments", "Deployment", subresources=("status",), short="deploy")
DAEMON_SET = Kind("apps", "v1", "daemonsets", "DaemonSet", subresources=("status",), short="ds")
NETWORK_POLICY = Kind("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy")
PRIORITY_CLASS = Kind("scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", False)
ROLE = Kind("rbac.authorization.k8s.io", "v1", "roles", "Role")
ROLE_BINDING = Kind("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding")
CLUSTER_ROLE = Kind("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", False)
CLUSTER_ROLE_BINDING = Kind("rbac.authorization.k8s.io", "v1", "clusterrolebindings", "ClusterRoleBinding", False)
DEFINITION = Kind(
    "apiextensions.k8s.io",
    "v1",
    "customresourcedefinitions",
    "CustomResourceDefinition",
    False,
    ("status",),
    short="crd",
)
REVIEW = Kind("authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", False)
VOLCANO_JOB = Kind("batch.volcano.sh", "v1alpha1", "jobs", "Job", subresources=("status",), custom=True)
VOLCANO_QUEUE = Kind("scheduling.volcano.sh", "v1beta1", "queues", "Queue", False, ("status",), custom=True)
VOLCANO_GROUP = Kind("scheduling.volcano.sh", "v1beta1", "podgroups", "PodGroup", subresources=("status",), custom=True)

KINDS = (
    *(NAMESPACE, CONFIG_MAP, SECRET, SERVICE, POD, EVENT, CLAIM, VOLUME, NODE, SERVICE_ACCOUNT, QUOTA, JOB),
    *(RUNTIME_CLASS, STORAGE_CLASS, REVIEW, VOLCANO_JOB, VOLCANO_QUEUE, VOLCANO_GROUP),
    *(LIMIT_RANGE, DEPLOYMENT, DAEMON_SET, NETWORK_POLICY, PRIORITY_CLASS, DEFINITION),
    *(ROLE, ROLE_BINDING, CLUSTER_ROLE, CLUSTER_ROLE_BINDING),
)
"""The kinds that are there from the start; definitions add others."""


def defined(definition: Object) -> list[Kind]:
    """The kinds of a CustomResourceDefinition, one for each version that is served."""
    spec = definition["spec"]
    names, namespaced = spec["names"], spec["scope"] == "Namespaced"
    return [
        Kind(spec["group"], one["name"], names["plural"], names["kind"], namespaced, ("status",), custom=True)
        for one in spec["versions"]
        if one["served"]
    ]


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


def discovery(path: str, kinds: Iterable[Kind]) -> Object | None:
    """The response to a path of discovery; None for any other."""
    kinds = list(kinds)
    groups = sorted({(kind.group, kind.version) for kind in kinds if kind.group})
    if path == "/version":
        return VERSION
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}
    if path == "/apis":
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(*one) for one in groups]}
    for group, version in [("", "v1"), *groups]:
        if path == (f"/apis/{group}/{version}" if group else f"/api/{version}"):
            return _resources(group, version, kinds)
        if group and path == f"/apis/{group}":
            return {"kind": "APIGroup", "apiVersion": "v1", **_group(group, version)}
    return None


def _group(group: str, version: str) -> Object:
    details = {"groupVersion": f"{group}/{version}", "version": version}
    return {"name": group, "versions": [details], "preferredVersion": details}


def _resources(group: str, version: str, kinds: list[Kind]) -> Object:
    result = []
    for kind in kinds:
        if (kind.group, kind.version) != (group, version):
            continue
        verbs = ["create"] if kind is REVIEW else list(_VERBS)
        shared = {"singularName": "", "namespaced": kind.namespaced, "kind": kind.kind}
        result.append({"name": kind.plural, **shared, "singularName": kind.kind.lower(), "verbs": verbs})
        result[-1] |= {"shortNames": [kind.short]} if kind.short else {}
        result += [{"name": f"{kind.plural}/{one}", **shared, "verbs": ["get"]} for one in kind.subresources]
    called = f"{group}/{version}" if group else version
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": called, "resources": result}
