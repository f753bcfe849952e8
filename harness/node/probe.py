"""Query a running server: one GET, the model it serves, single values of its metrics page.

A full parser takes 15 ms for the six hundred lines of vLLM's page, once a second; reading a few lines takes 0.05 ms.
"""

import http.client
import io
import json
import re
import socket
import ssl
import time
import urllib.parse
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from harness import servers
from harness.errors import BadInput, NotReady

TIMEOUT_S = 10.0
MAX_BODY_BYTES = 8 << 20
_QUEUES = ("vllm:num_requests_running", "vllm:num_requests_waiting")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True, slots=True)
class Reply:
    """A server's response to one GET."""

    status: int
    content_type: str
    body: str


def get(base_url: str, path: str, timeout_s: float = TIMEOUT_S) -> Reply:
    """The response to one GET, asked as `servers` knows, whatever its status; uses no proxy, follows no redirect.

    Connecting may take `timeout_s`, and so may the whole response, however slowly it comes.

    Raises:
        OSError: no server answered, or not in time.
        ValueError: the answer is not HTTP.
    """
    url = urllib.parse.urlsplit(base_url)
    connection = http.client.HTTPConnection(url.netloc, timeout=timeout_s)
    if url.scheme == "https":
        connection = http.client.HTTPSConnection(url.netloc, timeout=timeout_s, context=servers.tls(base_url))
    connection.response_class = _Response
    try:
        connection.request("GET", url.path + path, headers={"Connection": "close", **servers.headers(base_url)})
        with connection.getresponse() as response:
            body = response.read(MAX_BODY_BYTES).decode(errors="replace")
            return Reply(response.status, response.headers.get("content-type", ""), body)
    except http.client.HTTPException as error:
        raise ValueError(f"invalid HTTP response ({error!r})") from None
    finally:
        connection.close()


class _Response(http.client.HTTPResponse):
    """A response that is there as a whole within the timeout of its socket, which else is that of each read."""

    def __init__(self, sock: socket.socket, *args: Any, **more: Any) -> None:
        super().__init__(sock, *args, **more)
        self.fp = io.BufferedReader(_Timed(self.fp.detach(), sock))


class _Timed(io.RawIOBase):
    def __init__(self, raw: io.RawIOBase, sock: socket.socket) -> None:
        super().__init__()
        self._raw, self._sock = raw, sock
        self._until = time.monotonic() + (sock.gettimeout() or 0.0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left_s = self._until - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("timed out")
        self._sock.settimeout(left_s)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


def model_card(base_url: str) -> dict[str, Any]:
    """The model of an OpenAI-compatible server: id, root and max_model_len, the latter two None if not reported.

    It is the one that `servers` knows the name of, and else the first.

    Raises:
        NotReady: no server answers.
        BadInput: the server is not OpenAI-compatible, wants another key, is not trusted, or has no such model.
    """
    try:
        reply = get(base_url, "/v1/models")
    except OSError as error:
        if isinstance(error, ssl.SSLCertVerificationError):
            reason = error.verify_message or error
            raise BadInput(
                f"the certificate of {base_url} is not trusted: {reason}; name the one of its CA with ca_file"
            ) from None
        raise NotReady(f"no server answers at {base_url}: {error}; start the server or correct the url") from None
    except ValueError as error:
        raise BadInput(f"{base_url} does not speak HTTP: {error}; correct the url") from None
    answer = f"{base_url}/v1/models answered {reply.status} {reply.content_type or 'without a content type'}"
    advice = "this is not an OpenAI-compatible server; correct the url"
    if reply.status in (401, 403):
        refused = "refused the API key that it was given" if servers.access(base_url).key else "wants an API key"
        raise BadInput(f"{base_url} {refused} (HTTP {reply.status}); name its key with api_key_file or api_key_env")
    if "json" not in reply.content_type:
        raise BadInput(f"{answer} instead of JSON (it starts with {reply.body[:60]!r}); {advice}")
    try:
        models = [
            {key: entry.get(key) for key in ("id", "root", "max_model_len")} for entry in json.loads(reply.body)["data"]
        ]
    except (ValueError, LookupError, TypeError, AttributeError):
        models = []
    names = [model["id"] for model in models if isinstance(model["id"], str)]
    if not names or len(names) < len(models):
        raise BadInput(f"{answer} without a list of models (it starts with {reply.body[:60]!r}); {advice}")
    wanted = servers.access(base_url).model or names[0]
    if wanted not in names:
        raise BadInput(f"{base_url} serves no model {wanted!r}, but {', '.join(names)}; correct served_model")
    return models[names.index(wanted)]


class Served(NamedTuple):
    """A server's identity: the name of its model, and vLLM's version where the server reports it."""

    model: str
    vllm: str | None

    def __str__(self) -> str:
        return self.model + (f" of vLLM {self.vllm}" if self.vllm else "")

    def may_be(self, other: "Served") -> bool:
        """Whether both may be the same engine; an unknown version matches any."""
        return self.model == other.model and (self.vllm == other.vllm or None in (self.vllm, other.vllm))


def served(base_url: str) -> Served:
    """The identity of an OpenAI-compatible server. Raises as `model_card`."""
    return Served(model_card(base_url)["id"], vllm_version(base_url))


def vllm_version(base_url: str) -> str | None:
    """The version that a server reports; None where it reports none."""
    try:
        version = json.loads(get(base_url, "/version").body)["version"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return version if isinstance(version, str) else None


def health_problem(base_url: str) -> str | None:
    """Why the server at `base_url` is not healthy, by its answer at /health or the lack of one; None when it is."""
    try:
        status = get(base_url, "/health").status
    except (OSError, ValueError) as error:
        return f"no answer at /health: {error}"
    return f"/health answered {status}" if status >= 500 else None


def values(page: str, names: Iterable[str]) -> dict[str, list[float]]:
    """The values of each named metric over all its label sets; metrics missing from the page are left out."""
    by_name: dict[str, list[float]] = {}
    for name in names:
        for line in _lines(page, name):
            try:
                by_name.setdefault(name, []).append(float(line.rsplit(" ", 1)[1]))
            except (IndexError, ValueError):
                continue
    return by_name


def labels(page: str, name: str) -> dict[str, str]:
    """The labels of a metric's first line; empty when the page lacks it."""
    for line in _lines(page, name):
        return dict(_LABEL.findall(line))
    return {}


def requests_in_flight(base_url: str) -> float:
    """How many requests vLLM's server at `base_url` runs or queues, by its own count; 0 where it does not report one.

    Raises:
        OSError, ValueError: as `get`.
    """
    return sum(sum(counts) for counts in values(get(base_url, "/metrics").body, _QUEUES).values())


def has_prefix(page: str, prefix: str) -> bool:
    """Whether any metric's name starts with `prefix`."""
    return f"\n{prefix}" in f"\n{page}"


def _lines(page: str, name: str) -> Iterator[str]:
    page = f"\n{page}\n"
    start = page.find(f"\n{name}")
    while start >= 0:
        line = page[start + 1 : page.find("\n", start + 1)]
        if line[len(name) : len(name) + 1] in ("{", " "):
            yield line
        start = page.find(f"\n{name}", start + 1)
