"""Read the settings that a running server reports and compare them with the requested ones."""

import json
from typing import Any

from harness.engine.config import EngineConfig
from harness.engine.launch import quantization
from harness.node import probe
from harness.node.model import model_files

# From this version on, vLLM registers its speculation counters exactly when speculation is configured.
_COUNTERS_SINCE = (0, 11)

LOGGED = ("dtype", "quantization", "kv_cache_dtype")
"""Settings that a server reports in its log alone."""


def reported_settings(base_url: str) -> dict[str, Any]:
    """The settings that a server reports; None for those it does not report.

    Keys: model (served name), root (path of the weights, as reported), max_model_len, enable_prefix_caching,
    speculative_decoding, kv_cache_tokens, vllm (version).

    Raises:
        NotReady: no server answers.
        BadInput: the server is not OpenAI-compatible.
    """
    card = probe.model_card(base_url)
    page = _metrics(base_url)
    version = probe.vllm_version(base_url)
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


def deepspeed_settings(base_url: str) -> dict[str, Any]:
    """The settings that the server of `deepspeed_server` reports; `tuned` is always false.

    Raises:
        OSError, ValueError: no answer, or one that is not JSON.
    """
    settings: dict[str, Any] = json.loads(probe.get(base_url, "/settings").body)
    return settings


def mismatches(config: EngineConfig, reported: dict[str, Any]) -> list[str]:
    """One sentence for each reported setting that differs from the requested one.

    Args:
        config: the requested settings.
        reported: the return value of `reported_settings`, with `LOGGED` where the server logged them.
    """
    sentences = []
    length, requested = reported["max_model_len"], config.max_model_len
    # An endpoint may accept longer sequences than the benchmark sends.
    if length is not None and (length < requested or (length != requested and config.kind != "endpoint")):
        sentences.append(_mismatch("max_model_len", length, requested, f"start it with --max-model-len {requested}"))
    if reported["enable_prefix_caching"]:
        sentences.append(_mismatch("enable_prefix_caching", True, False, "start it with --no-enable-prefix-caching"))
    if reported["speculative_decoding"]:
        sentences.append(_mismatch("speculative_decoding", True, False, "start it without a speculative config"))
    names = [name for name in (reported["model"], reported["root"]) if name]
    if (
        names
        and config.served_model is None
        and not any(name.rstrip("/").rsplit("/", 1)[-1] == config.model.name for name in names)
    ):
        advice = "serve that one" if config.kind != "endpoint" else "serve that one, or name it with served_model"
        sentences.append(_mismatch("model", names[0], str(config.model), advice))
    if reported.get("dtype") not in (None, config.dtype) and config.dtype != "auto":
        advice = "choose a dtype that this machine supports"
        sentences.append(_mismatch("dtype", reported["dtype"], config.dtype, advice))
    cache, wanted = reported.get("kv_cache_dtype"), config.kv_cache_dtype
    if cache and wanted and cache != wanted:
        sentences.append(_mismatch("kv_cache_dtype", cache, wanted, "choose a dtype that this GPU supports"))
    if "quantization" in reported and not _quantization_matches(config, reported["quantization"]):
        advice = "choose weights of that format"
        sentences.append(_mismatch("quantization", reported["quantization"], config.quantization, advice))
    return sentences


def _quantization_matches(config: EngineConfig, method: str | None) -> bool:
    """Whether `method` is the requested one; where none was requested, whether it fits the format of the weights."""
    requested = quantization(config)
    if requested is None:
        return (method is not None) == model_files(config.model).quantized
    return method is not None and _base_method(method) == _base_method(requested)


def _base_method(name: str) -> str:
    """A quantization method without the kernel that vLLM chose for it: auto_gptq and gptq_marlin are gptq."""
    return name.removeprefix("auto_").removesuffix("_marlin")


def _mismatch(key: str, reported: object, requested: object, advice: str) -> str:
    return f"{key} is {reported!r} on the running server, requested {requested!r}; {advice}"


def _metrics(base_url: str) -> str:
    try:
        reply = probe.get(base_url, "/metrics")
    except (OSError, ValueError):
        return ""
    return reply.body if reply.status == 200 and "html" not in reply.content_type else ""


def _speculates(page: str, version: str | None) -> bool | None:
    if probe.has_prefix(page, "vllm:spec_decode_") or probe.has_prefix(page, "vllm:diffusion_"):
        return True
    if "vllm:num_requests_running" not in page or version is None:
        return None
    return False if _version_numbers(version) >= _COUNTERS_SINCE else None


def _version_numbers(version: str) -> tuple[int, ...]:
    parts = []
    for part in version.split(".")[:2]:
        digits = "".join(character for character in part if character.isdigit())
        parts.append(int(digits or 0))
    return tuple(parts)
