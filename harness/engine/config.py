"""The validated configuration of an engine, and the vLLM options that users may not pass."""

import hashlib
import os
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from harness import servers
from harness.errors import BadInput
from harness.files import describe_differences, differences
from harness.spec import MAX_MODEL_LEN, RUN_ID_PATTERN, AbsolutePath, BaseUrl, EngineRef, validated

CORES_PATTERN = r"^\d+(-\d+)?(,\d+(-\d+)?)*(\|\d+(-\d+)?(,\d+(-\d+)?)*)*$"

_MANAGED = "is set by the harness; use the engine's own setting of that name"
_BREAKS_RULES = "violates the benchmark's rules"
_UNREACHABLE = "prevents the harness from reaching or verifying the server"
_LISTED = "puts a secret into lists of processes and reports; set HF_TOKEN in env instead"
FORBIDDEN_OPTIONS = {
    **dict.fromkeys(
        ("model", "served-model-name", "host", "port", "max-model-len", "max-num-seqs", "dtype", "quantization"),
        _MANAGED,
    ),
    **dict.fromkeys(("tensor-parallel-size", "gpu-memory-utilization", "stream-interval", "device-ids"), _MANAGED),
    **dict.fromkeys(("max-num-batched-tokens", "kv-cache-dtype"), _MANAGED),
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
    "hf-token": _LISTED,
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
VLLM_ONLY = ("quantization", "kv_cache_dtype", "max_num_batched_tokens")
ACCESS = ("served_model", "api_key_file", "api_key_env", "ca_file")
"""Settings that say how an endpoint is asked, and nothing of its speed."""
DERIVED_VARIABLES = {
    "CUDA_VISIBLE_DEVICES": "gpus",
    "VLLM_API_KEY": "api_key_file, or leave it out: every start has a key of its own",
    "VLLM_CPU_KVCACHE_SPACE": "kv_cache_gib",
    "VLLM_CPU_OMP_THREADS_BIND": "cpu_cores",
}


class EngineConfig(BaseModel):
    """One engine: a server to start (`kind` vllm or deepspeed), or a server that is already running (`kind` endpoint).

    `model` is the directory of the weights; an endpoint must serve the same ones. `max_num_seqs` is how many
    sequences the engine decodes at once, `max_num_batched_tokens` how many tokens it computes in one step.
    `kv_cache_gib` and `cpu_cores` (as in "0-3", "|" between tensor-parallel ranks) are for a CPU build, `gpus` (as
    in "0,1") and `gpu_memory_utilization` for a CUDA build. A server that dies after it was ready is started again
    up to `restarts` times, as is one that hangs: that does not answer for `hang_timeout_s`, or has requests and
    makes no token for so long.

    Of an endpoint `url` may have a path, `served_model` is the name of its model where that is not the directory's, and
    `ca_file` holds a certificate that it is trusted by. Its API key is the content of `api_key_file`, or of the
    environment variable `api_key_env`; `api_key` is that content, from a process that has read it: it is in no output.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=f"^{RUN_ID_PATTERN}$")]
    kind: Literal["vllm", "deepspeed", "endpoint"] = "vllm"
    model: AbsolutePath
    host: Annotated[str, Field(pattern=r"^[A-Za-z0-9.:-]+$")] = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65_535)] | None = None
    url: BaseUrl | None = None
    served_model: Annotated[str, Field(min_length=1)] | None = None
    api_key_file: AbsolutePath | None = None
    api_key_env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = None
    api_key: SecretStr | None = Field(default=None, exclude=True, repr=False)
    ca_file: AbsolutePath | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    max_num_seqs: Annotated[int, Field(ge=1, le=16_384)] = 256
    max_model_len: Annotated[int, Field(ge=2)] = MAX_MODEL_LEN
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] | None = None
    kv_cache_gib: Annotated[int, Field(ge=1)] | None = None
    cpu_cores: Annotated[str, Field(pattern=CORES_PATTERN)] | None = None
    gpus: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]+(,[A-Za-z0-9-]+)*$")] | None = None
    tensor_parallel: Annotated[int, Field(ge=1, le=64)] = 1
    quantization: str | None = None
    kv_cache_dtype: Annotated[str, Field(pattern=r"^[a-z0-9_]+$")] | None = None
    max_num_batched_tokens: Annotated[int, Field(ge=1)] | None = None
    extra_args: tuple[str, ...] = ()
    env: dict[str, str] = Field(default={}, repr=False)
    start_timeout_s: Annotated[float, Field(gt=0, le=86_400)] = 900.0
    restarts: Annotated[int, Field(ge=0, le=100)] = 0
    hang_timeout_s: Annotated[float, Field(gt=0, le=86_400)] = 60.0

    @field_validator("extra_args")
    @classmethod
    def _check_extra_args(cls, arguments: tuple[str, ...]) -> tuple[str, ...]:
        for argument in arguments:
            if reason := forbidden_reason(argument):
                raise ValueError(f"{argument.split('=')[0]!r} {reason}; remove it")
        return arguments

    @field_validator("env")
    @classmethod
    def _check_env(cls, variables: dict[str, str]) -> dict[str, str]:
        for name, value in variables.items():
            if not name or {"=", "\0"} & set(name) or "\0" in value:
                raise ValueError(f"{name!r}: no such variable can be set, of that name or with a NUL in it; correct it")
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
        else:
            self._check_own()
        if self.kind == "deepspeed":
            self._check_deepspeed()
        if self.gpus is not None and len(self.gpus.split(",")) != self.tensor_parallel:
            raise ValueError(f"gpus = {self.gpus!r} must list as many GPUs as tensor_parallel = {self.tensor_parallel}")
        return self

    def _check_own(self) -> None:
        for key in ("served_model", "api_key_env", "ca_file"):
            if value := getattr(self, key):
                raise ValueError(f"{key} = {str(value)!r} is for kind endpoint; remove it from a {self.kind} engine")

    def _check_deepspeed(self) -> None:
        for key in ("gpu_memory_utilization", "kv_cache_gib", *VLLM_ONLY, "extra_args"):
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
            *VLLM_ONLY,
            "extra_args",
            "env",
        )
        for key in managed_only:
            if value := getattr(self, key):
                shown = ", ".join(value) if key == "env" else repr(value)  # not the values
                raise ValueError(f"{key} = {shown} cannot be set on an endpoint; remove it")
        if self.api_key_file and self.api_key_env:
            raise ValueError(f"api_key_file and api_key_env = {self.api_key_env!r} are both given; give one")

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

    def reference(self, url: str, node: str) -> EngineRef:
        """How runs refer to this engine, which they reach at `url`."""
        return EngineRef(
            name=self.name,
            url=url,
            node=node,
            served_model=self.served_model,
            api_key_file=self.api_key_file,
            ca_file=self.ca_file,
            max_in_flight=self.max_in_flight,
            tokens_per_step=self.max_num_batched_tokens,
        )

    def key(self) -> str | None:
        """The API key that the settings name.

        Raises:
            BadInput: the file or variable that they name has none.
        """
        if self.api_key is not None:
            return servers.check_key(self.api_key.get_secret_value(), "api_key")
        if self.api_key_file:
            return servers.read_key(self.api_key_file)
        if self.api_key_env:
            source = f"environment variable api_key_env = {self.api_key_env!r}"
            return servers.check_key(os.environ.get(self.api_key_env, ""), source)
        return None

    def introduce(self) -> None:
        """Ask an endpoint from now on as the settings say. BadInput as `key`."""
        servers.know(self.base_url, servers.Access(self.key(), self.ca_file, self.served_model))

    def public(self) -> dict[str, Any]:
        """The settings as they are stored and shown, with hashes for the values of `env`, which may be secrets."""
        hashed = {name: f"sha256:{hashlib.sha256(value.encode()).hexdigest()[:12]}" for name, value in self.env.items()}
        return {**self.model_dump(mode="json"), "env": hashed}

    def requested(self) -> dict[str, Any]:
        """The settings that engine.json lists beside those the running server reports."""
        keys = ("max_model_len", "dtype", "max_num_seqs", "tensor_parallel", "gpu_memory_utilization", *VLLM_ONLY)
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
    return validated(EngineConfig, values, "engine")


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
