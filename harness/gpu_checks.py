"""Whether engines can use a machine's GPUs, as the surveys of bare hosts and the doctor on a node judge it alike."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

CUDA_13_BRANCH = 580
"""The oldest branch of the driver for CUDA 13, which the pinned builds of PyTorch and vLLM are made with."""
MIG_PREFIX = "MIG-"
"""Of the UUID of a part of a GPU, which lists of whole GPUs do not have."""


class Lack(NamedTuple):
    """What cannot be, and what to do about it."""

    seen: str
    advice: str


def demand(engines: Sequence[Mapping[str, Any]], gpus: Sequence[Mapping[str, Any]]) -> Iterator[Lack]:
    """What engines want that is not there, or that two of them want.

    Args:
        engines: settings of each: `name`, `kind`, `gpus` and `tensor_parallel`, the last two where they are given.
        gpus: the machine's, each with `index` and `uuid`.
    """
    count = "one GPU" if len(gpus) == 1 else f"{len(gpus)} GPUs"
    names = {str(gpu["index"]): str(gpu["index"]) for gpu in gpus} | {gpu["uuid"]: str(gpu["index"]) for gpu in gpus}
    users: dict[str, str] = {}
    for engine in (engine for engine in engines if engine.get("kind") != "endpoint"):
        name, wanted = engine["name"], engine.get("gpus")
        width = int(engine.get("tensor_parallel") or 1)
        if wanted is None and width > len(gpus):
            seen = f"engine {name} has tensor_parallel = {width}, and there {'is' if len(gpus) == 1 else 'are'} {count}"
            yield Lack(seen, "lower tensor_parallel" if gpus else "check nvidia-smi")
        chosen = wanted.split(",") if wanted else [str(gpu["index"]) for gpu in gpus[:width]]
        missing = [one for one in chosen if one not in names and not one.startswith(MIG_PREFIX)]
        if missing:
            seen = f"engine {name} has gpus = {wanted!r}, and GPU {', '.join(missing)} is not among the {count} here"
            yield Lack(seen, "give numbers or UUIDs that `nvidia-smi -L` lists, or harness_engines: auto")
        for one in (names[one] for one in chosen if one in names):
            if (other := users.setdefault(one, name)) != name:
                yield Lack(f"engines {other} and {name} both use GPU {one}", "give each engine GPUs of its own")


def foreign(gpus: Sequence[Mapping[str, Any]]) -> Lack | None:
    """That a machine without an NVIDIA GPU has another: `host_facts.other_gpus`."""
    if not gpus:
        return None
    listed = ", ".join(f"{gpu['vendor']} ({gpu['id']})" for gpu in gpus)
    return Lack(
        f"no NVIDIA GPU, but {listed}, on which this benchmark starts no engine",
        "run a server with the OpenAI API there yourself, and give harness_engines an entry of kind: endpoint with "
        "its url",
    )


def fabric(switches: int, service: str | None, waiting: Sequence[int]) -> Lack | None:
    """That the GPUs of a machine with NVSwitches cannot work yet, which CUDA calls error 802.

    Args:
        switches: its NVSwitches on the PCI bus, where newer ones are not.
        service: state of the fabric manager, `active` where it runs; None where systemd does not tell.
        waiting: numbers of the GPUs that have not joined the fabric, as far as the driver says so.
    """
    advice = (
        "install nvidia-fabricmanager in the driver's version, then run `sudo systemctl enable --now "
        "nvidia-fabricmanager`; `journalctl -u nvidia-fabricmanager` says why it does not start"
    )
    if switches and service not in (None, "active"):
        return Lack(f"the fabric manager of {switches} NVSwitches is not running ({service})", advice)
    if waiting:
        return Lack(f"GPU {', '.join(map(str, waiting))} waits for the fabric manager of the NVSwitches", advice)
    return None
