"""Watches: the history as a stream of events, until it ends, is dropped, or is too old."""

import json
import time
from collections.abc import Iterator

from aiohttp import web

from tests.cluster.api_errors import ApiError, expired
from tests.cluster.kinds import Kind, Object
from tests.cluster.listing import selection
from tests.cluster.rbac import Attributes
from tests.cluster.state import State
from tests.cluster.store import Change

_LONGEST_S = 1800.0
_BOOKMARK_S = 60.0


async def watch(state: State, kind: Kind, attributes: Attributes, request: web.Request) -> web.StreamResponse:
    """Stream what happens to the selected objects.

    Raises:
        ApiError: the version is too old, when this server says so in HTTP.
    """
    store, query = state.store, dict(request.query)
    wanted, given = selection(kind, query), query.get("resourceVersion", "")
    error = _unservable(state, given)
    if error and not (error.code == 410 and state.faults.expire_in_stream):
        raise error
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    response.enable_chunked_encoding()
    await response.prepare(request)
    if error:
        await _send(response, "ERROR", error.body)
        return response
    drop_after, sent = state.faults.drops_after(), 0
    end = time.monotonic() + float(query.get("timeoutSeconds") or _LONGEST_S)
    seen, bookmark = store.version, time.monotonic()
    events = [("ADDED", one) for one in store.all(kind, attributes.namespace) if wanted(one)]
    if given not in ("", "0"):
        seen, events = int(given), []
    while True:
        tick = store.tick
        if seen < store.expired:
            await _send(response, "ERROR", _too_old(seen, store.expired).body)
            return response
        events += [step for change in store.since(seen) for step in _step(change, kind, attributes, wanted)]
        seen = max(seen, store.version)
        for type_, obj in events:
            if sent == drop_after:
                break
            await _send(response, type_, obj)
            sent += 1
        if sent == drop_after:
            if request.transport is not None:
                request.transport.abort()
            return response
        events = []
        left = end - time.monotonic()
        marks = query.get("allowWatchBookmarks") in ("true", "1", "True")
        if marks and (left <= 0 or time.monotonic() > bookmark + _BOOKMARK_S):
            bookmark = time.monotonic()
            shared = {"kind": kind.kind, "apiVersion": kind.api_version}
            await _send(response, "BOOKMARK", {**shared, "metadata": {"resourceVersion": str(seen)}})
        if left <= 0:
            return response
        await tick(min(left, 1.0))


def _unservable(state: State, given: str) -> ApiError | None:
    if given in ("", "0"):
        return None
    if not given.isdigit():
        said = f'invalid resource version "{given}"'
        return ApiError(400, "BadRequest", said)
    if int(given) < state.store.expired:
        return _too_old(int(given), state.store.expired)
    if int(given) > state.store.version:
        said = f"Timeout: Too large resource version: {given}, current: {state.store.version}"
        causes = [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]
        return ApiError(504, "Timeout", said, {"causes": causes, "retryAfterSeconds": 1})
    return None


def _too_old(version: int, oldest: int) -> ApiError:
    return expired(f"too old resource version: {version} ({oldest})")


def _step(change: Change, kind: Kind, attributes: Attributes, wanted: object) -> Iterator[tuple[str, Object]]:
    """What one change is to a watcher: an object that is no longer selected is deleted to it."""
    assert callable(wanted)
    if change.kind is not kind or attributes.namespace not in ("", change.new["metadata"].get("namespace", "")):
        return
    was = change.old is not None and wanted(change.old)
    now = change.type != "DELETED" and wanted(change.new)
    if now:
        yield ("MODIFIED" if was else "ADDED"), change.new
    elif was:
        yield "DELETED", change.new


async def _send(response: web.StreamResponse, type_: str, obj: Object) -> None:
    await response.write(json.dumps({"type": type_, "object": obj}).encode() + b"\n")
