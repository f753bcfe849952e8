"""The node image built on this machine, on a Debian of its own packages, with the engine for the CPU.

What was built is kept, so that the next build is quick; `python -m tests.image` removes it.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.conftest import REPOSITORY
from tests.hosts import base

NAME = "localhost/mlperf-node-test"
BASE = "localhost/mlperf-base-test"
FOLDER = Path(os.environ.get("MLPERF_IMAGE", "/var/tmp/mlperf-image"))
PACKAGES = {"ssh": "openssh-client", **{name: name for name in ("buildah", "podman", "runc", "debootstrap")}}
# Where the build finds what this machine's own pip is told to use.
_INSIDE = Path("/run/pip")


def why_not() -> str:
    """Why the image cannot be built and run here, or an empty sentence."""
    release = Path("/etc/os-release").read_text() if Path("/etc/os-release").exists() else ""
    if sys.platform != "linux" or "ID=debian" not in release.splitlines():
        return "the node image is tested on Debian only (its base is debootstrapped from this machine's apt sources)"
    if os.geteuid() != 0:
        return "the node image is built and run as root only: run `sudo make long`"
    missing = [package for tool, package in PACKAGES.items() if shutil.which(tool) is None]
    return f"Debian packages are missing: apt-get install {' '.join(missing)}" if missing else ""


def call(*words: str, timeout_s: float = 60, check: bool = True) -> str:
    """What a command prints; its error is in the failure."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=timeout_s, stdin=subprocess.DEVNULL)
    assert done.returncode == 0 or not check, f"{' '.join(words)}: {done.stderr[-3000:] or done.stdout[-3000:]}"
    return done.stdout


def base_image() -> str:
    """A Debian 12 with certificates and nothing else, made once (a minute), anew when apt's sources change."""
    wanted = base.sources()
    lines = "".join(source.line() + "\n" for source in wanted)
    reference = f"{BASE}:{hashlib.sha256(lines.encode()).hexdigest()[:12]}"
    if subprocess.run(["podman", "image", "exists", reference]).returncode == 0:
        return reference
    FOLDER.mkdir(parents=True, exist_ok=True)
    root = FOLDER / "base"
    shutil.rmtree(root, ignore_errors=True)
    try:
        with (FOLDER / "debootstrap.log").open("w") as log:
            base.debootstrap(root, wanted, ["ca-certificates"], log)
        (root / "etc/apt/sources.list").write_text(lines)
        archive = FOLDER / "base.tar"
        call("tar", "-C", str(root), "--exclude=./var/cache/apt/*", "-cf", str(archive), ".")
        call("podman", "import", "--quiet", str(archive), reference, timeout_s=300)
        archive.unlink()
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return reference


def build(tag: str, **arguments: str) -> str:
    """Build container/Containerfile from this checkout, on layers that are there already; returns the reference."""
    reference = f"{NAME}:{tag}"
    given = {"BASE_IMAGE": base_image(), "ENGINE": "cpu", **arguments}
    command = ["buildah", "build", "--format", "docker", "--layers", "--isolation", "chroot", "--network", "host"]
    command += ["--file", str(REPOSITORY / "container" / "Containerfile"), "--tag", reference, *_pip_volumes()]
    command += [f"--build-arg={name}={value}" for name, value in given.items()]
    before = _identity(reference)
    log = FOLDER / f"build-{tag}.log"
    with (FOLDER / "lock").open("w") as lock, log.open("w") as out:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run([*command, str(REPOSITORY)], stdout=out, stderr=out, timeout=1800)
    assert done.returncode == 0, f"the image was not built; {log} ends:\n{log.read_text()[-3000:]}"
    # With it go the layers that only it has, so that builds do not pile up.
    if before and before != _identity(reference):
        call("podman", "rmi", before, check=False)
    return reference


def remove() -> None:
    """Remove all images and files that were made here."""
    for name in (NAME, BASE):
        for reference in call("podman", "images", "--format={{.Repository}}:{{.Tag}}", name).split():
            call("podman", "rmi", reference, timeout_s=300)
    shutil.rmtree(FOLDER, ignore_errors=True)


def _identity(reference: str) -> str:
    return call("podman", "image", "inspect", "--format={{.Id}}", reference, check=False).strip()


def _pip_volumes() -> list[str]:
    """Mounts that let pip in the build ask what pip outside asks: its settings, and the files that they name."""
    settings, named = {}, set()
    for line in call(sys.executable, "-m", "pip", "config", "list").splitlines():
        key, _, value = line.partition("=")
        words = []
        for word in value.strip("'").split():
            scheme, path = ("file://", Path(word[7:])) if word.startswith("file://") else ("", Path(word))
            if there := path.is_absolute() and path.exists():
                # The links of an index lead beside it.
                named.add(path.parent if scheme else path)
            words.append(f"{scheme}{_INSIDE}{path}" if there else word)
        settings[key.rsplit(".", 1)[1]] = " ".join(words)
    folder = FOLDER / "pip"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pip.conf").write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items()))
    volumes = {folder / "pip.conf": Path("/etc/pip.conf"), **{path: Path(f"{_INSIDE}{path}") for path in named}}
    return [f"--volume={outside}:{inside}:ro" for outside, inside in volumes.items()]


if __name__ == "__main__":
    remove()
