"""From the few options of `harness manifests` and the TorchX component to engines, spec and objects."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from harness.cluster import objects
from harness.cluster.settings import ANY_ADDRESS, ENGINE_PORT, Cluster, engine_url, refuse_endpoint, with_key
from harness.engine import EngineConfig, parse_config
from harness.errors import BadInput
from harness.spec import DEFAULT_RATE_ATTEMPTS, Spec, attempts_most, parse_spec

PlacedEngines = list[tuple[str, EngineConfig]]
"""Engines, each with the name of its node."""


def engines(cluster: Cluster, nodes: Sequence[str], per_node: int, settings: Mapping[str, Any]) -> PlacedEngines:
    """`per_node` engines on each node, all with the same `settings`.

    Raises:
        BadInput: a node is named twice, or a setting is wrong.
    """
    refuse_endpoint({"name": nodes[0], **settings})
    if len(set(nodes)) != len(nodes):
        raise BadInput(f"--node names {', '.join(nodes)}: name each node once")
    common = {"model": str(cluster.model), "host": ANY_ADDRESS, "port": ENGINE_PORT}
    names = [(node, f"{node}-{number}" if per_node > 1 else node) for node in nodes for number in range(per_node)]
    return [(node, parse_config({**common, **settings, "name": name})) for node, name in names]


def spec(cluster: Cluster, engines: PlacedEngines, values: Mapping[str, Any]) -> Spec:
    """The spec of the LoadGen that drives all engines; `values` has run_id, node, samples, scenario and mode."""
    run_id = values["run_id"]
    references = [
        with_key(config, run_id).reference(engine_url(cluster, run_id, config), node) for node, config in engines
    ]
    paths = {"model": str(cluster.model), "dataset": str(cluster.dataset)}
    metrics = {"metrics_port": cluster.metrics_port, "metrics_address": ANY_ADDRESS}
    parsed = parse_spec({**values, **paths, **metrics, "engines": references})
    most = attempts_most(DEFAULT_RATE_ATTEMPTS, parsed.target_qps, parsed.scenario, parsed.mode)
    return parsed.model_copy(update={"rate_attempts": most})


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
