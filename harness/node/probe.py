"""A look at a running server from outside: one GET, the model it serves, the few lines of a metrics page that matter.

A whole parser takes 15 ms for vLLM's six hundred lines, once a second; reading a handful of them takes 0.05 ms.
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
    """A server's answer to one GET."""

    status: int
    content_type: str
    body: str


def get(base_url: str, path: str, timeout_s: float = TIMEOUT_S) -> Reply:
    """One GET, whatever its status; no proxy, since engines are reached directly.

    Raises:
        OSError: nothing answered.
        ValueError: what answered does not speak HTTP.
    """
    try:
        with _OPENER.open(base_url + path, timeout=timeout_s) as answer:
            return _reply(answer.status, answer)
    except urllib.error.HTTPError as error:
        return _reply(error.code, error)
    except http.client.HTTPException as error:
        raise ValueError(f"no HTTP answer ({error!r})") from None


def _reply(status: int, answer: Any) -> Reply:
    body = answer.read(MAX_BODY_BYTES).decode(errors="replace")
    return Reply(status, answer.headers.get("content-type", ""), body)


def model_card(base_url: str) -> dict[str, Any]:
    """What an OpenAI-compatible server says of its model: id, and root and max_model_len (None where it does not say).

    Raises:
        NotReady: nothing answers.
        BadInput: what answers is no OpenAI-compatible server.
    """
    try:
        reply = get(base_url, "/v1/models")
    except OSError as error:
        cause = getattr(error, "reason", error)
        raise NotReady(f"nothing answers at {base_url}: {cause}; start the server or correct the url") from None
    except ValueError as error:
        raise BadInput(f"{base_url} does not speak HTTP: {error}; correct the url") from None
    what = f"{base_url}/v1/models answered {reply.status} {reply.content_type or 'without a content type'}"
    help_ = "this is no OpenAI-compatible server; correct the url"
    if "json" not in reply.content_type:
        raise BadInput(f"{what} instead of JSON (it begins {reply.body[:60]!r}); {help_}")
    try:
        card = json.loads(reply.body)["data"][0]
        seen = {key: card.get(key) for key in ("id", "root", "max_model_len")}
    except (ValueError, LookupError, TypeError, AttributeError):
        seen = {}
    if not isinstance(seen.get("id"), str):
        raise BadInput(f"{what} without a list of models (it begins {reply.body[:60]!r}); {help_}")
    return seen


def values(page: str, names: Iterable[str]) -> dict[str, list[float]]:
    """The values of each named metric over all its label sets; a metric that is not there is left out."""
    found: dict[str, list[float]] = {}
    for name in names:
        for line in _lines(page, name):
            try:
                found.setdefault(name, []).append(float(line.rsplit(" ", 1)[1]))
            except (IndexError, ValueError):
                continue
    return found


def labels(page: str, name: str) -> dict[str, str]:
    """The labels of a metric's first line; empty when it is not there."""
    for line in _lines(page, name):
        return dict(_LABEL.findall(line))
    return {}


def has_prefix(page: str, prefix: str) -> bool:
    """Whether any metric's name begins with `prefix`."""
    return f"\n{prefix}" in f"\n{page}"


def _lines(page: str, name: str) -> Iterator[str]:
    page = f"\n{page}\n"
    start = page.find(f"\n{name}")
    while start >= 0:
        line = page[start + 1 : page.find("\n", start + 1)]
        if line[len(name) : len(name) + 1] in ("{", " "):
            yield line
        start = page.find(f"\n{name}", start + 1)
