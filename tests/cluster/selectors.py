"""Label and field selectors, as list and watch take them."""

import re
from collections.abc import Callable

from tests.cluster.api_errors import bad_request
from tests.cluster.kinds import EVENT, JOB, NAMESPACE, POD, Kind, Object

Test = Callable[[Object], bool]

_SET = re.compile(r"^([^\s,!=()]+)\s+(in|notin)\s+\(([^)]*)\)$")
_COMMA = re.compile(r",(?![^(]*\))")
_FIELDS = {
    POD: (
        *("spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName"),
        *("spec.hostNetwork", "status.phase", "status.podIP", "status.nominatedNodeName"),
    ),
    EVENT: (
        *("involvedObject.kind", "involvedObject.namespace", "involvedObject.name", "involvedObject.uid"),
        *("involvedObject.apiVersion", "involvedObject.resourceVersion", "involvedObject.fieldPath"),
        *("reason", "reportingComponent", "source", "type"),
    ),
    JOB: ("status.successful",),
    NAMESPACE: ("status.phase",),
}


def label_test(selector: str) -> Test:
    """Whether an object has the labels of a selector.

    Raises:
        ApiError: the selector cannot be read.
    """
    tests = [_label(part.strip()) for part in _COMMA.split(selector) if part.strip()]
    return lambda obj: all(test(obj["metadata"].get("labels") or {}) for test in tests)


def _label(part: str) -> Callable[[dict[str, str]], bool]:
    if result := _SET.match(part):
        key, verb, listed = result.groups()
        values = {one.strip() for one in listed.split(",")}
        return lambda labels: (labels.get(key) in values) == (verb == "in")
    if part.startswith("!"):
        return lambda labels: part[1:].strip() not in labels
    for sign, same in (("!=", False), ("==", True), ("=", True)):
        key, found_sign, value = part.partition(sign)
        if found_sign:
            return lambda labels: (labels.get(key.strip()) == value.strip()) == same
    if re.search(r"[\s()]", part):
        raise bad_request(
            f"unable to parse requirement: found '{part.split()[-1]}', expected: in, notin, =, ==, !=, gt, lt"
        )
    return lambda labels: part in labels


def field_test(kind: Kind, selector: str) -> Test:
    """Whether an object has the field values of a selector.

    Raises:
        ApiError: the field is none that the resource can be selected by.
    """
    tests: list[Test] = []
    for part in filter(None, (part.strip() for part in selector.split(","))):
        result = re.match(r"^([^=!]+)(!=|==|=)(.*)$", part)
        if not result:
            raise bad_request(f'invalid selector: "{selector}"; can\'t understand "{part}"')
        field, sign, value = result.groups()
        if field not in ("metadata.name", "metadata.namespace", *_FIELDS.get(kind, ())):
            raise bad_request(
                f'Unable to find "{kind.group}/{kind.version}, Resource={kind.plural}" that match label selector "", '
                f'field selector "{selector}": field label not supported: {field}'
            )
        tests.append(_field_test(field, value, same=sign != "!="))
    return lambda obj: all(test(obj) for test in tests)


def _field_test(field: str, value: str, *, same: bool) -> Test:
    return lambda obj: (_field(obj, field) == value) == same


def _field(obj: Object, path: str) -> str:
    if path == "source":
        return str((obj.get("source") or {}).get("component") or obj.get("reportingComponent") or "")
    if path == "status.successful":
        return str(obj.get("status", {}).get("succeeded", 0))
    result: object = obj
    for word in path.split("."):
        result = result.get(word) if isinstance(result, dict) else None
    return "" if result is None else str(result)
