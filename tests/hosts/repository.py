"""The apt repositories with the stand-ins: packages built here, signed with a key made here, served on the bridge."""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.hosts.layout import FOLDER, REPOSITORY, WEB_ROOT

STANDINS = REPOSITORY / "tests" / "hosts" / "standins"
LIBRARY = "/usr/lib/mlperf-standins"
# Two of each where a role pins, upgrades or compares; the last is the newest.
KUBERNETES = ("1.36.0", "1.36.1")
DRIVERS = ("580.95.05", "580.105.08")
TOOLKIT = "1.18.1"
# Where the key is with which the repositories are signed.
GPG_HOME = FOLDER / "gpg"
SCRIPT, DATA = 0o755, 0o644


@dataclass(frozen=True)
class Package:
    """One Debian package: its dependencies, files (content and mode by path) and postinst script."""

    name: str
    version: str
    depends: str = ""
    files: dict[str, tuple[str, int]] = field(default_factory=dict)
    after: str = ""


def script(name: str) -> tuple[str, int]:
    """A stand-in that is a command."""
    return (STANDINS / name).read_text(), SCRIPT


def data(name: str) -> tuple[str, int]:
    """A stand-in that is read."""
    return (STANDINS / name).read_text(), DATA


def library() -> Package:
    """What all stand-ins share."""
    files = {f"{LIBRARY}/{name}": data(name) for name in ("standin.py",)}
    return Package("mlperf-standins", "1", "python3, python3-yaml", files)


def kubernetes() -> Iterator[Package]:
    """What pkgs.k8s.io has."""
    yield library()
    yield Package("cri-tools", f"{KUBERNETES[0]}-1.1", "", {"/usr/bin/crictl": script("crictl")})
    plugins = {f"/opt/cni/bin/{name}": ("#!/bin/sh\nexit 1\n", SCRIPT) for name in ("loopback", "bridge", "portmap")}
    yield Package("kubernetes-cni", "1.8.0-1.1", "", plugins)
    for version in KUBERNETES:
        debian, needs = f"{version}-1.1", "mlperf-standins"
        unit = {"/usr/lib/systemd/system/kubelet.service": data("kubelet.service")}
        yield Package(
            "kubelet",
            debian,
            f"{needs}, kubernetes-cni, iptables, ethtool",
            {"/usr/bin/kubelet": script("kubelet"), **unit},
            "systemctl daemon-reload",
        )
        drop_in = {"/usr/lib/systemd/system/kubelet.service.d/10-kubeadm.conf": data("kubelet.conf")}
        yield Package(
            "kubeadm",
            debian,
            f"{needs}, cri-tools",
            {"/usr/bin/kubeadm": script("kubeadm"), **drop_in},
            "systemctl daemon-reload",
        )
        yield Package("kubectl", debian, needs, {"/usr/bin/kubectl": script("kubectl")})


def nvidia() -> Iterator[Package]:
    """What NVIDIA's repository of the driver has."""
    yield library()
    yield Package("nvidia-driver-pinning-580", "580-1")
    yield Package(f"linux-headers-{platform.release()}", "1")
    install = {"/etc/modprobe.d/mlperf-standin.conf": (f"install nvidia {LIBRARY}/load-nvidia\n", DATA)}
    for version in DRIVERS:
        debian = f"{version}-1"
        module = {f"{LIBRARY}/nvidia-module": (f"{version}\n", DATA), f"{LIBRARY}/load-nvidia": script("load-nvidia")}
        needs = f"nvidia-kernel-open-dkms (= {debian}), nvidia-smi (= {debian}), nvidia-persistenced (= {debian})"
        yield Package("nvidia-open-580", debian, needs)
        yield Package(f"nvidia-driver-pinning-{version}", "1")
        yield Package("nvidia-kernel-open-dkms", debian, "mlperf-standins, kmod", {**module, **install})
        yield Package("nvidia-smi", debian, "mlperf-standins", {"/usr/bin/nvidia-smi": script("nvidia-smi")})
        unit = {"/usr/lib/systemd/system/nvidia-persistenced.service": data("nvidia-persistenced.service")}
        yield Package("nvidia-persistenced", debian, "", unit, "systemctl daemon-reload")


def toolkit() -> Iterator[Package]:
    """What NVIDIA's repository of the container toolkit has."""
    runtime = {"/usr/bin/nvidia-container-runtime": ('#!/bin/sh\nexec runc "$@"\n', SCRIPT)}
    tools = {"/usr/bin/nvidia-ctk": script("nvidia-ctk")}
    debian = f"{TOOLKIT}-1"
    yield Package("libnvidia-container1", debian)
    yield Package("libnvidia-container-tools", debian, f"libnvidia-container1 (= {debian})")
    yield Package("nvidia-container-toolkit-base", debian, "mlperf-standins", {**tools, **runtime})
    yield Package("nvidia-container-toolkit", debian, f"nvidia-container-toolkit-base (= {debian})")


def pack(package: Package, folder: Path) -> None:
    """Build the .deb."""
    root = folder / "making"
    for path, (content, mode) in package.files.items():
        file = root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        words = {
            "@VERSION@": package.version.rsplit("-", 1)[0],
            "@PYTHON@": sys.executable,
            "@REPOSITORY@": str(REPOSITORY),
        }
        for word, value in words.items():
            content = content.replace(word, value)
        file.write_text(content)
        file.chmod(mode)
    control = root / "DEBIAN"
    control.mkdir(parents=True)
    fields = {"Package": package.name, "Version": package.version, "Architecture": "amd64", "Depends": package.depends}
    fields |= {"Maintainer": "MLPerf distributed tests", "Description": "STAND-IN for tests, not the real package"}
    (control / "control").write_text("".join(f"{name}: {value}\n" for name, value in fields.items() if value))
    if package.after:
        (control / "postinst").write_text(f"#!/bin/sh\n{package.after} || true\n")
        (control / "postinst").chmod(0o755)
    command = ["dpkg-deb", "--root-owner-group", "-Znone", "--build", str(root), str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "SOURCE_DATE_EPOCH": "0"})
    shutil.rmtree(root)


def index(folder: Path) -> None:
    """Make the folder a flat repository: Packages, Release, and its signature."""
    packages = subprocess.run(
        ["dpkg-scanpackages", "-m", "."], cwd=folder, check=True, capture_output=True, text=True
    ).stdout
    (folder / "Packages").write_text(packages)
    release = subprocess.run(["apt-ftparchive", "release", "."], cwd=folder, check=True, capture_output=True).stdout
    (folder / "Release").write_bytes(release)
    for way, name in (("--clearsign", "InRelease"), ("--detach-sign", "Release.gpg")):
        _gpg("--yes", "--armor", way, "--output", str(folder / name), str(folder / "Release"))
    shutil.copy(WEB_ROOT / "key.asc", folder / "Release.key")


def _gpg(*words: str) -> None:
    GPG_HOME.mkdir(mode=0o700, exist_ok=True)
    command = [
        "gpg",
        "--homedir",
        str(GPG_HOME),
        "--batch",
        "--quiet",
        "--pinentry-mode",
        "loopback",
        "--passphrase",
        "",
    ]
    subprocess.run([*command, *words], check=True, stderr=subprocess.DEVNULL)


def build() -> None:
    """Build all packages and their indices below WEB_ROOT, unless they are those of these stand-ins already."""
    sources = [Path(__file__), *sorted(path for path in STANDINS.rglob("*") if path.is_file())]
    recipe = hashlib.sha256(b"".join(path.read_bytes() for path in sources) + platform.release().encode()).hexdigest()
    WEB_ROOT.mkdir(parents=True, exist_ok=True)
    stamp = WEB_ROOT / "recipe"
    if stamp.exists() and stamp.read_text() == recipe:
        return
    stamp.unlink(missing_ok=True)
    try:
        key = WEB_ROOT / "key.asc"
        if not key.exists():
            _gpg("--quick-generate-key", "Stand-ins for tests", "ed25519", "sign", "never")
            _gpg("--armor", "--output", str(key), "--export")
        shutil.copytree(STANDINS / "calico", WEB_ROOT / "calico", dirs_exist_ok=True)
        for name, packages in (("kubernetes", kubernetes()), ("nvidia", nvidia()), ("toolkit", toolkit())):
            folder = WEB_ROOT / name
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            for package in packages:
                pack(package, folder)
            index(folder)
    finally:
        # The first signature has started an agent, which would stay.
        subprocess.run(["gpgconf", "--homedir", str(GPG_HOME), "--kill", "all"], check=True)
    stamp.write_text(recipe)
