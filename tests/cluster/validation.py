"""Rules on values beyond the schema, for the objects of benchmarks: names, labels, Jobs, pods, ConfigMaps, Services."""

import re
from typing import Any

from tests.cluster.api_errors import Causes
from tests.cluster.kinds import CONFIG_MAP, JOB, NAMESPACE, POD, SERVICE, Kind, Object
from tests.cluster.quantities import amount

_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}(\.{_LABEL})*"
_QUALIFIED = r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_VALUE = rf"({_QUALIFIED})?"
_LABEL_MESSAGE = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with "
    "an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)
_SUBDOMAIN_MESSAGE = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
_VALUE_MESSAGE = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is "
    "'(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)
_SERVICE_MESSAGE = (
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, "
    "and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is "
    "'[a-z]([-a-z0-9]*[a-z0-9])?')"
)
_NAMES = {SERVICE: (63, r"[a-z]([-a-z0-9]*[a-z0-9])?", _SERVICE_MESSAGE), NAMESPACE: (63, _LABEL, _LABEL_MESSAGE)}
_RULES = {"In", "NotIn"}
_MAP_BYTES = 1024 * 1024


def check(kind: Kind, obj: Object, old: Object | None) -> None:
    """Reject an object whose values break a rule; `old` is the object that it replaces.

    Raises:
        ApiError: 422, with every cause.
    """
    causes = Causes(kind, obj["metadata"]["name"])
    _metadata(kind, obj["metadata"], causes)
    if old is not None:
        _immutable(kind, obj, old, causes)
    if kind is POD:
        _pod(obj["spec"], "spec", causes)
    elif kind is JOB:
        _job(obj, causes)
    elif kind is CONFIG_MAP and sum(map(len, (obj.get("data") or {}).values())) > _MAP_BYTES:
        causes.invalid("", "", f"Too long: may not be more than {_MAP_BYTES} bytes")
    causes.refuse()


def _metadata(kind: Kind, meta: Object, causes: Causes) -> None:
    name = meta["name"]
    longest, rule, message = _NAMES.get(kind, (253, _SUBDOMAIN, _SUBDOMAIN_MESSAGE))
    if len(name) > longest:
        causes.invalid("metadata.name", name, f"must be no more than {longest} bytes")
    if not re.fullmatch(rule, name):
        causes.invalid("metadata.name", name, message)
    _labels(meta.get("labels"), "metadata.labels", causes)
    for place, owner in enumerate(meta.get("ownerReferences", ())):
        for field in ("apiVersion", "kind", "name", "uid"):
            if not owner.get(field):
                causes.required(
                    f"metadata.ownerReferences[{place}].{field}" if field != "uid" else "metadata.ownerReferences.uid",
                    "must not be empty",
                )
    for key in meta.get("annotations") or {}:
        if not re.fullmatch(rf"({_SUBDOMAIN}/)?{_QUALIFIED}", key.lower()):
            causes.invalid(
                "metadata.annotations", key, "name part must consist of alphanumeric characters, '-', '_' or '.'"
            )


def _labels(labels: Any, field: str, causes: Causes) -> None:
    for key, value in (labels or {}).items():
        if not re.fullmatch(rf"({_SUBDOMAIN}/)?{_QUALIFIED}", key) or len(key.rsplit("/", 1)[-1]) > 63:
            causes.invalid(field, key, "name part must consist of alphanumeric characters, '-', '_' or '.'")
        if len(value) > 63:
            causes.invalid(field, value, "must be no more than 63 bytes")
        if not re.fullmatch(_VALUE, value):
            causes.invalid(field, value, _VALUE_MESSAGE)


def _immutable(kind: Kind, obj: Object, old: Object, causes: Causes) -> None:
    if kind is CONFIG_MAP and old.get("immutable"):
        if not obj.get("immutable"):
            causes.forbidden("immutable", "field is immutable when `immutable` is set")
        for field in ("data", "binaryData"):
            if obj.get(field) != old.get(field):
                causes.forbidden(field, "field is immutable when `immutable` is set")
    if kind is JOB:
        for field in (
            "completions",
            "selector",
            "template",
            "completionMode",
            "podFailurePolicy",
            "backoffLimitPerIndex",
        ):
            now, before = obj["spec"].get(field), old["spec"].get(field)
            if now != before and not (field == "template" and old["spec"].get("suspend")):
                causes.invalid(f"spec.{field}", "" if field == "template" else now, "field is immutable")
    if kind is POD:
        now, before = dict(obj["spec"]), dict(old["spec"])
        for spec in (now, before):
            spec["containers"] = [{**one, "image": ""} for one in spec["containers"]]
            for free in ("activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds"):
                spec.pop(free, None)
        if now != before:
            causes.forbidden(
                "spec",
                "pod updates may not change fields other than `spec.containers[*].image`,"
                "`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only "
                "additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be "
                "set to 1 if it was previously negative)",
            )
    if kind.custom or "spec" not in old:
        return
    if kind is SERVICE and obj["spec"].get("clusterIP") != old["spec"].get("clusterIP"):
        causes.invalid("spec.clusterIPs[0]", [obj["spec"].get("clusterIP")], "may not change once set")


def _job(job: Object, causes: Causes) -> None:
    spec = job["spec"]
    for field in ("parallelism", "completions", "backoffLimit", "activeDeadlineSeconds", "ttlSecondsAfterFinished"):
        if spec.get(field, 0) < 0:
            causes.invalid(f"spec.{field}", spec[field], "must be greater than or equal to 0")
    template = spec["template"]["spec"]
    _labels(spec["template"].get("metadata", {}).get("labels"), "spec.template.labels", causes)
    if template["restartPolicy"] not in ("Never", "OnFailure"):
        field = "spec.template.spec.restartPolicy"
        causes.unsupported(field, template["restartPolicy"], ("OnFailure", "Never"))
    rules = spec.get("podFailurePolicy", {}).get("rules", ())
    if rules and template["restartPolicy"] != "Never":
        causes.invalid(
            "spec.template.spec.restartPolicy",
            template["restartPolicy"],
            'only "Never" is supported when podFailurePolicy is specified',
        )
    if rules and spec.get("podReplacementPolicy") != "Failed":
        causes.unsupported("spec.podReplacementPolicy", spec.get("podReplacementPolicy"), ("Failed",))
    for place, rule in enumerate(rules):
        _rule(rule, f"spec.podFailurePolicy.rules[{place}]", causes)
    _pod(template, "spec.template.spec", causes)


def _rule(rule: Object, field: str, causes: Causes) -> None:
    if rule["action"] not in ("Count", "FailIndex", "FailJob", "Ignore"):
        causes.unsupported(f"{field}.action", rule["action"], ("Count", "FailIndex", "FailJob", "Ignore"))
    codes = rule.get("onExitCodes")
    if codes is None and not rule.get("onPodConditions"):
        causes.invalid(field, field, "specifying one of OnExitCodes and OnPodConditions is required")
    if codes is not None and rule.get("onPodConditions"):
        causes.invalid(field, field, "specifying both OnExitCodes and OnPodConditions is not supported")
    if codes is not None:
        values = codes["values"]
        if codes["operator"] not in _RULES:
            causes.unsupported(f"{field}.onExitCodes.operator", codes["operator"], ("In", "NotIn"))
        if not values:
            causes.invalid(f"{field}.onExitCodes.values", values, "at least one value is required")
        if codes["operator"] == "In" and 0 in values:
            causes.invalid(f"{field}.onExitCodes.values[{values.index(0)}]", 0, "must not be 0 for the In operator")
        if values != sorted(set(values)):
            causes.invalid(f"{field}.onExitCodes.values", values, "must be ordered")


def _pod(spec: Object, field: str, causes: Causes) -> None:
    names: set[str] = set()
    for place, volume in enumerate(spec.get("volumes", ())):
        at = f"{field}.volumes[{place}]"
        if not re.fullmatch(_LABEL, volume["name"]):
            causes.invalid(f"{at}.name", volume["name"], _LABEL_MESSAGE)
        if volume["name"] in names:
            causes.duplicate(f"{at}.name", volume["name"])
        if len(volume) == 1:
            causes.required(at, "must specify a volume type")
        names.add(volume["name"])
    if not spec["containers"]:
        causes.required(f"{field}.containers")
    unique_names: set[str] = set()
    for group in ("initContainers", "containers"):
        for place, container in enumerate(spec.get(group, ())):
            if container["name"] in unique_names:
                causes.duplicate(f"{field}.{group}[{place}].name", container["name"])
            unique_names.add(container["name"])
            _container(container, names, f"{field}.{group}[{place}]", causes)


def _container(container: Object, volumes: set[str], field: str, causes: Causes) -> None:
    if not re.fullmatch(_LABEL, container["name"]):
        causes.invalid(f"{field}.name", container["name"], _LABEL_MESSAGE)
    if not container.get("image"):
        causes.required(f"{field}.image")
    paths: set[str] = set()
    for place, mount in enumerate(container.get("volumeMounts", ())):
        if mount["name"] not in volumes:
            causes.missing(f"{field}.volumeMounts[{place}].name", mount["name"])
        if mount["mountPath"] in paths:
            causes.invalid(f"{field}.volumeMounts[{place}].mountPath", mount["mountPath"], "must be unique")
        paths.add(mount["mountPath"])
    resources = container.get("resources", {})
    limits, attributes = resources.get("limits", {}), resources.get("requests", {})
    for name, value in attributes.items():
        extended = "/" in name
        if name in limits and (
            amount(value) > amount(limits[name]) or (extended and amount(value) != amount(limits[name]))
        ):
            message = f"must be {'equal to' if extended else 'less than or equal to'} {name} limit of {limits[name]}"
            causes.invalid(f"{field}.resources.requests", str(value), message)
        elif extended and name not in limits:
            causes.required(f"{field}.resources.limits", "Limit must be set for non overcommitable resources")
