"""Endpoints: servers that run already, of which a state is only what they report."""

import dataclasses
import time
from pathlib import Path

from harness import clock, spec
from harness.engine import state, verify
from harness.engine.config import EngineConfig
from harness.engine.state import EngineState
from harness.errors import BadInput, HarnessError
from harness.node import probe

_EXCERPT = 120  # characters of an answer in a message


def attach(config: EngineConfig) -> EngineState:
    """The state of an endpoint whose settings are the requested ones.

    Raises:
        NotReady: no server answers.
        BadInput: the server is not OpenAI-compatible, or its settings differ from the requested ones.
    """
    config.introduce()
    endpoint = _reported(config)
    if mismatches := verify.mismatches(config, endpoint.verified):
        raise BadInput(f"endpoint {config.name} at {config.base_url}: {'; '.join(mismatches)}")
    return endpoint


def observe(name: str, url: str, model: Path) -> EngineState:
    """The state of a server at `url`, from what it reports, asked as `servers` knows; stores and rejects nothing.

    Raises:
        NotReady: no server answers.
        BadInput: the server is not OpenAI-compatible.
    """
    return _reported(EngineConfig(name=name, kind="endpoint", url=url, model=model))


def gone(name: str, url: str, model: Path, reason: str) -> EngineState:
    """The state of a server at `url` that answers no more."""
    config = EngineConfig(name=name, kind="endpoint", url=url, model=model)
    return dataclasses.replace(state.initial_state(config, log=""), state="failed", progress="failed", reason=reason)


def why_failed(endpoint: EngineState) -> str | None:
    """Why the server of an endpoint has failed, with what it served before; None while it is healthy."""
    try:
        reply = probe.get(endpoint.url, "/health")
        body = " ".join(reply.body.split())[:_EXCERPT]
        # Not every server has /health: one that lists its model is well.
        if reply.status in (401, 403, 404, 405) and probe.model_card(endpoint.url):
            return None
        return None if reply.status == 200 else f"{endpoint.url}/health answered {reply.status}: {body or 'no text'}"
    except HarnessError as error:
        return str(error)
    except (OSError, ValueError) as error:
        model = (endpoint.verified or {}).get("model")
        before = f"when it was attached, at {_clock(endpoint.ready_unix)}, it served {model}"
        return f"no server answers at {endpoint.url}: {error}; {before}"


def _clock(unix: float | None) -> str:
    return "an unknown time" if unix is None else time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(unix))


def _reported(config: EngineConfig) -> EngineState:
    reported = verify.reported_settings(config.base_url)
    return dataclasses.replace(
        state.initial_state(config, log=""),
        state="ready",
        progress="ready",
        ready_unix=clock.unix(),
        version={"vllm": reported["vllm"]} if reported["vllm"] else {},
        verified=reported,
        unverified=spec.unverified(config.kind, config.dtype, reported),
    )
