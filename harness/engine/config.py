"""The validated configuration of an engine, and the vLLM options that users may not pass."""

import hashlib
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from harness.errors import BadInput
from harness.files import describe_differences, differences
from harness.spec import MAX_MODEL_LEN, RUN_ID_PATTERN, AbsolutePath, explain

CORES_PATTERN = r"^\d+(-\d+)?(,\d+(-\d+)?)*(\|\d+(-\d+)?(,\d+(-\d+)?)*)*$"

_MANAGED = "is set by the harness; use the engine's own setting of that name"
_BREAKS_RULES = "violates the benchmark's rules"
_UNREACHABLE = "prevents the harness from reaching or verifying the server"
FORBIDDEN_OPTIONS = {
    **dict.fromkeys(
        ("model", "served-model-name", "host", "port", "max-model-len", "max-num-seqs", "dtype", "quantization"),
        _MANAGED,
    ),
    **dict.fromkeys(("tensor-parallel-size", "gpu-memory-utilization", "stream-interval", "device-ids"), _MANAGED),
    **dict.fromkeys(("enable-prefix-caching", "prefix-caching-hash-algo", "prefix-match-unit"), _BREAKS_RULES),
    **dict.fromkeys(("speculative-config", "spec-method", "spec-model", "spec-tokens"), _BREAKS_RULES),
    **dict.fromkeys(("kv-transfer-config", "kv-offloading-size", "kv-offloading-backend"), _BREAKS_RULES),
    **dict.fromkeys(("kv-sharing-fast-prefill", "ec-transfer-config", "logits-processors"), _BREAKS_RULES),
    **dict.fromkeys(("generation-config", "override-generation-config", "hf-overrides", "load-format"), _BREAKS_RULES),
    **dict.fromkeys(("tokenizer", "diffusion-config", "watermark-config", "watermark"), _BREAKS_RULES),
    **dict.fromkeys(("disable-log-stats", "api-key", "root-path", "uds", "config", "headless", "grpc"), _UNREACHABLE),
    **dict.fromkeys(
        ("ssl-keyfile", "ssl-certfile", "middleware", "api-server-count", "data-parallel-size"), _UNREACHABLE
    ),
}
_FORBIDDEN_SHORT = {"-sc": "speculative-config", "-tp": "tensor-parallel-size", "-q": "quantization"}
_FORBIDDEN_SHORT |= {"-dp": "data-parallel-size", "-asc": "api-server-count"}

SET_VARIABLES = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    # FlashInfer compiles its sampler with nvcc on first use; neither nodes nor the image have nvcc, and greedy decoding
    # does not sample.
    "VLLM_USE_FLASHINFER_SAMPLER": "0",
    # vLLM renames its processes; without this the new name overwrites the environment that identifies them.
    "SPT_NOENV": "1",
}
DERIVED_VARIABLES = {
    "CUDA_VISIBLE_DEVICES": "gpus",
    "VLLM_CPU_KVCACHE_SPACE": "kv_cache_gib",
    "VLLM_CPU_OMP_THREADS_BIND": "cpu_cores",
}


class EngineConfig(BaseModel):
    """One engine: a server to start (`kind` vllm or deepspeed), or a server that is already running (`kind` endpoint).

    `model` is the directory of the weights; an endpoint must serve the same ones. `max_num_seqs` is how many sequences
    the engine decodes at once. `kv_cache_gib` and `cpu_cores` (as in "0-3", "|" between tensor-parallel ranks) are for
    a CPU build, `gpus` (as in "0,1") and `gpu_memory_utilization` for a CUDA build.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=f"^{RUN_ID_PATTERN}$")]
    kind: Literal["vllm", "deepspeed", "endpoint"] = "vllm"
    model: AbsolutePath
    host: Annotated[str, Field(pattern=r"^[A-Za-z0-9.:-]+$")] = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65_535)] | None = None
    url: Annotated[str, Field(pattern=r"^https?://[^/\s]+$")] | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    max_num_seqs: Annotated[int, Field(ge=1, le=16_384)] = 256
    max_model_len: Annotated[int, Field(ge=2)] = MAX_MODEL_LEN
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] | None = None
    kv_cache_gib: Annotated[int, Field(ge=1)] | None = None
    cpu_cores: Annotated[str, Field(pattern=CORES_PATTERN)] | None = None
    gpus: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]+(,[A-Za-z0-9-]+)*$")] | None = None
    tensor_parallel: Annotated[int, Field(ge=1, le=64)] = 1
    quantization: str | None = None
    extra_args: tuple[str, ...] = ()
    env: dict[str, str] = {}
    start_timeout_s: Annotated[float, Field(gt=0, le=86_400)] = 900.0

    @field_validator("extra_args")
    @classmethod
    def _check_extra_args(cls, arguments: tuple[str, ...]) -> tuple[str, ...]:
        for argument in arguments:
            if reason := forbidden_reason(argument):
                raise ValueError(f"{argument!r} {reason}; remove it")
        return arguments

    @field_validator("env")
    @classmethod
    def _check_env(cls, variables: dict[str, str]) -> dict[str, str]:
        for name in variables:
            if name in DERIVED_VARIABLES:
                raise ValueError(f"{name} is set by the harness; use {DERIVED_VARIABLES[name]}")
            if name in SET_VARIABLES or name.startswith("HARNESS_"):
                raise ValueError(f"{name} is set by the harness; remove it")
        return variables

    @model_validator(mode="after")
    def _check_combination(self) -> Self:
        if self.kind == "endpoint":
            self._check_endpoint()
        elif self.port is None:
            raise ValueError("port is missing; set the port the server listens on")
        elif self.url is not None:
            raise ValueError(f"url = {self.url!r} is for kind endpoint; a {self.kind} engine takes host and port")
        if self.kind == "deepspeed":
            self._check_deepspeed()
        if self.gpus is not None and len(self.gpus.split(",")) != self.tensor_parallel:
            raise ValueError(f"gpus = {self.gpus!r} must list as many GPUs as tensor_parallel = {self.tensor_parallel}")
        return self

    def _check_deepspeed(self) -> None:
        for key in ("gpu_memory_utilization", "kv_cache_gib", "quantization", "extra_args"):
            if getattr(self, key):
                raise ValueError(f"{key} = {getattr(self, key)!r} is a vLLM setting; remove it from a deepspeed engine")
        if self.tensor_parallel > 1:
            ranks = self.tensor_parallel
            raise ValueError(f"tensor_parallel = {ranks}, but a deepspeed engine uses one GPU; set one engine per GPU")
        if self.cpu_cores and "|" in self.cpu_cores:
            raise ValueError(f"cpu_cores = {self.cpu_cores!r} is for several ranks, but a deepspeed engine has one")

    def _check_endpoint(self) -> None:
        if self.url is None:
            raise ValueError("url is missing; an endpoint needs its base URL, such as http://127.0.0.1:8000")
        managed_only = (
            "port",
            "gpu_memory_utilization",
            "kv_cache_gib",
            "cpu_cores",
            "gpus",
            "quantization",
            "extra_args",
            "env",
        )
        for key in managed_only:
            if getattr(self, key):
                raise ValueError(f"{key} = {getattr(self, key)!r} cannot be set on an endpoint; remove it")

    @property
    def base_url(self) -> str:
        """The URL at which this machine reaches the server."""
        if self.url is not None:
            return self.url
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    @property
    def max_in_flight(self) -> int:
        """Requests a run keeps in flight at the engine: one per sequence slot, and an eighth more in its queue.

        When sequences finish, the engine fills their slots in the next step from its own queue. An eighth is more
        prompts than one step prefills, so that no slot idles for a network round trip. A longer queue would only stop
        the dispatcher from choosing the engine that becomes free first.
        """
        return self.max_num_seqs + max(4, self.max_num_seqs // 8)

    def public(self) -> dict[str, Any]:
        """The settings as they are stored and shown, with hashes for the values of `env`, which may be secrets."""
        hashed = {name: f"sha256:{hashlib.sha256(value.encode()).hexdigest()[:12]}" for name, value in self.env.items()}
        return {**self.model_dump(mode="json"), "env": hashed}

    def requested(self) -> dict[str, Any]:
        """The settings that engine.json lists beside those the running server reports."""
        keys = ("max_model_len", "dtype", "max_num_seqs", "tensor_parallel", "quantization", "gpu_memory_utilization")
        settings = {key: getattr(self, key) for key in keys}
        return {**settings, "enable_prefix_caching": False, "speculative": None, "model": str(self.model)}


def forbidden_reason(argument: str) -> str | None:
    """Why a vLLM command-line argument may not be passed through; None when it may.

    vLLM's parser accepts underscores for dashes, any unambiguous prefix of an option, and `--option.key value`.
    """
    short = argument.split("=", 1)[0]
    if short in _FORBIDDEN_SHORT:
        return FORBIDDEN_OPTIONS[_FORBIDDEN_SHORT[short]]
    if not argument.startswith("--"):
        return None
    prefix = re.split(r"[=.]", argument[2:], maxsplit=1)[0].replace("_", "-").rstrip("+")
    for option, reason in FORBIDDEN_OPTIONS.items():
        if option.startswith(prefix) or f"no-{option}".startswith(prefix):
            return reason
    return None


def parse_config(values: Any) -> EngineConfig:
    """Validate values, as read from JSON, into an EngineConfig.

    Raises:
        BadInput: invalid values; one message names all of them.
    """
    try:
        return EngineConfig.model_validate(values)
    except ValidationError as error:
        raise BadInput(f"engine: {explain(error)}") from None


def reject_different_settings(config: EngineConfig, state: str, current: Mapping[str, Any]) -> None:
    """Compare `config` with the settings (in the form of `public`) of the running engine of that name.

    Raises:
        BadInput: they differ; the message has both values.
    """
    if different := differences(current, config.public()):
        raise BadInput(
            f"engine {config.name} is {state} with other settings ({describe_differences(different)}); "
            "stop it or choose another name"
        )
