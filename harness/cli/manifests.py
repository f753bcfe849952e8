"""harness manifests."""

import time
from typing import Any

import click

from harness.cli.common import read_values
from harness.spec import FULL_SAMPLES


@click.command()
@click.option("--node", "nodes", multiple=True, required=True, help="Name of a node with a GPU; give it once for each.")
@click.option("--image", required=True, help="The node image; with its digest, figures can be compared.")
@click.option("--samples", type=int, default=FULL_SAMPLES, show_default=True, help="How many samples of the data set.")
@click.option("--scenario", default="server", show_default=True, help="server, offline or interactive.")
@click.option("--mode", default="both", show_default=True, help="performance, accuracy or both.")
@click.option("--run-id", help="Name of the run.  [default: date, time, scenario, samples]")
@click.option("--engines-per-node", type=click.IntRange(1, 64), default=1, show_default=True, help="One for each GPU.")
@click.option("--loadgen-node", help="Node that drives LoadGen, when there are several engines.  [default: the first]")
@click.option(
    "--launcher",
    type=click.Choice(["kubernetes", "torchx"]),
    default="kubernetes",
    show_default=True,
    help="Jobs of Kubernetes, or one job of Volcano as TorchX makes it.",
)
@click.option("--cluster", help="Namespace, claims, resources and the like: a JSON file, see docs/operations.md.")
@click.option("--engine", help="Settings of every engine (docs/engine-settings.md): a JSON file.")
def manifests(
    nodes: tuple[str, ...],
    image: str,
    run_id: str | None,
    engines_per_node: int,
    loadgen_node: str | None,
    launcher: str,
    cluster: str | None,
    engine: str | None,
    **given: Any,
) -> None:
    """Print a benchmark on a cluster as objects for `kubectl apply -f -`, for those who do not want Ansible.

    One engine alone is one Job that holds engine and LoadGen. Several are a Job each, and one more for the LoadGen that
    drives them all.
    """
    import yaml

    from harness.cluster import objects, plain
    from harness.cluster.settings import parse_cluster

    where = parse_cluster({**(read_values(cluster, "cluster") if cluster else {}), "image": image})
    run_id = run_id or f"{time.strftime('%Y%m%d-%H%M%S')}-{given['scenario']}-{given['samples']}"
    settings = read_values(engine, "engine settings") if engine else {}
    configs = plain.engines(where, nodes, engines_per_node, settings)
    driver = loadgen_node or nodes[0]
    spec = plain.spec(where, configs, {**given, "run_id": run_id, "node": driver})
    owner = objects.owner(where, run_id)
    found = [owner, *plain.things(where, configs, spec, owner)]
    if launcher == "torchx":
        from harness.cluster.volcano import as_one

        found = as_one(where, run_id, found)

    class Plain(yaml.SafeDumper):
        """Says twice what is there twice: people read it."""

        def ignore_aliases(self, data: Any) -> bool:
            return True

    click.echo(yaml.dump_all(found, Dumper=Plain, sort_keys=False, explicit_start=True), nl=False)
