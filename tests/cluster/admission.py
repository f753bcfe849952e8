"""Whether an object may be created or changed, and as what: defaults, schema, values, admission plugins."""

from decimal import Decimal

from tests.cluster import defaults, schema, security, validation, volcano_job
from tests.cluster.api_errors import Causes, bad_request, forbidden, not_found
from tests.cluster.kinds import (
    JOB,
    NAMESPACE,
    POD,
    QUOTA,
    RUNTIME_CLASS,
    SERVICE_ACCOUNT,
    VOLCANO_JOB,
    Kind,
    Object,
)
from tests.cluster.quantities import amount, format_quantity, requests
from tests.cluster.store import Store, suffix

_LEVEL = "pod-security.kubernetes.io"


def identify(kind: Kind, obj: Object, namespace: str) -> None:
    """Give a new object its kind, namespace and name.

    Raises:
        ApiError: it has another kind or namespace, or no name.
    """
    for field, expected in (("apiVersion", kind.api_version), ("kind", kind.kind)):
        if obj.setdefault(field, expected) != expected:
            raise bad_request(
                f'{obj.get("kind")} in version "{obj.get("apiVersion")}" cannot be handled as a '
                f'{kind.kind}: no kind "{obj.get("kind")}" is registered for version "{obj.get("apiVersion")}"'
            )
    meta = obj.setdefault("metadata", {})
    if kind.namespaced and meta.setdefault("namespace", namespace) != namespace:
        raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
    for field in ("uid", "resourceVersion", "creationTimestamp", "deletionTimestamp", "selfLink", "managedFields"):
        if field == "resourceVersion" and meta.get(field):
            raise bad_request("resourceVersion should not be set on objects to be created")
        meta.pop(field, None)
    if not meta.get("name"):
        if not meta.get("generateName"):
            causes = Causes(kind, "")
            causes.required("metadata.name", "name or generateName is required")
            causes.refuse()
        meta["name"] = meta["generateName"][:58] + suffix()


def admit(store: Store, kind: Kind, obj: Object) -> list[str]:
    """Complete a new object in place; returns the warnings of the response.

    Raises:
        ApiError: it is rejected.
    """
    meta = obj["metadata"]
    schema.check(kind, obj)
    namespace: Object = {}
    if kind.namespaced:
        result = store.find(NAMESPACE, "", meta["namespace"])
        if result is None:
            raise not_found(NAMESPACE, meta["namespace"])
        namespace = result
        if "deletionTimestamp" in namespace["metadata"]:
            why = f"unable to create new content in namespace {meta['namespace']} because it is being terminated"
            raise forbidden(kind, meta["name"], why)
    if kind is VOLCANO_JOB:
        volcano_job.complete(obj)
        volcano_job.judge(store, obj)
    if kind.custom:
        return []
    defaults.fill(kind, obj)
    if kind is POD:
        _pod(store, obj)
    validation.check(kind, obj, None)
    warnings = _secure(kind, obj, namespace["metadata"].get("labels") or {}) if kind in (POD, JOB) else []
    _quotas(store, kind, obj)
    return warnings


def change(kind: Kind, new: Object, old: Object) -> None:
    """Reject an invalid change of an object.

    Raises:
        ApiError: the change is invalid.
    """
    if kind is VOLCANO_JOB:
        volcano_job.judge_change(new, old)
    if not kind.custom:
        schema.check(kind, new)
        validation.check(kind, new, old)


def _pod(store: Store, pod: Object) -> None:
    spec, meta = pod["spec"], pod["metadata"]
    account = spec["serviceAccountName"]
    if store.find(SERVICE_ACCOUNT, meta["namespace"], account) is None:
        why = f'error looking up service account {meta["namespace"]}/{account}: serviceaccount "{account}" not found'
        raise forbidden(POD, meta["name"], why)
    if spec.get("priorityClassName", "system-node-critical") not in ("system-node-critical", "system-cluster-critical"):
        raise forbidden(POD, meta["name"], f"no PriorityClass with name {spec['priorityClassName']} was found")
    runtime = spec.get("runtimeClassName")
    if runtime and store.find(RUNTIME_CLASS, "", runtime) is None:
        raise forbidden(POD, meta["name"], f'pod rejected: RuntimeClass "{runtime}" not found')


def _secure(kind: Kind, obj: Object, labels: dict[str, str]) -> list[str]:
    spec = obj["spec"] if kind is POD else obj["spec"]["template"]["spec"]
    enforced = labels.get(f"{_LEVEL}/enforce", "privileged")
    version = labels.get(f"{_LEVEL}/enforce-version", "latest")
    result = security.breaches(spec, enforced)
    if result and kind is POD:
        raise forbidden(POD, obj["metadata"]["name"], f'violates PodSecurity "{enforced}:{version}": {result}')
    warned = labels.get(f"{_LEVEL}/warn", "privileged")
    result = security.breaches(spec, warned)
    return (
        [f'would violate PodSecurity "{warned}:{labels.get(f"{_LEVEL}/warn-version", "latest")}": {result}']
        if result
        else []
    )


def usage(kind: Kind, obj: Object) -> dict[str, Decimal]:
    """What an object counts against quotas, by resource name."""
    result = {f"count/{kind.resource}": Decimal(1)}
    if not kind.group:
        result[kind.plural] = Decimal(1)
    if kind is POD:
        for section in ("requests", "limits"):
            for name, value in requests(obj["spec"], section).items():
                result[f"{section}.{name}"] = value
                if section == "requests" and name in ("cpu", "memory"):
                    result[name] = value
    return result


def quota_used(store: Store, namespace: str, hard: dict[str, str]) -> dict[str, Decimal]:
    """How much of a quota the objects of a namespace use."""
    used = dict.fromkeys(hard, Decimal(0))
    for kind, obj in store.everything():
        if obj["metadata"].get("namespace") != namespace or obj.get("status", {}).get("phase") in (
            "Succeeded",
            "Failed",
        ):
            continue
        for name, value in usage(kind, obj).items():
            if name in used:
                used[name] += value
    return used


def _quotas(store: Store, kind: Kind, obj: Object) -> None:
    meta = obj["metadata"]
    for quota in store.all(QUOTA, meta.get("namespace", "")) if kind.namespaced else ():
        hard = quota["spec"].get("hard", {})
        requested = {name: value for name, value in usage(kind, obj).items() if name in hard}
        if kind is POD:
            missing = sorted(
                f"{name} for: {','.join(one['name'] for one in obj['spec']['containers'])}"
                for name in hard
                if name not in requested and name.removeprefix("requests.").removeprefix("limits.") in ("cpu", "memory")
            )
            if missing:
                raise forbidden(
                    kind, meta["name"], f"failed quota: {quota['metadata']['name']}: must specify {'; '.join(missing)}"
                )
        used = quota_used(store, meta["namespace"], hard)
        over = sorted(name for name, value in requested.items() if used[name] + value > amount(hard[name]))
        if over:
            details = [
                ("requested", requested),
                ("used", used),
                ("limited", {name: amount(hard[name]) for name in over}),
            ]
            texts = [
                f"{word}: " + ",".join(f"{name}={format_quantity(values[name])}" for name in over)
                for word, values in details
            ]
            raise forbidden(kind, meta["name"], f"exceeded quota: {quota['metadata']['name']}, {', '.join(texts)}")
