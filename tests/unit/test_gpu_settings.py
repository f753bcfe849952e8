"""Settings by kind of GPU: the arithmetic, and the table of docs/engine-settings.md."""

import re
from typing import Any

import pytest

from harness.benchmark.gpu_settings import sequences, settings
from harness.engine import parse_config
from tests.conftest import REPOSITORY

KINDS = {
    "A10": (23_028, "8.6"), "A30": (24_576, "8.0"), "L4": (23_034, "8.9"), "A100, 40 GB": (40_960, "8.0"),
    "L40S": (46_068, "8.9"), "A100, 80 GB": (81_920, "8.0"), "H100": (81_559, "9.0"), "H200": (143_771, "9.0"),
    "B200": (183_359, "10.0"),
}  # fmt: skip
"""MiB as nvidia-smi lists them, and compute capability."""


def of(name: str, count: int = 1, **given: Any) -> dict[str, Any]:
    memory, capability = KINDS[name]
    gpus = [{"index": index, "memory_mib": memory, "compute_capability": capability} for index in range(count)]
    return settings(gpus, given)


def test_the_documents_table_is_what_the_code_computes() -> None:
    section = (REPOSITORY / "docs" / "engine-settings.md").read_text().partition("## Settings by kind of GPU")[2]
    rows = re.findall(r"^\| (\S.*?) \|$", section.partition("\n## ")[0], re.M)[1:]
    computed = []
    for name, (memory, _) in KINDS.items():
        own = of(name)
        formats = {key: own.get(key) for key in ("quantization", "kv_cache_dtype")}
        fit = sequences(memory / 1024, own["max_num_batched_tokens"], **formats)
        numbers = f"{own['max_num_batched_tokens']:,} | {fit:,} | {own['max_num_seqs']:,}"
        computed.append(f"{name} | {memory / 1024:.1f} | {'FP8' if formats['quantization'] else 'bf16'} | {numbers}")
    assert rows == computed


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_has_settings_that_an_engine_takes(name: str) -> None:
    own = of(name)
    config = parse_config({"name": "e1", "model": "/m", "port": 8101, **own})
    assert (config.dtype, config.gpu_memory_utilization) == ("bfloat16", 0.92)
    assert config.max_num_seqs <= config.max_num_batched_tokens  # type: ignore[operator]


def test_an_a30_by_hand() -> None:
    # 23.6 GiB x 0.92 - 14.96 of weights - 1.5 = 5.26 GiB; 128 KiB a token, 844 tokens a sequence, 5 % left.
    assert sequences(24.0, 2048) == int(0.95 * ((23.6 * 0.92 - 16.06e9 / 2**30 - 1.5) * 2**13) / 844) == 48
    # Weights of 8 bits take 8.46 GiB.
    assert of("A30", quantization="compressed-tensors")["max_num_seqs"] == 108


def test_what_is_given_is_left_out_and_counted_with() -> None:
    assert "max_num_seqs" not in of("H200", max_num_seqs=512)
    bf16 = of("L4", quantization=None, kv_cache_dtype=None)
    assert bf16["max_num_seqs"] == sequences(23_034 / 1024, 2048) < of("L4")["max_num_seqs"]
    assert not {"quantization", "kv_cache_dtype"} & set(bf16)
    assert of("L4", max_num_batched_tokens=8192)["max_num_seqs"] < of("L4")["max_num_seqs"]


def test_the_smallest_of_several_gpus_decides_and_two_hold_more_than_twice_as_much() -> None:
    assert of("A30", 2)["max_num_seqs"] > 2 * of("A30")["max_num_seqs"]
    mixed = [{"memory_mib": memory, "compute_capability": one} for memory, one in (KINDS["A30"], KINDS["H100"])]
    assert settings(mixed, {}) == of("A30", 2)


@pytest.mark.parametrize("gpu", [{"memory_mib": None, "compute_capability": "8.0"}, {"memory_mib": 24_576}])
def test_an_unknown_kind_leaves_the_settings_open(gpu: dict[str, Any]) -> None:
    assert settings([gpu], {}) == settings([], {}) == {}


def test_a_gpu_that_is_too_small_is_left_to_vllm_to_refuse() -> None:
    t4 = settings([{"memory_mib": 15_360, "compute_capability": "7.5"}], {})
    assert (t4["dtype"], t4["max_num_seqs"]) == ("float16", 1)
