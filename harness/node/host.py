"""Properties of a host that describe it or may change a figure, GPUs aside: processors, disks, network, environment."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness import host_facts

_CPUS = "devices/system/cpu"
_SECTOR_BYTES = 512  # whatever the disk's own are
_PREFIXES = (
    "ASCEND_", "CUBLAS_", "CUDA_", "CUDNN_", "DNNL_", "FLASHINFER_", "GLIBC_TUNABLES", "GLOO_", "GOMP_", "HF_",
    "HIP_", "KMP_", "LD_LIBRARY_PATH", "LD_PRELOAD", "MALLOC_", "MKL_", "NCCL_", "NVIDIA_", "OMP_", "ONEDNN_",
    "OPENBLAS_", "PYTORCH_", "ROCR_", "TOKENIZERS_", "TORCH", "TRANSFORMERS_", "TRITON_", "UCX_", "VLLM_",
)  # fmt: skip
"""Prefixes of the environment variables that change what an engine does."""
_SECRET = re.compile(r"TOKEN(?!IZERS)|KEY|SECRET|PASSW|CREDENTIAL|AUTH", re.IGNORECASE)
_CREDENTIALS = re.compile(r"://[^/\s@]+@")
HIDDEN = "(set)"
"""In place of a secret's value."""


def host(sys: Path = Path("/sys"), proc: Path = Path("/proc")) -> dict[str, Any]:
    """This host's facts; None for what cannot be read.

    `virtual_machine` and `container` name the kind, None on bare metal. Frequencies are in MHz, sizes of memory in GiB.
    `cpu_caches` are those of the first core. `disks` have a kind, None where a virtual machine hides it, and a size in
    GB (10^9 bytes). `network_cards` are the link speeds in Mbit/s of each card, None for a link that is down.
    """
    cores = _cores(proc)
    return {
        "virtual_machine": _virtual_machine(sys, proc),
        "container": _container(),
        "shared_memory_gib": _shared_memory(),
        "cpu_sockets": len({socket for socket, _ in cores}) or None,
        "cpu_cores_per_socket": len(cores) // len({socket for socket, _ in cores}) if cores else None,
        "cpu_mhz_max": _mhz(sys),
        "cpu_governor": host_facts.cpu()["governor"],
        "cpu_caches": _caches(sys),
        "numa_nodes": len(list((sys / "devices/system/node").glob("node[0-9]*"))) or None,
        "disks": _disks(sys),
        "network_cards": _network_cards(sys),
    }


def variables(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment variables that change what an engine does, by name; never the value of a secret."""
    return {
        name: HIDDEN if _SECRET.search(name) else _CREDENTIALS.sub(f"://{HIDDEN}@", value)
        for name, value in sorted(environment.items())
        if name.startswith(_PREFIXES)
    }


def _text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None


def _cores(proc: Path) -> set[tuple[str, str]]:
    """Socket and number of each physical core."""
    cores = set()
    for block in (_text(proc / "cpuinfo") or "").split("\n\n"):
        fields = dict(re.findall(r"^(physical id|core id)\s*:\s*(\d+)$", block, re.MULTILINE))
        if len(fields) == 2:
            cores.add((fields["physical id"], fields["core id"]))
    return cores


def _mhz(sys: Path) -> float | None:
    text = _text(sys / _CPUS / "cpu0/cpufreq/cpuinfo_max_freq")
    return int(text) / 1000 if text and text.isdigit() else None


def _caches(sys: Path) -> str | None:
    caches = []
    for folder in sorted((sys / _CPUS / "cpu0/cache").glob("index[0-9]*")):
        level, kind, size = (_text(folder / name) for name in ("level", "type", "size"))
        if level and kind and size:
            caches.append(f"L{level}{'' if kind == 'Unified' else kind[0].lower()} {size}")
    return ", ".join(caches) or None


def _disks(sys: Path) -> list[dict[str, Any]] | None:
    """Kind and size of each built-in disk; loops, volumes of several disks and what can be removed are none."""
    disks = []
    for folder in sorted((sys / "block").glob("*")):
        sectors, removable = _text(folder / "size"), _text(folder / "removable")
        if (folder / "device").exists() and removable == "0" and sectors and int(sectors):
            disks.append({"kind": _disk_kind(folder), "gb": round(int(sectors) * _SECTOR_BYTES / 1e9)})
    return disks or None


def _disk_kind(folder: Path) -> str | None:
    if folder.name.startswith("nvme"):
        return "NVMe SSD"
    if not folder.name.startswith("sd"):
        return None
    return {"0": "SSD", "1": "HDD"}.get(_text(folder / "queue/rotational") or "")


def _network_cards(sys: Path) -> list[list[int | None]] | None:
    """The links of each card; a card is one PCI device, whose functions are its links."""
    cards: dict[str, list[int | None]] = {}
    for folder in sorted((sys / "class/net").glob("*")):
        if (folder / "device").exists():
            speed = _text(folder / "speed")
            place = (folder / "device").resolve().name.rpartition(".")[0] or folder.name
            cards.setdefault(place, []).append(int(speed) if speed and speed.isdigit() else None)
    return [cards[place] for place in sorted(cards)] or None


def _virtual_machine(sys: Path, proc: Path) -> str | None:
    """The kind of virtual machine, as its firmware names it; None on bare metal."""
    names = [_text(sys / "class/dmi/id" / name) for name in ("sys_vendor", "product_name")]
    named = " ".join(name for name in names if name)
    hypervisor = re.search(r"^flags\s*:.*\bhypervisor\b", _text(proc / "cpuinfo") or "", re.MULTILINE)
    return (named or "unknown") if hypervisor else None


def _shared_memory() -> float | None:
    """Size of /dev/shm, which an engine's processes talk through."""
    try:
        size = os.statvfs("/dev/shm")  # noqa: S108 - it is looked at only
    except OSError:
        return None
    return round(size.f_frsize * size.f_blocks / (1 << 30), 3)


def _container() -> str | None:
    """The kind of container that this process runs in."""
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        return "kubernetes"
    marks = {"podman": "/run/.containerenv", "docker": "/.dockerenv"}
    return next((kind for kind, mark in marks.items() if Path(mark).exists()), None)
