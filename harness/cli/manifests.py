"""harness manifests: what a benchmark needs on a cluster, and the benchmark itself, as objects for kubectl."""

from typing import Any

import click

from harness.cli.common import read_values, say
from harness.spec import FULL_SAMPLES


class _Manifests(click.Group):
    """A group that stands for its command `benchmark` where no command is named."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        """The arguments, with the name of the command."""
        is_named = args[:1] and (args[0] in self.commands or args[0] in context.help_option_names)
        return super().parse_args(context, args if is_named else ["benchmark", *args])


@click.group(cls=_Manifests)
def manifests() -> None:
    """Print objects of a cluster for kubectl, to run a benchmark there without Ansible."""


node_option = click.option(
    "--node", "nodes", multiple=True, required=True, help="Name of a node with GPUs; repeat it for each node."
)
image_option = click.option("--image", required=True, help="The node image; only with a digest are figures comparable.")
cluster_option = click.option(
    "--cluster", help="Namespace, claims, resources and so on: a JSON file, see docs/operations.md."
)


@manifests.command()
@node_option
@image_option
@cluster_option
@click.option("--storage", "source", help="Sizes, checksums and so on, for what no option sets: a JSON file.")
@click.option("--storage-class", help="Storage class of the claims.  [default: the cluster's]")
@click.option("--model", help="Folder of the weights: an address, a path here, or claim:NAME/FOLDER.  [default: none]")
@click.option("--dataset", help="Folder of the data set, in the same forms.  [default: none]")
@click.option("--token-secret", help="A Secret with the address's token as its key `token`.  [default: none]")
def setup(
    nodes: tuple[str, ...],
    image: str,
    cluster: str | None,
    source: str | None,
    storage_class: str | None,
    model: str | None,
    dataset: str | None,
    token_secret: str | None,
) -> None:
    """Print namespace, rights and claims for `kubectl apply -f -`, and Jobs that fill those whose source is given.

    The token is in none of them. Files of a folder here are copied into the Jobs' pods afterwards: the commands for it
    go to standard error.
    """
    from harness.cluster import storage
    from harness.cluster.settings import parse_cluster

    settings = parse_cluster({**(read_values(cluster, "cluster") if cluster else {}), "image": image})
    values = read_values(source, "storage") if source else {}
    options = {"storage_class": storage_class, "token_secret": token_secret}
    values |= {name: value for name, value in options.items() if value}
    for name, place in (("model", model), ("dataset", dataset)):
        if place:
            values[name] = {**values.get(name, {}), "source": place}
    wanted = storage.parse_storage(values)
    jobs = storage.loaders(settings, nodes, wanted, str(settings.model), str(settings.dataset))
    for job in jobs:
        job.bodies[-1]["spec"]["template"]["spec"]["containers"][0]["args"].remove("--json")
        for line in storage.copy_commands(settings, job):
            say(line)
    _print([*storage.setup_objects(settings, nodes, wanted), *(body for job in jobs for body in job.bodies)])


@manifests.command()
@node_option
@image_option
@cluster_option
@click.option("--samples", type=int, default=FULL_SAMPLES, show_default=True, help="How many samples of the data set.")
@click.option("--scenario", default="server", show_default=True, help="server, offline or interactive.")
@click.option("--mode", default="both", show_default=True, help="performance, accuracy, compliance, both or all.")
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
@click.option("--engine", help="Settings of every engine (docs/engine-settings.md): a JSON file.")
def benchmark(
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
    """Print a benchmark as objects for `kubectl create -f -`: the command when none is named.

    A single engine is one Job with engine and LoadGen. Several engines are a Job each, and one more for the LoadGen
    that drives them all.
    """
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
    _print(bodies)


def _print(bodies: list[dict[str, Any]]) -> None:
    import yaml

    class Dumper(yaml.SafeDumper):
        """Writes repeated values in full instead of as YAML aliases."""

        def ignore_aliases(self, data: Any) -> bool:
            return True

    click.echo(yaml.dump_all(bodies, Dumper=Dumper, sort_keys=False, explicit_start=True), nl=False)
