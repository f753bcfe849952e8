"""Known causes of an engine's end by the words of vLLM, PyTorch, CUDA, NCCL, Triton and compilers, with what to do."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from harness.spec import MAX_MODEL_LEN


class Cause(NamedTuple):
    """A pattern of an error line, and the next step."""

    pattern: re.Pattern[str]
    advice: str


class KnownCause(NamedTuple):
    """The line that names a cause, what to do about it, and whether it is a broken GPU."""

    line: str
    advice: str
    is_broken_gpu: bool


def known_cause(lines: Sequence[str]) -> KnownCause | None:
    """The cause that these error lines name: the most specific, of several the first; None where none is known."""
    for causes in (BROKEN_GPU, SPECIFIC, GENERAL):
        for line in lines:
            for cause in causes:
                if cause.pattern.search(line):
                    return KnownCause(line, cause.advice, causes is BROKEN_GPU)
    return None


def _known(pattern: str, text: str) -> Cause:
    return Cause(re.compile(pattern, re.I), text)


_STATE = "`nvidia-smi` and `dmesg | grep -i nvrm` show its state"
_DRIVER = (
    "install the NVIDIA driver that docs/getting-started/hosts.md names, or the engine's build for the driver that is "
    "there"
)
BROKEN_GPU = (
    _known(
        r"uncorrectable ECC|ECC error|ECCUncorrectable|Xid \([^)]*\): (48|94|95)\b",
        "the GPU's memory is damaged: `nvidia-smi -q -d ECC,ROW_REMAPPER` counts the "
        "errors; reset the GPU or reboot, and replace it if they come back",
    ),
    _known(
        r"GPU is lost|fallen off the bus|GPU_IS_LOST|Unable to determine the device handle|Xid \([^)]*\): 79\b",
        f"the GPU is lost: {_STATE}; reboot, and check its power and seating",
    ),
)
"""A broken GPU explains all other errors."""
SPECIFIC = (
    # The GPU and its driver.
    _known(
        r"NVLink error",
        "the link between GPUs fails: `nvidia-smi nvlink -e` counts its errors; reboot, and check bridge or NVSwitch",
    ),
    _known(r"invalid device ordinal", "correct gpus: the node has no GPU of that number (`nvidia-smi -L`)"),
    _known(
        r"system not yet initialized|error 802",
        "the GPUs' NVSwitch is not set up: `systemctl status "
        "nvidia-fabricmanager`, whose version must be the driver's; start it, then the engine again",
    ),
    _known(
        r"unsupported display driver / cuda driver combination|error 803|driver/library version mismatch",
        "the driver's libraries and its kernel module are of two versions: reboot, or reload the nvidia modules",
    ),
    _known(
        r"forward compatibility was attempted|error 804",
        "CUDA's compatibility libraries do not work on this GPU: "
        "remove cuda-compat from LD_LIBRARY_PATH or from the image, and install a newer driver",
    ),
    _known(
        r"driver on your system is too old|driver version is insufficient|PTX was compiled with an unsupported|"
        r"unsupported toolchain",
        f"the driver is older than the engine's CUDA: {_DRIVER}",
    ),
    _known(
        r"Found no NVIDIA driver|no CUDA GPUs are available|no CUDA-capable device|libcuda\.so\.1: cannot open|"
        r"NVMLError_LibraryNotFound|Failed to infer device type",
        "no GPU can be used: check `nvidia-smi` there, CUDA_VISIBLE_DEVICES, and in a container its runtime class",
    ),
    _known(
        r"no kernel image is available|sm_\d+ is not compatible with the current PyTorch",
        "the engine's build has no code for this GPU: use another build of vLLM and PyTorch",
    ),
    _known(
        r"all CUDA-capable devices are busy",
        "another process has the GPU for itself: `nvidia-smi` shows it and the "
        "compute mode (`nvidia-smi -c 0` shares it)",
    ),
    _known(
        r"Permission denied.*/dev/(nvidia|dri)|/dev/(nvidia|dri).*Permission denied|Insufficient Permissions",
        "the user that runs the engine may not use the GPU: `ls -l /dev/nvidia*` shows the group that may (video or "
        "render), `usermod -aG GROUP USER` adds the user; in a container its runtime must be NVIDIA's",
    ),
    # Memory of the GPU.
    _known(
        r"Free memory on device|less than desired GPU memory",
        "another process uses the GPU's memory (`nvidia-smi`): end it, or lower gpu_memory_utilization",
    ),
    _known(
        r"CUDA out of memory|CUDA error: out of memory|torch(\.cuda)?\.OutOfMemoryError",
        "lower max_num_seqs or gpu_memory_utilization, or free the GPU's memory",
    ),
    _known(
        r"No available memory for the cache|larger than the available KV cache|KV cache is needed",
        "too little memory is left for the KV cache: raise gpu_memory_utilization (kv_cache_gib on CPU), or lower "
        f"max_model_len where it is above {MAX_MODEL_LEN}",
    ),
    _known(
        r"out of resource: shared memory",
        "a kernel needs more of the GPU's on-chip memory than this GPU has: choose another attention backend (in "
        "extra_args), kv_cache_dtype or quantization, or another GPU",
    ),
    # Shared memory, before memory and disks in general.
    _known(
        r"bus error|out of shared memory|shared memory segment|unable to allocate shared memory|/dev/shm",
        "shared memory is too small: enlarge /dev/shm (`mount -o remount,size=8G /dev/shm`; on a cluster shared_memory "
        "in harness_cluster)",
    ),
    # Compilers: Triton and Inductor build code when the engine starts.
    _known(
        r"Python\.h: No such file",
        "Python's headers are missing: apt-get install python3-dev (python3.12-dev for a Python of that version)",
    ),
    _known(
        r"(stdio|stdlib|math|limits|features|assert)\.h: No such file|cannot find (crt1|Scrt1|crti)\.o",
        "the C library's headers are missing: apt-get install libc6-dev",
    ),
    _known(
        r"fatal error: (cuda|cublas|curand|nv)\w*\.h",
        "CUDA's headers are missing: install the CUDA toolkit's development packages of the engine's CUDA version",
    ),
    _known(
        r"Failed to find C compiler|No such file or directory: '(gcc|g\+\+|cc|c\+\+)'|InvalidCxxCompiler|"
        r"No working C\+\+ compiler",
        "there is no compiler: apt-get install gcc g++ libc6-dev python3-dev",
    ),
    _known(
        r"cannot find -lcuda|libcuda\.so cannot found|libcuda\.so not found",
        "the linker finds no libcuda.so: install "
        "the driver's libraries, run `ldconfig`, or set TRITON_LIBCUDA_PATH in env to the folder of libcuda.so.1",
    ),
    _known(
        r"No such file or directory: 'nvcc'|Could not find nvcc|CUDA_HOME environment variable is not set",
        "nvcc is missing: install the CUDA toolkit and set CUDA_HOME in env, or choose an attention backend that is "
        "not compiled on the host",
    ),
    # The environment.
    _known(
        r"GLIBC(XX)?_[\d.]+' not found",
        "the system is older than the engine's build: use a newer system, or the node image",
    ),
    _known(
        r"undefined symbol|cannot open shared object file|ModuleNotFoundError|ImportError: cannot import name",
        "the engine's packages do not fit each other, or one is missing: run playbooks/prepare.yml, which installs the "
        "pinned ones (a library of the system is installed with apt)",
    ),
    _known(
        r"Illegal instruction",
        "the processor lacks instructions that the engine's build uses (`lscpu | grep avx`): "
        "use another machine, or another build",
    ),
    # Weights and settings.
    _known(
        r"Error while deserializing header|HeaderTooLarge|MetadataIncompleteBuffer|InvalidHeaderDeserialization",
        "a weight file is damaged: copy the model again and compare its SHA-256",
    ),
    _known(
        r"gated repo|401 Client Error|Repository Not Found|is not a local folder and is not a valid model|"
        r"Can't load the configuration",
        "the model is not there: set model to the folder of the weights",
    ),
    _known(
        r"Minimum capability|compute capability|is not supported (for|on) (the|this) (current )?GPU|only supported on "
        r"GPUs|Unknown quantization method",
        "this GPU or build does not support the format: choose another dtype, other weights or another kv_cache_dtype",
    ),
    _known(
        r"larger than the number of available GPUs|must be divisible by tensor parallel",
        "correct tensor_parallel: it must divide the model's heads and be at most the node's GPUs",
    ),
    _known(
        r"max_model_len .*greater than|greater than the derived max_model_len",
        "lower max_model_len to what the model's configuration allows",
    ),
    _known(
        r"error: (unrecognized arguments|argument |ambiguous option|the following arguments are required)",
        "correct extra_args",
    ),
    # The host.
    _known(r"Address already in use", "choose another port"),
    _known(r"No space left on device", "free some disk space"),
    _known(r"Too many open files", "raise the limit of open files (`ulimit -n`)"),
    _known(r"Permission denied", "give the user that runs the engine the right to that file"),
    _known(
        r"can't allocate memory|Cannot allocate memory|std::bad_alloc|^MemoryError|Out of memory",
        "the host has too little memory: free some, or lower kv_cache_gib and max_num_seqs",
    ),
)
GENERAL = (
    _known(
        r"CUDA error: (an illegal memory access|unspecified launch failure|misaligned address|device-side assert|"
        r"invalid (argument|configuration argument|resource handle))|"
        r"device-side assert triggered|CUBLAS_STATUS_|cudaErrorIllegalAddress",
        f"a kernel failed on the GPU: {_STATE}; if neither names an error, it is the engine's fault: repeat with "
        "extra_args: [--enforce-eager], then report it",
    ),
    _known(
        r"CUDA error|CUDA unknown error|cudaGetDeviceCount|cudaError|\bXid\b",
        f"the GPU or its driver failed: {_STATE}; reboot if they name an error",
    ),
    _known(
        r"NCCL (error|WARN)|ncclUnhandledCudaError|ncclSystemError|ncclInternalError|ncclRemoteError|DistBackendError",
        "the GPUs cannot talk to each other: start it with NCCL_DEBUG=INFO in env, whose last lines name the cause; "
        "often /dev/shm is too small, or NCCL_SOCKET_IFNAME names no interface",
    ),
    _known(r"fatal error: \S+: No such file", "a header is missing: apt-get install gcc g++ libc6-dev python3-dev"),
    _known(
        r"\bld(\.\w+)?: |ld returned \d",
        "the linker failed: apt-get install gcc g++ libc6-dev python3-dev; its own lines name the library",
    ),
    _known(r"(died|exited) unexpectedly|^Killed$|SIGKILL", "check dmesg for the kernel's OOM killer"),
)
"""Words that errors of many causes have in common."""
