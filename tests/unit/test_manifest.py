"""What a run ran on, and the hashes that tell machines and weights apart."""

import importlib.metadata
import json
import os
import subprocess
import sys
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
from harness.node.gpu import Gpus
from harness.node.machine import environment_sha256, machine, weights_sha256
from harness.node.model import model_files
from harness.spec import parse_spec
from tests.engines import FAKE, free_port, until, write_model
from tests.unit.fake_nvml import FakeNvml


@pytest.fixture(autouse=True)
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines, "Gpus", lambda: Gpus(FakeNvml(gpus=2, broken={"nvmlDeviceGetMigMode"})))


def test_the_machine(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m")
    seen = machine(model, tmp_path)
    assert seen["cpu_count"] == os.cpu_count()
    assert seen["python"] == sys.version.split()[0]
    assert seen["hostname"] == os.uname().nodename and seen["kernel"] == os.uname().release
    assert seen["memory_gib"] > 0.5
    assert seen["versions"]["harness"] and seen["versions"]["uvloop"] == importlib.metadata.version("uvloop")
    assert (seen["driver"], seen["cuda"]) == ("580.65.06", "13.0")
    assert [gpu["uuid"] for gpu in seen["gpus"]] == ["GPU-0", "GPU-1"]
    expected = {"name": "NVIDIA A30", "memory_gib": 24.0, "power_limit_w": 165.0, "sm_clock_max_mhz": 1440}
    expected |= {"pcie_gen": 4, "pcie_width": 16, "ecc": True, "mig": None, "driver": "580.65.06"}
    assert expected.items() <= seen["gpus"][0].items()
    about = seen["model"]
    assert (about["name"], about["path"], about["dtype"], about["vocab_size"]) == ("m", str(model), "float32", 512)
    assert about["weights_bytes"] == (model / "model.safetensors").stat().st_size
    assert about["sandbox"] is False
    (tmp_path / "sandbox.json").write_text("{}")
    assert machine(model, tmp_path)["model"]["sandbox"] is True
    assert seen["tokenizer_sha256"] == sha256_file(model / "tokenizer.json")
    json.dumps(seen)


def test_a_machine_whose_weights_are_elsewhere(tmp_path: Path) -> None:
    assert "model" not in machine(None, tmp_path)


def test_weights_are_told_apart_and_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = model_files(write_model(tmp_path / "m", shards=3)).weights
    hashed: list[str] = []

    def counting(path: Path) -> str:
        hashed.append(path.name)
        return sha256_file(path)

    monkeypatch.setattr(machines, "sha256_file", counting)
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
    (tmp_path / machines.CACHE).write_text("broken")
    assert weights_sha256(files, tmp_path) == first
    assert weights_sha256(files, tmp_path / "another root") == first
    assert [path.name for path in (tmp_path / "another root").iterdir()] == ["runs"], "all that a pod can write to"


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
        found = [SimpleNamespace(name=name, version=version) for name, version in packages]
        monkeypatch.setattr(importlib.metadata, "distributions", lambda: iter(found))
        return environment_sha256()

    both = installed(("a_b", "1"), ("c", "2"))
    assert installed(("c", "2"), ("A-b", "1")) == both
    assert installed(("c", "2"), ("a-b", "1.1")) != both
    assert installed(("c", "2")) != both


def test_a_manifest_holds_its_engines_also_those_started_by_nobody_here(tmp_path: Path) -> None:
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
        written = manifest(parse_spec(values), root, samples)
    finally:
        for server in servers:
            server.kill()
            server.wait()
    assert written["schema"] == 1
    assert (written["node"], written["seeds"]) == ("jw2", {"sampling": 42, "loadgen": "built in"})
    assert written["dataset"] == samples.facts()
    assert [entry["name"] for entry in written["engines"]] == ["known", "other"]
    assert written["engines"][0] == json.loads((root / "engines/known/engine.json").read_text())
    assert written["engines"][1]["verified"]["max_model_len"] == 2668
    assert written["engines"][1]["unverified"] == ["weights"]
    json.dumps(written)
    with pytest.raises(NotReady, match="no server answers"):
        manifest(parse_spec(values | {"engines": [{"name": "gone", "url": urls[1]}]}), root, samples)
    with pytest.raises(BadInput, match="does not exist"):
        manifest(parse_spec(values | {"model": str(tmp_path / "none")}), root, samples)


def _answers(root: Path, config: Any) -> bool:
    try:
        return up(root, config).state == "ready"
    except NotReady:
        return False
