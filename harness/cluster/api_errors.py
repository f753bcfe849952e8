"""Responses of a cluster's API server that are errors, as the harness's errors: who must act, and how."""

import json
import re
from urllib.parse import urlsplit

from kubernetes.client.exceptions import ApiException

from harness.errors import BadInput, HarnessError, NotReady, RunFailed

QUOTA_ADVICE = "delete what is not needed, or raise the quota: kubectl -n {ns} describe quota"
_ADVICE = {
    "exceeded quota": QUOTA_ADVICE,
    "namespaces ": "create namespace {ns}, or set another one in harness_cluster",
}


_PROXY_STATUSES = frozenset({407, 502, 503, 504})


class Unavailable(NotReady):
    """The API server does not answer, or is overloaded; what runs on the cluster goes on."""


class Forbidden(NotReady):
    """The credentials are valid, but lack the right for a request."""


def proxy_answer(error: Exception, address: str, proxy: str | None) -> str:
    """Why there was no answer, where a proxy or a load balancer answered instead of the API server; else empty.

    The server's own errors are JSON objects of kind Status; a proxy refuses a tunnel, or sends a page of its own.

    Args:
        error: what the client raised.
        address: URL of the API server.
        proxy: URL of the proxy that the client uses, if any.
    """
    if isinstance(error, ApiException):
        answer = f"{error.status} {error.reason}" if error.status in _PROXY_STATUSES and not _is_status(error) else ""
    else:
        tunnel = re.search(r"Tunnel connection failed: (\d+[^'\")]*)", str(error))
        answer = tunnel[1].strip() if tunnel else ""
    if not answer:
        return ""
    where = f"the proxy {_without_login(proxy)}" if proxy else "a proxy or load balancer in front of it"
    host = urlsplit(address).hostname
    advice = f"add {host} to NO_PROXY where this command runs" if proxy else "check that one, and the server behind it"
    return f"the API server {address} was not reached: {where} answers {answer}; {advice}"


def _is_status(error: ApiException) -> bool:
    try:
        body = json.loads(error.body)
    except (TypeError, ValueError):
        return False
    return isinstance(body, dict) and body.get("kind") == "Status"


def _without_login(url: str) -> str:
    """A proxy's URL without the name and password that it may hold."""
    return re.sub(r"//[^/@]*@", "//", url)


def explain(error: ApiException, action: str, address: str, namespace: str) -> HarnessError:
    """The harness's error for a failed request; `action` says what it was for, as in "create Job x"."""
    message = api_message(error)
    if error.status == 401:
        return NotReady(f"the API server {address} rejects these credentials ({message}); renew them")
    if error.status == 403 and "exceeded quota" not in message and "violates PodSecurity" not in message:
        return Forbidden(
            f"no permission to {action} in namespace {namespace}: {message}; does the namespace exist? The required "
            "rights are in docs/operations.md, and `kubectl auth can-i --list` shows the granted ones"
        )
    if error.status in (400, 403, 404, 422):
        advice = [text.format(ns=namespace) for words, text in _ADVICE.items() if words in message]
        return BadInput("; ".join([f"the API server rejected the request to {action}: {message}", *advice]))
    return RunFailed(f"the API server failed to {action}: {message}")


def api_message(error: ApiException) -> str:
    """The API server's own message."""
    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return f"{error.status} {error.reason}" if error.status else str(error.reason).strip().replace("\n", ": ")


def root_cause(error: BaseException) -> str:
    """Why there was no answer, without the layers that the client wraps around it."""
    reason = getattr(error, "reason", None)
    return root_cause(reason) if isinstance(reason, BaseException) else str(error).rsplit(": ", 1)[-1]
