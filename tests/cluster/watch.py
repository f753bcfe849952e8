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
    """Stream the changes of the selected objects.

    Raises:
        ApiError: the version is too old, and this server reports that by an HTTP status.
    """
    store, query = state.store, dict(request.query)
    is_selected, version = selection(kind, query), query.get("resourceVersion", "")
    error = _unservable(state, version)
    if error and not (error.code == 410 and state.faults.expire_in_stream):
        raise error
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    response.enable_chunked_encoding()
    await response.prepare(request)
    if error:
        await _send(response, "ERROR", error.body)
        return response
    drop_after, sent_events = state.faults.drops_after(), 0
    end = time.monotonic() + float(query.get("timeoutSeconds") or _LONGEST_S)
    last_version, bookmark = store.version, time.monotonic()
    events = [("ADDED", one) for one in store.all(kind, attributes.namespace) if is_selected(one)]
    if version not in ("", "0"):
        last_version, events = int(version), []
    while True:
        tick = store.tick
        if last_version < store.expired:
            await _send(response, "ERROR", _too_old(last_version, store.expired).body)
            return response
        events += [
            step for change in store.since(last_version) for step in _step(change, kind, attributes, is_selected)
        ]
        last_version = max(last_version, store.version)
        for type_, obj in events:
            if sent_events == drop_after:
                break
            await _send(response, type_, obj)
            sent_events += 1
        if sent_events == drop_after:
            if request.transport is not None:
                request.transport.abort()
            return response
        events = []
        remaining_s = end - time.monotonic()
        marks = query.get("allowWatchBookmarks") in ("true", "1", "True")
        if marks and (remaining_s <= 0 or time.monotonic() > bookmark + _BOOKMARK_S):
            bookmark = time.monotonic()
            shared = {"kind": kind.kind, "apiVersion": kind.api_version}
            await _send(response, "BOOKMARK", {**shared, "metadata": {"resourceVersion": str(last_version)}})
        if remaining_s <= 0:
            return response
        await tick(min(remaining_s, 1.0))


def _unservable(state: State, version: str) -> ApiError | None:
    if version in ("", "0"):
        return None
    if not version.isdigit():
        message = f'invalid resource version "{version}"'
        return ApiError(400, "BadRequest", message)
    if int(version) < state.store.expired:
        return _too_old(int(version), state.store.expired)
    if int(version) > state.store.version:
        message = f"Timeout: Too large resource version: {version}, current: {state.store.version}"
        causes = [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]
        return ApiError(504, "Timeout", message, {"causes": causes, "retryAfterSeconds": 1})
    return None


def _too_old(version: int, oldest: int) -> ApiError:
    return expired(f"too old resource version: {version} ({oldest})")


def _step(change: Change, kind: Kind, attributes: Attributes, is_selected: object) -> Iterator[tuple[str, Object]]:
    """The event of one change for a watcher: an object that is no longer selected counts as deleted."""
    assert callable(is_selected)
    if change.kind is not kind or attributes.namespace not in ("", change.new["metadata"].get("namespace", "")):
        return
    was = change.old is not None and is_selected(change.old)
    now = change.type != "DELETED" and is_selected(change.new)
    if now:
        yield ("MODIFIED" if was else "ADDED"), change.new
    elif was:
        yield "DELETED", change.new


async def _send(response: web.StreamResponse, type_: str, obj: Object) -> None:
    await response.write(json.dumps({"type": type_, "object": obj}).encode() + b"\n")
