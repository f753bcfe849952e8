"""The node image's recipe: what it names is there, is pinned, and agrees with the roles; and its health check."""

import importlib.metadata
import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

import harness
from harness.cluster.settings import parse_cluster
from tests.fake_server import FakeServer
from tests.unit.role_vars import REPOSITORY, render

CONTAINERFILE = (REPOSITORY / "container" / "Containerfile").read_text().replace("\\\n", " ")


def argument(name: str) -> str:
    """Default of a build argument."""
    (found,) = re.findall(rf"^ARG {name}=(.+)$", CONTAINERFILE, re.MULTILINE)
    return str(found)


def lock(name: str) -> dict[str, str]:
    """Versions that a lock pins."""
    text = (REPOSITORY / "requirements" / name).read_text()
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", text, re.MULTILINE))


@pytest.mark.parametrize("engine", ["cpu", "cuda"])
def test_the_role_brings_all_that_is_copied(engine: str) -> None:
    texts = render("images", "__images_build_files", images_engine=engine)
    copied = [word for line in re.findall(r"^COPY (.+) \S+$", CONTAINERFILE, re.MULTILINE) for word in line.split()]
    copied = [word.replace("${ENGINE}", engine) for word in copied]
    assert set(copied) - {"pyproject.toml", "harness"} == set(texts.values()) - {"container/Containerfile"}
    assert all(Path(source).is_file() for source in texts)


def test_its_user_is_the_one_to_whom_roles_give_the_files() -> None:
    user = int(argument("USER_ID"))
    assert user == parse_cluster({"image": "any"}).user
    for role, name in {"namespace": "namespace_owner", "node": "node_uid", "assets": "assets_owner"}.items():
        assert yaml.safe_load((REPOSITORY / "roles" / role / "defaults" / "main.yml").read_text())[name] == user


def test_it_names_the_version_of_the_harness() -> None:
    assert argument("VERSION") == harness.__version__


def test_everything_is_installed_by_hash() -> None:
    installs = re.findall(r"pip (?:install|download) ([^&|;\n]+)", CONTAINERFILE)
    assert len(installs) == 8
    for words in installs:
        assert "--no-deps" in words and ("--require-hashes" in words or "--no-index" in words), words


@pytest.mark.parametrize("engine", ["cpu", "cuda"])
def test_torchx_and_deepspeed_have_all_that_they_ask_for(engine: str) -> None:
    extra = {**lock("torchx.txt"), **lock("deepspeed.txt")}
    there = {**lock(f"engine-{engine}.txt"), **extra, "torch": ""}
    for name in lock("torchx.txt"):
        wanted = map(Requirement, importlib.metadata.requires(name) or [])
        needed = {one.name.lower() for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})}
        assert {re.sub(r"[-_.]+", "-", one) for one in needed} <= there.keys(), name
    twice = {name for name in extra if lock(f"engine-{engine}.txt").get(name, extra[name]) != extra[name]}
    assert twice == set(), "they would replace what the engine was pinned with"


def test_torchx_is_the_controllers() -> None:
    controller = lock("controller.txt")
    assert {name: controller[name] for name in lock("torchx.txt")} == lock("torchx.txt")


@pytest.fixture
def health() -> ModuleType:
    """container/health.py."""
    place = importlib.util.spec_from_file_location("health", REPOSITORY / "container" / "health.py")
    assert place and place.loader
    module = importlib.util.module_from_spec(place)
    place.loader.exec_module(module)
    return module


def put(file: Path, values: dict[str, Any]) -> str:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(values))
    return str(file)


def test_an_engine_is_well_while_it_answers(health: ModuleType, tmp_path: Path) -> None:
    with FakeServer(model="model", vocab=1024) as server:
        config = put(tmp_path / "engine.json", {"name": "here", "port": int(server.url.rsplit(":", 1)[1])})
        words = ["python", "harness", "engine", "serve", "--json", "--root", str(tmp_path), "--config", config]
        assert health.ill(words) is None
    assert "/health" in health.ill(words)


def test_a_run_is_well_while_its_heart_beats(
    health: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = put(tmp_path / "spec.json", {"run_id": "one"})
    words = ["python", "harness", "start", "--foreground", "--root", str(tmp_path), "--spec", spec]
    assert "is not there yet" in health.ill(words)
    put(tmp_path / "runs" / "one" / "status.json", {})
    assert health.ill(words) is None
    monkeypatch.setattr(health, "SILENCE_S", -1.0)
    assert "last written" in health.ill(words)


def test_other_commands_are_well(health: ModuleType) -> None:
    assert health.ill(["python", "harness", "doctor"]) is None
