"""vLLM's settings for Llama-3.1-8B by the GPU's memory and arithmetic: estimates, until somebody has measured them.

docs/engine-settings.md has the same table with its reasons; a test compares the two.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Gpu = Mapping[str, Any]
"""A GPU as the plugins find it: its `index`, `uuid`, `name`, `memory_mib` and `compute_capability`, such as "8.0"; all
but the index are None where they are not known."""

GIB = 1 << 30
FP8_CAPABILITY = 8.9
"""The first compute capability with arithmetic in FP8 (Ada); A10, A30 and A100 have 8.0 or 8.6."""
BF16_CAPABILITY = 8.0

# Of the memory that the driver reports, what CUDA sees (23.6 of an A30's 24 GiB), and of that, what vLLM may use.
SEEN_BY_CUDA = 23.6 / 24
UTILIZATION = 0.92
# Parameters of Llama-3.1-8B: of its layers, which may be in FP8, and of embedding and output layer, which stay in bf16.
LAYER_PARAMETERS, OUTER_PARAMETERS = 6.98e9, 1.05e9
# Keys and values of a token: 2 x 32 layers x 8 heads x 128.
KV_ELEMENTS = 2 * 32 * 8 * 128
# An average article with half of its answer, and what is left free of the cache so that no sequence is preempted.
SEQUENCE_TOKENS = 780 + 64
CACHE_PART = 0.95
# Activations and CUDA graphs: with 2,048 tokens in a step, and for each further 1,024.
WORKING_GIB, WORKING_GIB_PER_1024 = 1.5, 0.25
PLAIN_STEP = 2048
FORMATS = ("quantization", "kv_cache_dtype")


class Class(NamedTuple):
    """GPUs with at least `least_gib` of memory and FP8 arithmetic if `fp8`: the tokens that they compute in one step,
    and the sequences from which on more would gain little."""

    least_gib: float
    fp8: bool
    step_tokens: int
    most_sequences: int


# The first that fits. vLLM's own defaults as a server, and a public H200 setting of 256 sequences.
CLASSES = (
    Class(160, True, 16_384, 1024),
    Class(70, True, 8192, 256),
    Class(0, False, PLAIN_STEP, 256),
)


def settings(gpus: Sequence[Gpu], given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of an engine on these GPUs, without those that are given; empty where the GPUs' kind is not known.

    Args:
        gpus: those that one copy of the model is spread over; the smallest decides.
        given: the engine's own settings, of which the formats of weights and cache decide how much fits.
    """
    if not gpus or any(not gpu.get("memory_mib") or not gpu.get("compute_capability") for gpu in gpus):
        return {}
    gib = min(float(gpu["memory_mib"]) for gpu in gpus) / 1024
    capability = min(float(gpu["compute_capability"]) for gpu in gpus)
    fp8 = capability >= FP8_CAPABILITY
    kind = next(one for one in CLASSES if gib >= one.least_gib and fp8 >= one.fp8)
    formats = {"quantization": "fp8_per_channel", "kv_cache_dtype": "fp8"} if fp8 else {}
    step = int(given.get("max_num_batched_tokens") or kind.step_tokens)
    fit = sequences(gib, step, ranks=len(gpus), **{name: given.get(name, formats.get(name)) for name in FORMATS})
    suggested = {
        "dtype": "bfloat16" if capability >= BF16_CAPABILITY else "float16",
        **formats,
        "gpu_memory_utilization": UTILIZATION,
        "max_num_seqs": max(1, min(kind.most_sequences, fit)),
        "max_num_batched_tokens": step,
    }
    return {name: value for name, value in suggested.items() if name not in given}


def sequences(
    gib: float, step_tokens: int, *, ranks: int = 1, quantization: str | None = None, kv_cache_dtype: str | None = None
) -> int:
    """How many sequences the KV cache holds on GPUs of `gib` each, over which `ranks` spread model and cache."""
    weight_bytes, element_bytes = 1 if quantization else 2, 1 if (kv_cache_dtype or "").startswith("fp8") else 2
    weights = (LAYER_PARAMETERS * weight_bytes + OUTER_PARAMETERS * 2) / ranks
    working = (WORKING_GIB + WORKING_GIB_PER_1024 * max(0, step_tokens - PLAIN_STEP) / 1024) * GIB
    cache = gib * GIB * SEEN_BY_CUDA * UTILIZATION - weights - working
    tokens = cache / (KV_ELEMENTS * element_bytes / ranks)
    return int(CACHE_PART * tokens / SEQUENCE_TOKENS)
