"""harness manifests."""

import time
from typing import Any

import click

from harness.cli.common import read_values
from harness.errors import BadInput
from harness.spec import FULL_SAMPLES, parse_spec


@click.command()
@click.option("--node", "nodes", multiple=True, required=True, help="Name of a node with a GPU; give it once for each.")
@click.option("--image", required=True, help="The node image; with its digest, figures can be compared.")
@click.option("--samples", type=int, default=FULL_SAMPLES, show_default=True, help="How many samples of the data set.")
@click.option("--scenario", default="server", show_default=True, help="server, offline or interactive.")
@click.option("--mode", default="both", show_default=True, help="performance, accuracy or both.")
@click.option("--run-id", help="Name of the run.  [default: date, time, scenario, samples]")
@click.option("--loadgen-node", help="Node that drives LoadGen.  [default: the first]")
@click.option("--cluster", help="Namespace, claims, resources and the like: a JSON file, see docs/operations.md.")
@click.option("--engine", help="Settings of every engine (docs/engine-settings.md): a JSON file.")
def manifests(
    nodes: tuple[str, ...],
    image: str,
    run_id: str | None,
    loadgen_node: str | None,
    cluster: str | None,
    engine: str | None,
    **given: Any,
) -> None:
    """Print a benchmark on a cluster as objects for `kubectl apply -f -`, for those who do not want Ansible.

    One Job for the engine of each node and one for the LoadGen that drives them all.
    """
    import yaml

    from harness import engine as engines
    from harness import jobs

    if len(set(nodes)) != len(nodes):
        raise BadInput(f"--node names {', '.join(nodes)}: name each node once")
    where = jobs.parse_cluster({**(read_values(cluster, "cluster") if cluster else {}), "image": image})
    run_id = run_id or f"{time.strftime('%Y%m%d-%H%M%S')}-{given['scenario']}-{given['samples']}"
    # A pod's addresses are its own; who may reach them is what the namespace's network policies say.
    common = {"model": str(where.model), "host": "0.0.0.0", "port": where.engine_port}  # noqa: S104
    settings = read_values(engine, "engine settings") if engine else {}
    configs = {node: engines.parse_config({**common, **settings, "name": node}) for node in nodes}
    references = [
        {
            "name": node,
            "node": node,
            "url": jobs.engine_url(where, run_id, node),
            "max_in_flight": config.max_in_flight,
        }
        for node, config in configs.items()
    ]
    driver = loadgen_node or nodes[0]
    paths = {"model": str(where.model), "dataset": str(where.dataset)}
    own = {"run_id": run_id, "engines": references, "node": driver, "metrics_port": where.metrics_port}
    spec = parse_spec({**given, **paths, **own})
    owner = jobs.asked(where, run_id, configs, {driver: spec})
    objects = [owner, *(one for node in nodes for one in jobs.engine_objects(where, run_id, node, node, owner))]
    objects.append(jobs.run_job(where, run_id, driver, owner))

    class Plain(yaml.SafeDumper):
        """Says twice what is there twice: people read it."""

        def ignore_aliases(self, data: Any) -> bool:
            return True

    click.echo(yaml.dump_all(objects, Dumper=Plain, sort_keys=False, explicit_start=True), nl=False)
