"""What a cluster's API server refuses or does not answer, as the house's errors: who must act, and how."""

import json

from kubernetes.client.exceptions import ApiException

from harness.errors import BadInput, HarnessError, NotReady, RunFailed

_ADVICE = {
    "exceeded quota": "end what is not needed, or raise the quota: kubectl -n {ns} describe quota",
    "namespaces ": "make namespace {ns}, or name another one in harness_cluster",
}


class Away(NotReady):
    """The API server does not answer, or not now; what runs on the cluster goes on."""


class Forbidden(NotReady):
    """The API server knows who asks, and refuses it."""


def explain(error: ApiException, doing: str, address: str, namespace: str) -> HarnessError:
    """What a refusal means to the house: who must act, and how."""
    said = message(error)
    if error.status == 401:
        return NotReady(f"the API server {address} does not know these credentials ({said}); renew them")
    if error.status == 403 and "exceeded quota" not in said and "violates PodSecurity" not in said:
        return Forbidden(
            f"may not {doing} in namespace {namespace}: {said}; the rights that are needed stand in "
            "docs/operations.md, and `kubectl auth can-i --list` shows those there are"
        )
    if error.status in (400, 403, 404, 422):
        advice = [text.format(ns=namespace) for words, text in _ADVICE.items() if words in said]
        return BadInput("; ".join([f"the API server refuses to {doing}: {said}", *advice]))
    return RunFailed(f"the API server could not {doing}: {said}")


def message(error: ApiException) -> str:
    """What the API server said, in its own words."""
    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return f"{error.status} {error.reason}" if error.status else str(error.reason).strip().replace("\n", ": ")


def cause(error: BaseException) -> str:
    """Why there was no answer, without what the client says around it."""
    reason = getattr(error, "reason", None)
    return cause(reason) if isinstance(reason, BaseException) else str(error).rsplit(": ", 1)[-1]
