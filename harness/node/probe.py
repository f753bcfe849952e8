"""Query a running server: one GET, the model it serves, single values of its metrics page.

A full parser takes 15 ms for the six hundred lines of vLLM's page, once a second; reading a few lines takes 0.05 ms.
"""

import http.client
import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from harness.errors import BadInput, NotReady

TIMEOUT_S = 10.0
MAX_BODY_BYTES = 8 << 20
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True, slots=True)
class Reply:
    """A server's response to one GET."""

    status: int
    content_type: str
    body: str


def get(base_url: str, path: str, timeout_s: float = TIMEOUT_S) -> Reply:
    """The response to one GET, whatever its status; uses no proxy.

    Raises:
        OSError: no server answered.
        ValueError: the answer is not HTTP.
    """
    try:
        with _OPENER.open(base_url + path, timeout=timeout_s) as response:
            return _reply(response.status, response)
    except urllib.error.HTTPError as error:
        return _reply(error.code, error)
    except http.client.HTTPException as error:
        raise ValueError(f"invalid HTTP response ({error!r})") from None


def _reply(status: int, response: Any) -> Reply:
    body = response.read(MAX_BODY_BYTES).decode(errors="replace")
    return Reply(status, response.headers.get("content-type", ""), body)


def model_card(base_url: str) -> dict[str, Any]:
    """The model of an OpenAI-compatible server: id, root and max_model_len, the latter two None if not reported.

    Raises:
        NotReady: no server answers.
        BadInput: the server is not OpenAI-compatible.
    """
    try:
        reply = get(base_url, "/v1/models")
    except OSError as error:
        cause = getattr(error, "reason", error)
        raise NotReady(f"no server answers at {base_url}: {cause}; start the server or correct the url") from None
    except ValueError as error:
        raise BadInput(f"{base_url} does not speak HTTP: {error}; correct the url") from None
    answer = f"{base_url}/v1/models answered {reply.status} {reply.content_type or 'without a content type'}"
    advice = "this is not an OpenAI-compatible server; correct the url"
    if "json" not in reply.content_type:
        raise BadInput(f"{answer} instead of JSON (it starts with {reply.body[:60]!r}); {advice}")
    try:
        entry = json.loads(reply.body)["data"][0]
        card = {key: entry.get(key) for key in ("id", "root", "max_model_len")}
    except (ValueError, LookupError, TypeError, AttributeError):
        card = {}
    if not isinstance(card.get("id"), str):
        raise BadInput(f"{answer} without a list of models (it starts with {reply.body[:60]!r}); {advice}")
    return card


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
