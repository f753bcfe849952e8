"""What a host lacks for a benchmark, from its facts alone, before gigabytes are installed there."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from harness import gpu_checks, host_facts, host_survey
from harness.downloads import LFS_ADVICE, LFS_POINTER

GIB = 1 << 30
# The unpacked environment with the archives that it is made from.
ENVIRONMENT_GIB = {True: 20, False: 6}
# A vLLM server on the CPU uses 2.8 GB with a tiny model; one on a GPU uses more while it loads.
MEMORY_GIB = 4
SMALLEST_DATASET_BYTES = 1000


def problems(
    host: str,
    facts: dict[str, Any],
    *,
    env: str,
    root: str,
    cuda: bool,
    gpu_node: bool,
    in_cluster: bool = False,
    installs_engine: bool = True,
    engines: Sequence[Mapping[str, Any]] | None = None,
    model: str = "",
    dataset: str = "",
) -> list[str]:
    """Everything that keeps a host from being installed and measured, each a sentence with what to do.

    Args:
        host: its name.
        facts: `host_facts.host_facts` with `python`, with `env`, `root` and those of `model` and `dataset` that are
            given as `paths`, and with `ports`.
        env, root: folders of the environment, and of engines and runs.
        cuda: whether vLLM's CUDA build is installed.
        gpu_node: whether engines run there.
        in_cluster: whether site.yml sets the host up.
        installs_engine: whether vLLM and its packages are installed, and not only the harness.
        engines: their settings, where they are known; endpoints need no GPU.
        model, dataset: files that must be there already; empty where they are built or installed later.
    """
    sentences = [_folder(facts, path) for path in dict.fromkeys((env, root))]
    free, needed = facts["disk"]["free"] / GIB, ENVIRONMENT_GIB[cuda]
    if installs_engine and free < needed:
        sentences.append(
            f"{env} has {free:.1f} GiB free, and the installation needs {needed}: free space, or move harness_env"
        )
    started = None if engines is None else [engine for engine in engines if engine.get("kind") != "endpoint"]
    starts_engines = gpu_node and started != []
    memory = (facts["memory"]["available"] or 0) / GIB
    if starts_engines and memory < MEMORY_GIB:
        sentences.append(
            f"{memory:.1f} GiB of memory are available, and an engine needs {MEMORY_GIB}: stop other programs"
        )
    uses_gpus = cuda and starts_engines
    findings = host_survey.judge({host: facts}, [host] * uses_gpus, [host] * in_cluster)
    sentences += [
        f"{finding['check']}: {finding['seen']}; {finding['advice']}"
        for finding in findings
        if finding["level"] == "fail"
    ]
    if uses_gpus and (gpus := facts["smi"]["gpus"]):
        sentences += [f"{lack.seen}: {lack.advice}" for lack in gpu_checks.demand(started or (), gpus)]
    sentences += [_asset(facts, "harness_model", model, "folder"), _asset(facts, "harness_dataset", dataset, "file")]
    sentences += _lacks_of_model(facts, model, with_weights=starts_engines)
    sentences += [
        f"something listens on port {port} already: stop it, or give the engine another" for port in facts["busy_ports"]
    ]
    return [sentence for sentence in sentences if sentence]


def _folder(facts: dict[str, Any], path: str) -> str:
    place, user = facts["paths"][path], facts["user"]
    if place["is_folder"] and place["writable"]:
        return ""
    return ": ".join(host_facts.not_writable(path, place, user))


def _asset(facts: dict[str, Any], name: str, path: str, kind: str) -> str:
    if not path:
        return ""
    place = facts["paths"][path]
    if place["kind"] != kind:
        seen = f"is a {place['kind']}, not a {kind}" if place["kind"] else "does not exist"
        return f"{name} = {path} {seen}: copy it there (playbooks/assets.yml does), or correct {name}"
    if not place["readable"]:
        who = f"user {facts['user']} may not read {name} = {path}, which belongs to {place['owner']}"
        return f"{who}: change its permissions"
    if kind == "file" and _is_pointer(place):
        return f"{name} = {path} {LFS_ADVICE}"
    if kind == "file" and place["bytes"] < SMALLEST_DATASET_BYTES:
        return f"{name} = {path} has {place['bytes']} bytes, as a cut copy has: copy the whole file there"
    return ""


def _lacks_of_model(facts: dict[str, Any], path: str, *, with_weights: bool) -> list[str]:
    """What is wrong in the folder of a model that can be read; LoadGen alone reads only its tokenizer."""
    place = facts["paths"].get(path)
    if not place or place["kind"] != "folder" or not place["readable"]:
        return []
    wanted = {"tokenizer.json or tokenizer.model": "tokenizer.(json|model)"}
    if with_weights:
        wanted |= {"config.json": "config.json", "*.safetensors": ".*[.]safetensors"}
    names = {words: [name for name in place["files"] if re.fullmatch(form, name)] for words, form in wanted.items()}
    lacks, sentences = [words for words, found in names.items() if not found], []
    if lacks:
        advice = "copy the whole model there (playbooks/assets.yml does), or correct harness_model"
        sentences.append(f"harness_model = {path} lacks {', '.join(lacks)}: {advice}")
    pointers = [name for found in names.values() for name in found if _is_pointer(place["files"][name])]
    if pointers:
        more = f" (and {len(pointers) - 1} more)" if len(pointers) > 1 else ""
        sentences.append(f"harness_model: {path}/{pointers[0]}{more} {LFS_ADVICE}")
    return sentences


def _is_pointer(file: dict[str, Any]) -> bool:
    return (file["start"] or "").startswith(LFS_POINTER.decode())
