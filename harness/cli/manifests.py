"""harness manifests."""

from typing import Any

import click

from harness.cli.common import read_values
from harness.spec import FULL_SAMPLES


@click.command()
@click.option(
    "--node", "nodes", multiple=True, required=True, help="Name of a node with GPUs; repeat it for each node."
)
@click.option("--image", required=True, help="The node image; only with a digest are figures comparable.")
@click.option("--samples", type=int, default=FULL_SAMPLES, show_default=True, help="How many samples of the data set.")
@click.option("--scenario", default="server", show_default=True, help="server, offline or interactive.")
@click.option("--mode", default="both", show_default=True, help="performance, accuracy or both.")
@click.option("--run-id", help="Name of the run.  [default: date, time, scenario, samples]")
@click.option(
    "--engines-per-node", type=click.IntRange(1, 64), default=1, show_default=True, help="Usually one for each GPU."
)
@click.option("--loadgen-node", help="Node of LoadGen, when there are several engines.  [default: the first]")
@click.option(
    "--launcher",
    type=click.Choice(["kubernetes", "torchx"]),
    default="kubernetes",
    show_default=True,
    help="Jobs of Kubernetes, or one job of Volcano created by TorchX.",
)
@click.option("--cluster", help="Namespace, claims, resources and so on: a JSON file, see docs/operations.md.")
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
    **values: Any,
) -> None:
    """Print a benchmark on a cluster as objects for `kubectl apply -f -`, to run it without Ansible.

    A single engine is one Job with engine and LoadGen. Several engines are a Job each, and one more for the LoadGen
    that drives them all.
    """
    import yaml

    from harness.cluster import objects, options
    from harness.cluster.settings import parse_cluster

    settings = parse_cluster({**(read_values(cluster, "cluster") if cluster else {}), "image": image})
    engine_settings = read_values(engine, "engine settings") if engine else {}
    engines = options.engines(settings, nodes, engines_per_node, engine_settings)
    run_id = run_id or options.default_run_id(values["scenario"], values["samples"])
    spec = options.spec(settings, engines, {**values, "run_id": run_id, "node": loadgen_node or nodes[0]})
    owner = objects.owner(settings, run_id)
    bodies = [owner, *options.benchmark_objects(settings, engines, spec, owner)]
    if launcher == "torchx":
        from harness.cluster.torchx_api import merge_jobs

        bodies = merge_jobs(settings, run_id, bodies)

    class Dumper(yaml.SafeDumper):
        """Writes repeated values in full instead of as YAML aliases."""

        def ignore_aliases(self, data: Any) -> bool:
            return True

    click.echo(yaml.dump_all(bodies, Dumper=Dumper, sort_keys=False, explicit_start=True), nl=False)
