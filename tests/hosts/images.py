"""Container images as small as they can be, for containerd to import for real: one layer with one file."""

import hashlib
import io
import json
import tarfile
from pathlib import Path


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def write(file: Path, reference: str) -> str:
    """Write a docker-archive with one image of that name; returns the archive's sha256."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as layer:
        _add(layer, "standin", f"STAND-IN for {reference}\n".encode())
    content = packed.getvalue()
    identity = hashlib.sha256(content).hexdigest()
    history = {"rootfs": {"type": "layers", "diff_ids": [f"sha256:{identity}"]}, "history": [{"created_by": "tests"}]}
    config = json.dumps({"architecture": "amd64", "os": "linux", "config": {}, **history}).encode()
    name = f"{hashlib.sha256(config).hexdigest()}.json"
    listed = [{"Config": name, "RepoTags": [reference], "Layers": [f"{identity}/layer.tar"]}]
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as archive:
        _add(archive, f"{identity}/layer.tar", content)
        _add(archive, name, config)
        _add(archive, "manifest.json", json.dumps(listed).encode())
    return hashlib.sha256(file.read_bytes()).hexdigest()
