"""A benchmark described in a few words: which engines there are, on which nodes, and what their LoadGen is asked."""

from collections.abc import Mapping, Sequence
from typing import Any

from harness.cluster import objects
from harness.cluster.settings import ENGINE_PORT, Cluster, engine_url
from harness.engine import EngineConfig, parse_config
from harness.errors import BadInput
from harness.spec import Spec, parse_spec

Engines = list[tuple[str, EngineConfig]]


def engines(cluster: Cluster, nodes: Sequence[str], per_node: int, settings: Mapping[str, Any]) -> Engines:
    """Each node with each of its `per_node` engines, all with the same `settings`.

    Raises:
        BadInput: a node is named twice, or a setting is wrong.
    """
    if len(set(nodes)) != len(nodes):
        raise BadInput(f"--node names {', '.join(nodes)}: name each node once")
    # A pod's addresses are its own; who may reach them is what the namespace's network policies say.
    common = {"model": str(cluster.model), "host": "0.0.0.0", "port": ENGINE_PORT}  # noqa: S104
    names = [(node, f"{node}-{number}" if per_node > 1 else node) for node in nodes for number in range(per_node)]
    return [(node, parse_config({**common, **settings, "name": name})) for node, name in names]


def spec(cluster: Cluster, configs: Engines, given: Mapping[str, Any]) -> Spec:
    """The spec of the LoadGen that drives all of them; `given` has run_id, node, samples, scenario and mode."""
    references = [
        {
            "name": config.name,
            "node": node,
            "url": engine_url(cluster, given["run_id"], config),
            "max_in_flight": config.max_in_flight,
        }
        for node, config in configs
    ]
    paths = {"model": str(cluster.model), "dataset": str(cluster.dataset)}
    return parse_spec({**given, **paths, "engines": references, "metrics_port": cluster.metrics_port})


def things(cluster: Cluster, configs: Engines, asked: Spec, owner: objects.Object) -> list[objects.Object]:
    """All objects but the owner: of one engine alone a Job that holds it and LoadGen, of several a Job for each."""
    if len(configs) == 1:
        [(node, config)] = configs
        return objects.single_objects(cluster, asked, config, node, owner)
    run_id = asked.run_id
    found = [one for node, config in configs for one in objects.engine_objects(cluster, run_id, node, config, owner)]
    return [*found, *objects.run_objects(cluster, asked, str(asked.node), owner)]
