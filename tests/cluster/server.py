"""The API server: HTTP on 127.0.0.1, with authentication, authorisation, verbs and faults."""

import asyncio
import json
import logging
from base64 import b64encode
from typing import Any
from urllib.parse import unquote

import yaml
from aiohttp import web

from tests.cluster import admission, rbac
from tests.cluster.api_errors import ApiError, bad_request, not_allowed, unauthorized
from tests.cluster.deletion import delete, options_of
from tests.cluster.disruption import disrupt
from tests.cluster.kinds import POD, REVIEW, SECRET, Kind, Object, discovery
from tests.cluster.listing import listed, matching
from tests.cluster.patch import APPLY, patched
from tests.cluster.rbac import Attributes, Request, User
from tests.cluster.state import State
from tests.cluster.store import key_of
from tests.cluster.streams import Streams
from tests.cluster.watch import watch

# Who breaks a connection is no error of the server's; its own errors are kept as problems.
logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)
_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "GET": "get", "DELETE": "delete"}


class Server:
    """Answers requests to one cluster."""

    def __init__(self, state: State, streams: Streams, address: str = "127.0.0.1", port: int = 0) -> None:
        self._state, self._streams, self._address = state, streams, address
        self._runner: web.AppRunner | None = None
        self.port = port

    async def up(self) -> None:
        """Listen, on the same port as before."""
        app = web.Application(client_max_size=8 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._address, self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def down(self) -> None:
        """Break every connection and stop listening: new ones are refused."""
        if self._runner is None:
            return
        server = self._runner.server
        for connection in server.connections if server else ():
            if connection.transport is not None:
                connection.transport.abort()
        await self._runner.cleanup()
        self._runner = None

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        try:
            return await self._serve(request)
        except ApiError as error:
            return web.json_response(error.body, status=error.code, headers=error.headers)
        except (asyncio.CancelledError, ConnectionError, web.HTTPNotFound):
            raise
        except Exception as error:
            self._state.problems.append(f"{request.method} {request.path_qs}: {error!r}")
            raise

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        user = self._user(request)
        resources = discovery(request.path.rstrip("/"), self._state.store.kinds.values())
        if resources is not None:
            return web.json_response(resources)
        kind, attributes = _parse(request, self._state.store.kinds)
        delay, error = self._state.faults.of(attributes)
        await asyncio.sleep(delay)
        if error is not None:
            raise error
        self._authorize(user, attributes)
        if kind is REVIEW:
            return web.json_response(rbac.review(user, await _body(request)), status=201)
        if attributes.subresource in ("log", "exec"):
            if attributes.subresource == "exec" and request.method == "GET":
                # Since 1.35 a websocket needs what a POST would need.
                self._authorize(user, Attributes("create", *_rest(attributes)))
            answer = self._streams.exec if attributes.subresource == "exec" else self._streams.log
            return await answer(request, attributes)
        if attributes.verb == "watch":
            return await watch(self._state, kind, attributes, request)
        status, result, headers = await self._do(kind, attributes, request)
        return web.json_response(result, status=status, headers=headers)

    def _user(self, request: web.Request) -> User:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        user = self._state.users.get(token) or self._bootstrap_user(token)
        if user is None:
            raise unauthorized()
        return user

    def _bootstrap_user(self, token: str) -> User | None:
        """Who joins with a token of kubeadm: there is a Secret of its first part, and it may read what a node needs."""
        secret = self._state.store.find(SECRET, "kube-system", f"bootstrap-token-{token.partition('.')[0]}")
        if secret is None or secret["data"]["token-secret"] != b64encode(token.partition(".")[2].encode()).decode():
            return None
        return User(f"system:bootstrap:{token.partition('.')[0]}", {"kube-system": [rbac.BOOTSTRAP]})

    def _authorize(self, user: User, attributes: Attributes) -> None:
        allowed = user.may(attributes)
        name = "/".join(filter(None, (attributes.namespace, attributes.name))) if attributes.name else None
        self._state.requests.append(
            Request(attributes.group, attributes.full, attributes.verb, name, user.name, allowed)
        )
        if not allowed:
            raise user.error(attributes)

    async def _do(self, kind: Kind, attributes: Attributes, request: web.Request) -> tuple[int, Object, dict[str, str]]:
        store, query = self._state.store, dict(request.query)
        dry = query.get("dryRun") == "All"
        if attributes.verb == "create" and attributes.subresource == "eviction":
            return 201, self._evict(store.get(kind, attributes.namespace, attributes.name), await _body(request)), {}
        if attributes.verb == "create" and not attributes.name:
            created, warnings = self._state.create(kind, await _body(request), attributes.namespace, dry_run=dry)
            return 201, created, _warned(warnings)
        if attributes.verb == "list":
            return 200, listed(store, kind, attributes.namespace, query), {}
        if attributes.verb == "deletecollection":
            options = options_of(await _body(request, optional=True), query)
            result = matching(store, kind, attributes.namespace, query)
            for obj in result:
                delete(store, kind, obj, options)
            return 200, listed(store, kind, attributes.namespace, query, result), {}
        if (
            attributes.verb == "patch"
            and request.content_type == APPLY
            and store.find(kind, attributes.namespace, attributes.name) is None
        ):
            return 201, self._state.create(kind, await _body(request), attributes.namespace, dry_run=dry)[0], {}
        obj = store.get(kind, attributes.namespace, attributes.name)
        if attributes.verb == "get":
            return 200, obj, {}
        if attributes.verb == "delete":
            return self._delete(kind, obj, await _body(request, optional=True), query)
        if attributes.verb not in ("update", "patch"):
            raise not_allowed()
        body = await _body(request)
        if attributes.verb == "patch":
            body = patched(obj, body, request.content_type, kind.custom)
        return 200, store.update(kind, _replaced(kind, obj, body, attributes.subresource), dry_run=dry), {}

    def _delete(
        self, kind: Kind, obj: Object, body: Object, query: dict[str, str]
    ) -> tuple[int, Object, dict[str, str]]:
        options = options_of(body, query)
        last, is_gone = delete(self._state.store, kind, obj, options)
        warnings = []
        if kind.plural == "jobs" and kind.group == "batch" and not options.propagation:
            warnings = [
                "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to "
                "remove them or set propagationPolicy=Orphan to suppress this warning"
            ]
        if kind.returned or not is_gone:
            return 200, last, _warned(warnings)
        group = {"group": kind.group} if kind.group else {}
        details = {"name": key_of(obj)[1], **group, "kind": kind.plural, "uid": obj["metadata"]["uid"]}
        shared = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
        return 200, {**shared, "details": details}, _warned(warnings)

    def _evict(self, pod: Object, body: Object) -> Object:
        disrupt(self._state, pod, "EvictionByEvictionAPI", "Eviction API: evicting")
        fresh = self._state.store.get(POD, *key_of(pod))
        delete(self._state.store, POD, fresh, options_of(body.get("deleteOptions") or {}, {}))
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}


def _replaced(kind: Kind, old: Object, body: Object, subresource: str) -> Object:
    """The updated object: its status changes only through its subresource, all else only outside it."""
    meta = body.setdefault("metadata", {})
    for field in ("name", "namespace"):
        if old["metadata"].get(field) != meta.setdefault(field, old["metadata"].get(field)):
            raise bad_request(
                f"the {field} of the object ({meta[field]}) does not match the {field} on the URL "
                f"({old['metadata'].get(field)})"
            )
    if not meta.get("namespace"):
        meta.pop("namespace", None)
    if subresource == "status":
        version = {key: meta[key] for key in ("resourceVersion", "uid") if meta.get(key)}
        return {**old, "metadata": {**old["metadata"], **version}, "status": body.get("status", {})}
    new = {**body, "apiVersion": old["apiVersion"], "kind": old["kind"]}
    if "status" in kind.subresources:
        new.pop("status", None)
        new |= {"status": old["status"]} if "status" in old else {}
    for field in ("deletionTimestamp", "deletionGracePeriodSeconds", "generation"):
        new["metadata"] = {**new["metadata"], field: old["metadata"].get(field)}
        if new["metadata"][field] is None:
            del new["metadata"][field]
    if not new["metadata"].get("resourceVersion"):
        new["metadata"].pop("resourceVersion", None)
    if not new["metadata"].get("uid"):
        new["metadata"].pop("uid", None)
    admission.change(kind, new, old)
    return new


def _parse(request: web.Request, kinds: dict[tuple[str, str, str], Kind]) -> tuple[Kind, Attributes]:
    """Kind and attributes of a request, from its path and method."""
    words = [unquote(word) for word in request.path.strip("/").split("/")]
    if words[0] == "api" and len(words) > 2:
        group, version, rest = "", words[1], words[2:]
    elif words[0] == "apis" and len(words) > 3:
        group, version, rest = words[1], words[2], words[3:]
    else:
        raise web.HTTPNotFound(text="404 page not found\n")
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 2 and (group, version, rest[2]) in kinds:
        namespace, rest = rest[1], rest[2:]
    kind = kinds.get((group, version, rest[0]))
    if kind is None or len(rest) > 3 or (kind.namespaced and not namespace and len(rest) > 1):
        raise web.HTTPNotFound(text="404 page not found\n")
    name, subresource = [*rest[1:], "", ""][:2]
    if subresource and subresource not in kind.subresources:
        raise ApiError(404, "NotFound", "the server could not find the requested resource", {})
    verb = _VERBS.get(request.method)
    if verb is None:
        raise not_allowed()
    if not name and verb in ("get", "delete"):
        verb = {"get": "list", "delete": "deletecollection"}[verb]
        verb = "watch" if verb == "list" and request.query.get("watch") in ("true", "1", "True") else verb
    if (verb == "create" and name and not subresource) or (verb in ("update", "patch") and not name):
        raise not_allowed()
    if kind is REVIEW and verb != "create":
        raise not_allowed()
    return kind, Attributes(
        verb, kind.group, kind.plural, subresource, namespace or (name if kind.plural == "namespaces" else ""), name
    )


async def _body(request: web.Request, *, optional: bool = False) -> Any:
    raw = await request.read()
    if not raw and optional:
        return {}
    try:
        return yaml.safe_load(raw) if "yaml" in request.content_type else json.loads(raw)
    except (ValueError, yaml.YAMLError) as error:
        raise bad_request(f"couldn't get version/kind; json parse error: {error}") from None


def _rest(attributes: Attributes) -> tuple[str, str, str, str, str]:
    return attributes.group, attributes.resource, attributes.subresource, attributes.namespace, attributes.name


def _warned(warnings: list[str]) -> dict[str, str]:
    texts = [one.replace("\\", "\\\\").replace('"', '\\"') for one in warnings]
    return {"Warning": ", ".join(f'299 - "{text}"' for text in texts)} if texts else {}
