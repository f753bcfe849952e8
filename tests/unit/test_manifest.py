"""The manifest of a run, and the hashes that identify machines and weights."""

import importlib.metadata
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.dataset import load
from harness.engine import parse_config, up
from harness.errors import BadInput, NotReady
from harness.files import sha256_file
from harness.manifest import manifest
from harness.node import machine as machines
from harness.node import weights
from harness.node.gpu import Gpus
from harness.node.machine import environment_sha256, machine
from harness.node.model import model_files
from harness.node.weights import weights_sha256
from harness.spec import WEIGHTS_CACHE, WEIGHTS_CACHE_VARIABLE, parse_spec
from tests.engines import FAKE, free_port, until, write_model
from tests.unit.fake_nvml import FakeNvml


@pytest.fixture(autouse=True)
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines, "Gpus", lambda: Gpus(FakeNvml(gpus=2, broken={"nvmlDeviceGetMigMode"})))


def test_the_machine(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m")
    facts = machine(model, tmp_path)
    assert facts["cpu_count"] == os.cpu_count()
    assert facts["python"] == sys.version.split()[0]
    assert facts["hostname"] == os.uname().nodename and facts["kernel"] == os.uname().release
    assert facts["memory_gib"] > 0.5
    assert facts["versions"]["harness"] and facts["versions"]["uvloop"] == importlib.metadata.version("uvloop")
    assert (facts["driver"], facts["cuda"]) == ("580.65.06", "13.0")
    assert [gpu["uuid"] for gpu in facts["gpus"]] == ["GPU-0", "GPU-1"]
    expected = {"name": "NVIDIA A30", "memory_gib": 24.0, "power_limit_w": 165.0, "sm_clock_max_mhz": 1440}
    expected |= {"sm_clock_set_mhz": 1200, "pcie_gen_now": 1, "pcie_width_now": 8}
    expected |= {"pcie_gen": 4, "pcie_width": 16, "ecc": True, "mig": None, "driver": "580.65.06"}
    assert expected.items() <= facts["gpus"][0].items()
    assert facts["host"]["numa_nodes"] is None or facts["host"]["numa_nodes"] > 0
    about = facts["model"]
    assert (about["name"], about["path"], about["dtype"], about["vocab_size"]) == ("m", str(model), "float32", 512)
    assert about["weights_bytes"] == (model / "model.safetensors").stat().st_size
    assert about["sandbox"] is False
    (tmp_path / "sandbox.json").write_text("{}")
    assert machine(model, tmp_path)["model"]["sandbox"] is True
    assert facts["tokenizer_sha256"] == sha256_file(model / "tokenizer.json")
    json.dumps(facts)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, None),
        ({"quantization_config": {"quant_method": "fp8"}}, "fp8"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "int4"),
        ({"compression_config": {"config_groups": {"group_0": {"weights": {"type": "int", "num_bits": 8}}}}}, "int8"),
        ({"quantization_config": {"config_groups": {"a": {"weights": {"type": "float", "num_bits": 8}}}}}, "fp8"),
        ({"quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4"}}, "nvfp4"),
        (
            {
                "quantization_config": {
                    "quant_method": "x",
                    "config_groups": {"a": {"weights": None}, "b": {"weights": {"num_bits": 4}}},
                }
            },
            "x",
        ),
    ],
)
def test_the_type_of_quantized_weights_is_read_from_the_models_configuration(
    tmp_path: Path, settings: dict[str, Any], expected: str | None
) -> None:
    model = write_model(tmp_path / "m")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, **settings}))
    assert machine(model, tmp_path)["model"]["quantization"] == expected


def test_the_numa_node_of_a_gpu_is_that_of_its_pci_device(tmp_path: Path) -> None:
    gpus = Gpus(FakeNvml(gpus=2))
    for bus, text in (("0000:00:00.0", "1"), ("0000:01:00.0", "-1")):
        (tmp_path / bus).mkdir()
        (tmp_path / bus / "numa_node").write_text(f"{text}\n")
    assert [gpus._numa_node(handle, tmp_path) for handle in (0, 1)] == [1, None]
    assert gpus._numa_node(0, tmp_path / "none") is None
    assert Gpus(FakeNvml(gpus=1, broken={"nvmlDeviceGetPciInfo"}))._numa_node(0, tmp_path) is None


def test_cores_near_gpus_are_those_of_their_numa_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {1, 2, 3, 9})
    gpus = Gpus(FakeNvml(gpus=4))
    for bus, node, cores in (("00", "0", "0-1,3"), ("01", "1", "8-9"), ("02", "-1", "0-9"), ("03", "1", "8")):
        device = tmp_path / f"0000:{bus}:00.0"
        device.mkdir()
        (device / "numa_node").write_text(f"{node}\n")
        (device / "local_cpulist").write_text(f"{cores}\n")
    near = [gpus.near_cores(wanted, tmp_path) for wanted in (["0"], ["GPU-1"], ["0", "1"])]
    assert near == ["1,3", "9", "1,3,9"]
    # One NUMA node only, no core that may be used, no such GPU.
    assert [gpus.near_cores(wanted, tmp_path) for wanted in (["2"], ["0", "2"], ["3"], ["7"], [])] == [None] * 5


def test_a_machine_whose_weights_are_elsewhere(tmp_path: Path) -> None:
    assert "model" not in machine(None, tmp_path)


def test_weights_are_distinguished_and_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = model_files(write_model(tmp_path / "m", shards=3)).weights
    hashed: list[str] = []

    def counting(path: Path) -> str:
        hashed.append(path.name)
        return sha256_file(path)

    monkeypatch.setattr(weights, "sha256_file", counting)
    first = weights_sha256(files, tmp_path)
    assert len(hashed) == 3
    assert weights_sha256(files, tmp_path) == first
    assert len(hashed) == 3
    content = files[1].read_bytes()
    files[1].write_bytes(content[:-1] + b"\7")
    os.utime(files[1], ns=(1, files[0].stat().st_mtime_ns + 1))
    assert weights_sha256(files, tmp_path) != first
    assert hashed[3:] == [files[1].name]
    files[1].write_bytes(content)
    assert weights_sha256(files, tmp_path) == first
    (tmp_path / WEIGHTS_CACHE).write_text("broken")
    assert weights_sha256(files, tmp_path) == first
    assert weights_sha256(files, tmp_path / "another root") == first
    assert [path.name for path in (tmp_path / "another root").iterdir()] == ["runs"], "all that a pod can write to"


def test_files_replaced_with_their_old_times_are_hashed_again(tmp_path: Path) -> None:
    (file,) = model_files(write_model(tmp_path / "m")).weights
    before, status = weights_sha256((file,), tmp_path), file.stat()
    file.write_bytes(file.read_bytes()[:-1] + b"\7")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert weights_sha256((file,), tmp_path) != before


def test_engines_of_several_runs_share_one_memory_on_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, hashed = model_files(write_model(tmp_path / "m", shards=2)).weights, list[str]()

    def slowly(path: Path) -> str:
        hashed.append(path.name)
        time.sleep(0.3)
        return sha256_file(path)

    monkeypatch.setattr(weights, "sha256_file", slowly)
    monkeypatch.setattr(weights, "_PAUSE_S", 0.05)
    monkeypatch.setenv(WEIGHTS_CACHE_VARIABLE, str(tmp_path / "claim/.weights.sha256.json"))
    with ThreadPoolExecutor(3) as pool:
        digests = list(pool.map(lambda run: weights_sha256(files, tmp_path / f"{run}.engines"), ("r1", "r2", "r3")))
    assert len(set(digests)) == 1 and sorted(hashed) == [path.name for path in files]
    assert not list(tmp_path.glob("*.engines"))


def test_swapped_shards_are_other_weights(tmp_path: Path) -> None:
    files = model_files(write_model(tmp_path / "m", shards=2)).weights
    files[1].write_bytes(files[1].read_bytes()[:-1] + b"\7")
    before = weights_sha256(files, tmp_path / "a")
    one, two = files[0].read_bytes(), files[1].read_bytes()
    files[0].write_bytes(two)
    files[1].write_bytes(one)
    assert weights_sha256(files, tmp_path / "b") != before


def test_the_environment_is_what_is_installed_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    def installed(*packages: tuple[str, str]) -> str:
        distributions = [SimpleNamespace(name=name, version=version) for name, version in packages]
        monkeypatch.setattr(importlib.metadata, "distributions", lambda: iter(distributions))
        return environment_sha256()

    both = installed(("a_b", "1"), ("c", "2"))
    assert installed(("c", "2"), ("A-b", "1")) == both
    assert installed(("c", "2"), ("a-b", "1.1")) != both
    assert installed(("c", "2")) != both


def test_a_manifest_has_all_engines_also_foreign_ones(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    record = {"instruction": "i", "input": "a", "tok_input": [1], "output": "s"}
    data = tmp_path / "d.json"
    data.write_text(json.dumps([record] * 3))
    samples = load(data, limit=2)
    ports = [free_port(), free_port()]
    servers = [
        subprocess.Popen([sys.executable, str(FAKE), str(port), '{"children": 0, "model": "model"}']) for port in ports
    ]
    root = tmp_path / "root"
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    values: dict[str, Any] = {
        "run_id": "r1",
        "model": str(model),
        "dataset": str(data),
        "samples": 2,
        "engines": [{"name": "known", "url": urls[0]}, {"name": "other", "url": urls[1]}],
        "node": "jw2",
    }
    config = parse_config({"name": "known", "kind": "endpoint", "url": urls[0], "model": str(model)})
    try:
        assert until(lambda: _answers(root, config), 10)
        result = manifest(parse_spec(values), root, samples)
    finally:
        for server in servers:
            server.kill()
            server.wait()
    assert result["schema"] == 1
    assert (result["node"], result["seeds"]) == ("jw2", {"sampling": 42, "loadgen": "built in"})
    assert result["dataset"] == samples.facts()
    assert (result["punkt"] is None) is (result["punkt_sha256"] is None)
    assert [entry["name"] for entry in result["engines"]] == ["known", "other"]
    assert result["engines"][0] == json.loads((root / "engines/known/engine.json").read_text())
    assert result["engines"][1]["verified"]["max_model_len"] == 2668
    assert result["engines"][1]["unverified"] == ["weights"]
    json.dumps(result)
    with pytest.raises(NotReady, match="no server answers"):
        manifest(parse_spec(values | {"engines": [{"name": "gone", "url": urls[1]}]}), root, samples)
    with pytest.raises(BadInput, match="does not exist"):
        manifest(parse_spec(values | {"model": str(tmp_path / "none")}), root, samples)


def _answers(root: Path, config: Any) -> bool:
    try:
        return up(root, config).state == "ready"
    except NotReady:
        return False
