"""From the few options of `harness manifests` and the TorchX component to engines, spec and objects."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from harness.cluster import objects
from harness.cluster.settings import ENGINE_PORT, Cluster, engine_url
from harness.engine import EngineConfig, parse_config
from harness.errors import BadInput
from harness.spec import Spec, parse_spec

PlacedEngines = list[tuple[str, EngineConfig]]
"""Engines, each with the name of its node."""


def engines(cluster: Cluster, nodes: Sequence[str], per_node: int, settings: Mapping[str, Any]) -> PlacedEngines:
    """`per_node` engines on each node, all with the same `settings`.

    Raises:
        BadInput: a node is named twice, or a setting is wrong.
    """
    if len(set(nodes)) != len(nodes):
        raise BadInput(f"--node names {', '.join(nodes)}: name each node once")
    # Listens on all of the pod's own addresses; the namespace's network policies limit who may connect.
    common = {"model": str(cluster.model), "host": "0.0.0.0", "port": ENGINE_PORT}  # noqa: S104
    names = [(node, f"{node}-{number}" if per_node > 1 else node) for node in nodes for number in range(per_node)]
    return [(node, parse_config({**common, **settings, "name": name})) for node, name in names]


def spec(cluster: Cluster, engines: PlacedEngines, values: Mapping[str, Any]) -> Spec:
    """The spec of the LoadGen that drives all engines; `values` has run_id, node, samples, scenario and mode."""
    references = [
        {
            "name": config.name,
            "node": node,
            "url": engine_url(cluster, values["run_id"], config),
            "max_in_flight": config.max_in_flight,
        }
        for node, config in engines
    ]
    paths = {"model": str(cluster.model), "dataset": str(cluster.dataset)}
    return parse_spec({**values, **paths, "engines": references, "metrics_port": cluster.metrics_port})


def benchmark_objects(
    cluster: Cluster, engines: PlacedEngines, spec: Spec, owner: objects.Object
) -> list[objects.Object]:
    """All objects except the owner: for one engine a single Job with engine and LoadGen, for several a Job each."""
    if len(engines) == 1:
        [(node, config)] = engines
        return objects.single_objects(cluster, spec, config, node, owner)
    bodies = [
        body for node, config in engines for body in objects.engine_objects(cluster, spec.run_id, node, config, owner)
    ]
    return [*bodies, *objects.run_objects(cluster, spec, str(spec.node), owner)]


def default_run_id(scenario: str, samples: int) -> str:
    """A run id from date, time, scenario and number of samples."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{scenario}-{samples}"
