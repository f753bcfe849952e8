"""What is known of an engine agrees: its kind, its settings, what the server showed, and what a LoadGen's host saw."""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from pydantic import BaseModel

from harness.report.input_models import EngineFile
from harness.report.load_inputs import Engine, Inputs, LoadGenRun
from harness.report.record import Reason
from harness.report.rules import Rule
from harness.spec import QUANTIZES_ON_LOAD

_OPTIONS = {
    "--model": "model",
    "--served-model-name": "model",
    "--port": "port",
    "--dtype": "dtype",
    "--max-model-len": "max_model_len",
    "--max-num-seqs": "max_num_seqs",
    "--tensor-parallel-size": "tensor_parallel",
    "--quantization": "quantization",
    "--kv-cache-dtype": "kv_cache_dtype",
    "--max-num-batched-tokens": "max_num_batched_tokens",
    "--gpu-memory-utilization": "gpu_memory_utilization",
}
"""Options of a server's command line with the setting that each has."""
_SEEN = (
    "model",
    "root",
    "max_model_len",
    "enable_prefix_caching",
    "speculative_decoding",
    "vllm",
    "dtype",
    "quantization",
)
"""What a running server shows to everybody, or its log to its own host."""
_SAME = ("kind", "url", "model", "command", "config", "asked", "version", "served", "machine")
"""What of an engine is the same from its start to its end."""


class _Difference(NamedTuple):
    """`what` is `value`, where `place` says `rule`."""

    what: str
    value: Any
    place: str
    rule: Any


def reasons(inputs: Inputs) -> Iterator[Reason]:
    """Engines whose files contradict each other."""
    for engine in inputs.engines:
        differences = [*_kind(engine.file), *_settings(engine.file)]
        for run in inputs.loadgens:
            differences += _seen_from(run, engine)
        if engine.folder not in (None, engine.file.name):
            differences.append(_Difference("name", engine.file.name, "its folder", engine.folder))
        for one in differences:
            yield Rule.ENGINE_FILES.reason(engine=f"{engine.node}/{engine.file.name}", **one._asdict())


def _kind(file: EngineFile) -> Iterator[_Difference]:
    """An endpoint is somebody else's server: its weights are not known. Any other is a server that was started."""
    if file.config.get("kind") != file.kind:
        yield _Difference("kind", file.kind, "its configuration", file.config.get("kind"))
    if file.kind == "endpoint":
        if file.machine is not None or "weights" not in file.unverified:
            yield _Difference("kind", file.kind, "its description of the machine and the weights", "a server's own")
    elif file.config.get("url") is not None or file.config.get("port") is None:
        yield _Difference("kind", file.kind, "its address", "endpoint")


def _settings(file: EngineFile) -> Iterator[_Difference]:
    """Settings that were configured, asked for, put on the command line and shown by the server."""
    if file.kind == "endpoint":
        return  # what it was asked to be is compared when it is attached, and it can never be VALID
    config = file.config
    for key, value in file.asked.items():
        if key in config and config[key] != value:
            yield _Difference(f"asked.{key}", value, "its configuration", config[key])
    for what, value, key in (("name", file.name, "name"), ("model", file.model, "model")):
        if value != config.get(key):
            yield _Difference(what, value, "its configuration", config.get(key))
    if not re.fullmatch(rf"http://\S+:{re.escape(str(config.get('port')))}", file.url or ""):
        yield _Difference("url", file.url, "its configuration", f"port {config.get('port')}")
    if file.machine and file.served.path != file.model:
        yield _Difference("model.path", file.served.path, "its configuration", file.model)
    words = dict(zip(file.command, file.command[1:], strict=False))
    for option, setting in _OPTIONS.items() if file.kind == "vllm" else ():
        value = config.get(setting)
        if setting == "quantization" and file.machine and file.machine.model_quantization:
            value = None if str(value).startswith(QUANTIZES_ON_LOAD) else value
        if words.get(option) != (None if value is None else str(value)):
            yield _Difference(option, words.get(option), "its configuration", value)
    if file.kind == "vllm" and "--no-enable-prefix-caching" not in file.command:
        yield _Difference("--no-enable-prefix-caching", None, "the rule", "that it is there")
    shown = file.verified
    for key in ("max_model_len", "dtype"):
        if None not in (shown.get(key), config.get(key)) and config[key] not in ("auto", shown[key]):
            yield _Difference(f"verified.{key}", shown[key], "its configuration", config[key])
    stored = file.machine.model_quantization if file.machine else None
    if (
        file.machine
        and "quantization" in shown
        and (shown["quantization"] is None) != (config.get("quantization") is None and stored is None)
    ):
        rule = config.get("quantization") or stored
        yield _Difference("verified.quantization", shown["quantization"], "its configuration or its weights", rule)
    names = [str(shown[key]) for key in ("model", "root") if shown.get(key)]
    if names and _last(file.model) not in map(_last, names):
        yield _Difference("verified.model", names[0], "its configuration", file.model)


def _last(path: str | None) -> str:
    return (path or "").rstrip("/").rpartition("/")[2]


def _seen_from(run: LoadGenRun, engine: Engine) -> Iterator[_Difference]:
    """What the host of a LoadGen saw of this engine at the run's start."""
    if engine.observed:
        return
    place = f"manifest.json of {run.host}"
    addresses = {ref.name: ref.url for ref in run.spec.engines} if run.spec else {}
    for seen in run.manifest.engines:
        if (run.nodes.get(seen.name), seen.name) != (engine.node, engine.file.name):
            continue
        if seen.url != addresses[seen.name]:
            yield _Difference("address", seen.url, f"spec.json of {run.host}", addresses[seen.name])
        if seen.kind != "endpoint":
            for key in _SAME:
                own, other = getattr(engine.file, key), getattr(seen, key)
                if own != other:
                    yield _Difference(*_first_difference(key, own, other, place))
        if None not in (own := engine.file.version.get("vllm"), other := seen.version.get("vllm")) and own != other:
            yield _Difference("version.vllm", own, place, other)
        for key in _SEEN:
            own, other = engine.file.verified.get(key), seen.verified.get(key)
            if other is not None and own != other:
                yield _Difference(f"verified.{key}", own, place, other)


def _first_difference(key: str, own: Any, other: Any, place: str) -> tuple[str, Any, str, Any]:
    """Of two objects the first key whose values differ."""
    own, other = (value.model_dump() if isinstance(value, BaseModel) else value for value in (own, other))
    if isinstance(own, dict) and isinstance(other, dict):
        for name in own | other:
            if own.get(name) != other.get(name):
                return f"{key}.{name}", own.get(name), place, other.get(name)
    return key, own, place, other
