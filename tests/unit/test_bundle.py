"""The offline bundle contains what hosts without a network need."""

import hashlib
import json
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from harness import checksums
from tests.unit.ansible_modules import Failed, call
from tests.unit.role_values import templar, value

SETTINGS = {
    "bundle_wheels": [],
    "node_packages": ["socat"],
    "node_compilers": [],
    "containerd_packages": {"containerd.io": "2.2.*"},
    "kubernetes_packages": {"kubeadm": "1.36.0-*"},
    "nvidia_driver_branch": 580,
    "nvidia_driver_packages": ["nvidia-open-580"],
    "nvidia_pinning_packages": ["nvidia-driver-pinning-580"],
    "nvidia_toolkit_packages": ["nvidia-container-toolkit"],
    "nvidia_toolkit_version": "1.18.1-1",
}


NEEDS_APT = pytest.mark.skipif(
    not shutil.which("apt-get") or not shutil.which("dpkg-scanpackages"), reason="needs apt-get and dpkg-scanpackages"
)
PINNED = "Package: *nvidia*\nPin: version 580.*\nPin-Priority: 1001\n"


@pytest.mark.parametrize(
    ("version", "expected", "pin"), [("", "", "580.*"), ("580.95.05", "580.95.05-*", "580.95.05-*")]
)
def test_driver_is_collected_in_the_version_that_hosts_will_ask_for(version: str, expected: str, pin: str) -> None:
    settings = {**SETTINGS, "nvidia_driver_version": version}
    packages = value("bundle", "__bundle_packages", **settings)
    assert packages["nvidia-open-580"] == expected
    assert packages["nvidia-driver-pinning-580"] == ""
    assert packages["nvidia-container-toolkit"] == "1.18.1-1"
    assert f"\nPin: version {pin}\n" in value("bundle", "__bundle_preferences", **settings)


def test_containerd_is_collected_in_the_version_that_hosts_install() -> None:
    settings = {name: setting for name, setting in SETTINGS.items() if name != "containerd_packages"}
    settings["nvidia_driver_version"] = ""
    wanted = value("containerd", "containerd_packages")
    packages = value("bundle", "__bundle_packages", **settings, containerd_packages=wanted)
    assert packages["containerd.io"] == wanted["containerd.io"] == "2.3.*"


def test_images_of_kubernetes_are_those_of_the_kubeadm_just_collected() -> None:
    files = ["containerd.io_2.2.1-1_amd64.deb", "kubeadm_1.36.0-1.1_amd64.deb", "kubelet_1.36.0-1.1_amd64.deb"]
    collected = {"results": [{"packages": files}]}
    assert value("bundle", "__bundle_kubeadm_package", __bundle_collected=collected) == files[1]
    assert value("bundle", "__bundle_kubeadm_version", __bundle_collected=collected) == "v1.36.0"


def test_sandbox_image_of_a_host_without_network_is_the_one_in_the_bundle(tmp_path: Path) -> None:
    images = {"registry.k8s.io/kube-apiserver:v1.36.0": "a.tar", "registry.k8s.io/pause:3.10.1": "b.tar"}
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "images.json").write_text(json.dumps({"images": images, "node": ""}))

    def sandbox(**settings: Any) -> str:
        return str(value("containerd", "__containerd_values", group_names=[], **settings)["sandbox_image"])

    assert sandbox(bundle=str(tmp_path)) == "registry.k8s.io/pause:3.10.1"
    assert sandbox(bundle=str(tmp_path), containerd_sandbox_image="mine/pause:1") == "mine/pause:1"
    assert sandbox() == ""


def contents(folder: Path, sums: dict[str, str]) -> dict[str, Any]:
    """What a bundle with these checksums holds."""
    (folder / "SHA256SUMS").write_text(checksums.dump(sums))
    return call("mlperf_bundle_info", {"path": str(folder), "packages": "apt/debian-12.tar"})


def test_each_part_of_the_bundle_is_copied_to_a_host_once(tmp_path: Path) -> None:
    packages = {"apt/debian-12.tar": "a" * 64}
    sums = {**packages, "wheels/x.whl": "b" * 64, "files/calico.yaml": "c" * 64}
    first = contents(tmp_path, sums)
    assert (first["files"], first["packages"]) == (sums, "a" * 64)
    assert contents(tmp_path, {**sums, "wheels/y.whl": "d" * 64})["wheels"] != first["wheels"]
    assert contents(tmp_path, {**sums, "files/calico.yaml": "d" * 64})["wheels"] == first["wheels"]
    assert contents(tmp_path, packages)["wheels"] == ""
    assert contents(tmp_path, {"apt/ubuntu-24.04.tar": "a" * 64})["packages"] == ""
    with pytest.raises(Failed, match="has no SHA256SUMS"):
        call("mlperf_bundle_info", {"path": str(tmp_path / "empty"), "packages": ""})
    here = {"results": [{"item": "apt", "content": "YWFhCg=="}, {"item": "wheels", "msg": "no such file"}]}
    assert value("bundle", "__bundle_current", __bundle_recorded=here) == {"apt": "aaa", "wheels": ""}


@pytest.mark.parametrize(("bundle", "variables"), [("", {}), ("/media/bundle", {"PIP_NO_INDEX": "1"})])
def test_pip_uses_only_the_bundle(bundle: str, variables: dict[str, str]) -> None:
    templater = templar("bundle", bundle=bundle)
    loader = templater._loader
    inventory = Path(__file__).resolve().parents[2] / "inventory/jw/group_vars/all.yml"
    settings = loader.load_from_file(str(inventory), trusted_as_template=True)["harness_pip_variables"]
    pip_variables = templater.template(settings)
    assert pip_variables == (
        {**variables, "PIP_FIND_LINKS": f"{value('bundle', 'bundle_folder')}/wheels"} if bundle else {}
    )


@NEEDS_APT
@pytest.mark.parametrize(("preferences", "expected"), [("", "610.1-1"), (PINNED, "580.9-1")])
def test_packages_follow_the_preferences(tmp_path: Path, preferences: str, expected: str) -> None:
    repository = tmp_path / "repository"
    repository.mkdir()
    listed = ""
    for version in ("580.9-1", "610.1-1"):
        root = tmp_path / version
        (root / "DEBIAN").mkdir(parents=True)
        control = (
            f"Package: nvidia-open\nVersion: {version}\nArchitecture: amd64\nDescription: t\nMaintainer: t <t@t.test>\n"
        )
        (root / "DEBIAN" / "control").write_text(control)
        file = repository / f"nvidia-open_{version}_amd64.deb"
        subprocess.run(["dpkg-deb", "--root-owner-group", "--build", root, file], check=True, capture_output=True)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        listed += f"{control}Filename: ./{file.name}\nSize: {file.stat().st_size}\nSHA256: {digest}\n\n"
    (repository / "Packages").write_text(listed)
    options = {
        "path": str(tmp_path / "apt.tar"),
        "cache": str(tmp_path / "cache"),
        "sources": [{"uri": f"file:{repository}", "suites": ["./"], "trusted": True}],
        "packages": {"nvidia-open": ""},
        "preferences": preferences,
    }
    assert call("mlperf_bundle_apt", options, check=True)["changed"] is True
    result = call("mlperf_bundle_apt", options)
    file = f"nvidia-open_{expected}_amd64.deb"
    assert (result["changed"], result["packages"]) == (True, [file])
    assert call("mlperf_bundle_apt", options, check=True)["changed"] is False
    assert call("mlperf_bundle_apt", options)["changed"] is False
    with tarfile.open(tmp_path / "apt.tar") as archive:
        members = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
    digest = hashlib.sha256((repository / file).read_bytes()).hexdigest()
    assert set(members) == {"Packages", file}
    assert hashlib.sha256(members[file]).hexdigest() == digest
    assert f"Filename: ./{file}\n" in members["Packages"].decode()
    assert f"SHA256: {digest}\n" in members["Packages"].decode()


@NEEDS_APT
def test_repository_has_only_the_packages_of_the_last_collection(tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    repository.mkdir()
    for name in ("first", "second"):
        root = tmp_path / name
        (root / "DEBIAN").mkdir(parents=True)
        (root / "DEBIAN" / "control").write_text(
            f"Package: {name}\nVersion: 1:2-1\nArchitecture: all\nDescription: t\nMaintainer: t <t@t.test>\n"
        )
        subprocess.run(["dpkg-deb", "--build", root, repository / f"{name}.deb"], check=True, capture_output=True)
    listed = subprocess.run(["dpkg-scanpackages", "."], cwd=repository, check=True, capture_output=True, text=True)
    (repository / "Packages").write_text(listed.stdout)
    for name in ("first", "second"):
        options = {
            "path": str(tmp_path / "apt.tar"),
            "cache": str(tmp_path / "cache"),
            "sources": [{"uri": f"file:{repository}", "suites": ["./"], "trusted": True}],
            "packages": {name: "1:2-*"},
        }
        assert call("mlperf_bundle_apt", options)["packages"] == [f"{name}_1%3a2-1_all.deb"]
    with tarfile.open(tmp_path / "apt.tar") as archive:
        assert archive.getnames() == ["Packages", "second_1%3a2-1_all.deb"]
        assert b"Package: first" not in archive.extractfile("Packages").read()  # type: ignore[union-attr]


def test_assets_without_a_checksum_are_refused_before_anything_is_downloaded() -> None:
    none = {"assets_model_source": "", "assets_punkt_source": "", "assets_model_files": {}, "assets_punkt_files": {}}
    images = {"calico_instead": "/net.yml", "bundle_for": ["debian-12"], "bundle_operator_version": "v1"}
    settings = {
        **SETTINGS,
        **none,
        **images,
        "assets_dataset_source": "/data",
        "assets_dataset_files": {"cnn_eval.json": ""},
    }
    assert value("bundle", "__bundle_errors", **settings) == [
        "no sha256 is given for cnn_eval.json: set it in assets_model_files, assets_dataset_files or assets_punkt_files"
    ]
    settings["assets_dataset_files"] = {"cnn_eval.json": "0" * 64}
    assert value("bundle", "__bundle_errors", **settings) == []
