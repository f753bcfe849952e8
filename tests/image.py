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
BASE_PACKAGES = ["ca-certificates"]
FOLDER = Path(os.environ.get("MLPERF_IMAGE", "/var/tmp/mlperf-image"))
PACKAGES = {"ssh": "openssh-client", **{name: name for name in ("buildah", "podman", "runc", "debootstrap")}}
# Where the build finds the files that this machine's pip is configured with.
_INSIDE = Path("/run/pip")


def why_not() -> str:
    """Why the image cannot be built and run here, or an empty string."""
    release = Path("/etc/os-release").read_text() if Path("/etc/os-release").exists() else ""
    if sys.platform != "linux" or "ID=debian" not in release.splitlines():
        return "the node image is tested on Debian only (its base is debootstrapped from this machine's apt sources)"
    if os.geteuid() != 0:
        return "the node image is built and run as root only: run `sudo make long`"
    missing = [package for tool, package in PACKAGES.items() if shutil.which(tool) is None]
    return f"Debian packages are missing: apt-get install {' '.join(missing)}" if missing else ""


def call(*words: str, timeout_s: float = 60, check: bool = True) -> str:
    """The output of a command; a failure has its error."""
    result = subprocess.run(words, capture_output=True, text=True, timeout=timeout_s, stdin=subprocess.DEVNULL)
    assert result.returncode == 0 or not check, f"{' '.join(words)}: {result.stderr[-3000:] or result.stdout[-3000:]}"
    return result.stdout


def base_image() -> str:
    """A Debian 12 with certificates and nothing else, made once (a minute) for its packages and apt's sources."""
    package_sources = base.sources()
    lines = "".join(source.line() + "\n" for source in package_sources)
    reference = f"{BASE}:{_short_hash(lines.encode(), *map(str.encode, BASE_PACKAGES))}"
    if _exists(reference):
        return reference
    FOLDER.mkdir(parents=True, exist_ok=True)
    root = FOLDER / "base"
    shutil.rmtree(root, ignore_errors=True)
    try:
        with (FOLDER / "debootstrap.log").open("w") as log:
            base.debootstrap(root, package_sources, BASE_PACKAGES, log)
        (root / "etc/apt/sources.list").write_text(lines)
        archive = FOLDER / "base.tar"
        call("tar", "-C", str(root), "--exclude=./var/cache/apt/*", "-cf", str(archive), ".")
        call("podman", "import", "--quiet", str(archive), reference, timeout_s=300)
        archive.unlink()
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return reference


def build(tag: str, **arguments: str) -> str:
    """The reference of this checkout's image: an existing one of the same recipe, or one built on earlier layers."""
    build_arguments = {"BASE_IMAGE": base_image(), "ENGINE": "cpu", **arguments}
    files = [str(path.relative_to(REPOSITORY)).encode() + b"\0" + path.read_bytes() for path in _copied()]
    reference = f"{NAME}:{tag}-{_short_hash(repr(sorted(build_arguments.items())).encode(), *files)}"
    if _exists(reference):
        return reference
    earlier = [other for other in _references(NAME) if other.startswith(f"{NAME}:{tag}-")]
    command = ["buildah", "build", "--format", "docker", "--layers", "--isolation", "chroot", "--network", "host"]
    command += ["--file", str(REPOSITORY / "container" / "Containerfile"), "--tag", reference, *_pip_volumes()]
    command += [f"--build-arg={name}={value}" for name, value in build_arguments.items()]
    log = FOLDER / f"build-{tag}.log"
    with (FOLDER / "lock").open("w") as lock, log.open("w") as out:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = subprocess.run([*command, str(REPOSITORY)], stdout=out, stderr=out, timeout=1800)
    assert result.returncode == 0, f"the image was not built; {log} ends:\n{log.read_text()[-3000:]}"
    # With them go the layers that only they have, so that builds do not pile up.
    for other in earlier:
        call("podman", "rmi", other, check=False)
    return reference


def remove() -> None:
    """Remove all images and files that were made here."""
    for name in (NAME, BASE):
        for reference in _references(name):
            call("podman", "rmi", reference, timeout_s=300)
    shutil.rmtree(FOLDER, ignore_errors=True)


def _copied() -> list[Path]:
    """The files of this checkout that a build may read; .dockerignore names their places."""
    lines = (REPOSITORY / ".dockerignore").read_text().splitlines()
    places = [REPOSITORY / line[1:] for line in lines if line.startswith("!")]
    files = [path for place in places for path in ([place] if place.is_file() else place.rglob("*")) if path.is_file()]
    return sorted(path for path in files if "__pycache__" not in path.parts)


def _short_hash(*contents: bytes) -> str:
    return hashlib.sha256(b"\0".join(contents)).hexdigest()[:12]


def _exists(reference: str) -> bool:
    return subprocess.run(["podman", "image", "exists", reference]).returncode == 0


def _references(name: str) -> list[str]:
    return call("podman", "images", "--format={{.Repository}}:{{.Tag}}", name).split()


def _pip_volumes() -> list[str]:
    """Mounts that give pip in the build the settings of pip outside, and the files that they name."""
    settings, folders = {}, set()
    for line in call(sys.executable, "-m", "pip", "config", "list").splitlines():
        key, _, value = line.partition("=")
        words = []
        for word in value.strip("'").split():
            scheme, path = ("file://", Path(word[7:])) if word.startswith("file://") else ("", Path(word))
            if there := path.is_absolute() and path.exists():
                # The links of an index lead beside it.
                folders.add(path.parent if scheme else path)
            words.append(f"{scheme}{_INSIDE}{path}" if there else word)
        settings[key.rsplit(".", 1)[1]] = " ".join(words)
    folder = FOLDER / "pip"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pip.conf").write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items()))
    volumes = {folder / "pip.conf": Path("/etc/pip.conf"), **{path: Path(f"{_INSIDE}{path}") for path in folders}}
    return [f"--volume={outside}:{inside}:ro" for outside, inside in volumes.items()]


if __name__ == "__main__":
    remove()
