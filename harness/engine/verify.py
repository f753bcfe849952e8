"""What a running server shows of itself, and whether that is what was asked."""

import json
from typing import Any

from harness.engine.config import EngineConfig
from harness.node import probe
from harness.node.model import model_files

# vLLM registers its speculation counters, at zero, exactly when speculation is configured, from this version on.
_COUNTERS_TELL_SINCE = (0, 11)


def shown_by(base_url: str) -> dict[str, Any]:
    """The settings a server shows; a value is None where it shows nothing.

    Keys: model (served name), root (weights it says it serves), max_model_len, enable_prefix_caching,
    speculative_decoding, kv_cache_tokens, vllm (version).

    Raises:
        NotReady: nothing answers.
        BadInput: what answers is no OpenAI-compatible server.
    """
    card = probe.model_card(base_url)
    page = _metrics(base_url)
    version = _version(base_url)
    cache = probe.labels(page, "vllm:cache_config_info")
    tokens = cache.get("kv_cache_size_tokens", "None")
    return {
        "model": card.get("id"),
        "root": card.get("root"),
        "max_model_len": card.get("max_model_len"),
        "enable_prefix_caching": {"True": True, "False": False}.get(cache.get("enable_prefix_caching", "")),
        "speculative_decoding": _speculates(page, version),
        "kv_cache_tokens": int(tokens) if tokens.isdigit() else None,
        "vllm": version,
    }


def settings_of(base_url: str) -> dict[str, Any]:
    """What the server of `deepspeed_server` says of itself; `tuned` is false.

    Raises:
        OSError, ValueError: nothing answers, or something else.
    """
    shown: dict[str, Any] = json.loads(probe.get(base_url, "/settings").body)
    return shown


def conflicts(config: EngineConfig, shown: dict[str, Any]) -> list[str]:
    """A sentence for each setting that the server shows to differ from what was asked.

    `shown` is what `shown_by` returns, with dtype and quantization where the server's log says them.
    """
    found = []
    length, asked = shown["max_model_len"], config.max_model_len
    # Somebody else's server may take longer sequences than it will be sent.
    if length is not None and (length < asked or (length != asked and config.kind != "endpoint")):
        found.append(_differs("max_model_len", length, asked, f"start it with --max-model-len {asked}"))
    if shown["enable_prefix_caching"]:
        found.append(_differs("enable_prefix_caching", True, False, "start it with --no-enable-prefix-caching"))
    if shown["speculative_decoding"]:
        found.append(_differs("speculative_decoding", True, False, "start it without a speculative config"))
    served = [name for name in (shown["model"], shown["root"]) if name]
    if served and not any(name.rstrip("/").rsplit("/", 1)[-1] == config.model.name for name in served):
        found.append(_differs("model", served[0], str(config.model), "serve that one"))
    if shown.get("dtype") not in (None, config.dtype) and config.dtype != "auto":
        found.append(_differs("dtype", shown["dtype"], config.dtype, "choose a dtype that this machine can compute in"))
    if "quantization" in shown and not _quantized_as_asked(config, shown["quantization"]):
        found.append(
            _differs("quantization", shown["quantization"], config.quantization, "choose weights of that format")
        )
    return found


def _quantized_as_asked(config: EngineConfig, seen: str | None) -> bool:
    """Whether a vLLM engine uses the method asked for, or with none asked for the one its weights are stored in."""
    if config.quantization is None:
        return (seen is not None) == model_files(config.model).quantized
    return seen is not None and _method(seen) == _method(config.quantization)


def _method(name: str) -> str:
    """A quantization method without the kernel that vLLM chose for it: auto_gptq and gptq_marlin are gptq."""
    return name.removeprefix("auto_").removesuffix("_marlin")


def _differs(key: str, seen: object, asked: object, remedy: str) -> str:
    return f"{key} is {seen!r} on the running server, asked for {asked!r}; {remedy}"


def unverified(config: EngineConfig, shown: dict[str, Any]) -> list[str]:
    """What the rules demand or was asked for and the server does not show; an endpoint's weights are never seen."""
    keys = ("max_model_len", "enable_prefix_caching", "speculative_decoding", "model")
    hidden = [key for key in keys if shown[key] is None]
    if config.dtype != "auto" and shown.get("dtype") is None:
        hidden.append("dtype")
    if config.kind == "endpoint":
        hidden.append("weights")
    elif "quantization" not in shown:
        hidden.append("quantization")
    return hidden


def _metrics(base_url: str) -> str:
    try:
        reply = probe.get(base_url, "/metrics")
    except (OSError, ValueError):
        return ""
    return reply.body if reply.status == 200 and "html" not in reply.content_type else ""


def _version(base_url: str) -> str | None:
    try:
        version = json.loads(probe.get(base_url, "/version").body)["version"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return version if isinstance(version, str) else None


def _speculates(page: str, version: str | None) -> bool | None:
    if probe.has_prefix(page, "vllm:spec_decode_") or probe.has_prefix(page, "vllm:diffusion_"):
        return True
    if "vllm:num_requests_running" not in page or version is None:
        return None
    return False if _numbers(version) >= _COUNTERS_TELL_SINCE else None


def _numbers(version: str) -> tuple[int, ...]:
    parts = []
    for part in version.split(".")[:2]:
        digits = "".join(character for character in part if character.isdigit())
        parts.append(int(digits or 0))
    return tuple(parts)
