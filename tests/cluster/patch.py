"""Patches: JSON merge (RFC 7386), JSON patch (RFC 6902), strategic merge, and a plain server-side apply."""

import copy
from typing import Any

from tests.cluster.api_errors import ApiError, bad_request, unsupported
from tests.cluster.kinds import Object

MERGE, JSON = "application/merge-patch+json", "application/json-patch+json"
STRATEGIC, APPLY = "application/strategic-merge-patch+json", "application/apply-patch+yaml"
_KEYS = {
    **dict.fromkeys(("containers", "initContainers", "volumes", "env", "imagePullSecrets"), "name"),
    "volumeMounts": "mountPath",
    "conditions": "type",
    "ownerReferences": "uid",
    "taints": "key",
}


def patched(old: Object, change: Any, how: str, custom: bool) -> Any:
    """An object with a change applied.

    Raises:
        ApiError: the kind of patch is not known, or does not fit.
    """
    if how == JSON:
        return _json(copy.deepcopy(old), change)
    if not isinstance(change, dict):
        raise bad_request("json: cannot unmarshal array into Go value of type map[string]interface {}")
    if how in (MERGE, APPLY) or (how == STRATEGIC and not custom):
        return _merge(old, change, {} if custom or how == MERGE else _KEYS)
    raise unsupported(", ".join((JSON, MERGE, APPLY) if custom else (JSON, MERGE, STRATEGIC, APPLY)))


def _merge(old: Any, change: Any, keys: dict[str, str]) -> Any:
    if not isinstance(change, dict):
        return copy.deepcopy(change)
    result = dict(old) if isinstance(old, dict) else {}
    for name, value in change.items():
        if value is None:
            result.pop(name, None)
        elif name in keys and isinstance(value, list) and isinstance(result.get(name), list):
            result[name] = _merge_list(result[name], value, keys[name], keys)
        elif name == "finalizers" and keys and isinstance(value, list):
            result[name] = [*result.get(name, []), *(one for one in value if one not in result.get(name, []))]
        else:
            result[name] = _merge(result.get(name), value, keys)
    return result


def _merge_list(old: list[Any], change: list[Any], key: str, keys: dict[str, str]) -> list[Any]:
    result = list(old)
    for one in change:
        at = next((place for place, there in enumerate(result) if there.get(key) == one.get(key)), None)
        if one.get("$patch") == "delete":
            result = [there for there in result if there.get(key) != one.get(key)]
        elif at is None:
            result.append(one)
        else:
            result[at] = _merge(result[at], one, keys)
    return result


def _json(obj: Any, steps: Any) -> Any:
    for step in steps:
        *way, last = [word.replace("~1", "/").replace("~0", "~") for word in step["path"].split("/")[1:]]
        place = obj
        try:
            for word in way:
                place = place[int(word)] if isinstance(place, list) else place[word]
            _step(place, last, step)
        except (KeyError, IndexError, ValueError, TypeError):
            message = f"the server rejected our request due to an error in our request: {step['op']} {step['path']}"
            raise ApiError(422, "Invalid", message, {}) from None
    return obj


def _step(place: Any, last: str, step: Object) -> None:
    if isinstance(place, list):
        at = len(place) if last == "-" else int(last)
        if step["op"] == "add":
            place.insert(at, step["value"])
            return
    else:
        at = last  # type: ignore[assignment]
    if step["op"] == "remove":
        del place[at]
    elif step["op"] == "test":
        if place[at] != step["value"]:
            raise ValueError
    elif step["op"] in ("add", "replace"):
        if step["op"] == "replace":
            place[at]
        place[at] = step["value"]
    else:
        raise ValueError
