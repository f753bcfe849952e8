"""The API's schemas, strictly: what a real server answers with `fieldValidation=Strict`."""

import functools
from typing import Any

import jsonschema
import referencing
from kubernetes_validate import utils  # type: ignore[import-untyped]

from tests.cluster.api_errors import ApiError, Causes, bad_request
from tests.cluster.kinds import Kind, Object

KUBERNETES = "1.36"


def check(kind: Kind, obj: Object) -> None:
    """Reject an object with an unknown, missing or wrongly typed field.

    Raises:
        ApiError: as the decoder (400) or the validation (422) words it.
    """
    if kind.custom:
        return
    error = jsonschema.exceptions.best_match(_validator(kind).iter_errors(obj))
    if error is None:
        return
    path = ""
    for word in error.absolute_path:
        path += f"[{word}]" if isinstance(word, int) else f".{word}" if path else str(word)
    if error.validator == "required":
        missing = str(error.message).split("'")[1]
        causes = Causes(kind, obj["metadata"].get("name", ""))
        causes.required(f"{path}.{missing}" if path else missing)
        causes.refuse()
    raise _undecodable(kind, path, error)


def _undecodable(kind: Kind, path: str, error: Any) -> ApiError:
    start = f'{kind.kind} in version "{kind.version}" cannot be handled as a {kind.kind}: '
    if error.validator == "additionalProperties":
        properties = error.schema.get("properties", {})
        unknown = [
            f'unknown field "{path}.{name}"'.replace('".', '"') for name in error.instance if name not in properties
        ]
        return bad_request(f"{start}strict decoding error: {', '.join(unknown)}")
    result = {dict: "object", list: "array", str: "string", bool: "bool"}.get(type(error.instance), "number")
    expected = error.schema.get("format") or error.schema.get("type") or "value"
    return bad_request(f"{start}json: cannot unmarshal {result} into Go struct field .{path} of type {expected}")


@functools.cache
def _validator(kind: Kind) -> Any:
    folder = f"v{KUBERNETES}.0-local-strict"
    group = kind.group.split(".")[0]
    file = f"{kind.kind.lower()}-{group}-{kind.version}" if group else f"{kind.kind.lower()}-{kind.version}"
    schema = utils.schema_contents(f"kubernetes-json-schema/{folder}/{file}.json", KUBERNETES)
    registry = referencing.Resource.from_contents(schema) @ referencing.Registry()
    return jsonschema.Draft202012Validator(schema, registry=_definitions(folder) @ registry)


@functools.cache
def _definitions(folder: str) -> Any:
    result = utils.schema_contents(f"kubernetes-json-schema/{folder}/_definitions.json", KUBERNETES)
    return referencing.Resource.from_contents(result)
