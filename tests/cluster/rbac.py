"""Users and their rights: bearer tokens with the rules of Roles and ClusterRoles."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.cluster.api_errors import ApiError, forbidden
from tests.cluster.kinds import Kind, Object


@dataclass(frozen=True, slots=True)
class Request:
    """One request as authorisation sees it. `name` is namespace/name, or None where none is named (list, create)."""

    group: str
    resource: str
    verb: str
    name: str | None
    user: str
    allowed: bool

    @property
    def right(self) -> tuple[str, str, str]:
        """The right that a rule must grant: API group, resource with subresource, verb."""
        return self.group, self.resource, self.verb


@dataclass(frozen=True, slots=True)
class Attributes:
    """The attributes of one request."""

    verb: str
    group: str
    resource: str
    subresource: str = ""
    namespace: str = ""
    name: str = ""

    @property
    def full(self) -> str:
        """The resource as rules name it."""
        return f"{self.resource}/{self.subresource}" if self.subresource else self.resource


@dataclass
class User:
    """An identity: rules by namespace, "" for those of ClusterRoles, which hold everywhere."""

    name: str
    rules: dict[str, list[Object]] = field(default_factory=dict)

    def may(self, attributes: Attributes) -> bool:
        """Whether a rule allows it."""
        rules = [*self.rules.get("", []), *(self.rules.get(attributes.namespace, []) if attributes.namespace else [])]
        return any(_covers(rule, attributes) for rule in [*rules, *_EVERYONE])

    def error(self, attributes: Attributes) -> ApiError:
        """The API server's error for it."""
        kind = Kind(attributes.group, "", attributes.resource, "")
        where = f'in the namespace "{attributes.namespace}"' if attributes.namespace else "at the cluster scope"
        right = f'{attributes.verb} resource "{attributes.full}" in API group "{attributes.group}"'
        why = f'User "{self.name}" cannot {right} {where}'
        return forbidden(kind, attributes.name, why)


ADMIN: Object = {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}
BOOTSTRAP: Object = {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]}
_EVERYONE = ({"apiGroups": ["authorization.k8s.io"], "resources": ["selfsubjectaccessreviews"], "verbs": ["create"]},)


def _covers(rule: Object, attributes: Attributes) -> bool:
    def matches(values: Sequence[str], value: str) -> bool:
        return "*" in values or value in values

    resources = rule.get("resources", ())
    fits = matches(resources, attributes.full) or (
        attributes.subresource and f"*/{attributes.subresource}" in resources
    )
    names = rule.get("resourceNames") or ()
    if names and attributes.name not in names:
        return False
    return bool(
        matches(rule.get("verbs", ()), attributes.verb)
        and matches(rule.get("apiGroups", ()), attributes.group)
        and fits
    )


def review(user: User, body: Object) -> Object:
    """A SelfSubjectAccessReview with its answer."""
    requested = body.get("spec", {}).get("resourceAttributes") or {}
    keys = ("verb", "group", "resource", "subresource", "namespace", "name")
    attributes = Attributes(**{key: requested.get(key, "") for key in keys})
    allowed = user.may(attributes)
    shared = {"kind": "SelfSubjectAccessReview", "apiVersion": "authorization.k8s.io/v1"}
    return {**shared, "metadata": {}, "spec": body.get("spec", {}), "status": {"allowed": allowed}}
