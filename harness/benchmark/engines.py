"""A node's engines as an inventory describes them: the settings of each, and how runs refer to it."""

from collections.abc import Mapping, Sequence
from typing import Any

from harness.cluster.settings import ENGINE_PORT, Cluster, engine_url
from harness.engine.config import EngineConfig, parse_config
from harness.spec import EngineRef

Settings = Mapping[str, Any]
"""An engine's settings as plain values. They stay as they were given: paths are meant for the node."""


def on_host(described: Sequence[Settings], common: Settings, *, model: str, bind: str) -> list[dict[str, Any]]:
    """The settings of each engine that runs as processes on a host.

    Args:
        described: settings of each engine, with its name and port.
        common: settings that all of them have, where they have none of their own.
        model: directory of the model on the host.
        bind: the address at which engines listen.
    """
    return [{"kind": "vllm", "model": model, "host": bind, **common, **own} for own in described]


def on_cluster(
    described: Sequence[Settings], common: Settings, *, model: str, gpus: int | None
) -> list[dict[str, Any]]:
    """The settings of each engine that runs in pods on a node of a cluster.

    Every engine has an address of its own, and is given its GPUs by the cluster. A single one that is described stands
    for as many as the node's `gpus` (None: not known) are enough for, named NAME-0, NAME-1, ….
    """
    base = {"kind": "vllm", "model": model, "port": ENGINE_PORT, **common}
    count = 1
    if len(described) == 1:
        count = (gpus or 0) // int({**base, **described[0]}.get("tensor_parallel", 1))
    if count > 1:
        described = [{**described[0], "name": f"{described[0]['name']}-{number}"} for number in range(count)]
    engines = [{**base, **own, "host": "0.0.0.0"} for own in described]  # noqa: S104 (each pod has its own)
    return [{key: engine[key] for key in engine if key != "gpus"} for engine in engines]


def reference(settings: Settings, *, node: str, address: str) -> EngineRef:
    """How runs refer to an engine on a host that is reached at `address`.

    Raises:
        BadInput: the settings are wrong.
    """
    config = parse_config(settings)
    host = f"[{address}]" if ":" in address else address
    return _reference(config, node, config.url or f"http://{host}:{config.port}")


def reference_on_cluster(settings: Settings, *, node: str, cluster: Cluster, run_id: str) -> EngineRef:
    """How runs refer to an engine of a run on a cluster. Raises as `reference` does."""
    config = parse_config(settings)
    return _reference(config, node, engine_url(cluster, run_id, config))


def _reference(config: EngineConfig, node: str, url: str) -> EngineRef:
    return EngineRef(name=config.name, url=url, node=node, max_in_flight=config.max_in_flight)
