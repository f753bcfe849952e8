"""The node image's recipe: complete, pinned, and consistent with the roles; and its health check."""

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
from harness.benchmark import image
from harness.cluster.settings import parse_cluster
from tests.conftest import REPOSITORY
from tests.fake_server import FakeServer
from tests.unit import role_values
from tests.unit.ansible_modules import Failed, call

CONTAINERFILE = (REPOSITORY / "container" / "Containerfile").read_text().replace("\\\n", " ")


def argument(name: str) -> str:
    """Default of a build argument."""
    (default,) = re.findall(rf"^ARG {name}=(.+)$", CONTAINERFILE, re.MULTILINE)
    return str(default)


def lock(name: str) -> dict[str, str]:
    """Versions that a lock pins."""
    text = (REPOSITORY / "requirements" / name).read_text()
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", text, re.MULTILINE))


@pytest.mark.parametrize("engine", ["cpu", "cuda"])
def test_its_context_has_all_that_is_copied(engine: str) -> None:
    texts = image.files(REPOSITORY, REPOSITORY / "container" / "Containerfile", engine)
    copied = [word for line in re.findall(r"^COPY (.+) \S+$", CONTAINERFILE, re.MULTILINE) for word in line.split()]
    copied = [word.replace("${ENGINE}", engine) for word in copied]
    assert set(copied) - {"pyproject.toml", "harness"} == set(texts) - {"container/Containerfile"}


def build(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    """How role images has it built."""
    described = {
        "root": "/srv/images",
        "name": "localhost/node",
        "containerfile": str(REPOSITORY / "container" / "Containerfile"),
        "base": "debian:12",
        "engine": "cpu",
        **changes,
    }
    arguments = {"source": str(REPOSITORY), "path": str(tmp_path), "image": described}
    result: dict[str, Any] = call("mlperf_package", arguments, check=True)["image"]
    return result


def test_it_is_built_under_a_name_for_exactly_its_inputs(tmp_path: Path) -> None:
    first = build(tmp_path)
    tree, inputs = "/srv/images/context/mlperf-distributed-harness", first["inputs"]
    assert first["id_file"] == f"/srv/images/{inputs}.id"
    assert first["command"] == [
        *("buildah", "build", "--format", "docker", "--layers", "--file", f"{tree}/container/Containerfile"),
        *("--iidfile", first["id_file"], "--tag", f"localhost/node:{inputs}"),
        *("--build-arg=BASE_IMAGE=debian:12", "--build-arg=ENGINE=cpu", tree),
    ]
    assert first["folders"] == [f"{tree}/container", f"{tree}/requirements"]
    assert build(tmp_path, options=["--no-cache"])["inputs"] == inputs == build(tmp_path)["inputs"]
    recipe = tmp_path / "Containerfile"
    recipe.write_text(CONTAINERFILE)
    others = ({"base": "debian:13"}, {"engine": "cuda"}, {"arguments": {"SSHD": "yes"}}, {"containerfile": str(recipe)})
    assert len({build(tmp_path, **other)["inputs"] for other in others} - {inputs}) == len(others)
    assert "--build-arg=SSHD=yes" in build(tmp_path, arguments={"SSHD": "yes"})["command"]
    # A plain yes of an inventory is a true value.
    assert build(tmp_path, arguments={"SSHD": True}) == build(tmp_path, arguments={"SSHD": "yes"})
    assert "--build-arg=SSHD=no" in build(tmp_path, arguments={"SSHD": False})["command"]
    with pytest.raises(Failed, match="no such file, which the node image is built from: /nowhere"):
        build(tmp_path, containerfile="/nowhere")


def test_its_user_owns_the_files_that_roles_create() -> None:
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
def test_torchx_and_deepspeed_have_all_their_requirements(engine: str) -> None:
    extra = {**lock("torchx.txt"), **lock("deepspeed.txt")}
    there = {**lock(f"engine-{engine}.txt"), **extra, "torch": ""}
    for name in lock("torchx.txt"):
        requirements = map(Requirement, importlib.metadata.requires(name) or [])
        needed = {one.name.lower() for one in requirements if one.marker is None or one.marker.evaluate({"extra": ""})}
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


def test_an_engine_is_healthy_while_it_answers(health: ModuleType, tmp_path: Path) -> None:
    with FakeServer(model="model", vocab=1024) as server:
        config = put(tmp_path / "engine.json", {"name": "here", "port": int(server.url.rsplit(":", 1)[1])})
        words = ["python", "harness", "engine", "serve", "--json", "--root", str(tmp_path), "--config", config]
        assert health.ill(words) is None
    assert "/health" in health.ill(words)


def test_a_run_is_healthy_while_it_has_a_heartbeat(
    health: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = put(tmp_path / "spec.json", {"run_id": "one"})
    words = ["python", "harness", "start", "--foreground", "--root", str(tmp_path), "--spec", spec]
    assert "is not there yet" in health.ill(words)
    put(tmp_path / "runs" / "one" / "status.json", {})
    assert health.ill(words) is None
    monkeypatch.setattr(health, "SILENCE_S", -1.0)
    assert "last written" in health.ill(words)


def test_other_commands_are_healthy(health: ModuleType) -> None:
    assert health.ill(["python", "harness", "doctor"]) is None


def too_full(free_gb: dict[str, int], devices: dict[str, int], host: str = "jw1", **settings: Any) -> list[str]:
    """Why there is no room for the image where it is imported; free space by folder, and the disk of each."""
    common = {"inventory_hostname": host, "images_build_host": "jw1", "images_staging": "/staging", **settings}
    places = role_values.value("images", "__images_import_places", **common)
    disks = [{"path": path, "free": free_gb[path] * 10**9, "device": devices[path]} for path in places]
    common |= {"__images_places": places, "__images_disks": {"results": [{"facts": {"disk": disk}} for disk in disks]}}
    sentences = []
    for disk in role_values.value("images", "__images_disks_in_use", **common):
        chosen = {**common, "__images_disk": disk}
        if int(role_values.value("images", "__images_needed_bytes", **chosen)) > disk[0]["free"]:
            sentences.append(role_values.value("images", "__images_too_full", **chosen))
    return sentences


def test_every_disk_has_room_for_the_copies_that_it_gets() -> None:
    root, containerd = "/var/lib/mlperf-images", "/var/lib/containerd"
    one, two = {root: 1, containerd: 1}, {root: 1, containerd: 2}
    assert too_full({root: 27, containerd: 27}, one) == []
    (sentence,) = too_full({root: 25, containerd: 25}, one)
    assert f"jw1: {containerd} and {root} have" in sentence and "(2 times images_size_gb)" in sentence
    assert too_full({root: 14, containerd: 14}, two) == []
    (sentence,) = too_full({root: 100, containerd: 12}, two)
    assert sentence.startswith(f"jw1: {containerd} has ") and "(1 times images_size_gb)" in sentence
    # From a registry there is no archive.
    pulled = {"images_mode": "pull", "images_reference": "node@sha256:1"}
    assert too_full({root: 0, containerd: 14}, two, **pulled) == []
    build = {"inventory_hostname": "jw1", "images_build_host": "jw1"}
    assert role_values.value("images", "__images_build_places", **build) == {"/var/lib/containers": 1, root: 1}
    assert role_values.value("images", "__images_build_places", **build, images_registry="r") == {
        "/var/lib/containers": 1
    }


def test_the_image_has_the_compilers_of_the_hosts() -> None:
    compilers = argument("COMPILER").strip('"').split()
    assert set(compilers) == set(role_values.value("node", "node_compilers")) and "g++" in compilers
    assert "${COMPILER}" in CONTAINERFILE
