"""Lists: selected, in pages, at a resource version."""

import base64
import json

from tests.cluster.api_errors import bad_request, expired
from tests.cluster.kinds import Kind, Object
from tests.cluster.selectors import Test, field_test, label_test
from tests.cluster.store import Store, key_of


def selection(kind: Kind, query: dict[str, str]) -> Test:
    """Whether an object is selected by a request's selectors.

    Raises:
        ApiError: a selector cannot be read.
    """
    tests = (label_test(query.get("labelSelector", "")), field_test(kind, query.get("fieldSelector", "")))
    return lambda obj: all(test(obj) for test in tests)


def matching(store: Store, kind: Kind, namespace: str, query: dict[str, str]) -> list[Object]:
    """The objects that a request selects."""
    is_selected = selection(kind, query)
    return [one for one in store.all(kind, namespace) if is_selected(one)]


def listed(
    store: Store, kind: Kind, namespace: str, query: dict[str, str], result: list[Object] | None = None
) -> Object:
    """The list that answers a request.

    Raises:
        ApiError: it continues from a page that is too old.
    """
    result = matching(store, kind, namespace, query) if result is None else result
    meta: Object = {"resourceVersion": str(store.version)}
    if query.get("continue"):
        version, *last = _read(query["continue"])
        if int(version) < store.expired:
            raise expired(
                "The provided continue parameter is too old to display a consistent list result. You can "
                "start a new list without the continue parameter, or use the continue token in this response "
                "to retrieve the remainder of the results."
            )
        meta["resourceVersion"] = str(version)
        result = [one for one in result if list(key_of(one)) > last]
    limit = int(query.get("limit") or 0)
    if limit and len(result) > limit:
        token = json.dumps([meta["resourceVersion"], *key_of(result[limit - 1])])
        meta |= {
            "continue": base64.urlsafe_b64encode(token.encode()).decode(),
            "remainingItemCount": len(result) - limit,
        }
        result = result[:limit]
    # The items of a list do not say what they are, except those of custom resources.
    items = (
        result if kind.custom else [{k: v for k, v in one.items() if k not in ("kind", "apiVersion")} for one in result]
    )
    return {"kind": f"{kind.kind}List", "apiVersion": kind.api_version, "metadata": meta, "items": items}


def _read(token: str) -> list[str]:
    try:
        return list(json.loads(base64.urlsafe_b64decode(token)))
    except ValueError:
        raise bad_request("continue key is not valid: invalid character") from None
