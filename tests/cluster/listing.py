"""Lists: selected, in pages, at a resource version."""

import base64
import json

from tests.cluster.kinds import CUSTOM, Kind, Object
from tests.cluster.selectors import Test, field_test, label_test
from tests.cluster.status import bad_request, expired
from tests.cluster.store import Store, key_of


def selection(kind: Kind, query: dict[str, str]) -> Test:
    """Whether an object is selected by a request's selectors.

    Raises:
        Refusal: a selector cannot be read.
    """
    tests = (label_test(query.get("labelSelector", "")), field_test(kind, query.get("fieldSelector", "")))
    return lambda thing: all(test(thing) for test in tests)


def matching(store: Store, kind: Kind, namespace: str, query: dict[str, str]) -> list[Object]:
    """The objects that a request selects."""
    wanted = selection(kind, query)
    return [one for one in store.all(kind, namespace) if wanted(one)]


def listed(
    store: Store, kind: Kind, namespace: str, query: dict[str, str], found: list[Object] | None = None
) -> Object:
    """The list that answers a request.

    Raises:
        Refusal: it goes on from a page that is too old.
    """
    found = matching(store, kind, namespace, query) if found is None else found
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
        found = [one for one in found if list(key_of(one)) > last]
    limit = int(query.get("limit") or 0)
    if limit and len(found) > limit:
        token = json.dumps([meta["resourceVersion"], *key_of(found[limit - 1])])
        meta |= {
            "continue": base64.urlsafe_b64encode(token.encode()).decode(),
            "remainingItemCount": len(found) - limit,
        }
        found = found[:limit]
    # The items of a list do not say what they are, except those of custom resources.
    items = (
        found
        if kind in CUSTOM
        else [{k: v for k, v in one.items() if k not in ("kind", "apiVersion")} for one in found]
    )
    return {"kind": f"{kind.kind}List", "apiVersion": kind.api_version, "metadata": meta, "items": items}


def _read(token: str) -> list[str]:
    try:
        return list(json.loads(base64.urlsafe_b64decode(token)))
    except ValueError:
        raise bad_request("continue key is not valid: invalid character") from None
