"""A node's engines as an inventory describes them: the settings of each, and how runs refer to it."""

from collections.abc import Mapping, Sequence
from typing import Any

from harness.benchmark import gpu_settings
from harness.benchmark.gpu_settings import Gpu
from harness.benchmark.public_settings import Topology
from harness.cluster.settings import ANY_ADDRESS, ENGINE_PORT, Cluster, engine_url, refuse_endpoint, with_key
from harness.engine.config import parse_config
from harness.errors import BadInput
from harness.spec import EngineRef

AUTO = "auto"
"""Instead of a list of engines: one for each GPU."""
FIRST_PORT = 8101
LOOPBACK = "127.0.0.1"

Settings = Mapping[str, Any]
"""An engine's settings as plain values. They stay as they were given: paths are meant for the node."""


def describe(described: object, common: Settings, *, host: str, gpus: Sequence[Gpu]) -> list[dict[str, Any]]:
    """The engines that `harness_engines` of a host stands for, each with its name, port and settings of its own.

    Args:
        described: a list of engines, taken as it is, or AUTO: as many engines as the GPUs are enough for, named after
            the host, on ports from FIRST_PORT; a single one where no GPU is known.
        common: settings that all of them have; `tensor_parallel` is how many GPUs each takes.
        host: the host's name in the inventory.
        gpus: the GPUs that engines may use; empty where they do not matter.

    Raises:
        BadInput: `described` is something else, or the GPUs are not enough for one engine.
    """
    if isinstance(described, list) and all(isinstance(engine, dict) for engine in described):
        return described
    if described != AUTO:
        raise BadInput(f"harness_engines = {described!r} on {host}: give a list of engines, or {AUTO}")
    width = int(common.get("tensor_parallel", 1))
    if not gpus:
        return [{"name": host, "port": FIRST_PORT}]
    if len(gpus) < width:
        raise BadInput(f"tensor_parallel = {width}, but {host} has {len(gpus)} GPUs; use {len(gpus)} or fewer")
    count = len(gpus) // width
    return [
        {
            "name": host if count == 1 else f"{host}-{number}",
            "port": FIRST_PORT + number,
            "gpus": ",".join(str(gpu["index"]) for gpu in gpus[number * width : (number + 1) * width]),
        }
        for number in range(count)
    ]


def addresses(topology: Topology, bind: str, address: str) -> tuple[str, str]:
    """Where the engines of a host listen, and where runs reach them.

    Args:
        topology: with `per_node` a host's engines serve the LoadGen on that host only.
        bind: where they are to listen; empty for the narrowest address that works.
        address: where other hosts reach this one.
    """
    narrowest = LOOPBACK if topology is Topology.PER_NODE else address
    return bind or narrowest, address if bind else narrowest


def key_files(configs: Sequence[Settings], root: str) -> dict[str, str]:
    """The file with the API key of each engine of a host, by its name; an endpoint may have none."""
    files = {}
    for config in configs:
        kept = config["kind"] != "endpoint" or config.get("api_key_env")
        if file := config.get("api_key_file") or (f"{root}/keys/{config['name']}" if kept else None):
            files[str(config["name"])] = str(file)
    return files


def on_host(
    described: Sequence[Settings], common: Settings, *, model: str, bind: str, gpus: Sequence[Gpu] = ()
) -> list[dict[str, Any]]:
    """The settings of each engine that runs as processes on a host.

    Args:
        described: settings of each engine, with its name and port.
        common: settings that all of them have, where they have none of their own.
        model: directory of the model on the host.
        bind: the address at which engines listen.
        gpus: those of the host whose kind says what settings have that are not given; empty for vLLM's own.
    """
    return [_complete({"kind": "vllm", "model": model, "host": bind, **common, **own}, gpus) for own in described]


def _complete(settings: dict[str, Any], gpus: Sequence[Gpu]) -> dict[str, Any]:
    """An engine's settings, with those that its GPUs suggest where none are given."""
    if settings["kind"] != "vllm":
        return settings
    wanted = str(settings.get("gpus") or "").split(",")
    own = [gpu for gpu in gpus if str(gpu["index"]) in wanted or gpu.get("uuid") in wanted]
    return {**gpu_settings.settings(own or gpus[: int(settings.get("tensor_parallel", 1))], settings), **settings}


def on_cluster(
    described: Sequence[Settings], common: Settings, *, model: str, gpus: Sequence[Gpu]
) -> list[dict[str, Any]]:
    """The settings of each engine that runs in pods on a node of a cluster.

    Every engine has an address of its own, and is given its GPUs by the cluster. A single one that is described stands
    for as many as the node's `gpus` (none: not known) are enough for, named NAME-0, NAME-1, …. Their kind says what
    settings have that are not given.

    Raises:
        BadInput: one is a server that somebody else runs.
    """
    base = {"kind": "vllm", "model": model, "port": ENGINE_PORT, **common}
    for own in described:
        refuse_endpoint({**base, **own})
    count = 1
    if len(described) == 1:
        count = len(gpus) // int({**base, **described[0]}.get("tensor_parallel", 1))
    if count > 1:
        described = [{**described[0], "name": f"{described[0]['name']}-{number}"} for number in range(count)]
    engines = [_complete({**base, **own, "host": ANY_ADDRESS}, gpus) for own in described]
    return [{key: engine[key] for key in engine if key != "gpus"} for engine in engines]


def reference(settings: Settings, *, node: str, address: str) -> EngineRef:
    """How runs refer to an engine on a host that is reached at `address`.

    Raises:
        BadInput: the settings are wrong.
    """
    if "api_key" in settings:
        raise BadInput(
            f"engine {settings.get('name')}: api_key has no place in an inventory; name a file with api_key_file, or "
            "an environment variable with api_key_env"
        )
    config = parse_config(settings)
    host = f"[{address}]" if ":" in address else address
    return config.reference(config.url or f"http://{host}:{config.port}", node)


def reference_on_cluster(settings: Settings, *, node: str, cluster: Cluster, run_id: str) -> EngineRef:
    """How runs refer to an engine of a run on a cluster. Raises as `reference` does."""
    config = parse_config(settings)
    return with_key(config, run_id).reference(engine_url(cluster, run_id, config), node)
