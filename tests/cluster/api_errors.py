"""Errors of the API in its own words: objects of kind Status with their HTTP code."""

from tests.cluster.kinds import Kind, Object


class ApiError(Exception):
    """A request that the API server answers with a Status of Failure."""

    def __init__(self, code: int, reason: str, message: str, details: Object | None = None) -> None:
        super().__init__(message)
        self.code, self.reason, self.message, self.details = code, reason, message, details

    @property
    def body(self) -> Object:
        """The Status."""
        result: Object = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
        result |= {"message": self.message, "reason": self.reason}
        if self.details is not None:
            result["details"] = self.details
        return {**result, "code": self.code}

    @property
    def headers(self) -> dict[str, str]:
        """Its headers: when to retry."""
        seconds = (self.details or {}).get("retryAfterSeconds")
        return {"Retry-After": str(seconds)} if seconds else {}


def _details(kind: Kind, name: str) -> Object:
    return {**({"name": name} if name else {}), **({"group": kind.group} if kind.group else {}), "kind": kind.plural}


def not_found(kind: Kind, name: str) -> ApiError:
    """No such object."""
    return ApiError(404, "NotFound", f'{kind.resource} "{name}" not found', _details(kind, name))


def exists(kind: Kind, name: str) -> ApiError:
    """The name is in use."""
    return ApiError(409, "AlreadyExists", f'{kind.resource} "{name}" already exists', _details(kind, name))


def conflict(kind: Kind, name: str, why: str = "") -> ApiError:
    """A precondition does not hold."""
    why = why or "the object has been modified; please apply your changes to the latest version and try again"
    message = f'Operation cannot be fulfilled on {kind.resource} "{name}": {why}'
    return ApiError(409, "Conflict", message, _details(kind, name))


def forbidden(kind: Kind, name: str, why: str) -> ApiError:
    """Not allowed: by rights, or by an admission plugin."""
    resource = f'{kind.resource} "{name}"' if name else kind.resource
    return ApiError(403, "Forbidden", f"{resource} is forbidden: {why}", _details(kind, name))


def unauthorized() -> ApiError:
    """Unknown credentials."""
    return ApiError(401, "Unauthorized", "Unauthorized")


def bad_request(message: str) -> ApiError:
    """A malformed request."""
    return ApiError(400, "BadRequest", message)


def expired(message: str) -> ApiError:
    """A resource version that is too old."""
    return ApiError(410, "Expired", message)


def not_allowed() -> ApiError:
    """A verb that the resource does not support."""
    message = "the server does not allow this method on the requested resource"
    return ApiError(405, "MethodNotAllowed", message, {})


def unsupported(supported: str) -> ApiError:
    """A body of an unsupported media type."""
    message = f"the body of the request was in an unknown format - accepted media types include: {supported}"
    return ApiError(415, "UnsupportedMediaType", message, {})


def too_many() -> ApiError:
    """The server is busy."""
    message = "The server has received too many requests and has asked us to try again later"
    return ApiError(429, "TooManyRequests", message, {"retryAfterSeconds": 1})


def internal(cause: str = "etcdserver: request timed out") -> ApiError:
    """The server's own failure."""
    return ApiError(500, "InternalError", f"Internal error occurred: {cause}", {"causes": [{"message": cause}]})


def unavailable() -> ApiError:
    """The server is starting or ending."""
    message = "the server is currently unable to handle the request"
    return ApiError(503, "ServiceUnavailable", message, {"retryAfterSeconds": 1})


def without_rights() -> ApiError:
    """A server that has just started does not know anybody's rights yet."""
    return ApiError(403, "Forbidden", 'pods is forbidden: User "operator" cannot list resource "pods"')


def away(code: int) -> ApiError:
    """An error that does not depend on the request."""
    by_code = {401: unauthorized, 403: without_rights, 429: too_many, 500: internal, 503: unavailable}
    if code == 410:
        return expired("The provided continue parameter is too old")
    return by_code[code]()


class Causes:
    """The errors of an object's fields, collected before it is rejected."""

    def __init__(self, kind: Kind, name: str) -> None:
        self._kind, self._name = kind, name
        self._found: list[tuple[str, str, str]] = []

    def required(self, field: str, detail: str = "") -> None:
        """A field that must have a value."""
        self._found.append(("FieldValueRequired", "Required value" + (f": {detail}" if detail else ""), field))

    def invalid(self, field: str, value: object, detail: str) -> None:
        """A value that breaks a rule."""
        self._found.append(("FieldValueInvalid", f"Invalid value: {_shown(value)}: {detail}", field))

    def forbidden(self, field: str, detail: str) -> None:
        """A value that may not be set here."""
        self._found.append(("FieldValueForbidden", f"Forbidden: {detail}", field))

    def unsupported(self, field: str, value: object, supported: tuple[str, ...]) -> None:
        """A value outside a list."""
        listed = ", ".join(f'"{one}"' for one in supported)
        self._found.append(
            ("FieldValueNotSupported", f"Unsupported value: {_shown(value)}: supported values: {listed}", field)
        )

    def missing(self, field: str, value: object) -> None:
        """A name of something that does not exist."""
        self._found.append(("FieldValueNotFound", f"Not found: {_shown(value)}", field))

    def duplicate(self, field: str, value: object) -> None:
        """A duplicate name."""
        self._found.append(("FieldValueDuplicate", f"Duplicate value: {_shown(value)}", field))

    def refuse(self) -> None:
        """Raise an error if there is any cause."""
        if not self._found:
            return
        texts = [f"{field}: {message}" for _, message, field in self._found]
        summary = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
        causes = [{"reason": reason, "message": message, "field": field} for reason, message, field in self._found]
        details: Object = {"name": self._name, **({"group": self._kind.group} if self._kind.group else {})}
        details |= {"kind": self._kind.kind, "causes": causes}
        raise ApiError(422, "Invalid", f'{self._kind.qualified} "{self._name}" is invalid: {summary}', details)


def _shown(value: object) -> str:
    if isinstance(value, str):
        return f'"{value}"'
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
