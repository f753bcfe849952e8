"""Each known cause of an engine's end has advice of its own; what is not known is said to be so."""

from pathlib import Path

import pytest

from harness.engine import logs
from harness.engine.log_causes import BROKEN_GPU, GENERAL, SPECIFIC, known_cause

CUDA = "(EngineCore pid=9) ERROR 11-23 18:47:37 [core.py:817] RuntimeError: CUDA error: "
LINES = [
    (f"{CUDA}uncorrectable ECC error encountered", "the GPU's memory is damaged"),
    ("pynvml.NVMLError_GpuIsLost: GPU is lost", "check its power and seating"),
    (
        "[ 93.1] NVRM: Xid (PCI:0000:81:00): 79, pid=1, GPU has fallen off the bus. error: reset",
        "check its power and seating",
    ),
    (f"{CUDA}uncorrectable NVLink error detected during the execution", "the link between GPUs fails"),
    (f"{CUDA}invalid device ordinal", "no GPU of that number"),
    (f"{CUDA}system not yet initialized", "nvidia-fabricmanager"),
    (f"{CUDA}unspecified launch failure", "a kernel failed"),
    (f"{CUDA}invalid argument", "a kernel failed"),
    (f"{CUDA}an illegal memory access was encountered", "a kernel failed"),
    (f"{CUDA}device-side assert triggered", "a kernel failed"),
    (f"{CUDA}out of memory", "lower max_num_seqs"),
    (f"{CUDA}all CUDA-capable devices are busy or unavailable", "another process has the GPU for itself"),
    (f"{CUDA}no kernel image is available for execution on the device", "has no code for this GPU"),
    (f"{CUDA}unknown error", "the GPU or its driver failed"),
    (f"{CUDA}the provided PTX was compiled with an unsupported toolchain.", "older than the engine's CUDA"),
    (
        "RuntimeError: Unexpected error from cudaGetDeviceCount(). Did you run some cuda functions before calling "
        "NumCudaDevices() that might have already set an error? Error 802: system not yet initialized",
        "nvidia-fabricmanager",
    ),
    (
        "RuntimeError: Unexpected error from cudaGetDeviceCount(). Error 803: system has unsupported display driver / "
        "cuda driver combination",
        "of two versions",
    ),
    (
        "RuntimeError: The NVIDIA driver on your system is too old (found version 12020). Please update it",
        "older than the engine's CUDA",
    ),
    ("RuntimeError: Found no NVIDIA driver on your system.", "no GPU can be used"),
    ("RuntimeError: No CUDA GPUs are available", "no GPU can be used"),
    (
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 224.00 MiB. GPU 0 has 23.6 GiB",
        "lower max_num_seqs",
    ),
    (
        "ValueError: Free memory on device cuda:0 (9.4/23.6 GiB) is less than desired GPU memory utilization",
        "another process uses the GPU's memory",
    ),
    (
        "RuntimeError: [enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory",
        "the host has too",
    ),
    ("/tmp/tmpx/main.c:5:10: fatal error: Python.h: No such file or directory", "python3-dev"),
    ("/usr/include/python3.12/Python.h:12:10: fatal error: limits.h: No such file or directory", "libc6-dev"),
    ("RuntimeError: Failed to find C compiler. Please specify via CC environment variable.", "there is no compiler"),
    ("FileNotFoundError: [Errno 2] No such file or directory: 'g++'", "there is no compiler"),
    ("/usr/bin/ld: cannot find -lcuda: No such file or directory", "TRITON_LIBCUDA_PATH"),
    ("/usr/bin/ld: cannot find Scrt1.o: No such file or directory", "libc6-dev"),
    ("collect2: error: ld returned 1 exit status", "the linker failed"),
    ("Bus error (core dumped)", "/dev/shm"),
    (
        "jw2:63:44 [0] misc/shmutils.cc:129 NCCL WARN Error while creating shared memory segment /dev/shm/nccl-Ewjreo "
        "(size 33030528), error: No space left on device (28)",
        "shared memory is too small",
    ),
    ("torch.distributed.DistBackendError: NCCL error in: NCCLUtils.hpp:94, unhandled system error", "NCCL_DEBUG=INFO"),
    ("ImportError: libcudart.so.13: cannot open shared object file: No such file or directory", "do not fit"),
    ("ImportError: /lib/x86_64-linux-gnu/libc.so.6: version `GLIBC_2.38' not found", "older than the engine's build"),
    ("OSError: [Errno 28] No space left on device", "free some disk space"),
    ("OSError: [Errno 24] Too many open files", "ulimit -n"),
    ("safetensors_rust.SafetensorError: Error while deserializing header: HeaderTooLarge", "a weight file is damaged"),
    (
        "ValueError: The quantization method fp8 is not supported for the current GPU. Minimum capability: 89.",
        "choose another dtype",
    ),
    ("ValueError: World size (4) is larger than the number of available GPUs (2) in this node.", "tensor_parallel"),
    ("api_server.py: error: argument --dtype: invalid choice: 'bf16'", "correct extra_args"),
    ("api_server.py: error: unrecognized arguments: --nonsense", "correct extra_args"),
    ("Killed", "OOM killer"),
    (
        "RuntimeError: Unexpected error from cudaGetDeviceCount(). Error 804: forward compatibility was attempted on "
        "non supported HW",
        "remove cuda-compat",
    ),
    ("kernel.cu:3:10: fatal error: cuda_runtime.h: No such file or directory", "CUDA's headers are missing"),
    ("main.c:3:10: fatal error: omp.h: No such file or directory", "a header is missing"),
    ("RuntimeError: Could not find nvcc and default cuda_home='/usr/local/cuda' doesn't exist", "nvcc is missing"),
    ("Fatal Python error: Illegal instruction", "the processor lacks instructions"),
    ("OSError: Can't load the configuration of '/models/none'.", "the model is not there"),
    (
        "ValueError: User-specified max_model_len (262144) is greater than the derived max_model_len "
        "(max_position_embeddings=131072)",
        "lower max_model_len to what",
    ),
    ("OSError: [Errno 98] Address already in use", "choose another port"),
    ("PermissionError: [Errno 13] Permission denied: '/models/config.json'", "the right to that file"),
    ("PermissionError: [Errno 13] Permission denied: '/dev/nvidia0'", "video or render"),
    ("RuntimeError: cannot open /dev/nvidiactl: Permission denied", "video or render"),
    (
        "ValueError: To serve at least one request with the model's max seq len (2668), (0.33 GiB KV cache is needed, "
        "which is larger than the available KV cache memory (0.12 GiB).",
        "raise gpu_memory_utilization",
    ),
    ("ValueError: No available memory for the cache blocks.", "raise gpu_memory_utilization"),
    (
        "triton.runtime.errors.OutOfResources: out of resource: shared memory, Required: 131072, Hardware limit: "
        "101376. Reducing block sizes or `num_stages` may help.",
        "on-chip memory",
    ),
]
LINES_OF = {
    name: [
        line
        for line, _step in LINES
        if any(known.advice == cause.advice for cause in causes if (known := known_cause([line])))
    ]
    for name, causes in (("broken", BROKEN_GPU), ("specific", SPECIFIC), ("general", GENERAL))
}


@pytest.mark.parametrize(("line", "step"), LINES, ids=[str(number) for number in range(len(LINES))])
def test_cause_has_its_advice(line: str, step: str, tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    log.write_text(f"INFO starting\n{line}\nRuntimeError: Engine core initialization failed. See root cause above.\n")
    text = logs.root_cause(log)
    advice = text.partition("; ")[2]
    assert step in text and "no known cause" not in text
    assert ("correct extra_args" in advice) is ("error: unrecognized" in line or "error: argument" in line)
    # A cluster's diagnosis reads the engine's sentence, in which the advice must not speak of a broken GPU.
    again, first = known_cause([text]), known_cause([line])
    assert first and bool(again and again.is_broken_gpu) == first.is_broken_gpu


def test_every_known_cause_is_tried() -> None:
    found = {known.advice for line, _step in LINES if (known := known_cause([line]))}
    causes = (*BROKEN_GPU, *SPECIFIC, *GENERAL)
    untried = [cause.pattern.pattern for cause in causes if cause.advice not in found]
    assert untried == []


@pytest.mark.parametrize("general", LINES_OF["general"])
def test_the_more_specific_cause_wins_in_either_order(general: str) -> None:
    for special in [*LINES_OF["specific"], *LINES_OF["broken"]]:
        for lines in ([general, special], [special, general]):
            known = known_cause(lines)
            assert known and known.line == special


@pytest.mark.parametrize("broken", LINES_OF["broken"])
def test_a_broken_gpu_explains_everything_else(broken: str) -> None:
    for other in LINES_OF["specific"]:
        alone, both = known_cause([other]), known_cause([other, broken])
        assert alone and not alone.is_broken_gpu and both and both.is_broken_gpu and both.line == broken


def test_an_error_that_only_looks_like_a_refused_argument_is_unknown(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    log.write_text("worker: error: the moon is full\n" * 3)
    assert logs.root_cause(log) == "its log names no known cause, and ends with: worker: error: the moon is full"


def test_an_unknown_cause_shows_the_last_errors_without_colours(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    errors = [f"\x1b[0;36m(Worker pid=7)\x1b[0;0m ValueError: {number}\x1b[0m" for number in range(5)]
    log.write_text("\n".join([*errors, "(Worker pid=7) engine core exited unexpectedly", "bye"]))
    assert logs.root_cause(log).endswith("ends with: ValueError: 2 | ValueError: 3 | ValueError: 4")


def test_the_first_known_cause_decides_and_is_shown(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    lines = ["ValueError: a", "ValueError: b", "ValueError: c", "OSError: [Errno 98] Address already in use", "Killed"]
    log.write_text("\n".join(lines))
    expected = "ValueError: a | ValueError: b | OSError: [Errno 98] Address already in use; choose another port"
    assert logs.root_cause(log) == expected


def test_a_killed_process_is_the_cause_where_nothing_was_wrong_before(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    log.write_text("engine core exited unexpectedly; starting cleanup\nasyncio.exceptions.CancelledError\n")
    assert logs.root_cause(log).startswith("engine core exited unexpectedly") and "OOM" in logs.root_cause(log)
    log.write_text("ValueError: x\nengine core exited unexpectedly; starting cleanup\n")
    assert logs.root_cause(log) == "its log names no known cause, and ends with: ValueError: x"
