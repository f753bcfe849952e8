"""What a host lacks, in one list, before anything is installed on it."""

import os
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from harness import host_facts, readiness
from harness.downloads import LFS_POINTER
from tests.unit.ansible_modules import Failed, call
from tests.unit.test_host_survey import A30, TOOL, node

PLACE = {
    "kind": "folder", "bytes": 4096, "start": None, "files": {}, "readable": True, "existing": "/srv/mlperf",
    "is_folder": True, "owner": "lab", "writable": True,
}  # fmt: skip
DATA = {**PLACE, "kind": "file", "bytes": 90_000_000, "start": '[{"input":'}
WHOLE = {"bytes": 1 << 30, "start": "x"}
FILES = dict.fromkeys(("config.json", "tokenizer.json", "model-1.safetensors", "model-2.safetensors"), WHOLE)
POINTER = {"bytes": 134, "start": LFS_POINTER.decode() + "v1\noid sha256:"}
PATHS = {
    "/srv/mlperf/env": PLACE, "/srv/mlperf": PLACE, "/srv/model": {**PLACE, "files": FILES}, "/srv/cnn.json": DATA,
}  # fmt: skip


def facts(**more: Any) -> dict[str, Any]:
    ready = {
        "user": "lab", "compiler": "/usr/bin/cc", "interpreter": TOOL,
        "paths": PATHS, "busy_ports": [],
    }  # fmt: skip
    return {**node(), **ready, **more}


def problems(
    cuda: bool = True,
    engines: list[dict[str, Any]] | None = None,
    gpu_node: bool = True,
    installs_engine: bool = True,
    **more: Any,
) -> list[str]:
    return readiness.problems(
        "gpu1", facts(**more), env="/srv/mlperf/env", root="/srv/mlperf", cuda=cuda,
        gpu_node=gpu_node, installs_engine=installs_engine, engines=engines, model="/srv/model",
        dataset="/srv/cnn.json",
    )  # fmt: skip


def place(path: str, **more: Any) -> dict[str, Any]:
    return {"paths": {**PATHS, path: {**PATHS[path], **more}}}


def test_a_ready_host_lacks_nothing() -> None:
    assert problems() == []


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"interpreter": {**TOOL, "version": "3.10.12"}}, "python3 is Python 3.10.12, and the pinned"),
        ({"interpreter": {**TOOL, "version": ""}}, "python3 does not run"),
        (place("/srv/mlperf", writable=False, existing="/not-here", owner="root"), "install -d -o lab /srv/mlperf`"),
        (place("/srv/mlperf", existing="/srv/mlperf", is_folder=False), "/srv/mlperf is not a folder: choose another"),
        ({"disk": {"path": "/srv", "total": 1 << 40, "free": 10 << 30}}, "10.0 GiB free, and the installation needs"),
        ({"memory": {"total": 4 << 30, "available": 1 << 30, "swap": 0}}, "1.0 GiB of memory are available"),
        ({"pci_gpus": [], "smi": {**node()["smi"], "gpus": []}}, "no NVIDIA GPU on the PCI bus"),
        ({"compiler": None}, "no C compiler, with which an engine compiles kernels"),
        ({"interpreter": {**TOOL, "headers": False}}, "no Python.h of python3"),
        (place("/srv/model", kind=None), "harness_model = /srv/model does not exist"),
        (place("/srv/model", kind="file"), "harness_model = /srv/model is a file, not a folder"),
        (place("/srv/cnn.json", bytes=134), "has 134 bytes, as a cut copy has"),
        (place("/srv/cnn.json", **POINTER), "harness_dataset = /srv/cnn.json is a Git LFS pointer"),
        (place("/srv/model", files={}), "lacks tokenizer.json or tokenizer.model, config.json, *.safetensors: copy"),
        (place("/srv/model", files={"tokenizer.model": WHOLE, "config.json": WHOLE}), "model lacks *.safetensors:"),
        (
            place("/srv/model", files={**FILES, "model-1.safetensors": POINTER, "model-2.safetensors": POINTER}),
            "/srv/model/model-1.safetensors (and 1 more) is a Git LFS pointer",
        ),
        (place("/srv/cnn.json", readable=False, owner="root"), "may not read harness_dataset = /srv/cnn.json"),
        ({"busy_ports": [8101]}, "something listens on port 8101 already"),
    ],
)  # fmt: skip
def test_each_lack_is_a_sentence_of_its_own(more: dict[str, Any], words: str) -> None:
    (sentence,) = problems(**more)
    assert words in sentence and "\n" not in sentence


def test_an_old_driver_matters_to_the_cuda_build_only() -> None:
    old = node()["smi"]
    old = {**old, "gpus": [{**old["gpus"][0], "driver": "570.86.15"}]}
    (sentence,) = problems(smi=old)
    assert sentence.startswith("driver: 570.86.15; CUDA 13 needs 580 or newer")
    assert problems(smi=old, cuda=False) == []


def test_space_is_needed_for_vllm_alone_and_memory_for_engines_alone() -> None:
    small = {"disk": {"path": "/srv", "total": 1 << 40, "free": 3 << 30}}
    assert problems(installs_engine=False, **small) == []
    little = {"memory": {"total": 4 << 30, "available": 3 << 30, "swap": 0}}
    assert problems(gpu_node=False, **little) == problems(engines=[{"name": "far", "kind": "endpoint"}], **little) == []
    assert len(problems(**small)) == len(problems(**little)) == 1


def test_a_host_that_only_drives_loadgen_needs_the_tokenizer_alone() -> None:
    assert problems(gpu_node=False, **place("/srv/model", files={"tokenizer.json": WHOLE})) == []
    (sentence,) = problems(gpu_node=False, **place("/srv/model", files={}))
    assert "lacks tokenizer.json or tokenizer.model:" in sentence


def test_the_files_of_a_folder_are_listed_with_their_first_bytes(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(LFS_POINTER + b"v1\noid")
    (tmp_path / "config.json").write_bytes(b"")
    (tmp_path / "weights.safetensors").write_bytes(b"\xff\0" * 100)
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    files = host_facts.path_facts(str(tmp_path))["files"]
    assert files["model.safetensors"] == {"bytes": 46, "start": "version https://git-lfs.github.com/spec/v1\noid"}
    assert files["config.json"] == {"bytes": 0, "start": None}
    assert (sorted(files)[2:], len(files["weights.safetensors"]["start"])) == (["weights.safetensors"], 64)
    assert host_facts.path_facts(str(tmp_path / "nothing"))["files"] == {}


def test_the_facts_of_this_machine(tmp_path: Path) -> None:
    data = tmp_path / "cnn.json"
    data.write_text("x" * 2000)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        seen = host_facts.host_facts(
            root=str(tmp_path), python=sys.executable, paths=[str(data), str(tmp_path / "a" / "b")], ports=[port, 0]
        )
    assert seen["interpreter"]["version"] == sys.version.split()[0]
    assert seen["busy_ports"] == [port]
    assert (seen["paths"][str(data)]["kind"], seen["paths"][str(data)]["bytes"]) == ("file", 2000)
    missing = seen["paths"][str(tmp_path / "a" / "b")]
    assert (missing["kind"], missing["existing"], missing["owner"]) == (None, str(tmp_path), data.owner())
    assert missing["writable"] == os.access(tmp_path, os.W_OK)
    assert host_facts.interpreter("/nowhere/python")["version"] == ""


def test_the_task_fails_with_everything_at_once(tmp_path: Path) -> None:
    arguments = {
        "env": str(tmp_path / "env"), "root": str(tmp_path), "python": "/nowhere/python", "cuda": False,
        "gpu_node": True, "model": str(tmp_path / "none"), "dataset": "",
    }  # fmt: skip
    with pytest.raises(Failed) as failed:
        call("mlperf_readiness", arguments, variables={"inventory_hostname": "gpu1"})
    lines = failed.value.result["msg"].splitlines()
    assert len(lines) >= 2 and all(line.startswith("gpu1: ") for line in lines)
    assert failed.value.result["exit"] == 3


def test_an_amd_or_intel_gpu_is_refused_by_name_unless_the_user_runs_the_server(tmp_path: Path) -> None:
    ids = (("0x1002", "0x120000", "0x74a1"), ("0x8086", "0x038000", "0x56c0"), ("0x10de", "0x040300", "0x10fa"))
    for number, parts in enumerate((*ids, ("0x1a03", "0x030000", "0x2000"))):
        device = tmp_path / f"0000:0{number}:00.0"
        device.mkdir()
        for name, text in zip(("vendor", "class", "device"), parts, strict=True):
            (device / name).write_text(text)
    other = host_facts.other_gpus(tmp_path)
    assert other == [{"vendor": "AMD", "id": "1002:74a1"}, {"vendor": "Intel", "id": "8086:56c0"}]
    bare = {"pci_gpus": [], "other_gpus": other, "smi": {**node()["smi"], "gpus": []}}
    (sentence,) = problems(**bare)
    assert "no NVIDIA GPU, but AMD (1002:74a1), Intel (8086:56c0)" in sentence and "kind: endpoint" in sentence
    assert problems(engines=[{"name": "theirs", "kind": "endpoint", "url": "http://far"}], **bare) == []
    # Beside an NVIDIA GPU, as a processor's own is, it does not matter.
    assert problems(other_gpus=other) == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"gpus": "1"}, "engine a has gpus = '1', and GPU 1 is not among the one GPU here"),
        ({"gpus": "GPU-9999"}, "GPU GPU-9999 is not among"),
        ({"tensor_parallel": 4}, "engine a has tensor_parallel = 4, and there is one GPU: lower tensor_parallel"),
    ],
)
def test_engines_that_want_more_than_is_there_are_named(settings: dict[str, Any], words: str) -> None:
    (sentence,) = problems(engines=[{"name": "a", "kind": "vllm", **settings}])
    assert words in sentence
    assert problems(engines=[{"name": "a", "gpus": "0"}]) == problems(engines=[{"name": "a", "gpus": "GPU-5c3a"}]) == []


def test_two_engines_on_one_gpu_are_named() -> None:
    engines = [{"name": "a", "gpus": "0"}, {"name": "b", "gpus": "GPU-5c3a"}, {"name": "c", "kind": "endpoint"}]
    (sentence,) = problems(engines=engines)
    assert sentence == "engines a and b both use GPU 0: give each engine GPUs of its own"


def test_nvswitches_need_their_fabric_manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, kind in enumerate(("0x068000", "0x060400")):
        device = tmp_path / f"0000:0{number}:00.0"
        device.mkdir()
        (device / "vendor").write_text("0x10de")
        (device / "class").write_text(kind)
    assert host_facts.nvswitches(tmp_path) == 1
    systemctl = tmp_path / "systemctl"
    systemctl.write_text("#!/bin/sh\necho inactive\nexit 3\n")
    systemctl.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert host_facts.fabric_manager() == "inactive"
    (sentence,) = problems(nvswitches=6, fabric_manager="inactive")
    assert sentence.startswith("fabric manager: the fabric manager of 6 NVSwitches is not running (inactive)")
    assert problems(nvswitches=6, fabric_manager="active") == problems(nvswitches=6, fabric_manager=None) == []
    # Newer NVSwitches are not on the bus; the driver tells for each GPU.
    (sentence,) = problems(smi={**node()["smi"], "unjoined": [0, 3]}, fabric_manager=None)
    assert "GPU 0, 3 waits for the fabric manager" in sentence


def test_the_state_of_the_fabric_is_asked_of_several_gpus(tmp_path: Path) -> None:
    smi, rows = tmp_path / "nvidia-smi", f"{A30}\n{A30.replace('Enabled, 0, 24576', 'Enabled, 1, 24576')}"
    smi.write_text(
        "#!/bin/sh\ncase $1 in\n*compute-apps*) ;;\n*fabric.state) printf '0, Completed\\n1, In Progress\\n';;\n"
        f"*) printf '{rows}\\n';; esac\n"
    )
    smi.chmod(0o755)
    listed = host_facts.nvidia_smi(str(smi))
    assert ([gpu["index"] for gpu in listed["gpus"]], listed["unjoined"]) == ([0, 1], [1])
    visible = [host_facts.visible_gpus(listed["gpus"], one) for one in (None, "1", "GPU-5c", "", "NoDevFiles")]
    assert [len(gpus) for gpus in visible] == [2, 1, 2, 0, 0]
    assert visible[1] == [
        {"index": 1, "uuid": "GPU-5c3a", "name": "NVIDIA A30", "memory_mib": 24576, "compute_capability": "8.0"}
    ]
